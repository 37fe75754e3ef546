/** Weak ETags of lists and of discover, and 304 responses. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { type ServedApp, serveApp } from '../../../helpers/app.ts';
import { call } from '../../../helpers/http.ts';
import { MemoryStore } from '../../../helpers/memory-store.ts';
import { aVm } from '../../../helpers/vm.ts';

const STALE_AFTER = 300_000;
const DISCOVER = '/registry/discover/worker';
const LISTS = [
  '/registry/vms',
  '/registry/vms?role=worker',
  '/registry/vms?status=running',
  '/registry/vms?selector=env%3Dprod',
  '/registry/vms?sort=id&limit=2',
  '/registry/vms?include=liveness',
  DISCOVER,
  `${DISCOVER}?service=api`,
  `${DISCOVER}?include=liveness`,
];

const prod = (id: string) => aVm({ id, metadata: { env: 'prod' }, services: [{ name: 'api', port: 80 }] });

async function tagOf({ url }: ServedApp, path: string, headers: Record<string, string> = {}): Promise<string> {
  const tag = (await call(url, 'GET', path, { headers })).headers.get('etag');
  assert.match(tag ?? '', /^W\/"[0-9a-f]{16}"$/, path);
  return tag!;
}

async function tagsOf(app: ServedApp): Promise<string[]> {
  return Promise.all(LISTS.map((path) => tagOf(app, path)));
}

/** Asserts that an action changes the tags of all lists, or of none. */
async function assertTags(app: ServedApp, what: string, change: boolean, act: () => unknown): Promise<void> {
  const before = await tagsOf(app);
  await act();
  const after = await tagsOf(app);
  for (const [n, path] of LISTS.entries()) assert.equal(before[n] !== after[n], change, `${what}: ${path}`);
}

test('the ETag of a list changes with its VMs, their fields, their liveness and their health, but not with lastSeen', async (t) => {
  const app = await serveApp(t);
  const { registry, clock } = app;
  for (const id of ['a', 'b']) await registry.register(prod(id));
  await assertTags(app, 'time', false, () => clock.pass(2000));
  await assertTags(app, 'a heartbeat', false, () => registry.heartbeat('a'));
  await assertTags(app, 'a registration', true, () => registry.register(prod('c')));
  await assertTags(app, 'an update', true, () => registry.update('a', { name: 'new' }));
  await assertTags(app, 'a removal', true, () => registry.deregister('c'));
  await assertTags(app, 'a status', true, () => registry.update('a', { status: 'paused' }));
  await assertTags(app, 'an expired lease', true, () => clock.pass(STALE_AFTER + 1));
  await assertTags(app, 'a heartbeat of a stale VM', true, () => registry.heartbeat('b'));
  const proof = { from: undefined, mayWrite: true, health: { api: 'failing' } } as const;
  await assertTags(app, 'a failing service', true, () => registry.heartbeat('b', proof));
  await assertTags(app, 'the same health again', false, () => registry.heartbeat('b', proof));
});

test('the ETag of a role does not change with other roles', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(prod('a'));
  const before = await Promise.all([tagOf(app, DISCOVER), tagOf(app, '/registry/vms')]);
  await app.registry.register(aVm({ id: 'infra', role: 'infra' }));
  assert.equal(await tagOf(app, DISCOVER), before[0]);
  assert.notEqual(await tagOf(app, '/registry/vms'), before[1]);
});

test('ETags differ between routes, queries and restrictions, also of empty lists', async (t) => {
  const app = await serveApp(t, { token: 's3cret' });
  const root = { authorization: 'Bearer s3cret' };
  const create = async (more: object) => {
    const body = { name: `reader-${Object.values(more).join()}`, scope: 'read', ...more };
    const { token } = (await call(app.url, 'POST', '/registry/tokens', { headers: root, body })).body as {
      token: string;
    };
    return { authorization: `Bearer ${token}` };
  };
  const readers = [root, await create({ role: 'worker' }), await create({ role: 'infra' }), await create({ vm: 'a' })];
  for (const fill of [() => {}, () => app.registry.register(prod('a'))]) {
    await fill();
    const paths = [...LISTS, '/registry/discover/infra', '/registry/discover/other'];
    const tags = await Promise.all(readers.flatMap((reader) => paths.map((path) => tagOf(app, path, reader))));
    assert.equal(new Set(tags).size, tags.length);
  }
});

