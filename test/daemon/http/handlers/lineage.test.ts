/** `parentVmId` and `reefConfig`, the routes for lineage in the shape of the reef server, and the difference of two VMs. */
import assert from 'node:assert/strict';
import test from 'node:test';
import type { VmEvent } from '../../../../src/protocol/events.ts';
import { MAX_REEF_CONFIG, type Vm } from '../../../../src/protocol/vm.ts';
import { type ServedApp, serveApp } from '../../../helpers/app.ts';
import { AS_VREG_CLIENT, call, errorOf } from '../../../helpers/http.ts';
import { readEvents } from '../../../helpers/stream.ts';
import { aVm } from '../../../helpers/vm.ts';

const VM = '/registry/vms/vm-1';
const CONFIG = { services: ['board', 'feed'], capabilities: ['gpu'] };

const register = (url: string, body: object) => call(url, 'POST', '/registry/vms', { body: { ...aVm(), ...body } });
const fieldOf = (answer: { body: unknown }) => (answer.body as { field?: string }).field;

test('an entry that was written with parentVmId shows the parent under both names, any other one only as parentId', async (t) => {
  const { url, store } = await serveApp(t);
  const parents = ({ body }: { body: unknown }) => {
    const { parentId, parentVmId } = body as Vm;
    return [parentId, parentVmId];
  };
  assert.deepEqual(parents(await register(url, { parentVmId: ' p ' })), ['p', 'p']);
  assert.deepEqual(parents(await call(url, 'GET', VM)), ['p', 'p']);
  for (const parentVmId of [undefined, null, ''])
    assert.deepEqual(parents(await call(url, 'PATCH', VM, { body: { name: 'x', parentVmId } })), ['p', 'p']);
  assert.deepEqual(parents(await call(url, 'PUT', VM, { body: aVm({ parentId: 'p' }) })), ['p', undefined]);
  assert.deepEqual(parents(await call(url, 'PUT', VM, { body: aVm({ parentVmId: 'q' }) })), ['q', 'q']);
  const { changes } = store;
  assert.deepEqual(parents(await call(url, 'PUT', VM, { body: aVm({ parentId: 'q', parentVmId: 'q' }) })), ['q', 'q']);
  assert.equal(store.changes, changes);
  assert.deepEqual(parents(await call(url, 'PUT', VM, { body: aVm() })), [undefined, undefined]);
  for (const [id, body, expected] of [
    ['a', { parentId: null, parentVmId: 'p' }, ['p', 'p']],
    ['b', { parentId: '', parentVmId: 'p' }, ['p', 'p']],
    ['c', { parentId: 'p', parentVmId: null }, ['p', undefined]],
    ['d', { parentId: 'p', parentVmId: '' }, ['p', undefined]],
    ['e', { parentVmId: null }, [undefined, undefined]],
  ] as const)
    assert.deepEqual(parents(await register(url, { id, ...body })), expected, id);
});

test('two different parents are 400 and change nothing', async (t) => {
  const { url, store } = await serveApp(t);
  const body = { ...aVm(), parentId: 'p', parentVmId: 'q' };
  for (const answer of [await register(url, body), await call(url, 'PUT', VM, { body })]) {
    assert.deepEqual([answer.status, fieldOf(answer)], [400, 'parentVmId']);
    assert.match(errorOf(answer), /parentId and parentVmId differ/);
  }
  for (const parentVmId of ['vm-1', 7, 'a\nb', '-x', 'x'.repeat(2000)]) {
    const answer = await register(url, { parentVmId, parentId: parentVmId === 'vm-1' ? undefined : 'p' });
    assert.deepEqual([answer.status, fieldOf(answer)], [400, 'parentVmId'], String(parentVmId));
  }
  assert.equal(store.changes, 0);
});

test('reefConfig is stored on POST, PUT and PATCH, replaced as a whole, and removed by null', async (t) => {
  const { url } = await serveApp(t);
  const configOf = async () => ((await call(url, 'GET', VM)).body as Vm).reefConfig;
  const made = await register(url, { reefConfig: CONFIG });
  assert.deepEqual((made.body as Vm).reefConfig, CONFIG);
  await call(url, 'PATCH', VM, { body: { name: 'two' } });
  await call(url, 'POST', `${VM}/heartbeat`);
  assert.deepEqual(await configOf(), CONFIG);
  await call(url, 'PATCH', VM, { body: { reefConfig: { services: [' board ', 'board'], more: { a: 1 } } } });
  assert.deepEqual(await configOf(), { services: ['board', 'board'], capabilities: [], more: { a: 1 } });
  await call(url, 'PUT', VM, { body: { ...aVm(), reefConfig: CONFIG } });
  assert.deepEqual(await configOf(), CONFIG);
  await call(url, 'PATCH', VM, { body: { reefConfig: null } });
  assert.equal('reefConfig' in ((await call(url, 'GET', VM)).body as Vm), false);
  await call(url, 'PATCH', VM, { body: { reefConfig: CONFIG } });
  await call(url, 'PUT', VM, { body: aVm() });
  assert.equal(await configOf(), undefined);
});

