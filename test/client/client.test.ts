import assert from 'node:assert/strict';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import type { ClientOptions } from '../../src/client/connection.ts';
import { RegistryClient } from '../../src/client.ts';
import { VregError } from '../../src/protocol/errors.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import { serveApp } from '../helpers/app.ts';
import { startDaemon, tempDir } from '../helpers/daemon.ts';
import { json, stub } from '../helpers/stub.ts';
import { openUndici } from '../helpers/transports.ts';
import { aVm } from '../helpers/vm.ts';

function clientOf(t: TestContext, options: Omit<ClientOptions, 'openTransport'>): RegistryClient {
  const client = new RegistryClient({ openTransport: openUndici, ...options });
  t.after(() => client.close());
  return client;
}

async function failure(promise: Promise<unknown>): Promise<VregError> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof VregError, String(error));
    return error;
  }
  throw new Error('it succeeded');
}

const idsOf = (vms: readonly Vm[]) => vms.map(({ id }) => id);

for (const way of ['TCP', 'a unix socket'] as const) {
  test(`every method does its work against a daemon over ${way}`, async (t) => {
    const socket = join(tempDir(t), 'vreg.sock');
    const daemon = await startDaemon(t, { args: ['--socket', socket, '--stale-after', '90s'] });
    const client = clientOf(t, { url: way === 'TCP' ? daemon.url : `unix:${socket}` });
    const vm = aVm({ id: 'a/b ü', role: 'infra', metadata: { a: 1 } });

    const registered = await client.register(vm);
    const { registeredAt, lastSeen, stale, ...rest } = registered;
    assert.deepEqual([rest, stale, lastSeen], [vm, false, registeredAt]);
    assert.deepEqual(await client.get(vm.id), registered);
    assert.equal((await failure(client.register(vm))).code, 'CONFLICT');
    const updated = await client.update(vm.id, { name: 'two', metadata: null });
    assert.deepEqual([updated.name, updated.metadata], ['two', undefined]);
    assert.equal((await client.heartbeat(vm.id)).id, vm.id);
    await client.register(aVm({ id: 'second', role: 'infra' }));
    await client.register(aVm({ id: 'third', status: 'paused' }));
    assert.deepEqual(idsOf(await client.list()), ['third', 'second', vm.id]);
    assert.deepEqual(idsOf(await client.list({ role: 'infra' })), ['second', vm.id]);
    assert.deepEqual(idsOf(await client.list({ role: 'worker', status: 'running' })), []);
    assert.deepEqual(idsOf(await client.discover('infra')), [vm.id, 'second']);
    assert.deepEqual(await client.discover('nobody & none'), []);
    assert.deepEqual(await client.deregister(vm.id), { deleted: true });
    const gone = await failure(client.get(vm.id));
    assert.deepEqual([gone.code, gone.message, gone.field], ['NOT_FOUND', 'VM not found', 'id']);
    assert.equal((await client.health()).status, 'ok');
    assert.match(client.server.version ?? '', /^\d+\.\d+\.\d+/);
    assert.equal(client.server.lease, 90_000);
  });
}

test('an error from the daemon keeps its field and hint', async (t) => {
  const { url } = await startDaemon(t, { env: { VERS_AUTH_TOKEN: 's3cret' } });
  const stranger = await failure(clientOf(t, { url }).list());
  assert.deepEqual([stranger.code, stranger.exit], ['UNAUTHORIZED', 2]);
  const wrong = await failure(clientOf(t, { url, token: 'guess' }).list());
  assert.match(wrong.message, /invalid token/);
  const client = clientOf(t, { url, token: 's3cret' });
  const invalid = await failure(client.register({ ...aVm(), services: [{ name: 'a', port: 0 }] }));
  assert.deepEqual([invalid.code, invalid.field], ['INVALID', 'services[0].port']);
});

