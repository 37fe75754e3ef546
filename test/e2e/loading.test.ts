/** A daemon that is loading its store: it listens, and says so. A hook holds the process that reads the database. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import test, { after, type TestContext } from 'node:test';
import { notifySocket } from '../helpers/agent/notify-socket.ts';
import { makeAuthority } from '../helpers/certificates.ts';
import { Connection } from '../helpers/connection.ts';
import { cleanEnv, ENTRY, endAfter, PROGRAM, run, runInProcess, startDaemon, tempDir } from '../helpers/daemon.ts';
import { makeGate, startLoading } from '../helpers/gated-load.ts';
import { call } from '../helpers/http.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const TOKEN = 's3cret-token';
const needsScript = { skip: process.env.VREG_BIN ? 'a single executable reads no NODE_OPTIONS' : false };
const LOADING = {
  error: 'the registry is loading its store',
  code: 'BUSY',
  hint: 'retry; /readyz answers ok when it is loaded',
  retryAfter: 1,
};

/** The data dir that {@link homeWithStore} copies. */
const template = mkdtempSync(join(tmpdir(), 'vreg-test-'));
after(() => rmSync(template, { recursive: true }));
let written: Promise<void> | undefined;

async function writeTemplate(t: TestContext): Promise<void> {
  const { url, dataDir, end } = await startDaemon(t);
  await call(url, 'POST', '/registry/vms', { body: aVm() });
  await end();
  cpSync(dataDir, template, { recursive: true });
}

/** A home with the store of a registry that knows the VM vm-1: a copy of the same store for each test. */
async function homeWithStore(t: TestContext): Promise<string> {
  written ??= writeTemplate(t);
  await written;
  const home = tempDir(t);
  cpSync(template, join(home, 'data'), { recursive: true });
  return home;
}

function addressOf(url: string): { host: string; port: number } {
  const { hostname: host, port } = new URL(url);
  return { host, port: Number(port) };
}

const vreg = (home: string, args: readonly string[]) => runInProcess(args, { env: cleanEnv(home) });

const daemonIn = (home: string, args: readonly string[], env: NodeJS.ProcessEnv = {}) =>
  run(PROGRAM, [...ENTRY, 'daemon', ...args], { env: cleanEnv(home, env) });

test(
  'while it loads, /livez answers ok, /readyz loading, /ui/ the page, and all other requests 503',
  needsScript,
  async (t) => {
    const home = await homeWithStore(t);
    const gate = makeGate(t);
    const socket = join(home, 'vreg.sock');
    const daemon = await startLoading(t, {
      home,
      args: ['--host', '127.0.0.1', '--socket', socket],
      env: { ...gate.env, VERS_AUTH_TOKEN: TOKEN },
    });
    await until('the process that reads the database', () => gate.isReached());
    const [url, other] = daemon.urls as [string, string];
    assert.equal(other, `unix:${socket}`);
    const connections = [addressOf(url), { path: socket }].map((to) => Connection.open(t, to));
    const ask = async (connection: Connection, method: string, path: string, more = '', body = '') => {
      connection.send(`${method} ${path} HTTP/1.1\r\nHost: a\r\n${more}\r\n${body}`);
      return connection.response(method);
    };
    let last = '';
    for (const connection of connections) {
      for (const query of ['', '?verbose', '?verbose=false', '?a=%zz&a']) {
        const alive = await ask(connection, 'GET', `/livez${query}`);
        assert.deepEqual([alive.status, alive.text, alive.headers['retry-after']], [200, 'ok', undefined], query);
        const ready = await ask(connection, 'GET', `/readyz${query}`, 'X-Request-Id: mine\r\n');
        assert.deepEqual([ready.status, ready.text, ready.headers['retry-after']], [503, 'loading', '1'], query);
        assert.deepEqual([ready.headers['x-request-id'], ready.headers['cache-control']], ['mine', 'no-store']);
      }
      const head = await ask(connection, 'HEAD', '/readyz');
      assert.deepEqual([head.status, head.headers['content-length']], [503, '7']);
      const page = await ask(connection, 'GET', '/ui/');
      assert.deepEqual([page.status, page.headers['content-type']], [200, 'text/html; charset=utf-8']);
      const heartbeat = 'content-type: application/json\r\ncontent-length: 2\r\n';
      const requests = [
        ['GET', '/health'],
        ['GET', '/registry/vms'],
        ['GET', '/registry/discover/worker?wait=1s'],
        ['GET', '/registry/events'],
        ['POST', '/registry/vms/vm-1/heartbeat', heartbeat, '{}'],
        ['POST', '/livez'],
        ['DELETE', '/registry/vms/vm-1'],
        ['GET', '/metrics'],
        ['GET', '/ui/session'],
        ['GET', '/nowhere'],
        ['GET', '/%zz'],
        ['HEAD', '/registry/vms'],
      ] as const;
      for (const [method, path, more, body] of requests) {
        const { status, headers, text } = await ask(connection, method, path, more, body);
        assert.equal(status, 503, path);
        assert.equal(headers['retry-after'], '1', path);
        last = headers['x-request-id']!;
        assert.match(last, /./);
        if (method !== 'HEAD') assert.deepEqual(JSON.parse(text), LOADING, path);
      }
    }
    await until('the line of the last request', () => daemon.said().includes(last));
    assert.doesNotMatch(daemon.said(), /listening on/);
    const refusals = daemon
      .said()
      .split('\n')
      .filter((line) => line.includes('"refused"'));
    assert.equal(refusals.length, 24, 'each refusal has a line in the audit log, and the probes have none');
    assert.equal(JSON.parse(refusals[0]!).code, 'BUSY');

    gate.open();
    await daemon.ready();
    for (const connection of connections) {
      assert.equal((await ask(connection, 'GET', '/readyz')).status, 200, 'the same connection continues');
      const own = await ask(connection, 'GET', '/registry/vms/vm-1', `Authorization: Bearer ${TOKEN}\r\n`);
      assert.equal(JSON.parse(own.text).id, 'vm-1');
    }
    const { text: scraped } = await ask(connections[0]!, 'GET', '/metrics', `Authorization: Bearer ${TOKEN}\r\n`);
    assert.match(scraped, /^vreg_refusals_total\{code="BUSY"\} 24$/m);
  },
);

