/** Scopes, restrictions and enrolment: every route is requested with a token of every scope. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import test, { type TestContext } from 'node:test';
import type { Route } from '../../../daemon/http/context.ts';
import { ROUTES } from '../../../daemon/http/routes.ts';
import type { ErrorBody } from '../../../src/protocol/errors.ts';
import type { History } from '../../../src/protocol/events.ts';
import type { NewToken, Revoked, TokenInfo, TokenRequest, Whoami } from '../../../src/protocol/token.ts';
import { SCOPES } from '../../../src/protocol/token.ts';
import type { Vm } from '../../../src/protocol/vm.ts';
import { serveApp } from '../../helpers/app.ts';
import { GatedStore } from '../../helpers/gated-store.ts';
import { type Answered, call, errorOf } from '../../helpers/http.ts';
import type { MemoryStore } from '../../helpers/memory-store.ts';
import { readEvents } from '../../helpers/stream.ts';
import { until } from '../../helpers/until.ts';
import { aVm } from '../../helpers/vm.ts';

const ROOT = 's3cret';

interface Guarded {
  url: string;
  at: { host: string; port: number };
  /** Sends a request with a token, by default the root token. */
  ask(method: string, path: string, options?: { token?: string | undefined; body?: unknown }): Promise<Answered>;
  create(request: TokenRequest): Promise<string>;
  register(vm: Partial<Vm>): Promise<void>;
  app: Awaited<ReturnType<typeof serveApp>>;
}

async function guarded(t: TestContext, { store }: { store?: MemoryStore } = {}): Promise<Guarded> {
  const app = await serveApp(t, { token: ROOT, streams: { keepAlive: 20 }, ...(store ? { store } : {}) });
  const ask: Guarded['ask'] = (method, path, { token = ROOT, body } = {}) =>
    call(app.url, method, path, { body, headers: token === '' ? {} : { authorization: `Bearer ${token}` } });
  const create = async (body: TokenRequest) => {
    const { status, body: made } = await ask('POST', '/registry/tokens', { body });
    assert.equal(status, 201);
    return (made as NewToken).token;
  };
  const register = async (vm: Partial<Vm>) =>
    assert.equal((await ask('POST', '/registry/vms', { body: aVm(vm) })).status, 201);
  return { url: app.url, at: app.at, ask, create, register, app };
}

/** The scopes that each route accepts, independent of the table of routes, so that a mistake there fails here. */
const MAY: Readonly<Record<string, readonly string[]>> = {
  'GET /health': ['', ...SCOPES],
  'GET /livez': ['', ...SCOPES],
  'GET /readyz': ['', ...SCOPES],
  'GET /registry/whoami': SCOPES,
  'POST /registry/vms': ['register', 'write', 'admin', 'enrol'],
  'GET /registry/vms': ['read', 'heartbeat', 'register', 'write', 'admin'],
  'GET /registry/vms/:id': ['read', 'heartbeat', 'register', 'write', 'admin'],
  'PUT /registry/vms/:id': ['write', 'admin'],
  'PATCH /registry/vms/:id': ['write', 'admin'],
  'DELETE /registry/vms/:id': ['write', 'admin'],
  'POST /registry/vms/:id/heartbeat': ['heartbeat', 'register', 'write', 'admin'],
  'POST /registry/heartbeats': ['heartbeat', 'register', 'write', 'admin'],
  'GET /registry/vms/:id/history': ['read', 'heartbeat', 'register', 'write', 'admin'],
  'GET /registry/vms/:id/why': ['read', 'heartbeat', 'register', 'write', 'admin'],
  'GET /registry/vms/:id/children': ['read', 'heartbeat', 'register', 'write', 'admin'],
  'GET /registry/vms/:id/ancestors': ['read', 'heartbeat', 'register', 'write', 'admin'],
  'GET /registry/vms/:id/subtree': ['read', 'heartbeat', 'register', 'write', 'admin'],
  'GET /registry/vms/:id/diff/:other': ['read', 'heartbeat', 'register', 'write', 'admin'],
  'GET /registry/conflicts': ['read', 'heartbeat', 'register', 'write', 'admin'],
  'DELETE /registry/conflicts': ['write', 'admin'],
  'GET /registry/discover/:role': ['read', 'heartbeat', 'register', 'write', 'admin'],
  'GET /registry/events': ['read', 'heartbeat', 'register', 'write', 'admin'],
  'GET /registry/recent': ['read', 'heartbeat', 'register', 'write', 'admin'],
  'GET /registry/activity': ['read', 'heartbeat', 'register', 'write', 'admin'],
  'GET /registry/replicas': ['read', 'heartbeat', 'register', 'write', 'admin'],
  'POST /auth/magic-link': ['read', 'heartbeat', 'register', 'write', 'admin'],
  'GET /': ['', ...SCOPES],
  'GET /ui': ['', ...SCOPES],
  'GET /ui/': ['', ...SCOPES],
  'GET /ui/login': ['', ...SCOPES],
  'GET /ui/:file': ['', ...SCOPES],
  'POST /ui/login': ['', ...SCOPES],
  'GET /ui/session': ['', ...SCOPES],
  'DELETE /ui/session': ['', ...SCOPES],
  'GET /openapi.json': SCOPES,
  'GET /metrics': ['read', 'heartbeat', 'register', 'write', 'admin'],
  'GET /registry/backup': ['admin'],
  'POST /registry/import': ['admin'],
  'GET /registry/tokens': ['admin'],
  'POST /registry/tokens': ['admin'],
  'DELETE /registry/tokens': ['admin'],
  'DELETE /registry/tokens/:name': ['admin'],
};

