/** Thousands of idle or waiting clients: the daemon serves the others within bounded memory, and recovers when they leave. */
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
/** Other files that this process and its daemon have open. */
const OTHERS = 500;
/** Bytes of memory that 10,000 connections may cost: 40 KiB each, ten times the measured cost. */
const MAX_MEMORY = 419_430_400;
/** Milliseconds: more than opening so many connections takes. */
const PATIENCE = 60_000;

const files = Number(execFileSync('sh', ['-c', 'ulimit -n'], { encoding: 'utf8' }).replace('unlimited', '1e9'));
const skip = files < IDLE + OTHERS ? `needs ulimit -n ${IDLE + OTHERS}, and it is ${files}` : false;

interface Crowd {
  sockets: Socket[];
  closed(): number;
}

/** Opens connections in groups that fit into the listen backlog. */
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

/** @returns resident memory in bytes */
function memoryOf({ child }: Daemon): number {
  const status = readFileSync(`/proc/${child.pid}/status`, 'utf8');
  return Number(/VmRSS:\s+(\d+) kB/.exec(status)?.[1]) * 1024;
}

async function assertServes({ url }: Daemon): Promise<void> {
  assert.equal((await call(url, 'GET', '/health')).status, 200);
  const { status } = await call(url, 'PUT', '/registry/vms/vm-1', { body: aVm({ name: String(performance.now()) }) });
  assert.ok(status === 200 || status === 201, `a change got ${status}`);
}

test(`beside ${IDLE} idle connections other clients are served, and the idle ones get a 408`, {
  skip,
}, async (t) => {
  const daemon = await startDaemon(t, { args: ['--max-connections', String(IDLE + OTHERS)] });
  await call(daemon.url, 'PUT', '/registry/vms/vm-1', { body: aVm() });
  const before = memoryOf(daemon);
  const idle = await crowd(t, daemon.url, IDLE);
  let received = '';
  idle.sockets[0]!.on('data', (chunk: Buffer) => (received += chunk));
  await assertServes(daemon);
  const cost = memoryOf(daemon) - before;
  t.diagnostic(`${IDLE} idle connections cost ${Math.round(cost / 1_048_576)} MiB`);
  assert.ok(cost < MAX_MEMORY, `${cost} bytes`);
  await until('all idle connections to be closed', () => idle.closed() === IDLE, PATIENCE);
  assert.match(received, /^HTTP\/1\.1 408 /);
  assert.match(received, /"the request was not received completely in time \(limit 30000 ms\)"/);
  await assertServes(daemon);
});

test('connections beyond --max-connections are closed, and new ones are accepted when others have left', {
  skip,
}, async (t) => {
  // A body of 2 MiB has 60 s to arrive: the idle connections stay open for as long as this test takes.
  const daemon = await startDaemon(t, { args: ['--max-connections', '1000', '--max-body', '2MiB'] });
  const { hostname: host, port } = new URL(daemon.url);
  const idle = await crowd(t, daemon.url, IDLE);
  await until('the surplus to be closed', () => idle.closed() === IDLE - 1000, PATIENCE);
  // An accepted connection is served.
  const inside = idle.sockets.find((socket) => !socket.destroyed)!;
  const answered = new Promise((resolve) => inside.once('data', resolve));
  inside.write('GET /health HTTP/1.1\r\nHost: a\r\n\r\n');
  assert.match(String(await answered), /^HTTP\/1\.1 200 /);
  for (const socket of idle.sockets) socket.destroy();
  await until('a new connection to be served', async () => {
    const answers = await exchange(
      { host, port: Number(port) },
      'GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
    );
    return answers[0]?.status === 200;
  });
  await assertServes(daemon);
});

test('long polls and event streams occupy at most half of --max-connections, others are refused, and heartbeats work', {
  skip,
}, async (t) => {
  const daemon = await startDaemon(t, { args: ['--max-connections', '6000'] });
  await call(daemon.url, 'PUT', '/registry/vms/vm-1', { body: aVm() });
  const before = memoryOf(daemon);
  const ask = (path: string) => `GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`;
  const waits = await crowd(t, daemon.url, 2000, ask('/registry/discover/worker?wait=50s&min=2'));
  await crowd(t, daemon.url, 1000, ask('/registry/events'));
  const metrics = async () => (await fetch(`${daemon.url}/metrics`)).text();
  await until('all streams to be open', async () =>
    /^vreg_subscribers 1000\n[\s\S]*^vreg_long_polls 2000$/m.test(await metrics()),
  );
  const { status, body } = await call(daemon.url, 'GET', '/registry/discover/worker?wait=50s&min=2');
  assert.deepEqual([status, (body as { code: string }).code], [429, 'TOO_MANY_REQUESTS']);
  for (let n = 0; n < 200; n++)
    assert.equal((await call(daemon.url, 'POST', '/registry/vms/vm-1/heartbeat')).status, 200);
  await assertServes(daemon);
  const cost = memoryOf(daemon) - before;
  t.diagnostic(`3000 open streams cost ${Math.round(cost / 1_048_576)} MiB`);
  assert.ok(cost < MAX_MEMORY, `${cost} bytes`);
  // One registration ends all long polls, and frees their share of the limit.
  await call(daemon.url, 'POST', '/registry/vms', { body: aVm({ id: 'vm-2' }) });
  await until('the long polls to end', async () => /^vreg_long_polls 0$/m.test(await metrics()));
  assert.equal(waits.closed(), 0);
  assert.equal((await call(daemon.url, 'GET', '/registry/discover/golden?wait=10ms')).status, 200);
});