test('a body that arrives after the response does not disturb the next request', needsScript, async (t) => {
  const gate = makeGate(t);
  const daemon = await startLoading(t, { home: await homeWithStore(t), env: gate.env });
  const at = addressOf(daemon.urls[0]!);
  const small = Connection.open(t, at).send('POST /registry/vms HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n');
  assert.equal((await small.response()).status, 503);
  small.send('{"a":GET /livez HTTP/1.1\r\nHost: a\r\n\r\n');
  assert.equal((await small.response()).text, 'ok');
  for (const head of ['Content-Length: 99999999', 'Transfer-Encoding: chunked']) {
    const large = Connection.open(t, at).send(`POST /registry/import HTTP/1.1\r\nHost: a\r\n${head}\r\n\r\n`);
    const { status, headers } = await large.response();
    assert.deepEqual([status, headers.connection], [503, 'close'], head);
  }
});

test('a signal while it loads ends the daemon with 0, although requests are incomplete', needsScript, async (t) => {
  const gate = makeGate(t);
  const home = await homeWithStore(t);
  const daemon = await startLoading(t, { home, env: gate.env });
  const at = addressOf(daemon.urls[0]!);
  const slow = Connection.open(t, at).send('GET /livez HTTP/1.1\r\nHost: a\r\n\r\n');
  assert.equal((await slow.response()).status, 200);
  slow.send('GET /registry/vms HTTP/1.1\r\n');
  daemon.kill('SIGTERM');
  assert.deepEqual(await daemon.ended, { code: 0, signal: null });
  assert.match(daemon.said(), /stopped before the store was loaded/);
  assert.doesNotMatch(daemon.said(), /listening on/);
  const { url } = await startDaemon(t, { home });
  assert.equal((await call(url, 'GET', '/registry/vms/vm-1')).status, 200, 'the store is intact');
});

test('vreg daemon status shows a daemon that is loading, and stop ends it', needsScript, async (t) => {
  const home = await homeWithStore(t);
  const gate = makeGate(t);
  const daemon = await startLoading(t, { home, env: gate.env });
  const dataDir = ['--data-dir', join(home, 'data')];
  const status = async () => JSON.parse((await vreg(home, ['daemon', 'status', ...dataDir, '-o', 'json'])).stdout);
  const [loading] = await status();
  assert.deepEqual([loading.kind, loading.urls, loading.state], ['serve', daemon.urls, 'loading']);
  assert.match((await vreg(home, ['daemon', 'status', ...dataDir])).stdout, /STATE\n.*loading\n$/);
  const second = await daemonIn(home, ['--port', new URL(daemon.urls[0]!).port, ...dataDir]);
  assert.equal(second.code, 4);
  assert.match(second.stderr, new RegExp(`the vreg daemon with pid ${loading.pid}, loading its store since`));
  const stopped = await vreg(home, ['daemon', 'stop', ...dataDir]);
  assert.equal(stopped.code, 0, stopped.stderr);
  assert.deepEqual(await daemon.ended, { code: 0, signal: null });
  assert.equal((await vreg(home, ['daemon', 'status', ...dataDir])).code, 3);
});