test('a reefConfig that is malformed or larger than 64 KiB is 400 and named', async (t) => {
  const { url, store } = await serveApp(t);
  await register(url, {});
  const refused: readonly [value: unknown, field: string][] = [
    ['x', 'reefConfig'],
    [[], 'reefConfig'],
    [7, 'reefConfig'],
    [{ services: 'board' }, 'reefConfig.services'],
    [{ services: {} }, 'reefConfig.services'],
    [{ services: ['a', 7] }, 'reefConfig.services[1]'],
    [{ services: ['a', ''] }, 'reefConfig.services[1]'],
    [{ services: [null] }, 'reefConfig.services[0]'],
    [{ services: ['a\u001b[2J'] }, 'reefConfig.services[0]'],
    [{ capabilities: [['a']] }, 'reefConfig.capabilities[0]'],
    [{ capabilities: true }, 'reefConfig.capabilities'],
  ];
  for (const [reefConfig, field] of refused) {
    for (const [method, path, body] of [
      ['POST', '/registry/vms', { ...aVm({ id: 'new' }), reefConfig }],
      ['PUT', VM, { ...aVm(), reefConfig }],
      ['PATCH', VM, { reefConfig }],
    ] as const) {
      const answer = await call(url, method, path, { body });
      assert.deepEqual([answer.status, fieldOf(answer)], [400, field], `${method} ${JSON.stringify(reefConfig)}`);
    }
  }
  const empty = JSON.stringify({ services: [], capabilities: [], pad: '' }).length;
  const sized = (bytes: number) => ({ services: [], capabilities: [], pad: 'é'.repeat((bytes - empty) / 2) });
  const even = MAX_REEF_CONFIG - (empty % 2);
  assert.equal((await call(url, 'PATCH', VM, { body: { reefConfig: sized(even) } })).status, 200);
  const tooLarge = await call(url, 'PATCH', VM, { body: { reefConfig: sized(even + 2) } });
  assert.deepEqual([tooLarge.status, fieldOf(tooLarge)], [400, 'reefConfig']);
  assert.match(errorOf(tooLarge), /limit 65536/);
  assert.equal(store.changes, 2);
});

test('PATCH with parentVmId changes the parent, and PATCH with parentId does not', async (t) => {
  const { url } = await serveApp(t);
  await register(url, { parentId: 'p' });
  const { headers } = await call(url, 'GET', VM);
  const patch = (body: object, etag?: string) =>
    call(url, 'PATCH', VM, { body, headers: etag === undefined ? {} : { 'if-match': etag } });
  const kept = (await patch({ parentId: 'x' })).body as Vm;
  assert.deepEqual([kept.parentId, kept.parentVmId], ['p', undefined]);
  const { parentId, parentVmId } = (await patch({ parentVmId: ' q ' })).body as Vm;
  assert.deepEqual([parentId, parentVmId], ['q', 'q']);
  assert.equal((await patch({ parentVmId: 'z' }, headers.get('etag')!)).status, 412);
  const { vms } = (await call(url, 'GET', '/registry/vms?parentId=q')).body as { vms: Vm[] };
  assert.deepEqual(
    vms.map(({ id }) => id),
    ['vm-1'],
  );
  assert.deepEqual((await call(url, 'GET', '/registry/vms?parentId=p')).body, { vms: [], count: 0 });
  const { history } = (await call(url, 'GET', `${VM}/history`)).body as { history: { changes: object }[] };
  assert.deepEqual(history[0]!.changes, { parentId: ['p', 'q'], parentVmId: [null, 'q'] });
  for (const parent of ['vm-1', 7, 'a\nb', '-x']) {
    const answer = await patch({ parentVmId: parent });
    assert.deepEqual([answer.status, fieldOf(answer)], [400, 'parentVmId'], String(parent));
  }
});

test('events and histories contain reefConfig and parentVmId, and so does the registry after a restart', async (t) => {
  const app = await serveApp(t);
  const events = await readEvents(t, app.url, '/registry/events');
  await register(app.url, { parentVmId: 'p', reefConfig: CONFIG });
  await call(app.url, 'PATCH', VM, { body: { reefConfig: { services: ['board'], capabilities: [] } } });
  await events.seen('updated');
  const [, registered, updated] = events.told.map(({ event }) => event as VmEvent);
  assert.deepEqual([registered!.vm.parentVmId, registered!.vm.reefConfig], ['p', CONFIG]);
  assert.deepEqual(updated!.changes, { reefConfig: [CONFIG, { services: ['board'], capabilities: [] }] });
  const { body } = await call(app.url, 'GET', `${VM}/history`);
  assert.deepEqual((body as { history: { changes: object }[] }).history[0]!.changes, updated!.changes);
  const again = await serveApp(t, { store: app.store });
  const { parentId, parentVmId, reefConfig } = (await call(again.url, 'GET', VM)).body as Vm;
  assert.deepEqual([parentId, parentVmId, reefConfig], ['p', 'p', { services: ['board'], capabilities: [] }]);
});