const nameOf = ({ method, path }: Route) => `${method} ${path}`;

test('the table of this test lists every route', () => {
  assert.deepEqual(ROUTES.map(nameOf).sort(), Object.keys(MAY).sort());
});

for (const route of ROUTES) {
  test(`${nameOf(route)} accepts ${MAY[nameOf(route)]?.join(', ')}, and names the required scope to all others`, async (t) => {
    const { url, create } = await guarded(t);
    const path = route.path.replace(':id', 'nobody').replace(':role', 'infra').replace(':name', 'nobody');
    for (const scope of ['', ...SCOPES]) {
      const token = scope === '' ? undefined : await create({ name: scope, scope: scope as (typeof SCOPES)[number] });
      const accept: Record<string, string> = route.prefersHtml ? { accept: 'text/html' } : {};
      const headers = token === undefined ? accept : { ...accept, authorization: `Bearer ${token}` };
      // Only authorization is tested here, so no request has a valid body.
      for (const method of route.method === 'GET' ? ['HEAD', 'GET'] : [route.method]) {
        const answer = await fetch(url + path, { method, headers });
        const said = route.path === '/registry/events' && answer.ok ? '' : await answer.text();
        await answer.body?.cancel().catch(() => {});
        const what = `${method} with ${scope || 'no token'}: ${answer.status} ${said}`;
        if (MAY[nameOf(route)]!.includes(scope)) assert.ok(![401, 403].includes(answer.status), what);
        else if (scope === '') assert.equal(answer.status, 401, what);
        else {
          assert.equal(answer.status, 403, what);
          assert.match(answer.headers.get('www-authenticate') ?? '', /insufficient_scope/);
          if (method !== 'HEAD') assert.match(said, new RegExp(`this requires ${route.access}`));
        }
      }
    }
  });
}

test('unknown routes and malformed URLs are reported only to authenticated clients', async (t) => {
  const { ask, create } = await guarded(t);
  const token = await create({ name: 'reader', scope: 'read' });
  for (const [path, status] of [
    ['/nowhere', 404],
    ['/registry/vms/%zz', 400],
  ] as const) {
    assert.equal((await ask('GET', path, { token: '' })).status, 401);
    assert.equal((await ask('GET', path, { token: 'wrong' })).status, 401);
    assert.equal((await ask('GET', path, { token })).status, status);
  }
});

test('a token for one VM changes only that VM, and reads all', async (t) => {
  const { ask, create, register } = await guarded(t);
  await register({ id: 'mine' });
  await register({ id: 'other' });
  const token = await create({ name: 'agent', scope: 'write', vm: 'mine' });
  const status = async (method: string, path: string, body?: unknown) =>
    (await ask(method, path, { token, body })).status;
  for (const [id, code] of [
    ['other', 403],
    ['mine', 200],
  ] as const) {
    assert.equal(await status('POST', `/registry/vms/${id}/heartbeat`), code, id);
    assert.equal(await status('POST', '/registry/heartbeats', { ids: ['mine', id] }), code, id);
    assert.equal(await status('PATCH', `/registry/vms/${id}`, { name: 'new' }), code, id);
    assert.equal(await status('PUT', `/registry/vms/${id}`, aVm({ id })), code, id);
    assert.equal(await status('GET', `/registry/vms/${id}`), 200);
    assert.equal(await status('DELETE', `/registry/vms/${id}`), code, id);
    assert.equal(await status('POST', '/registry/vms', aVm({ id })), code === 200 ? 201 : 403, id);
  }
  assert.equal(await status('POST', '/registry/vms', aVm({ id: 'new' })), 403);
  assert.equal(await status('PUT', '/registry/vms/new', aVm({ id: 'new' })), 403);
  assert.equal(await status('DELETE', '/registry/conflicts'), 403);
  const refused = await ask('DELETE', '/registry/vms/other', { token });
  assert.match(errorOf(refused), /restricted to VM "mine"/);
  assert.equal((await ask('GET', '/registry/vms/other')).status, 200);
});

test("a batch of heartbeats with a VM outside the token's restriction counts for no VM", async (t) => {
  const { ask, create, register, app } = await guarded(t);
  await register({ id: 'mine' });
  await register({ id: 'other' });
  const token = await create({ name: 'beater', scope: 'heartbeat', vm: 'mine' });
  app.clock.pass(1000);
  assert.equal((await ask('POST', '/registry/heartbeats', { token, body: { ids: ['mine', 'other'] } })).status, 403);
  assert.equal(app.registry.get('mine').seen.heardAt, 0);
});

