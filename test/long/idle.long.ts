/** Thousands of clients that do nothing, or wait: the real daemon serves the others, within bounded memory, and is free again after. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import test, { type TestContext } from 'node:test';
import { type Daemon, startDaemon } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { exchange } from '../helpers/raw.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const IDLE = 10_000;
/** Files that this process, and the daemon that it starts, have open besides. */
const OTHERS = 500;
/** Bytes of memory that 10,000 connections may cost: 40 KiB for each, ten times what they do. */
const MAX_MEMORY = 419_430_400;
/** Longer than opening so many connections takes. */
const PATIENCE = 60_000;

const files = Number(execFileSync('sh', ['-c', 'ulimit -n'], { encoding: 'utf8' }).replace('unlimited', '1e9'));
const skip = files < IDLE + OTHERS ? `needs ulimit -n ${IDLE + OTHERS}, and it is ${files}` : false;

interface Crowd {
  sockets: Socket[];
  closed(): number;
}

/** Opens connections, in groups that fit into a queue of those to accept. */
async function crowd(t: TestContext, url: string, count: number, says = ''): Promise<Crowd> {
  const { hostname: host, port } = new URL(url);
  const sockets: Socket[] = [];
  let closed = 0;
  t.after(() => {
    for (const socket of sockets) socket.destroy();
  });
  for (let begun = 0; begun < count; begun += 200) {
    await Promise.all(
      Array.from({ length: Math.min(200, count - begun) }, async () => {
        const socket = connect({ host, port: Number(port) });
        sockets.push(socket);
        socket.on('error', () => {});
        socket.on('data', () => {});
        socket.once('close', () => closed++);
        await new Promise((resolve) => socket.once('connect', resolve).once('close', resolve));
        if (says !== '') socket.write(says);
      }),
    );
  }
  return { sockets, closed: () => closed };
}

/** Bytes. */
function memoryOf({ child }: Daemon): number {
  const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) * 1024;
}

async function serves({ url }: Daemon): Promise<void> {
  assert.equal((await call(url, 'GET', '/health')).status, 200);
  const { status } = await call(url, 'PUT', '/registry/vms/vm-1', { body: aVm({ name: String(performance.now()) }) });
  assert.ok(status === 200 || status === 201, `a change was answered with ${status}`);
}

test(`beside ${IDLE} idle connections others are served, and the idle ones are told that it was too long`, {
  skip,
}, async (t) => {
  const daemon = await startDaemon(t, { args: ['--max-connections', String(IDLE + OTHERS)] });
  await call(daemon.url, 'PUT', '/registry/vms/vm-1', { body: aVm() });
  const before = memoryOf(daemon);
  const idle = await crowd(t, daemon.url, IDLE);
  let told = '';
  idle.sockets[0]!.on('data', (chunk: Buffer) => (told += chunk));
  await serves(daemon);
  const cost = memoryOf(daemon) - before;
  t.diagnostic(`${IDLE} idle connections cost ${Math.round(cost / 1_048_576)} MiB`);
  assert.ok(cost < MAX_MEMORY, `${cost} bytes`);
  await until('all of them to be closed', () => idle.closed() === IDLE, PATIENCE);
  assert.match(told, /^HTTP\/1\.1 408 /);
  assert.match(told, /"the request did not arrive whole in time: within 30000 ms"/);
  await serves(daemon);
});

test('with --max-connections below that the surplus is closed, and there is room when the others have gone', {
  skip,
}, async (t) => {
  // A body of 2 MiB has 60 s to arrive: the idle connections stay open for as long as this test takes.
  const daemon = await startDaemon(t, { args: ['--max-connections', '1000', '--max-body', '2MiB'] });
  const { hostname: host, port } = new URL(daemon.url);
  const idle = await crowd(t, daemon.url, IDLE);
  await until('the surplus to be closed', () => idle.closed() === IDLE - 1000, PATIENCE);
  // One of those that are in is served.
  const inside = idle.sockets.find((socket) => !socket.destroyed)!;
  const answered = new Promise((resolve) => inside.once('data', resolve));
  inside.write('GET /health HTTP/1.1\r\nHost: a\r\n\r\n');
  assert.match(String(await answered), /^HTTP\/1\.1 200 /);
  for (const socket of idle.sockets) socket.destroy();
  await until('room', async () => {
    const answers = await exchange(
      { host, port: Number(port) },
      'GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
    );
    return answers[0]?.status === 200;
  });
  await serves(daemon);
});

test('of thousands that wait or watch half of --max-connections do, the others are refused, and beats go on', {
  skip,
}, async (t) => {
  const daemon = await startDaemon(t, { args: ['--max-connections', '6000'] });
  await call(daemon.url, 'PUT', '/registry/vms/vm-1', { body: aVm() });
  const before = memoryOf(daemon);
  const ask = (path: string) => `GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`;
  const waits = await crowd(t, daemon.url, 2000, ask('/registry/discover/worker?wait=50s&min=2'));
  await crowd(t, daemon.url, 1000, ask('/registry/events'));
  const metrics = async () =>
    Number(/^vreg_watchers (\d+)$/m.exec(await (await fetch(`${daemon.url}/metrics`)).text())?.[1]);
  await until('all to be held', async () => (await metrics()) === 3000);
  const { status, body } = await call(daemon.url, 'GET', '/registry/discover/worker?wait=50s&min=2');
  assert.deepEqual([status, (body as { code: string }).code], [429, 'TOO_MANY_REQUESTS']);
  for (let n = 0; n < 200; n++)
    assert.equal((await call(daemon.url, 'POST', '/registry/vms/vm-1/heartbeat')).status, 200);
  await serves(daemon);
  const cost = memoryOf(daemon) - before;
  t.diagnostic(`3000 that wait or watch cost ${Math.round(cost / 1_048_576)} MiB`);
  assert.ok(cost < MAX_MEMORY, `${cost} bytes`);
  // All that wait are answered by one registration, and their places are free.
  await call(daemon.url, 'POST', '/registry/vms', { body: aVm({ id: 'vm-2' }) });
  await until('the waits to be over', async () => (await metrics()) === 1000);
  assert.equal(waits.closed(), 0);
  assert.equal((await call(daemon.url, 'GET', '/registry/discover/golden?wait=10ms')).status, 200);
});