test('a refused connection is UNREACHABLE, and the error names the URL, the cause and the origin of the URL', async (t) => {
  const url = await stub(t, () => {});
  const dead = new URL(url);
  dead.port = '1';
  const refused = await failure(clientOf(t, { url: dead.href, origin: 'VERS_INFRA_URL' }).health());
  assert.equal(refused.code, 'UNREACHABLE');
  assert.match(
    refused.message,
    /cannot reach the registry at http:\/\/127\.0\.0\.1:1\/ \(ECONNREFUSED, from VERS_INFRA_URL\)/,
  );
  assert.match(refused.hint ?? '', /vreg doctor/);
  const missing = await failure(clientOf(t, { url: `unix:${join(tempDir(t), 'none.sock')}` }).health());
  assert.match(missing.message, /\(ENOENT\)/);
});

test('a timeout is UNREACHABLE, and the error names the time limit', async (t) => {
  const silent = await stub(t, () => {});
  const limited = clientOf(t, { url: silent });
  limited.maxTimeout = 100;
  assert.equal((await failure(limited.health())).code, 'UNREACHABLE');
  const error = await failure(clientOf(t, { url: silent, timeout: 100 }).health());
  assert.deepEqual([error.code, error.exit], ['UNREACHABLE', 8]);
  assert.match(error.message, /no response within 0\.1 s/);
  const stuck = await stub(t, (_request, response) => void response.writeHead(200).write('{'));
  assert.match(
    (await failure(clientOf(t, { url: stuck, timeout: 100 }).health())).message,
    /no response within 0\.1 s/,
  );
});

test('a connection that breaks off is UNREACHABLE', async (t) => {
  const url = await stub(t, (_request, response) => void response.socket?.destroy());
  assert.equal((await failure(clientOf(t, { url }).health())).code, 'UNREACHABLE');
  const halfway = await stub(t, (_request, response) => {
    response.writeHead(200, { 'content-length': '100' });
    response.write('{"status"', () => response.socket?.destroy());
  });
  assert.equal((await failure(clientOf(t, { url: halfway }).health())).code, 'UNREACHABLE');
});

test('a write without a response has an unknown outcome, and the hint shows how to look', async (t) => {
  const cut = await stub(t, (request, response) => request.resume().on('end', () => response.socket?.destroy()));
  const client = clientOf(t, { url: cut, origin: 'VERS_INFRA_URL' });
  const writes: [string, () => Promise<unknown>, string][] = [
    ['POST', () => client.register(aVm({ id: 'a' })), 'vreg get a'],
    ['PATCH', () => client.update('b c', {}), 'vreg get ID'],
    ['DELETE', () => client.deregister('d'), 'vreg get d'],
    ['POST', () => client.raw('POST', '/registry/tokens', '{}'), 'vreg token ls'],
    ['POST', () => client.raw('POST', '/registry/import', '{'), 'vreg ls'],
    ['DELETE', () => client.raw('DELETE', '/registry/conflicts?id=a'), 'vreg conflicts'],
  ];
  for (const [method, write, look] of writes) {
    const error = await failure(write());
    assert.deepEqual([error.code, error.exit], ['OUTCOME_UNKNOWN', 6], look);
    assert.match(
      error.message,
      new RegExp(`^no response to ${method} from the registry at ${cut} .*, from VERS_INFRA_URL.; the change may have`),
    );
    assert.equal(error.hint, `see whether it took effect: ${look}`);
  }
  // Enough for a busy machine to send the request.
  const silent = clientOf(t, { url: await stub(t, () => {}), timeout: 1000 });
  assert.equal((await failure(silent.deregister('a'))).code, 'OUTCOME_UNKNOWN');
});

test('a request that can be repeated, or was never sent, is UNREACHABLE without a response', async (t) => {
  const cut = clientOf(t, { url: await stub(t, (_request, response) => void response.socket?.destroy()) });
  for (const request of [() => cut.get('a'), () => cut.heartbeat('a'), () => cut.heartbeats(['a', 'b'])]) {
    assert.deepEqual((await failure(request())).exit, 8);
  }
  assert.equal((await failure(cut.raw('PUT', '/registry/vms/a', '{}'))).code, 'UNREACHABLE');
  for (const url of ['http://127.0.0.1:1', `unix:${join(tempDir(t), 'none.sock')}`]) {
    assert.equal((await failure(clientOf(t, { url }).deregister('a'))).code, 'UNREACHABLE', url);
  }
});