test('a token for a role changes and registers only VMs of that role', async (t) => {
  const { ask, create, register } = await guarded(t);
  await register({ id: 'w', role: 'worker' });
  await register({ id: 'i', role: 'infra' });
  const token = await create({ name: 'workers', scope: 'write', role: 'worker' });
  const status = async (method: string, path: string, body?: unknown) =>
    (await ask(method, path, { token, body })).status;
  assert.equal(await status('POST', '/registry/vms', aVm({ id: 'w2', role: 'worker' })), 201);
  assert.equal(await status('POST', '/registry/vms', aVm({ id: 'i2', role: 'infra' })), 403);
  assert.equal(await status('PUT', '/registry/vms/w', aVm({ id: 'w', role: 'infra' })), 403, 'no VM leaves its role');
  assert.equal(await status('PUT', '/registry/vms/i', aVm({ id: 'i', role: 'worker' })), 403, 'nor joins it');
  for (const [method, path] of [
    ['PATCH', '/registry/vms/i'],
    ['DELETE', '/registry/vms/i'],
    ['POST', '/registry/vms/i/heartbeat'],
  ] as const)
    assert.equal(await status(method, path, method === 'PATCH' ? { name: 'x' } : undefined), 403, path);
  assert.equal(await status('POST', '/registry/vms/w/heartbeat'), 200);
  assert.equal(await status('DELETE', '/registry/vms/w'), 200);
});

for (const limit of [{ vm: 'w' }, { role: 'worker' }] as const) {
  test(`a read token restricted to ${JSON.stringify(limit)} sees no other VM on any route`, async (t) => {
    const { ask, create, register, url, app } = await guarded(t);
    await register({ id: 'i', role: 'infra' });
    await register({ id: 'w', role: 'worker', parentId: 'i' });
    await register({ id: 'i2', role: 'infra', parentId: 'w' });
    const proof = (incarnation: string, n: number) => ({ incarnation, next: `${n}.${'a'.repeat(32)}` });
    for (const id of ['i', 'w']) {
      app.registry.heartbeat(id, proof('one', 1));
      assert.throws(() => app.registry.heartbeat(id, { ...proof('two', 2), spend: `1.${'b'.repeat(32)}` }));
    }
    const token = await create({ name: 'reader', scope: 'read', ...limit });
    const asked = (path: string) => ask('GET', path, { token });
    const ids = async (path: string) => ((await asked(path)).body as { vms: Vm[] }).vms.map(({ id }) => id);
    assert.deepEqual(await ids('/registry/vms'), ['w']);
    assert.deepEqual(await ids('/registry/vms?limit=1'), ['w']);
    assert.deepEqual(await ids('/registry/discover/worker'), ['w']);
    assert.deepEqual(await ids('/registry/discover/infra'), []);
    assert.deepEqual(await ids('/registry/discover/infra?wait=10ms&min=1'), []);
    for (const kin of ['children', 'ancestors', 'subtree']) {
      const { [kin]: list } = (await asked(`/registry/vms/w/${kin}`)).body as Record<string, Vm[]>;
      assert.ok(
        list!.every(({ id }) => id === 'w'),
        kin,
      );
      assert.equal((await asked(`/registry/vms/i/${kin}`)).status, 403, kin);
    }
    for (const part of ['', '/history', '/why']) {
      assert.equal((await asked(`/registry/vms/w${part}`)).status, 200, part);
      assert.equal((await asked(`/registry/vms/i${part}`)).status, 403, part);
      const nobody = (await asked(`/registry/vms/nobody${part}`)).status;
      assert.equal(nobody, 'vm' in limit ? 403 : 404, 'whether a VM is there is told to none who may not see it');
    }
    const { conflicts } = (await asked('/registry/conflicts')).body as { conflicts: { id: string }[] };
    assert.deepEqual([...new Set(conflicts.map(({ id }) => id))], ['w']);
    assert.equal((await asked('/metrics')).status, 403);
    const reader = await readEvents(t, url, '/registry/events?since=start', { authorization: `Bearer ${token}` });
    await reader.seen('synced');
    await ask('PATCH', '/registry/vms/i', { body: { name: 'new' } });
    await ask('PATCH', '/registry/vms/w', { body: { name: 'new' } });
    await reader.seen('updated');
    assert.deepEqual(reader.lines(), ['reset', 'registered w', 'synced', 'updated w']);
  });
}

test('a limited token cannot register an id that a script would split into the ids of other VMs', async (t) => {
  const { ask, create } = await guarded(t);
  const tokens = await Promise.all([
    create({ name: 'image', scope: 'enrol', role: 'worker' }),
    create({ name: 'registrar', scope: 'register' }),
    create({ name: 'workers', scope: 'write', role: 'worker' }),
  ]);
  for (const token of tokens)
    for (const id of ['w infra-1', 'w\u00a0infra-1', 'a"b', "a'b", 'a\\b', '*', 'a?', '[a]']) {
      const { status, body } = await ask('POST', '/registry/vms', { token, body: aVm({ id }) });
      assert.deepEqual([status, (body as ErrorBody).field], [400, 'id'], id);
    }
  const path = '/registry/vms/w%20infra-1';
  assert.equal((await ask('PUT', path, { token: tokens[2], body: aVm({ id: 'w infra-1' }) })).status, 400);
  const own = await create({ name: 'own', scope: 'write', vm: 'w infra-1' });
  assert.equal((await ask('PUT', path, { token: own, body: aVm({ id: 'w infra-1' }) })).status, 201);
  assert.equal((await ask('PUT', path, { token: tokens[2], body: aVm({ id: 'w infra-1', name: 'b' }) })).status, 200);
  assert.equal((await ask('POST', '/registry/vms', { body: aVm({ id: 'a b' }) })).status, 201);
});

