import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { withLock } from '../../../daemon/process/file-lock.ts';
import { markOf } from '../../../daemon/process/other-process.ts';
import { folderId } from '../../../daemon/process/pid-file.ts';
import { tempDir } from '../../helpers/daemon.ts';

test('work with one lock runs one after another, also if a piece of it fails', async (t) => {
  const path = join(tempDir(t), 'lock');
  let running = 0;
  const work = async () => {
    assert.equal(++running, 1);
    await new Promise((resolve) => setImmediate(resolve));
    running--;
    throw new Error('failed');
  };
  const ended = await Promise.allSettled([1, 2, 3].map(() => withLock(path, work)));
  assert.deepEqual(
    ended.map((each) => each.status === 'rejected' && (each.reason as Error).message),
    ['failed', 'failed', 'failed'],
  );
  assert.ok(!existsSync(path));
});

test('a lock is ignored if its process has exited, if its folder is a copy, or if it is damaged', async (t) => {
  const dir = tempDir(t);
  const path = join(dir, 'lock');
  const child = spawn('cat');
  const ofExited = { ...markOf(child.pid!), home: folderId(dir), nonce: 'a' };
  child.kill();
  await once(child, 'exit');
  const ofOther = { ...markOf(process.pid), home: '1:2', nonce: 'b' };
  for (const text of [JSON.stringify(ofExited), JSON.stringify(ofOther), '{']) {
    writeFileSync(path, text);
    assert.equal(await withLock(path, async () => JSON.parse(readFileSync(path, 'utf8')).pid), process.pid);
    assert.ok(!existsSync(path));
  }
});

test('work runs without a lock if the folder accepts none', async (t) => {
  assert.equal(await withLock(join(tempDir(t), 'missing/lock'), async () => 'done'), 'done');
});
