import assert from 'node:assert/strict';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { writeAddressFiles } from '../../../daemon/agent/address-files.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { aVm } from '../../helpers/vm.ts';

const at = '2026-01-01T00:00:00.000Z';
const vm = (id: string, role: 'infra' | 'worker') => ({
  ...aVm({ id, role, address: `${id}.test` }),
  registeredAt: at,
  lastSeen: at,
});

test('the files of a role name its oldest live VM and the time of confirmation; a role without one has no files', (t) => {
  const dir = join(tempDir(t), 'run');
  let now = 1_700_000_000_000;
  const options = {
    dir,
    urlOf: ({ address }: { address: string }) => ({ url: `http://${address}` }),
    envOf: () => 'A=1\n',
    now: () => now,
  };
  const read = (path: string) => readFileSync(join(dir, path), 'utf8');
  writeAddressFiles(options, [vm('new', 'worker'), vm('old', 'worker'), vm('box', 'infra')]);
  assert.deepEqual(
    ['worker/addr', 'worker/url', 'worker/at', 'infra/addr'].map((file) => read(`by-role/${file}`)),
    ['old.test\n', 'http://old.test\n', '1700000000\n', 'box.test\n'],
  );
  assert.equal(read('env'), 'A=1\n');
  const before = statSync(join(dir, 'by-role/worker/addr')).ino;
  now += 60_000;
  writeAddressFiles(options, [vm('old', 'worker')]);
  assert.equal(read('by-role/worker/at'), '1700000060\n');
  assert.equal(statSync(join(dir, 'by-role/worker/addr')).ino, before, 'an unchanged file is not written again');
  assert.equal(existsSync(join(dir, 'by-role/infra')), false);
});

test('a VM without a URL has no file url, also if it had one before, and a warning names the file', (t) => {
  const dir = join(tempDir(t), 'run');
  let found: { url: string } | { fault: Error } = { url: 'http://a:1' };
  const options = { dir, urlOf: () => found, envOf: () => '', now: () => 0 };
  assert.deepEqual(writeAddressFiles(options, [vm('a', 'worker')]), []);
  assert.equal(existsSync(join(dir, 'by-role/worker/url')), true);
  found = { fault: new Error('it has several ports') };
  assert.deepEqual(writeAddressFiles(options, [vm('a', 'worker')]), [
    `${dir}/by-role/worker/url is omitted: it has several ports`,
  ]);
  assert.equal(existsSync(join(dir, 'by-role/worker/url')), false);
  assert.equal(readFileSync(join(dir, 'by-role/worker/addr'), 'utf8'), 'a.test\n');
});