test('when the store is loaded, vreg daemon status no longer shows a daemon as loading', needsScript, async (t) => {
  const home = await homeWithStore(t);
  const gate = makeGate(t);
  const daemon = await startLoading(t, { home, env: gate.env });
  gate.open();
  await daemon.ready();
  const args = ['daemon', 'status', '--data-dir', join(home, 'data'), '-o', 'json'];
  const [info] = JSON.parse((await vreg(home, args)).stdout);
  assert.deepEqual([info.urls, info.state], [daemon.urls, undefined]);
});

test('a daemon whose store is damaged says only that it is loading, and then ends with 1', needsScript, async (t) => {
  const home = await homeWithStore(t);
  const gate = makeGate(t);
  const daemon = await startLoading(t, { home, env: gate.env });
  const [url] = daemon.urls as [string];
  assert.equal(await (await fetch(`${url}/readyz`)).text(), 'loading');
  writeFileSync(join(home, 'data/registry.db'), 'not a database at all');
  rmSync(join(home, 'data/registry.db-wal'), { force: true });
  gate.open();
  assert.deepEqual(await daemon.ended, { code: 1, signal: null });
  assert.match(daemon.said(), /registry\.db is damaged: .*\n.*hint: nothing was changed/);
  await assert.rejects(fetch(`${url}/livez`));
});

test('a port in use is found before the store is loaded', needsScript, async (t) => {
  const { url } = await startDaemon(t);
  const home = await homeWithStore(t);
  const gate = makeGate(t);
  const args = ['--port', new URL(url).port, '--data-dir', join(home, 'data')];
  const { code, stderr } = await daemonIn(home, args, gate.env);
  assert.equal(code, 4, stderr);
  assert.equal(gate.isReached(), false);
});