test('a VM enrols with the token of its image and receives a token only for itself', async (t) => {
  const { ask, create, register } = await guarded(t);
  await register({ id: 'old' });
  const image = await create({ name: 'image', scope: 'enrol', role: 'worker' });
  const answer = await ask('POST', '/registry/vms', { token: image, body: aVm({ id: 'w-1', role: 'worker' }) });
  const { token, ...vm } = answer.body as Vm & { token: string };
  assert.equal(answer.status, 201);
  assert.deepEqual(vm, (await ask('GET', '/registry/vms/w-1')).body, 'the token is shown once, and is no field of it');
  for (const [method, path, body] of [
    ['GET', '/registry/vms', undefined],
    ['DELETE', '/registry/vms/old', undefined],
    ['DELETE', '/registry/vms/w-1', undefined],
    ['POST', '/registry/vms/w-1/heartbeat', undefined],
    ['PUT', '/registry/vms/old', aVm({ id: 'old' })],
    ['POST', '/registry/vms', aVm({ id: 'i-1', role: 'infra' })],
  ] as const)
    assert.equal((await ask(method, path, { token: image, body })).status, 403, `${method} ${path}`);
  const { body: self } = await ask('GET', '/registry/whoami', { token });
  assert.deepEqual(self, { name: 'image/w-1', scope: 'write', vm: 'w-1', role: 'worker' } satisfies Whoami);
  assert.equal((await ask('POST', '/registry/vms/w-1/heartbeat', { token })).status, 200);
  assert.equal((await ask('DELETE', '/registry/vms/old', { token })).status, 403);
  const taken = await ask('POST', '/registry/vms', { token: image, body: aVm({ id: 'w-1', role: 'worker' }) });
  assert.deepEqual([taken.status, (taken.body as { code: string }).code], [409, 'CONFLICT']);
  const item = ((await ask('GET', '/registry/vms/w-1/history')).body as { history: { by: string }[] }).history[0];
  assert.equal(item?.by, 'image');
});

test('a VM that enrolled as a worker cannot become the infra VM', async (t) => {
  const { ask, create } = await guarded(t);
  const image = await create({ name: 'image', scope: 'enrol', role: 'worker' });
  const { token } = (await ask('POST', '/registry/vms', { token: image, body: aVm({ id: 'w', role: 'worker' }) }))
    .body as NewToken;
  const put = (role: Vm['role']) => ask('PUT', '/registry/vms/w', { token, body: aVm({ id: 'w', role }) });
  assert.deepEqual([(await put('infra')).status, (await put('worker')).status], [403, 200]);
});

test('an enrol token cannot change an enrolled VM or repeat an old enrolment', async (t) => {
  const { ask, create, app } = await guarded(t);
  const image = await create({ name: 'image', scope: 'enrol' });
  const enrol = (address: string) => ask('POST', '/registry/vms', { token: image, body: aVm({ id: 'w', address }) });
  assert.equal((await enrol('10.0.0.1')).status, 201);
  assert.equal((await enrol('6.6.6.6')).status, 409);
  app.clock.pass(60_000);
  assert.equal((await enrol('10.0.0.1')).status, 409);
});

test('a VM that enrolled and has lost its token may enrol again once it has been silent for one lease period', async (t) => {
  const { ask, create, app } = await guarded(t);
  const image = await create({ name: 'image', scope: 'enrol', role: 'worker' });
  const enrol = (address = '10.0.0.2') =>
    ask('POST', '/registry/vms', { token: image, body: aVm({ id: 'w', address }) });
  const { token } = (await enrol('10.0.0.1')).body as NewToken;
  assert.equal((await ask('POST', '/registry/vms/w/heartbeat', { token })).status, 200);
  const refused = await enrol();
  assert.deepEqual(
    [refused.status, errorOf(refused), refused.headers.get('retry-after')],
    [409, 'VM already registered', '1'],
  );
  app.clock.pass(app.registry.staleAfter);
  assert.equal((await enrol()).status, 409);
  app.clock.pass(1);
  const again = await enrol();
  const { token: newToken } = again.body as NewToken;
  assert.equal(again.status, 201);
  assert.equal(app.registry.get('w').vm.address, '10.0.0.2');
  assert.equal((await ask('POST', '/registry/vms/w/heartbeat', { token })).status, 401, 'the old token is replaced');
  assert.equal((await ask('POST', '/registry/vms/w/heartbeat', { token: newToken })).status, 200);
  assert.deepEqual(
    app.registry.conflicts.all.map(({ state, count }) => [state, count]),
    [['replaced', 2]],
  );
});

