import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import {
  readProcesses,
  readProcessInfo,
  removeProcessInfo,
  writeProcessInfo,
} from '../../../daemon/process/pid-file.ts';
import { tempDir } from '../../helpers/daemon.ts';

test('a running process is found by its pid file', (t) => {
  const dir = tempDir(t);
  writeProcessInfo(dir, { kind: 'serve', urls: ['http://127.0.0.1:1'] });
  const info = readProcessInfo(dir, 'serve');
  assert.deepEqual([info?.pid, info?.urls], [process.pid, ['http://127.0.0.1:1']]);
  assert.equal(readProcessInfo(dir, 'agent'), undefined);
  assert.equal(statSync(join(dir, 'daemon.json')).mode & 0o777, 0o600);
  removeProcessInfo(dir, 'serve');
  removeProcessInfo(dir, 'serve');
  assert.deepEqual(readdirSync(dir), []);
});

test('agents of several VMs in one folder have separate pid files', (t) => {
  const dir = tempDir(t);
  const vms = ['a', 'b/../c'];
  for (const vm of vms) writeProcessInfo(dir, { kind: 'agent', urls: [], vm });
  assert.deepEqual(
    readProcesses(dir, 'agent')
      .map(({ vm }) => vm)
      .sort(),
    vms,
  );
  removeProcessInfo(dir, 'agent', 'a');
  assert.deepEqual(
    readProcesses(dir, 'agent').map(({ vm }) => vm),
    ['b/../c'],
  );
});

test('a process that has exited is not found, even if its pid file remains', async (t) => {
  const dir = tempDir(t);
  const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1e9)'], { stdio: 'ignore' });
  t.after(() => child.kill('SIGKILL'));
  await once(child, 'spawn');
  const write = (pid: number | undefined) =>
    writeFileSync(join(dir, 'daemon.json'), JSON.stringify({ kind: 'serve', pid, since: '', urls: [] }));
  write(child.pid);
  assert.equal(readProcessInfo(dir, 'serve')?.pid, child.pid);
  child.kill('SIGKILL');
  await once(child, 'exit');
  assert.equal(readProcessInfo(dir, 'serve'), undefined);
});

test('another process with the same pid is not mistaken for it', { skip: process.platform !== 'linux' }, (t) => {
  const dir = tempDir(t);
  writeProcessInfo(dir, { kind: 'serve', urls: [] });
  const file = join(dir, 'daemon.json');
  const info = JSON.parse(readFileSync(file, 'utf8'));
  writeFileSync(file, JSON.stringify({ ...info, started: '1' }));
  assert.equal(readProcessInfo(dir, 'serve'), undefined);
});

test('a file that vreg did not write names no process', (t) => {
  const dir = tempDir(t);
  for (const text of ['', 'null', '[]', '1', '{}', '{"pid":0}', '{"pid":-1}', '{"pid":"1"}', '{"pid":1.5}']) {
    writeFileSync(join(dir, 'daemon.json'), text);
    assert.equal(readProcessInfo(dir, 'serve'), undefined, text);
  }
});