test('a second daemon with the same data dir and the same port is told to stop the first one', async (t) => {
  const first = await startDaemon(t);
  const { port } = new URL(first.url);
  const { code, stderr } = await daemonIn(first.home, ['--port', port, '--data-dir', first.dataDir]);
  assert.equal(code, 4);
  assert.match(stderr, new RegExp(`is using the data dir .*: the vreg daemon with pid ${first.child.pid}, serving`));
  assert.match(stderr, /hint: stop it \(vreg daemon stop serve/);
});

test('systemd hears READY=1 and the status only after the load', {
  skip: needsScript.skip || unless('systemd-notify', 'python3').skip,
}, async (t) => {
  const { path, heard, says } = await notifySocket(t);
  const gate = makeGate(t);
  const daemon = await startLoading(t, { home: await homeWithStore(t), env: { ...gate.env, NOTIFY_SOCKET: path } });
  assert.deepEqual(heard(), []);
  gate.open();
  assert.ok((await says('READY=1')).includes('STATUS=1 VM'));
  daemon.kill('SIGTERM');
  await says('STOPPING=1');
});

test('--detach returns when the store is loaded', needsScript, async (t) => {
  const home = await homeWithStore(t);
  const gate = makeGate(t);
  const dataDir = join(home, 'data');
  const args = [...ENTRY, 'daemon', '--port', '0', '--data-dir', dataDir, '--detach', '-o', 'json'];
  const child = spawn(PROGRAM, args, { env: cleanEnv(home, gate.env), stdio: ['ignore', 'pipe', 'ignore'] });
  const [printed, ended] = [text(child.stdout), once(child, 'exit')];
  endAfter(t, () => vreg(home, ['daemon', 'stop', '--data-dir', dataDir]));
  const log = join(dataDir, 'daemon.log');
  await until('the load', () => existsSync(log) && readFileSync(log, 'utf8').includes('loading the store'));
  assert.equal(child.exitCode, null);
  gate.open();
  assert.deepEqual(await ended, [0, null]);
  const [{ urls }] = JSON.parse(await printed) as [{ urls: [string] }];
  assert.equal((await fetch(`${urls[0]}/readyz`)).status, 200);
});

test('https answers while the store is loaded', { skip: needsScript.skip || unless('openssl').skip }, async (t) => {
  const authority = makeAuthority(t);
  const { cert, key } = authority.issue('server');
  const home = await homeWithStore(t);
  const gate = makeGate(t);
  const args = ['--host', 'localhost', '--tls-cert', cert, '--tls-key', key];
  const { urls, ready } = await startLoading(t, { home, args, env: gate.env });
  const client = ['--url', urls[0]!, '--ca-file', authority.ca];
  const loading = await vreg(home, ['health', ...client]);
  assert.deepEqual([loading.code, loading.stdout], [8, ''], loading.stderr);
  assert.match(loading.stderr, /^vreg: the registry is loading its store\nhint: retry/);
  gate.open();
  await ready();
  assert.equal((await vreg(home, ['health', ...client])).code, 0);
});

test('clients treat a loading registry as one that is not ready, and use the next URL', needsScript, async (t) => {
  const home = await homeWithStore(t);
  const gate = makeGate(t);
  const { urls } = await startLoading(t, { home, env: gate.env });
  const [url] = urls as [string];
  for (const words of [
    ['health'],
    ['status'],
    ['ls'],
    ['addr', 'worker'],
    ['heartbeat', 'vm-1'],
    ['rm', 'vm-1', '-y'],
  ]) {
    const { code, stdout, stderr } = await vreg(home, [...words, '--url', url]);
    assert.deepEqual([code, stdout], [8, ''], words.join(' '));
    assert.match(stderr, /the registry is loading its store/, words.join(' '));
  }
  const doctor = await vreg(home, ['doctor', '--url', url]);
  assert.equal(doctor.code, 8);
  assert.match(doctor.stdout, /^reach\tok\tthe registry responds, but is not ready\t/m);
  assert.match(doctor.stdout, /^ready\tfail\tthe registry at \S+ is not ready: loading\t/m);
  assert.match(doctor.stdout, /^token\tskip\t/m);

  const next = await startDaemon(t);
  const both = ['--url', `${url},${next.url}`];
  assert.equal((await vreg(home, ['health', ...both])).stdout, 'ok\n');
  const registered = await vreg(home, [
    'register',
    'vm-2',
    '--role',
    'worker',
    '--address',
    'a',
    '--name',
    'n',
    ...both,
  ]);
  assert.equal(registered.code, 0, registered.stderr);
  assert.equal((await call(next.url, 'GET', '/registry/vms/vm-2')).status, 200);
  assert.match((await vreg(home, ['ls', '-q', ...both])).stdout, /^vm-2\n$/);
});

test('vreg wait waits for a registry that is loading', needsScript, async (t) => {
  const home = await homeWithStore(t);
  const gate = makeGate(t);
  const { urls, said } = await startLoading(t, { home, env: gate.env });
  const waiting = vreg(home, ['wait', 'vm-1', '--url', urls[0]!, '--timeout', '60s']);
  await until('its first request', () => said().includes('"refused"'));
  gate.open();
  const { code, stderr } = await waiting;
  assert.equal(code, 0, stderr);
});

test('a public address is not opened before the tokens in the store are known', needsScript, async (t) => {
  const home = tempDir(t);
  const first = await startDaemon(t, { home, env: { VERS_AUTH_TOKEN: TOKEN } });
  const headers = { authorization: `Bearer ${TOKEN}` };
  await call(first.url, 'POST', '/registry/tokens', { headers, body: { name: 'reader', scope: 'read' } });
  await first.end();
  const gate = makeGate(t);
  const daemon = await startLoading(t, { home, args: ['--host', '0.0.0.0'], env: gate.env });
  assert.deepEqual(daemon.urls, []);
  assert.match(daemon.said(), /loading the store; not listening until the tokens are loaded/);
  gate.open();
  await daemon.ready();
  assert.match(daemon.said(), /listening on http:\/\/0\.0\.0\.0:/);
});

test('a daemon is loading while its etcd does not answer, and a signal ends it at once', async (t) => {
  const sockets = new Set<Socket>();
  const mute = createServer((socket) => sockets.add(socket)).listen(0, '127.0.0.1');
  await once(mute, 'listening');
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    mute.close();
  });
  const { port } = mute.address() as { port: number };
  const args = ['--store', `etcd://127.0.0.1:${port}/`];
  const stopped = await startLoading(t, { home: tempDir(t), args, env: {} });
  assert.equal(await (await fetch(`${stopped.urls[0]}/livez`)).text(), 'ok');
  assert.equal(await (await fetch(`${stopped.urls[0]}/readyz`)).text(), 'loading');
  assert.equal((await call(stopped.urls[0]!, 'GET', '/health')).status, 503);
  stopped.kill('SIGTERM');
  assert.deepEqual(await stopped.ended, { code: 0, signal: null });

  const failed = await startLoading(t, { home: tempDir(t), args, env: {} });
  assert.deepEqual(await failed.ended, { code: 1, signal: null });
  assert.match(failed.said(), /^vreg: .*etcd.*\nhint: /m);
});
