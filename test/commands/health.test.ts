import assert from 'node:assert/strict';
import test from 'node:test';
import { VregError } from '../../src/protocol/errors.ts';
import { serveApp } from '../helpers/app.ts';
import { vreg } from '../helpers/cli.ts';
import { MemoryStore } from '../helpers/memory-store.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { json, stub } from '../helpers/stub.ts';

test('health prints ok, and JSON has the uptime', async (t) => {
  const { url } = await serveApp(t);
  assert.deepEqual(await vreg(['health'], { url }), { code: 0, stdout: 'ok\n', stderr: '' });
  const { status, uptime } = JSON.parse((await vreg(['health', '--json'], { url })).stdout) as Record<string, unknown>;
  assert.equal(status, 'ok');
  assert.equal(typeof uptime, 'number');
});

test('health prints degraded if the last write failed, and exits with 8 if the registry is not ready', async (t) => {
  const store = new MemoryStore();
  const { url } = await serveApp(t, { store, token: 's3cret' });
  store.failure = new VregError('STORE_FULL', 'the disk of the registry is full: nothing was changed');
  const env = { VERS_AUTH_TOKEN: 's3cret' };
  assert.equal((await vreg(['register', 'a', '--role', 'worker', '--address', '10.0.0.1'], { url, env })).code, 1);
  assert.deepEqual(await vreg(['health'], { url }), { code: 0, stdout: 'degraded\n', stderr: '' });
  assert.match((await vreg(['health', '--json'], { url })).stdout, /"status": "degraded"/);
  store.readFailure = new VregError('STORE_FAILED', 'the registry could not read from its disk: EIO');
  const { url: broken } = await serveApp(t, { store });
  assert.deepEqual(await vreg(['health'], { url: broken }), {
    code: 8,
    stdout: '',
    stderr: `vreg: the registry at ${broken} is not ready: unreadable\nhint: show the reason: vreg doctor\n`,
  });
});

test('health of the original registry, and of a daemon without /readyz, is the status of /health', async (t) => {
  const { url } = await startPlainServer(t);
  assert.equal((await vreg(['health'], { url })).stdout, 'ok\n');
  const older = await stub(t, (request, response) => {
    const isHealth = request.url === '/health';
    const body = isHealth ? { status: 'ok', uptime: 1 } : { error: 'no such route' };
    json(response, isHealth ? 200 : 404, body, { 'x-vreg-version': '0.0.9' });
  });
  assert.equal((await vreg(['health'], { url: older })).stdout, 'ok\n');
});

test('health of an unreachable registry exits with 8', async () => {
  const { code, stdout, stderr } = await vreg(['health']);
  assert.deepEqual([code, stdout], [8, '']);
  assert.match(
    stderr,
    /^vreg: cannot reach the registry at .* from VERS_INFRA_URL\)\nhint: is it running\? try: vreg doctor/,
  );
});
