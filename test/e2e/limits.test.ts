/** The limits that the daemon is started with. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import test from 'node:test';
import { BIN, cleanEnv, run, startDaemon, tempDir } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

test('a registry that is full takes no more VMs, and goes on with those that it has', async (t) => {
  const { url } = await startDaemon(t, { args: ['--max-vms', '2'] });
  const register = (id: string) => call(url, 'POST', '/registry/vms', { body: aVm({ id }) });
  const answers = await Promise.all(['a', 'b', 'c', 'd'].map(register));
  assert.deepEqual(answers.map(({ status }) => status).sort(), [201, 201, 429, 429]);
  const refused = answers.find(({ status }) => status === 429)!.body as { error: string; code: string };
  assert.match(refused.error, /at most 2/);
  assert.equal((await call(url, 'PATCH', '/registry/vms/a', { body: { name: 'new' } })).status, 200);
  assert.equal((await call(url, 'DELETE', '/registry/vms/a')).status, 200);
  assert.equal((await register('e')).status, 201);
});

test('an entry, and a body, that are too large are 413 with the limit, however they grow', async (t) => {
  const { url } = await startDaemon(t, { args: ['--max-entry', '1KiB', '--max-body', '4KiB'] });
  const metadata = { text: 'x'.repeat(1000) };
  const large = await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'a', metadata }) });
  assert.deepEqual([large.status, (large.body as { field: string }).field], [413, 'metadata']);
  assert.match((large.body as { error: string }).error, /at most 1024/);
  assert.equal((await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'a' }) })).status, 201);
  assert.equal((await call(url, 'PATCH', '/registry/vms/a', { body: { metadata } })).status, 413);
  const body = await call(url, 'POST', '/registry/vms', {
    body: aVm({ id: 'b', metadata: { text: 'x'.repeat(5000) } }),
  });
  assert.deepEqual([body.status, (body.body as { field: string }).field], [413, 'body']);
  assert.match((body.body as { error: string }).error, /at most 4096 bytes/);
});

test('connections beyond the limit are closed at once, and those before it are served', async (t) => {
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
  await until('those beyond the limit to be closed', () => closed >= 20);
  const open = idle.find((socket) => !socket.destroyed)!;
  open.write('GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n');
  const [answer] = (await once(open, 'data')) as [Buffer];
  assert.match(answer.toString(), /^HTTP\/1\.1 200 /);
});

for (const [flag, value] of [
  ['--max-body', '1MB'],
  ['--max-entry', '0'],
  ['--max-vms', '-1'],
  ['--max-connections', 'many'],
  ['--request-timeout', '30'],
] as const) {
  test(`${flag} ${value} is refused at the start, with what is accepted`, async (t) => {
    const { code, stderr } = await run(process.execPath, [BIN, 'daemon', `${flag}=${value}`], {
      env: cleanEnv(tempDir(t)),
    });
    assert.equal(code, 5);
    assert.match(stderr, new RegExp(`^vreg: ${flag.slice(2)}.*\nhint: `));
  });
}
