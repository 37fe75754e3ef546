/** The log of a daemon whose reader has stopped or whose disk is full: the registry keeps serving. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { stripVTControlCharacters } from 'node:util';
import { readProcessInfo } from '../../daemon/process/pid-file.ts';
import type { ErrorBody } from '../../src/protocol/errors.ts';
import { Connection } from '../helpers/connection.ts';
import { fill, smallDisk, unlessMountable } from '../helpers/crash/small-disk.ts';
import { cleanEnv, ENTRY, endAfter, PROGRAM, startDaemon, tempDir } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { makePipe } from '../helpers/pipe.ts';
import { vregInTerminal } from '../helpers/terminal.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

/** Requests whose log lines exceed the buffer of a pipe or a socket, but not the daemon's own. */
const REFUSED = 1500;

/** @param stderr destination of the log */
async function startWith(t: TestContext, home: string, stderr: 'pipe' | number, ...args: string[]) {
  const dataDir = join(home, 'data');
  const words = [...ENTRY, 'daemon', '--port', '0', '--data-dir', dataDir, ...args];
  const child: ChildProcess = spawn(PROGRAM, words, {
    env: cleanEnv(home),
    stdio: ['ignore', 'ignore', stderr],
  });
  const ended = once(child, 'exit');
  endAfter(t, async () => {
    child.kill('SIGKILL');
    await ended;
  });
  const url = await until('the daemon to serve', () => {
    const info = readProcessInfo(dataDir, 'serve');
    return info?.state === 'loading' ? undefined : info?.urls[0];
  });
  return { child, ended, url };
}

/** Sends all requests on one connection and reads the responses, which takes less time than a call for each. */
async function refuseMany(t: TestContext, url: string): Promise<void> {
  const { hostname: host, port } = new URL(url);
  const request = (i: number) => `GET /registry/vms/${'x'.repeat(200)}${i} HTTP/1.1\r\nHost: a\r\n\r\n`;
  const connection = Connection.open(t, { host, port: Number(port) });
  connection.send(Array.from({ length: REFUSED }, (_, i) => request(i)).join(''));
  for (let i = 0; i < REFUSED; i++) assert.equal((await connection.response()).status, 404);
  connection.socket.destroy();
}

test('no log line contains the token, wherever a request has it', async (t) => {
  const root = 'chosen"by\\me/7';
  const daemon = await startDaemon(t, { env: { VERS_AUTH_TOKEN: root }, args: ['--log-level', 'debug'] });
  const coded = encodeURIComponent(root);
  const headers = { authorization: `Bearer ${root}` };
  for (const path of [`/registry/vms/${coded}`, `/${coded}`, `/registry/vms?${coded}`, `/registry/vms?x=${coded}`])
    await call(daemon.url, 'GET', path, { headers });
  await call(daemon.url, 'DELETE', `/registry/tokens/${coded}`, { headers });
  await call(daemon.url, 'GET', '/registry/vms', { headers: { 'x-request-id': 'chosen/by' } });
  await call(daemon.url, 'POST', '/registry/vms', { headers, body: aVm({ id: root }) });
  await call(daemon.url, 'POST', '/registry/vms/nobody/heartbeat', { headers: { ...headers, 'x-request-id': 'last' } });
  await until('the last line', () => daemon.said().includes('"last"'));
  assert.doesNotMatch(daemon.said(), /chosen(?!\/by)/);
  assert.match(daemon.said(), /"vm":"\*\*\*"/);
});

test('the levels of JSON lines are words', async (t) => {
  const daemon = await startDaemon(t, { args: ['--log-level', 'debug'] });
  await call(daemon.url, 'GET', '/registry/vms/nobody');
  await daemon.end();
  const lines = daemon.said().trim().split('\n');
  const levels = lines.map((line) => (JSON.parse(line) as { level: unknown }).level);
  assert.ok(levels.length > 2);
  for (const level of levels) assert.ok(['debug', 'info', 'warn'].includes(String(level)), String(level));
});