test('a VM that would enrol again under the id of a VM that is heard is refused as another incarnation', async (t) => {
  const { ask, create, app } = await guarded(t);
  const image = await create({ name: 'image', scope: 'enrol' });
  const enrol = (address: string) => ask('POST', '/registry/vms', { token: image, body: aVm({ id: 'w', address }) });
  const { token } = (await enrol('10.0.0.1')).body as NewToken;
  assert.equal((await enrol('10.0.0.2')).status, 409);
  app.clock.pass(1000);
  assert.equal((await ask('POST', '/registry/vms/w/heartbeat', { token })).status, 200);
  const { status, body, headers } = await enrol('10.0.0.2');
  assert.deepEqual([status, (body as ErrorBody).code, headers.get('retry-after')], [409, 'IDENTITY_CONFLICT', null]);
  assert.match((body as ErrorBody).error, /already registered.*is alive as another incarnation \(10\.0\.0\.1/);
});

test('an enrol token takes over no VM that did not enrol, and none whose token was revoked', async (t) => {
  const { ask, create, register, app } = await guarded(t);
  const image = await create({ name: 'image', scope: 'enrol' });
  await register({ id: 'operators' });
  assert.equal((await ask('POST', '/registry/vms', { token: image, body: aVm({ id: 'revoked' }) })).status, 201);
  await ask('DELETE', '/registry/tokens/image%2Frevoked');
  app.clock.pass(2 * app.registry.staleAfter);
  for (const id of ['operators', 'revoked']) {
    const { status, headers } = await ask('POST', '/registry/vms', {
      token: image,
      body: aVm({ id, address: '6.6.6.6' }),
    });
    assert.deepEqual([status, headers.get('retry-after')], [409, null], id);
  }
});

test('a VM that enrols with another enrol token waits until its entry is stale, and is registered as a new VM', async (t) => {
  const { ask, create, app } = await guarded(t);
  const [first, second] = [
    await create({ name: 'first', scope: 'enrol' }),
    await create({ name: 'second', scope: 'enrol' }),
  ];
  const enrol = (token: string) => ask('POST', '/registry/vms', { token, body: aVm({ id: 'w' }) });
  const { token: lost, registeredAt } = (await enrol(first)).body as NewToken & Vm;
  app.clock.pass(1000);
  const refused = await enrol(second);
  assert.deepEqual([refused.status, refused.headers.get('retry-after')], [409, '1']);
  app.clock.pass(app.registry.staleAfter);
  const { status, body } = await enrol(second);
  assert.equal(status, 201);
  assert.notEqual((body as Vm).registeredAt, registeredAt);
  assert.equal((await ask('GET', '/registry/whoami', { token: lost })).status, 401);
  const { token } = body as NewToken;
  assert.equal(((await ask('GET', '/registry/whoami', { token })).body as Whoami).name, 'second/w');
});

test('a VM that has enrolled again and sends plain heartbeats is not taken over because its former agent is silent', async (t) => {
  const { ask, create, app } = await guarded(t);
  const image = await create({ name: 'image', scope: 'enrol' });
  const enrol = (address: string) => ask('POST', '/registry/vms', { token: image, body: aVm({ id: 'w', address }) });
  const heartbeat = (token: string, body?: object) => ask('POST', '/registry/vms/w/heartbeat', { token, body });
  const { token: first } = (await enrol('10.0.0.1')).body as NewToken;
  assert.equal((await heartbeat(first, { next: `1.${'a'.repeat(32)}` })).status, 200);
  app.clock.pass(app.registry.staleAfter + 1);
  const { token } = (await enrol('10.0.0.2')).body as NewToken;
  app.clock.pass(app.registry.staleAfter);
  assert.equal((await heartbeat(token)).status, 200);
  app.clock.pass(1);
  assert.equal((await enrol('10.0.0.3')).status, 409);
  assert.equal((await heartbeat(token, { next: `1.${'b'.repeat(32)}` })).status, 200, 'its agent starts');
});

test('an enrolment cannot be repeated if the clock was set back', async (t) => {
  const { ask, create, app } = await guarded(t);
  const image = await create({ name: 'image', scope: 'enrol' });
  const enrol = () => ask('POST', '/registry/vms', { token: image, body: aVm({ id: 'w' }) });
  assert.equal((await enrol()).status, 201);
  app.clock.wall -= 1;
  assert.equal((await enrol()).status, 409);
});

test('a heartbeat with replace requires a token that may change the VM', async (t) => {
  const { ask, create, register } = await guarded(t);
  await register({ id: 'w', role: 'worker' });
  const next = `1.${'a'.repeat(32)}`;
  const send = async (request: TokenRequest, body: object) => {
    const token = await create(request);
    const answer = await ask('POST', '/registry/vms/w/heartbeat', { token, body });
    return [answer.status, (answer.body as ErrorBody).field];
  };
  for (const [request, expected] of [
    [{ name: 'a', scope: 'heartbeat' }, [403, 'replace']],
    [{ name: 'b', scope: 'register' }, [403, 'replace']],
    [{ name: 'c', scope: 'write', vm: 'x' }, [403, 'id']],
    [{ name: 'd', scope: 'write', role: 'infra' }, [403, 'role']],
    [{ name: 'e', scope: 'write', vm: 'w' }, [200, undefined]],
    [{ name: 'f', scope: 'admin' }, [200, undefined]],
  ] as const)
    assert.deepEqual(await send(request, { next, replace: true }), expected, request.name);
  assert.deepEqual(await send({ name: 'g', scope: 'heartbeat' }, { next, replace: false }), [200, undefined]);
  assert.deepEqual(await send({ name: 'h', scope: 'heartbeat' }, { health: {}, replace: true }), [200, undefined]);
});

test('a VM that is removed and immediately enrols again keeps its new token after a restart', async (t) => {
  const { ask, create, app } = await guarded(t);
  const image = await create({ name: 'image', scope: 'enrol' });
  const enrol = () => ask('POST', '/registry/vms', { token: image, body: aVm({ id: 'w' }) });
  await enrol();
  const [, again] = await Promise.all([ask('DELETE', '/registry/vms/w'), enrol()]);
  if (again.status !== 201) assert.equal((await enrol()).status, 201);
  await app.registry.saveHeartbeats();
  await app.registry.saveHeartbeats();
  const kept = [...app.store.records.values()].filter(({ key }) => key === 'image/w');
  assert.equal(kept.length, 1);
});

test('a request whose token expires while its body arrives changes nothing', async (t) => {
  const { create, at, app } = await guarded(t);
  const token = await create({ name: 'writer', scope: 'write', expiresIn: 5 });
  const body = JSON.stringify(aVm({ id: 'late' }));
  const socket = connect(at);
  await once(socket, 'connect');
  const head = `POST /registry/vms HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${token}\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n`;
  socket.write(head + body.slice(0, 5));
  await until('the head to be read', () => app.authenticator.tokens.named('writer')?.info.lastUsedAt !== undefined);
  app.clock.pass(5000);
  socket.write(body.slice(5));
  assert.match(await text(socket), /^HTTP\/1\.1 401 /);
  assert.equal(app.registry.has('late'), false);
});

test('an enrolment whose response was lost can be repeated until its token is used', async (t) => {
  const { ask, create } = await guarded(t);
  const image = await create({ name: 'image', scope: 'enrol' });
  const enrol = () => ask('POST', '/registry/vms', { token: image, body: aVm({ id: 'w-1' }) });
  const [lost, got] = [await enrol(), await enrol()].map(({ body }) => (body as { token: string }).token);
  assert.equal((await ask('GET', '/registry/vms', { token: lost })).status, 401);
  assert.equal((await ask('GET', '/registry/vms', { token: got })).status, 200);
  assert.equal((await enrol()).status, 409);
});

test('a removed VM loses its token and can enrol again', async (t) => {
  const { ask, create, app } = await guarded(t);
  const image = await create({ name: 'image', scope: 'enrol' });
  const enrol = async () =>
    ((await ask('POST', '/registry/vms', { token: image, body: aVm({ id: 'w-1' }) })).body as { token: string }).token;
  const first = await enrol();
  assert.equal((await ask('GET', '/registry/vms', { token: first })).status, 200);
  assert.equal((await ask('DELETE', '/registry/vms/w-1')).status, 200);
  assert.equal((await ask('POST', '/registry/vms', { token: first, body: aVm({ id: 'w-1' }) })).status, 401);
  const second = await enrol();
  await app.registry.saveHeartbeats();
  assert.equal((await ask('GET', '/registry/vms', { token: second })).status, 200);
  const kept = [...app.store.records.values()].filter(({ kind, key }) => kind === 'token' && key === 'image/w-1');
  assert.equal(kept.length, 1);
});

test('the tokens of all VMs that enrolled with one token can be revoked together, even after that token', async (t) => {
  const { ask, create } = await guarded(t);
  const image = await create({ name: 'image', scope: 'enrol' });
  const other = await create({ name: 'other', scope: 'enrol' });
  const enrol = async (token: string, id: string) =>
    ((await ask('POST', '/registry/vms', { token, body: aVm({ id }) })).body as { token: string }).token;
  const issued = [await enrol(image, 'a'), await enrol(image, 'b')];
  const stays = await enrol(other, 'c');
  assert.deepEqual((await ask('DELETE', '/registry/tokens/image')).body, { revoked: ['image'] } satisfies Revoked);
  assert.equal((await ask('GET', '/registry/vms', { token: issued[0] })).status, 200);
  assert.deepEqual((await ask('DELETE', '/registry/tokens?enrolledBy=image')).body, {
    revoked: ['image/a', 'image/b'],
  });
  for (const token of issued) assert.equal((await ask('GET', '/registry/vms', { token })).status, 401);
  assert.equal((await ask('GET', '/registry/vms', { token: stays })).status, 200);
  assert.equal((await ask('DELETE', '/registry/tokens')).status, 400);
  assert.equal((await ask('DELETE', '/registry/tokens/image')).status, 404);
});

test('one token of an enrolled VM can be revoked by its name', async (t) => {
  const { ask, create } = await guarded(t);
  const image = await create({ name: 'image', scope: 'enrol' });
  const { token } = (await ask('POST', '/registry/vms', { token: image, body: aVm({ id: 'a' }) })).body as NewToken;
  assert.equal((await ask('DELETE', `/registry/tokens/${encodeURIComponent('image/a')}`)).status, 200);
  assert.equal((await ask('GET', '/registry/vms', { token })).status, 401);
  const again = await ask('POST', '/registry/vms', { token: image, body: aVm({ id: 'a' }) });
  assert.equal(again.status, 409, 'who was thrown out does not come back by itself');
});

test('the list shows everything about a token except its secret', async (t) => {
  const { ask, create } = await guarded(t);
  const token = await create({ name: 'reader', scope: 'read', expiresIn: 60 });
  await ask('GET', '/registry/vms', { token });
  const listed = await ask('GET', '/registry/tokens');
  const { tokens } = listed.body as { tokens: TokenInfo[] };
  const { createdAt, expiresAt, lastUsedAt, ...rest } = tokens[0]!;
  assert.deepEqual(rest, { name: 'reader', scope: 'read', createdBy: 'VERS_AUTH_TOKEN', lastUsedFrom: '127.0.0.1' });
  assert.ok(createdAt && expiresAt! > createdAt && lastUsedAt);
  assert.ok(!JSON.stringify(listed.body).includes(token));
});

test('an event stream ends when its token is revoked or expires', async (t) => {
  const { ask, create, url, app } = await guarded(t);
  const open = async (token: string) => {
    const answer = await fetch(`${url}/registry/events`, { headers: { authorization: `Bearer ${token}` } });
    assert.equal(answer.status, 200);
    return text(answer.body!);
  };
  const first = open(await create({ name: 'first', scope: 'read' }));
  await until('the stream to be open', () => app.registry.events.subscriberCount === 1);
  await ask('DELETE', '/registry/tokens/first');
  await first;
  const brief = open(await create({ name: 'brief', scope: 'read', expiresIn: 5 }));
  await until('the stream to be open', () => app.registry.events.subscriberCount === 1);
  app.clock.pass(5000);
  app.authenticator.tokens.expire();
  await brief;
});

test('a long list that is read slowly ends when its token is revoked or expires', async (t) => {
  const { ask, create, register, at, app } = await guarded(t);
  const metadata = { blob: 'x'.repeat(900_000) };
  for (let i = 0; i < 16; i++) await register({ id: `vm-${i}`, metadata });
  const open = async (token: string) => {
    const socket = connect(at);
    socket.write(
      `GET /registry/vms HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${token}\r\nConnection: close\r\n\r\n`,
    );
    await once(socket, 'readable');
    const whole = (answer: string) => answer.endsWith('"count":16}');
    return () => text(socket).then(whole, () => false);
  };
  const revoked = await open(await create({ name: 'first', scope: 'read' }));
  await ask('DELETE', '/registry/tokens/first');
  assert.equal(await revoked(), false);
  const expired = await open(await create({ name: 'brief', scope: 'read', expiresIn: 1 }));
  app.clock.pass(1000);
  app.authenticator.tokens.expire();
  assert.equal(await expired(), false);
  assert.equal(await (await open(ROOT))(), true);
});

test('a heartbeat event is not sent to a subscriber whose token has expired', async (t) => {
  const { create, register, url, app } = await guarded(t);
  await register({ id: 'vm-1' });
  const token = await create({ name: 'brief', scope: 'read', expiresIn: 5 });
  const headers = { authorization: `Bearer ${token}` };
  const reader = await readEvents(t, url, '/registry/events?heartbeats=true', headers);
  await until('the stream to be open', () => app.registry.events.subscriberCount === 1);
  app.registry.heartbeat('vm-1');
  await reader.seen('heartbeat');
  app.clock.pass(5000);
  app.registry.heartbeat('vm-1');
  await reader.ended;
  assert.deepEqual(reader.lines(), ['synced', 'heartbeat']);
});

test('a change after a token expired is not sent to its slow subscriber', async (t) => {
  const { at, authenticator, registry, clock } = await serveApp(t, { token: ROOT });
  const metadata = { blob: 'x'.repeat(900_000) };
  for (let i = 0; i < 16; i++) await registry.register(aVm({ id: `vm-${i}`, metadata }));
  const { token } = await authenticator.tokens.create({ name: 'brief', scope: 'read', expiresIn: 5 }, 'test');
  const slow = connect(at);
  const head = ['GET /registry/events?since=start HTTP/1.1', 'Host: a', 'Connection: close'];
  slow.write([...head, `Authorization: Bearer ${token}`, '', ''].join('\r\n'));
  await once(slow, 'readable');
  clock.pass(5000);
  await registry.update('vm-0', { name: 'late' });
  const told = await text(slow);
  assert.match(told, /^HTTP\/1\.1 200 /);
  assert.doesNotMatch(told, /"name":"late"/);
});

for (const path of ['/registry/tokens/image', '/registry/tokens?enrolledBy=image']) {
  test(`an enrolment in progress during DELETE ${path} yields no usable token`, async (t) => {
    const store = new GatedStore();
    const { ask, create, app } = await guarded(t, { store });
    const token = await store.settle(create({ name: 'image', scope: 'enrol' }));
    const enrolling = ask('POST', '/registry/vms', { token, body: aVm({ id: 'w' }) });
    await until('it to be on its way to the disk', () => store.waiting === 1);
    const revoking = ask('DELETE', path);
    // Another VM's change is decided after the revocation.
    const other = ask('POST', '/registry/vms', { body: aVm({ id: 'other' }) });
    await until('all three to wait for the disk', () => store.waiting === 3);
    await store.release();
    assert.equal((await enrolling).status, 401);
    assert.equal((await other).status, 201);
    const { revoked } = (await revoking).body as Revoked;
    assert.ok(revoked.includes('image/w'), revoked.join());
    assert.equal(app.authenticator.tokens.named('image/w'), undefined);
    assert.ok(![...store.records.values()].some(({ key }) => key === 'image/w'), 'nor after a restart');
  });
}

test('an enrolment that is repeated during a change of the VM changes nothing', async (t) => {
  const store = new GatedStore();
  const { ask, create } = await guarded(t, { store });
  const token = await store.settle(create({ name: 'image', scope: 'enrol' }));
  const enrol = () => ask('POST', '/registry/vms', { token, body: aVm({ id: 'w' }) });
  const enrolled = enrol();
  await until('it to be on its way', () => store.waiting === 1);
  await store.release();
  assert.equal((await enrolled).status, 201);
  const stopping = ask('PATCH', '/registry/vms/w', { body: { status: 'stopped' } });
  await until('it to be on its way', () => store.waiting === 1);
  const repeated = await enrol();
  assert.deepEqual([repeated.status, (repeated.body as { code: string }).code], [409, 'CONFLICT']);
  await store.release();
  assert.equal((await stopping).status, 200);
  assert.equal(((await ask('GET', '/registry/vms/w')).body as Vm).status, 'stopped');
});

test('a VM that is being removed cannot register again with its own token', async (t) => {
  const store = new GatedStore();
  const { ask, create, app } = await guarded(t, { store });
  const image = await store.settle(create({ name: 'image', scope: 'enrol' }));
  const enrolling = ask('POST', '/registry/vms', { token: image, body: aVm({ id: 'w' }) });
  await until('it to be on its way', () => store.waiting === 1);
  await store.release();
  const { token } = (await enrolling).body as NewToken;
  const removing = ask('DELETE', '/registry/vms/w');
  await until('it to be on its way', () => store.waiting === 1);
  for (const [method, path] of [
    ['PUT', '/registry/vms/w'],
    ['POST', '/registry/vms'],
  ] as const)
    assert.equal((await ask(method, path, { token, body: aVm({ id: 'w' }) })).status, 401, method);
  // Nor can it change another VM that was given its id.
  const again = ask('POST', '/registry/vms', { body: aVm({ id: 'w', name: 'new' }) });
  await until('it to be on its way', () => store.waiting === 2);
  assert.equal((await ask('PUT', '/registry/vms/w', { token, body: aVm({ id: 'w' }) })).status, 401);
  await store.release();
  assert.deepEqual([(await removing).status, (await again).status], [200, 201]);
  assert.equal(app.registry.get('w').vm.name, 'new');
});

test('a token restricted to a role reads the history of a VM since it took that role', async (t) => {
  const { app, ask, create, register } = await guarded(t);
  const token = await create({ name: 'workers', scope: 'read', role: 'worker' });
  const past = async () => {
    const { status, body } = await ask('GET', '/registry/vms/w/history', { token });
    assert.equal(status, 200, JSON.stringify(body));
    const { history } = body as History;
    return history.map(({ type, revision }) => `${type} ${app.store.changeOf(revision!)}`);
  };
  await register({ id: 'w', role: 'infra' });
  await ask('PATCH', '/registry/vms/w', { body: { name: 'secret' } });
  await ask('PUT', '/registry/vms/w', { body: aVm({ id: 'w', role: 'worker' }) });
  assert.deepEqual(await past(), []);
  await ask('PATCH', '/registry/vms/w', { body: { name: 'known' } });
  assert.deepEqual(await past(), ['updated 5']);
  await ask('DELETE', '/registry/vms/w');
  await register({ id: 'w', role: 'worker' });
  assert.deepEqual(await past(), ['registered 7']);
});

test('a long poll whose token is revoked is 401', async (t) => {
  const { ask, create, app } = await guarded(t);
  const token = await create({ name: 'reader', scope: 'read' });
  const waiting = ask('GET', '/registry/discover/infra?wait=50s', { token });
  await until('the answer to be held', () => app.registry.events.subscriberCount === 1);
  await ask('DELETE', '/registry/tokens/reader');
  assert.equal((await waiting).status, 401);
});

test('a request whose token is revoked while its body arrives changes nothing', async (t) => {
  const { ask, create, at, app } = await guarded(t);
  const token = await create({ name: 'writer', scope: 'write' });
  const body = JSON.stringify(aVm({ id: 'late' }));
  const socket = connect(at);
  await once(socket, 'connect');
  const head = `POST /registry/vms HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${token}\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n`;
  socket.write(head + body.slice(0, 5));
  await until('the head to be read', () => app.authenticator.tokens.named('writer')?.info.lastUsedAt !== undefined);
  await ask('DELETE', '/registry/tokens/writer');
  socket.write(body.slice(5));
  assert.match(await text(socket), /^HTTP\/1\.1 401 /);
  assert.equal(app.registry.has('late'), false);
});

test("the first token of an open registry must be an admin's, and then every client needs a token", async (t) => {
  const { url } = await serveApp(t);
  const create = (scope: string) => call(url, 'POST', '/registry/tokens', { body: { name: `the-${scope}`, scope } });
  const refused = await create('read');
  assert.deepEqual([refused.status, (refused.body as { field: string }).field], [400, 'scope']);
  const watching = await fetch(`${url}/registry/events`);
  const { status, body } = await create('admin');
  assert.equal(status, 201);
  await text(watching.body!);
  assert.equal((await create('read')).status, 401);
  const headers = { authorization: `Bearer ${(body as NewToken).token}` };
  assert.equal((await call(url, 'GET', '/registry/vms', { headers })).status, 200);
});

test('too many invalid tokens are 429 with Retry-After, and none of them is logged', async (t) => {
  const { ask, app } = await guarded(t);
  let last: Answered | undefined;
  for (let n = 0; n < 70; n++) last = await ask('GET', '/registry/vms', { token: `guess-${n}` });
  assert.equal(last?.status, 429);
  assert.ok(Number(last.headers.get('retry-after')) > 0);
  assert.equal((last.body as { code: string }).code, 'TOO_MANY_REQUESTS');
  assert.ok(app.logged.length >= 70 && !app.logged.join().includes('guess'));
});