for (const [name, ids] of [
  ['children', ['b', 'c']],
  ['subtree', ['a', 'b', 'c']],
  ['ancestors', []],
] as const) {
  test(`${name} is a list of that name, which vreg clients also receive as vms`, async (t) => {
    const { url } = await serveApp(t);
    await register(url, { id: 'a' });
    for (const id of ['b', 'c']) await register(url, { id, parentVmId: 'a' });
    const path = `/registry/vms/a/${name}`;
    const list = await Promise.all(ids.map(async (id) => (await call(url, 'GET', `/registry/vms/${id}`)).body));
    const { body, headers } = await call(url, 'GET', path);
    assert.deepEqual(body, { [name]: list, count: ids.length });
    assert.equal(headers.get('content-length'), String(JSON.stringify(body).length));
    const own = await call(url, 'GET', path, { headers: AS_VREG_CLIENT });
    assert.deepEqual(own.body, { [name]: list, vms: list, count: ids.length });
    assert.equal(own.headers.get('content-length'), String(JSON.stringify(own.body).length));
    assert.equal((await call(url, 'GET', `/registry/vms/nobody/${name}`)).status, 404);
  });
}

test('a list of children that is sent in chunks has every child once under each name', async (t) => {
  const { url, registry } = await serveApp(t);
  await registry.register(aVm({ id: 'a' }));
  const metadata = { pad: 'x'.repeat(20_000) };
  for (let n = 0; n < 20; n++) await registry.register(aVm({ id: `c${n}`, parentId: 'a', metadata }));
  for (const [headers, names] of [
    [{}, ['children']],
    [AS_VREG_CLIENT, ['children', 'vms']],
  ] as const) {
    const answer = await call(url, 'GET', '/registry/vms/a/children', { headers });
    const { count, ...lists } = answer.body as { count: number } & Record<string, Vm[]>;
    assert.deepEqual([Object.keys(lists), count], [names, 20]);
    for (const name of names)
      assert.deepEqual(
        lists[name]!.map(({ id }) => id),
        Array.from({ length: 20 }, (_, n) => `c${n}`),
      );
  }
});

test('a diff names the services and capabilities that the second VM has in addition, and those that it lacks', async (t) => {
  const { url } = await serveApp(t);
  await register(url, { id: 'a', reefConfig: { services: ['web', 'db', 'db'], capabilities: ['gpu'] } });
  await register(url, { id: 'b/ü', reefConfig: { services: ['api', 'web', 'api'], capabilities: [] } });
  await register(url, { id: 'plain' });
  const diff = async (a: string, b: string) =>
    (await call(url, 'GET', `/registry/vms/${encodeURIComponent(a)}/diff/${encodeURIComponent(b)}`)).body;
  const none = { services: [], capabilities: [] };
  const [added, removed] = [
    { services: ['api'], capabilities: [] },
    { services: ['db'], capabilities: ['gpu'] },
  ];
  assert.deepEqual(await diff('a', 'b/ü'), { added, removed });
  assert.deepEqual(await diff('b/ü', 'a'), { added: removed, removed: added });
  assert.deepEqual(await diff('a', 'a'), { added: none, removed: none });
  const all = { services: ['web', 'db'], capabilities: ['gpu'] };
  assert.deepEqual(await diff('plain', 'a'), { added: all, removed: none });
  assert.deepEqual(await diff('a', 'plain'), { added: none, removed: all });
});

test('a diff is 404 if one VM is not registered, or if a restricted token may not read it', async (t) => {
  const app: ServedApp = await serveApp(t, { token: 's3cret' });
  for (const [id, role] of [
    ['w1', 'worker'],
    ['w2', 'worker'],
    ['i', 'infra'],
  ] as const)
    await app.registry.register(aVm({ id, role }));
  const statuses = async (token: string) => {
    const headers = { authorization: `Bearer ${token}` };
    const paths = ['w1/diff/w2', 'w1/diff/w1', 'w1/diff/i', 'i/diff/w1', 'w1/diff/nobody', 'nobody/diff/w1'];
    return Promise.all(
      paths.map(async (path) => (await call(app.url, 'GET', `/registry/vms/${path}`, { headers })).status),
    );
  };
  const { tokens } = app.authenticator;
  assert.deepEqual(await statuses('s3cret'), [200, 200, 200, 200, 404, 404]);
  const ofRole = await tokens.create({ name: 'role', scope: 'read', role: 'worker' }, 'test');
  assert.deepEqual(await statuses(ofRole.token), [200, 200, 404, 404, 404, 404]);
  const ofVm = await tokens.create({ name: 'vm', scope: 'read', vm: 'w1' }, 'test');
  assert.deepEqual(await statuses(ofVm.token), [404, 200, 404, 404, 404, 404]);
  assert.deepEqual(await statuses('wrong'), [401, 401, 401, 401, 401, 401]);
});