test('on a terminal, the log has one short line for each request', unless('python3'), async (t) => {
  const home = tempDir(t);
  const args = ['daemon', '--port', '0', '--data-dir', join(home, 'data')];
  const terminal = await vregInTerminal(t, args, { home });
  await terminal.shows('listening on');
  const [, url] = /listening on (\S+),/.exec(terminal.text())!;
  await call(url!, 'POST', '/registry/vms', { body: aVm({ id: 'vm-1' }) });
  await call(url!, 'DELETE', '/registry/vms/vm-2');
  await terminal.shows(/DELETE .*404/);
  const lines = terminal
    .text()
    .split('\r\n')
    .filter((line) => /POST|DELETE/.test(line));
  assert.equal(lines.length, 2, terminal.text());
  for (const line of lines) assert.ok(stripVTControlCharacters(line).length <= 80, line);
  process.kill(terminal.pid, 'SIGTERM');
  assert.equal(await terminal.ended, 0);
});

test('a log reader on a socket that stops does not stop the daemon, and receives the log later', async (t) => {
  const { child, ended, url } = await startWith(t, tempDir(t), 'pipe');
  await refuseMany(t, url);
  let log = '';
  child.stderr!.setEncoding('utf8').on('data', (chunk: string) => (log += chunk));
  await until('the last line', () => log.includes(`x${REFUSED - 1}"`));
  assert.equal(log.match(/"audit":true/g)?.length, REFUSED);
  child.kill('SIGTERM');
  assert.deepEqual(await ended, [0, null]);
});

test(
  'a log reader on a pipe that stops does not stop the daemon, and receives the log later',
  unless('mkfifo'),
  async (t) => {
    for (const format of ['json', 'pretty']) {
      const home = tempDir(t);
      const { writer, read } = makePipe(t, home);
      const { child, ended, url } = await startWith(t, home, writer, '--log-format', format);
      await refuseMany(t, url);
      await until('the last line', () => new RegExp(`x${REFUSED - 1}[" ]`).test(read()));
      child.kill('SIGTERM');
      assert.deepEqual(await ended, [0, null], format);
    }
  },
);

test('SIGTERM ends a daemon whose log is full, or blocked by its reader', unless('mkfifo'), async (t) => {
  const full = openSync('/dev/full', 'w');
  t.after(() => closeSync(full));
  const home = tempDir(t);
  const { writer } = makePipe(t, home);
  for (const stderr of [full, writer]) {
    const { child, ended, url } = await startWith(t, home, stderr);
    await refuseMany(t, url);
    child.kill('SIGTERM');
    assert.deepEqual(await ended, [0, null]);
  }
});

test(
  'with its log on a full disk a registry refuses writes, serves reads, and logs again later',
  unlessMountable(),
  async (t) => {
    for (const format of ['json', 'pretty']) {
      const home = smallDisk(t);
      const path = join(home, 'log');
      const log = openSync(path, 'a');
      const { child, ended, url } = await startWith(t, home, log, '--log-format', format);
      closeSync(log);
      assert.equal((await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'vm-1' }) })).status, 201);
      const makeRoom = fill(home);
      // Meanwhile saving heartbeats fails, which is logged, too.
      for (let i = 0; i < 40; i++) {
        const refused = await call(url, 'POST', '/registry/vms', { body: aVm({ id: `vm-${i}-${'x'.repeat(100)}` }) });
        assert.deepEqual([refused.status, (refused.body as ErrorBody).code], [507, 'STORE_FULL']);
        assert.equal((await call(url, 'POST', '/registry/vms/vm-1/heartbeat')).status, 200);
        child.kill('SIGHUP');
      }
      makeRoom();
      await until('a successful write', async () => {
        return (await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'vm-2' }) })).status === 201;
      });
      await until('a new log line', () => /201 vm-2 |"vm":"vm-2"/.test(readFileSync(path, 'utf8')));
      child.kill('SIGTERM');
      assert.deepEqual(await ended, [0, null], format);
    }
  },
);