test('a proxy that is busy, or does not reach the registry for a request that can be repeated, is BUSY', async (t) => {
  const busy = clientOf(t, { url: await stub(t, (_request, response) => void response.writeHead(503).end()) });
  assert.equal((await failure(busy.register(aVm({ id: 'a' })))).code, 'BUSY');
  for (const status of [502, 504]) {
    const proxy = clientOf(t, { url: await stub(t, (_request, response) => void response.writeHead(status).end()) });
    assert.equal((await failure(proxy.get('a'))).code, 'BUSY');
    assert.equal((await failure(proxy.heartbeat('a'))).code, 'BUSY');
    assert.equal((await proxy.raw('PUT', '/registry/vms/a', '{}')).status, status);
  }
});

test('a write that a proxy cannot complete has an unknown outcome, and the hint shows how to look', async (t) => {
  const url = await stub(t, (_request, response) => void response.writeHead(504).end('<html>'));
  const error = await failure(clientOf(t, { url }).deregister('a'));
  assert.equal(error.message, 'DELETE /registry/vms/a was answered with 504; the change may have been made');
  assert.equal(error.hint, 'see whether it took effect: vreg get a');
});

test('an aborted request fails with the abort reason', async (t) => {
  const controller = new AbortController();
  const url = await stub(t, () => controller.abort(new Error('the user said so')));
  await assert.rejects(clientOf(t, { url, signal: controller.signal }).health(), /the user said so/);
});

test('a server that is not a registry is BAD_ANSWER, and the hint asks whether the URL is right', async (t) => {
  for (const [what, status, text] of [
    ['a web page', 200, '<!doctype html><title>Welcome</title>'],
    ['nothing', 200, ''],
    ['half JSON', 200, '{"vms":'],
    ['a number', 200, '5'],
    ['a redirect', 302, ''],
  ] as const) {
    const url = await stub(t, (_request, response) => {
      response.writeHead(status, { 'content-type': 'text/html', location: '/elsewhere' }).end(text);
    });
    const error = await failure(clientOf(t, { url, origin: 'flag --url' }).health());
    assert.equal(error.code, 'BAD_ANSWER', what);
    assert.match(error.message, new RegExp(`answered GET /health with ${status}`));
    assert.equal(error.hint, "is this the registry's URL (from flag --url)?");
  }
});

test('JSON that is not a list of VMs is BAD_ANSWER', async (t) => {
  for (const body of [{}, { vms: 'none' }, { vms: null }, []]) {
    const url = await stub(t, (_request, response) => json(response, 200, body));
    assert.equal((await failure(clientOf(t, { url }).list())).code, 'BAD_ANSWER', JSON.stringify(body));
  }
});

test('an error without JSON keeps its status and its first line, but not a web page', async (t) => {
  const plain = await stub(t, (_request, response) => void response.writeHead(500).end('it broke\nat line 1'));
  const broke = await failure(clientOf(t, { url: plain }).get('a'));
  assert.equal(broke.code, 'INTERNAL');
  assert.match(broke.message, /^GET \/registry\/vms\/a.* was answered with 500: it broke$/);
  const page = await stub(t, (_request, response) => void response.writeHead(502).end('<html>Bad Gateway</html>'));
  const proxy = await failure(clientOf(t, { url: page }).health());
  assert.deepEqual([proxy.code, proxy.message], ['BUSY', 'GET /health was answered with 502']);
});

