/** Where the daemon listens, where it refuses to, and how it goes. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import test, { type TestContext } from 'node:test';
import { cleanEnv, ENTRY, PROGRAM, run, startDaemon, tempDir } from '../helpers/daemon.ts';
import { freeze } from '../helpers/freeze.ts';
import { call } from '../helpers/http.ts';
import { readAnswers } from '../helpers/raw.ts';
import { PYTHON, unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

/** A daemon that is to listen on a socket alone; resolves when it says that it does. */
async function startOnSocket(t: TestContext, home: string) {
  const socket = join(home, 'vreg.sock');
  const words = [...ENTRY, 'daemon', '--socket', socket, '--data-dir', join(home, 'data'), '--log-format', 'json'];
  const child = spawn(PROGRAM, words, { env: cleanEnv(home), stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = once(child, 'exit');
  t.after(async () => {
    child.kill('SIGKILL');
    await ended;
  });
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (said += chunk));
  await until('the daemon to listen', () => {
    if (child.exitCode !== null) throw new Error(said);
    return said.includes('listening on');
  });
  return { socket, child, ended, said: () => said };
}

async function healthOver(socketPath: string): Promise<unknown> {
  const [answer] = await once(request({ socketPath, path: '/health', agent: false }).end(), 'response');
  return JSON.parse(await text(answer));
}

test('with only --socket, the daemon opens no port; the socket has mode 0600 and is removed when the daemon stops', async (t) => {
  const { socket, child, ended, said } = await startOnSocket(t, tempDir(t));
  assert.match(said(), /listening on unix:/);
  assert.doesNotMatch(said(), /http:/);
  assert.equal(statSync(socket).mode & 0o777, 0o600);
  assert.equal(((await healthOver(socket)) as { status: string }).status, 'ok');
  child.kill('SIGTERM');
  assert.deepEqual(await ended, [0, null]);
  assert.equal(existsSync(socket), false);
});

test('a socket that a killed daemon left behind is taken over', async (t) => {
  const home = tempDir(t);
  const first = await startOnSocket(t, home);
  first.child.kill('SIGKILL');
  await first.ended;
  assert.equal(existsSync(first.socket), true);
  const second = await startOnSocket(t, home);
  assert.equal(((await healthOver(second.socket)) as { status: string }).status, 'ok');
});

test('a socket beside a port serves the same registry', async (t) => {
  const home = tempDir(t);
  const socket = join(home, 'both.sock');
  const { url, end } = await startDaemon(t, { home, args: ['--socket', socket] });
  await call(url, 'POST', '/registry/vms', { body: aVm({ role: 'infra' }) });
  const { stdout } = await run(PROGRAM, [...ENTRY, 'addr', 'infra', '--url', `unix:${socket}`], {
    env: cleanEnv(home),
  });
  assert.equal(stdout, 'vm-1.vm.vers.sh\n');
  assert.deepEqual(await end(), { code: 0, signal: null });
  assert.equal(existsSync(socket), false);
});

test('--host localhost listens on every address of localhost', async (t) => {
  const { url } = await startDaemon(t, { args: ['--host', 'localhost'] });
  const port = new URL(url).port;
  assert.equal((await call(`http://127.0.0.1:${port}`, 'GET', '/health')).status, 200);
  assert.equal((await call(`http://localhost:${port}`, 'GET', '/health')).status, 200);
});

test('a second daemon on the same port exits with 4 and names the first one', async (t) => {
  const { url, child } = await startDaemon(t);
  const home = tempDir(t);
  const words = [...ENTRY, 'daemon', '--port', new URL(url).port, '--data-dir', join(home, 'data')];
  const { code, stdout, stderr } = await run(PROGRAM, words, { env: cleanEnv(home) });
  assert.deepEqual([code, stdout], [4, '']);
  const holder = `vreg \\(pid ${child.pid}\\) is listening there \\(EADDRINUSE\\)`;
  assert.match(
    stderr,
    new RegExp(
      `^vreg: cannot listen on 127\\.0\\.0\\.1:\\d+: ${holder}\\nhint: stop it: kill ${child.pid}; or .*--port\\n$`,
    ),
  );
});

test('a daemon whose port another program uses exits with 4 and names the program', unless('python3'), async (t) => {
  const home = tempDir(t);
  const script =
    'import socket,time; s=socket.socket(); s.bind(("",0)); s.listen(); print(s.getsockname()[1],flush=True); time.sleep(300)';
  const other = spawn(PYTHON, ['-c', script], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => other.kill('SIGKILL'));
  const [port] = (await once(other.stdout, 'data')) as [Buffer];
  const words = [...ENTRY, 'daemon', '--port', String(port).trim(), '--data-dir', join(home, 'data')];
  const { code, stderr } = await run(PROGRAM, words, { env: cleanEnv(home) });
  assert.equal(code, 4);
  assert.match(
    stderr,
    new RegExp(`: python3\\S* \\(pid ${other.pid}\\) is listening there .*\\nhint: stop it: kill ${other.pid}; or`),
  );
});

test('a second daemon on the same unix socket exits with 4 and names the first one', async (t) => {
  const path = join(tempDir(t), 'vreg.sock');
  const { child } = await startDaemon(t, { args: ['--socket', path] });
  const home = tempDir(t);
  const words = [...ENTRY, 'daemon', '--socket', path, '--data-dir', join(home, 'data')];
  const { code, stderr } = await run(PROGRAM, words, { env: cleanEnv(home) });
  assert.equal(code, 4);
  assert.match(stderr, new RegExp(`: vreg \\(pid ${child.pid}\\) is listening there .*\\nhint: .*--socket\\n$`));
});

test('without a token, a public address is refused with exit code 5 and a hint', async (t) => {
  const home = tempDir(t);
  for (const host of ['0.0.0.0', '::', 'example.com']) {
    const words = [...ENTRY, 'daemon', '--port', '0', '--host', host, '--data-dir', join(home, 'data')];
    const { code, stderr } = await run(PROGRAM, words, { env: cleanEnv(home) });
    assert.equal(code, 5, host);
    assert.match(stderr, /refusing to listen on .* without a token/);
    assert.match(stderr, /hint: .*VERS_AUTH_TOKEN.*--token-file/);
    assert.equal(existsSync(join(home, 'data')), false);
  }
});

test('with a token, from the environment or a file, the daemon may listen on any address', async (t) => {
  const file = join(tempDir(t), 'token');
  writeFileSync(file, 's3cret\n', { mode: 0o600 });
  for (const options of [{ env: { VERS_AUTH_TOKEN: 's3cret' } }, { args: ['--token-file', file] }]) {
    const args = ['--host', '0.0.0.0', ...(options.args ?? [])];
    const { url } = await startDaemon(t, { ...options, args });
    const here = `http://127.0.0.1:${new URL(url).port}`;
    assert.equal((await call(here, 'GET', '/registry/vms')).status, 401);
    const headers = { authorization: 'Bearer s3cret' };
    assert.equal((await call(here, 'GET', '/registry/vms', { headers })).status, 200);
  }
});

test('SIGTERM answers a request that is still arriving, closes idle connections, and exits 0', async (t) => {
  const { url, end, home, said } = await startDaemon(t);
  const at = { host: '127.0.0.1', port: Number(new URL(url).port) };
  const body = JSON.stringify(aVm());
  const idle = connect(at);
  idle.write('GET /health HTTP/1.1\r\nHost: a\r\n\r\n');
  await once(idle, 'data');
  const slow = connect(at);
  slow.write(
    `POST /registry/vms HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: ${body.length}\r\n\r\n`,
  );
  // The daemon has the request when it asks for the body.
  await once(slow, 'data');
  const ended = end('SIGTERM');
  await once(idle, 'close');
  await until('the daemon to say that it stops', () => said().includes('stopping'));
  slow.write(body);
  const [answer] = await readAnswers(slow);
  assert.equal(answer?.status, 201);
  assert.deepEqual(await ended, { code: 0, signal: null });
  assert.match(said(), /"stopped"/);

  const again = await startDaemon(t, { home });
  assert.equal((await call(again.url, 'GET', '/registry/vms/vm-1')).status, 200);
});

// Less than after which a request that never ends is cut.
test('SIGTERM does not wait for a connection that never sent a request', { timeout: 25_000 }, async (t) => {
  const { url, end } = await startDaemon(t);
  const { hostname: host, port } = new URL(url);
  const silent = connect({ host, port: Number(port) }).on('error', () => {});
  await once(silent, 'connect');
  assert.deepEqual(await end(), { code: 0, signal: null });
  if (!silent.closed) await once(silent, 'close');
});

test('SIGTERM under load loses no registration answered with 201 and leaves none partial', async (t) => {
  const first = await startDaemon(t);
  const acknowledged: string[] = [];
  let sent = 0;
  const writer = async () => {
    for (;;) {
      const id = `vm-${sent++}`;
      try {
        const { status } = await call(first.url, 'POST', '/registry/vms', { body: aVm({ id }) });
        assert.equal(status, 201);
        acknowledged.push(id);
      } catch (error) {
        // Refused at the door, or closed while idle: never an answer that is no 201.
        if (error instanceof assert.AssertionError) throw error;
        return;
      }
    }
  };
  const writers = Array.from({ length: 8 }, writer);
  await until('some registrations', () => acknowledged.length >= 50);
  assert.deepEqual(await first.end('SIGTERM'), { code: 0, signal: null });
  await Promise.all(writers);
  const second = await startDaemon(t, { home: first.home });
  const { vms } = (await call(second.url, 'GET', '/registry/vms')).body as { vms: { id: string }[] };
  const there = new Set(vms.map(({ id }) => id));
  assert.deepEqual(
    acknowledged.filter((id) => !there.has(id)),
    [],
  );
});

const CROWD = 1000;
const somaxconn = process.platform === 'linux' ? Number(readFileSync('/proc/sys/net/core/somaxconn', 'utf8')) : 0;

test(`${CROWD} agents that connect while the daemon is busy are all connected at once`, {
  skip: somaxconn > CROWD ? false : 'needs Linux with net.core.somaxconn above 1000',
}, async (t) => {
  const daemon = await startDaemon(t);
  const { hostname: host, port } = new URL(daemon.url);
  // A stopped process accepts nothing, so the connections wait in the kernel.
  freeze(daemon.child);
  t.after(() => daemon.child.kill('SIGCONT'));
  let connected = 0;
  const sockets = Array.from({ length: CROWD }, () =>
    connect({ host, port: Number(port) }).once('connect', () => connected++),
  );
  t.after(() => {
    for (const socket of sockets) socket.destroy();
  });
  await until('all to be connected', () => connected === CROWD);
  daemon.child.kill('SIGCONT');
  assert.equal((await call(daemon.url, 'GET', '/health')).status, 200);
});
