/** The limits that operators set: --max-body, --max-vms and --max-connections. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import test from 'node:test';
import { cleanEnv, ENTRY, PROGRAM, run, startDaemon, tempDir } from '../helpers/daemon.ts';
import { call, errorOf } from '../helpers/http.ts';
import { exchange } from '../helpers/raw.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

test('a full registry refuses new VMs and serves those that it has', async (t) => {
  const { url } = await startDaemon(t, { args: ['--max-vms', '2'] });
  const register = (id: string) => call(url, 'POST', '/registry/vms', { body: aVm({ id }) });
  const answers = await Promise.all(['a', 'b', 'c', 'd'].map(register));
  assert.deepEqual(answers.map(({ status }) => status).sort(), [201, 201, 429, 429]);
  const refused = answers.find(({ status }) => status === 429)!.body as { error: string; code: string };
  assert.match(refused.error, /limit 2/);
  assert.equal((await call(url, 'PATCH', '/registry/vms/a', { body: { name: 'new' } })).status, 200);
  assert.equal((await call(url, 'DELETE', '/registry/vms/a')).status, 200);
  assert.equal((await register('e')).status, 201);
});

test('an entry or a body that is too large is 413 with the limit, however it grows', async (t) => {
  const { url } = await startDaemon(t, { args: ['--max-body', '4KiB'] });
  // The body fits with its last byte; the entry also has registeredAt and lastSeen.
  const frame = JSON.stringify(aVm({ id: 'a', metadata: { text: '' } })).length;
  const metadata = { text: 'x'.repeat(4096 - frame) };
  const large = await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'a', metadata }) });
  assert.deepEqual([large.status, (large.body as { field: string }).field], [413, 'metadata']);
  assert.match((large.body as { error: string }).error, /limit 4096/);
  assert.equal((await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'a' }) })).status, 201);
  assert.equal((await call(url, 'PATCH', '/registry/vms/a', { body: { metadata } })).status, 413);
  const body = await call(url, 'POST', '/registry/vms', {
    body: aVm({ id: 'b', metadata: { text: 'x'.repeat(5000) } }),
  });
  assert.deepEqual([body.status, (body.body as { field: string }).field], [413, 'body']);
  assert.match((body.body as { error: string }).error, /limit 4096 bytes/);
});

test('connections beyond the limit are closed immediately, and the others are served', async (t) => {
  const { url } = await startDaemon(t, { args: ['--max-connections', '20'] });
  const { hostname: host, port } = new URL(url);
  const idle: Socket[] = [];
  t.after(() => {
    for (const socket of idle) socket.destroy();
  });
  let closed = 0;
  for (let n = 0; n < 40; n++) {
    const socket = connect({ host, port: Number(port) });
    socket.on('error', () => {});
    socket.once('close', () => closed++);
    idle.push(socket);
  }
  await until('the surplus to be closed', () => closed >= 20);
  const open = idle.find((socket) => !socket.destroyed)!;
  open.write('GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n');
  const [answer] = (await once(open, 'data')) as [Buffer];
  assert.match(answer.toString(), /^HTTP\/1\.1 200 /);
});

/** Each limit can be set by its flag and by its variable. */
const BY_VARIABLE: Record<string, string> = {
  VREG_MAX_BODY: '2KiB',
  VREG_MAX_VMS: '1',
  VREG_MAX_CONNECTIONS: '8',
};

for (const how of ['flags', 'variables'] as const) {
  test(`each limit can be set by ${how}, is exact, and is named by the error`, async (t) => {
    const args = Object.entries(BY_VARIABLE).flatMap(([name, value]) => [`--${flagOf(name)}`, value]);
    const { url } = await startDaemon(t, how === 'flags' ? { args } : { env: BY_VARIABLE });
    const { hostname: host, port } = new URL(url);
    const at = { host, port: Number(port) };
    const padded = (length: number) => `${' '.repeat(length - 2)}{}`;
    const body = (length: number) => call(url, 'POST', '/registry/vms', { body: padded(length) });
    assert.deepEqual([(await body(2048)).status, (await body(2049)).status], [400, 413]);
    assert.match(errorOf(await body(2049)), /^body is too large \(limit 2048 bytes\)/);

    const register = (length: number) => {
      const frame = Buffer.byteLength(JSON.stringify({ ...aVm({ metadata: { pad: '' } }), ...TIMES }));
      return call(url, 'POST', '/registry/vms', { body: aVm({ metadata: { pad: 'x'.repeat(length - frame) } }) });
    };
    const large = await register(2049);
    assert.deepEqual(
      [large.status, errorOf(large)],
      [413, 'the entry is too large: 2049 bytes of JSON (limit 2048 bytes)'],
    );
    assert.equal((await register(2048)).status, 201);

    const second = await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'vm-2' }) });
    assert.deepEqual([second.status, errorOf(second)], [429, 'the registry is full (limit 1 VMs)']);

    // Half of the connections may be long polls.
    const waits = [1, 2, 3, 4].map(() =>
      exchange(at, 'GET /registry/discover/golden?wait=2s HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n'),
    );
    const refused = await until('one more to be refused', async () => {
      const [answer] = await exchange(
        at,
        'GET /registry/discover/golden?wait=1ms HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
      );
      return answer?.status === 429 ? answer : undefined;
    });
    assert.match(refused.text, /"error":"too many open streams \(limit 4\)".*--max-connections/);
    for (const [answer] of await Promise.all(waits)) assert.equal(answer?.status, 200);
  });
}

const TIMES = { registeredAt: new Date(0).toISOString(), lastSeen: new Date(0).toISOString() };

function flagOf(variable: string): string {
  return variable.replace('VREG_', '').replaceAll('_', '-').toLowerCase();
}

for (const [flag, value] of [
  ['--max-body', '1MB'],
  ['--max-body', '0'],
  ['--max-vms', '-1'],
  ['--max-connections', 'many'],
] as const) {
  test(`${flag} ${value} is refused at start with a hint`, async (t) => {
    const { code, stderr } = await run(PROGRAM, [...ENTRY, 'daemon', `${flag}=${value}`], {
      env: cleanEnv(tempDir(t)),
    });
    assert.equal(code, 5);
    assert.match(stderr, new RegExp(`^vreg: invalid ${flag.slice(2)} "${value}".*\nhint: `));
  });
}

test('a heap that is too small for --max-vms fails the start and names the setting that gives more', async (t) => {
  const start = (args: string[]) =>
    run(PROGRAM, [...ENTRY, 'daemon', '--port', '0', ...args], {
      env: { ...cleanEnv(tempDir(t)), NODE_OPTIONS: '--max-old-space-size=256' },
    });
  const { code, stderr } = await start(['--max-vms', '1000000']);
  assert.equal(code, 5);
  assert.match(
    stderr,
    /^vreg: the heap \(\d+(\.\d)? MiB\) is too small for 1000000 VMs: it has room for about \d+\nhint: give the daemon more memory: NODE_OPTIONS=--max-old-space-size=\d{4}\n/,
  );
});

test('a heap that is too small for the default of --max-vms is only logged', async (t) => {
  const daemon = await startDaemon(t, { env: { NODE_OPTIONS: '--max-old-space-size=128' } });
  assert.equal((await call(daemon.url, 'GET', '/health')).status, 200);
  await until('the warning', () => /too small for 100000 VMs.*--max-old-space-size=\d+/.test(daemon.said()));
});
