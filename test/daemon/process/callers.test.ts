import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { promisify } from 'node:util';
import { hasCaller } from '../../../daemon/process/callers.ts';
import { tempDir } from '../../helpers/daemon.ts';

const CALLERS = new URL('../../../daemon/process/callers.ts', import.meta.url).href;

test('several processes record the same program at the same time', async (t) => {
  const dir = tempDir(t);
  const record = `const { addCaller } = await import(${JSON.stringify(CALLERS)});
    for (let i = 0; i < 300; i++) addCaller(${JSON.stringify(dir)}, ${process.pid});`;
  const run = promisify(execFile);
  await Promise.all(
    Array.from({ length: 4 }, () => run(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', record])),
  );
  assert.equal(hasCaller(dir), true);
  assert.deepEqual(readdirSync(join(dir, 'callers')), [String(process.pid)]);
});