test('a URL may have a prefix and a slash at its end', async (t) => {
  const asked: string[] = [];
  const url = await stub(t, (request, response) => {
    asked.push(request.url!);
    json(response, 200, { vms: [], count: 0 });
  });
  for (const base of [url, `${url}/`, `${url}/fleet`, `${url}/fleet/`])
    await clientOf(t, { url: base }).discover('infra');
  const path = '/registry/discover/infra?include=liveness';
  assert.deepEqual(asked, [path, path, `/fleet${path}`, `/fleet${path}`]);
});

test('an invalid URL is a usage error with an example of a valid one', async (t) => {
  for (const url of ['localhost:3000', 'ftp://a', '', 'http://', '/tmp/x.sock']) {
    const error = await failure(clientOf(t, { url, origin: 'VREG_URL' }).health());
    assert.deepEqual([error.code, error.exit, error.field], ['USAGE', 5, 'url'], url);
    assert.match(error.message, /from VREG_URL/);
    assert.match(error.hint ?? '', /http:\/\/HOST:PORT/);
  }
});

test("for the original registry, staleness is computed from lastSeen and the server's clock", async (t) => {
  const now = Date.parse('2026-01-01T12:00:00.000Z');
  const vm = (id: string, ago: number): Vm => ({
    ...aVm({ id }),
    registeredAt: new Date(now - ago).toISOString(),
    lastSeen: new Date(now - ago).toISOString(),
  });
  const vms = [vm('fresh', 299_000), vm('stale', 301_000)];
  const url = await stub(t, (_request, response) => {
    json(response, 200, { vms, count: 2 }, { date: new Date(now).toUTCString() });
  });
  const client = clientOf(t, { url });
  assert.deepEqual(
    (await client.list()).map(({ id, stale }) => [id, stale]),
    [
      ['fresh', false],
      ['stale', true],
    ],
  );
  assert.deepEqual(JSON.parse(JSON.stringify(client.server)), { lease: 300_000, now });
});

test('the token is sent in a header and does not appear in the trace', async (t) => {
  let authorization: string | undefined;
  const url = await stub(t, (request, response) => {
    authorization = request.headers.authorization;
    json(response, 200, { status: 'ok', uptime: 1 });
  });
  const lines: string[] = [];
  await clientOf(t, { url, token: 's3cret', trace: (line) => void lines.push(line) }).health();
  assert.equal(authorization, 'Bearer s3cret');
  assert.match(lines.join('\n'), /^GET http:\/\/127\.0\.0\.1:\d+\/health 200 \d+ ms$/);
});

test('a client that was closed opens a new connection for its next request', async (t) => {
  const url = await stub(t, (_request, response) => json(response, 200, { status: 'ok', uptime: 1 }));
  const client = clientOf(t, { url });
  await client.health();
  client.close();
  client.close();
  assert.equal((await client.health()).status, 'ok');
});

test('lineage is read in both directions, and conflicts are listed and cleared', async (t) => {
  const { url, registry } = await serveApp(t);
  for (const [id, parentId] of [['a'], ['b', 'a'], ['c', 'b']] as const)
    await registry.register(aVm({ id: id!, ...(parentId ? { parentId } : {}) }));
  const client = clientOf(t, { url });
  const ids = (vms: { id: string }[]) => vms.map(({ id }) => id).join(' ');
  assert.equal(ids(await client.children('a')), 'b');
  assert.equal(ids(await client.ancestors('c')), 'b a');
  assert.equal(ids(await client.subtree('a')), 'a b c');
  await assert.rejects(client.children('nobody'), { code: 'NOT_FOUND' });
  const beat = (spend: number, next: number) =>
    client.heartbeat('a', { spend: `${spend}.${'a'.repeat(32)}`, next: `${next}.${'b'.repeat(32)}` });
  await beat(7, 8);
  await assert.rejects(beat(3, 4), { code: 'IDENTITY_CONFLICT', exit: 9 });
  assert.deepEqual(
    (await client.conflicts()).conflicts.map(({ id, state }) => [id, state]),
    [['a', 'open']],
  );
  assert.equal(await client.clearConflicts('a'), 1);
});