test('a list that the client has already is 304 without a body, for GET and HEAD', async (t) => {
  const app = await serveApp(t);
  for (const id of ['a', 'b', 'c']) await app.registry.register(prod(id));
  for (const path of LISTS) {
    const tag = await tagOf(app, path);
    for (const method of ['GET', 'HEAD']) {
      for (const known of [tag, tag.slice(2), `"other", ${tag}`, '*']) {
        const answer = await fetch(app.url + path, { method, headers: { 'if-none-match': known } });
        assert.equal(answer.status, 304, `${method} ${path} ${known}`);
        assert.equal(answer.headers.get('etag'), tag);
        assert.equal(answer.headers.get('content-type'), null);
        assert.ok(answer.headers.get('x-vreg-position'));
        assert.equal(await answer.text(), '');
      }
      for (const other of ['"other"', 'W/"0000000000000000"', 'nonsense', '']) {
        const answer = await fetch(app.url + path, { method, headers: { 'if-none-match': other } });
        assert.equal(answer.status, 200, `${method} ${path} ${other}`);
        await answer.text();
      }
    }
  }
});

test('a list is sent again as soon as a lease in it has expired, before any sweep', async (t) => {
  for (const path of [...LISTS, '/registry/vms?limit=1', '/registry/vms?sort=name']) {
    const app = await serveApp(t);
    for (const id of ['a', 'b']) await app.registry.register(prod(id));
    const tag = await tagOf(app, path);
    app.clock.pass(STALE_AFTER + 1);
    const answer = await fetch(app.url + path, { headers: { 'if-none-match': tag } });
    assert.equal(answer.status, 200, path);
    await answer.text();
  }
});

test('a 304 has the warming header while the list may include dead VMs', async (t) => {
  const app = await serveApp(t);
  for (const id of ['a', 'b']) await app.registry.register(prod(id));
  const tag = await tagOf(app, DISCOVER);
  app.clock.miss(10_000);
  const answer = await fetch(app.url + DISCOVER, { headers: { 'if-none-match': tag } });
  assert.deepEqual([answer.status, answer.headers.get('x-vreg-warming')], [304, '300']);
});

test('a long poll answers when its VMs are live, with 304 if the list is the one that the client has', async (t) => {
  const app = await serveApp(t);
  const path = `${DISCOVER}?wait=10s&min=1`;
  const empty = await tagOf(app, DISCOVER);
  const waiting = fetch(app.url + path, { headers: { 'if-none-match': empty } });
  await app.registry.register(prod('a'));
  const first = await waiting;
  assert.deepEqual([first.status, ((await first.json()) as { count: number }).count], [200, 1]);
  const again = await fetch(app.url + path, { headers: { 'if-none-match': first.headers.get('etag')! } });
  assert.equal(again.status, 304);
});

test('lists whose order or members change without a change of a VM have no ETag', async (t) => {
  const { url, registry } = await serveApp(t);
  await registry.register(prod('a'));
  for (const path of ['/registry/vms?sort=seen', `${DISCOVER}?strict=true`])
    assert.equal((await call(url, 'GET', path)).headers.get('etag'), null);
});

test('the ETag of another run of the registry does not match', async (t) => {
  const store = new MemoryStore();
  const before = await serveApp(t, { store });
  await before.registry.register(prod('a'));
  const tags = await tagsOf(before);
  const after = await serveApp(t, { store });
  for (const [n, path] of LISTS.entries()) {
    const answer = await fetch(after.url + path, { headers: { 'if-none-match': tags[n]! } });
    assert.equal(answer.status, 200, path);
    await answer.text();
  }
});

test('a VM that has just been registered or has gone stale is in or out of the next answer, and lastSeen of one VM is exact', async (t) => {
  const { url, registry, clock } = await serveApp(t);
  const list = async (path: string) =>
    ((await call(url, 'GET', path)).body as { vms: { id: string; lastSeen: string }[] }).vms;
  const ids = async () => (await list(DISCOVER)).map(({ id }) => id);
  assert.deepEqual(await ids(), []);
  await registry.register(prod('a'));
  assert.deepEqual(await ids(), ['a']);
  clock.pass(500);
  registry.heartbeat('a');
  assert.equal((await list(DISCOVER))[0]!.lastSeen, registry.get('a').lastSeen);
  await registry.register(prod('b'));
  assert.deepEqual(await ids(), ['a', 'b']);
  clock.pass(500);
  registry.heartbeat('b');
  clock.pass(1000);
  for (const vm of await list('/registry/vms')) assert.equal(vm.lastSeen, registry.get(vm.id).lastSeen);
  clock.pass(STALE_AFTER - 1499);
  assert.deepEqual(await ids(), ['b']);
});

test('lastSeen is exact in a list with one VM, however large its entry', async (t) => {
  const { url, registry, clock } = await serveApp(t);
  await registry.register(aVm({ id: 'large', metadata: { text: 'x'.repeat(100_000) } }));
  for (const path of [DISCOVER, '/registry/vms']) {
    for (let n = 0; n < 3; n++) {
      const { vms } = (await call(url, 'GET', path)).body as { vms: { lastSeen: string }[] };
      assert.deepEqual(
        vms.map(({ lastSeen }) => lastSeen),
        [registry.get('large').lastSeen],
      );
      clock.pass(100);
      registry.heartbeat('large');
    }
  }
});
