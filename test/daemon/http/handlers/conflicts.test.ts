/** Heartbeats with identity fields, conflicts and lineage, over HTTP. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { VregError } from '../../../../src/protocol/errors.ts';
import type { VmEvent } from '../../../../src/protocol/events.ts';
import { serveApp } from '../../../helpers/app.ts';
import { GatedStore } from '../../../helpers/gated-store.ts';
import { AS_VREG_CLIENT, call as send } from '../../../helpers/http.ts';
import { readEvents } from '../../../helpers/stream.ts';
import { aVm } from '../../../helpers/vm.ts';

const token = (number: number, name = 'a') => `${number}.${name.repeat(32)}`;
const call = (url: string, method: string, path: string, body?: unknown) =>
  send(url, method, path, body === undefined ? {} : { body });
const HEARTBEAT = '/registry/vms/vm-1/heartbeat';

test('a clone is 409 with its own code, and the conflict can be listed and cleared', async (t) => {
  const { url, registry } = await serveApp(t);
  await registry.register(aVm({ id: 'vm-1' }));
  const beat = (body: object) => call(url, 'POST', HEARTBEAT, body);
  assert.deepEqual(Object.keys((await beat({ next: token(1), incarnation: 'one' })).body as object), [
    'id',
    'lastSeen',
  ]);
  await beat({ spend: token(1), next: token(2) });
  const { status, body } = await beat({
    spend: token(1),
    next: token(2, 'b'),
    incarnation: 'two',
    address: '10.0.0.2',
  });
  assert.deepEqual([status, (body as { code: string }).code], [409, 'IDENTITY_CONFLICT']);
  const listed = (await call(url, 'GET', '/registry/conflicts')).body as { conflicts: object[]; count: number };
  assert.equal(listed.count, 1);
  assert.equal('spend' in listed.conflicts[0]!, false, 'no response contains an agent token');
  assert.deepEqual((await call(url, 'DELETE', '/registry/conflicts?id=other')).body, { cleared: 0 });
  assert.deepEqual((await call(url, 'DELETE', '/registry/conflicts')).body, { cleared: 1 });
});

test('a clone is 409 with Retry-After until the holder is heard again, and the conflict is an event of the VM', async (t) => {
  const { url, registry, store } = await serveApp(t);
  await registry.register(aVm({ id: 'vm-1', role: 'worker' }));
  const [workers, infra] = [
    await readEvents(t, url, '/registry/events?role=worker'),
    await readEvents(t, url, '/registry/events?role=infra'),
  ];
  const send = (body: object) => call(url, 'POST', HEARTBEAT, body);
  const copy = { spend: token(1), next: token(2, 'b'), incarnation: 'two', address: '10.0.0.2' };
  await send({ next: token(1), incarnation: 'one' });
  await send({ spend: token(1), next: token(2), incarnation: 'one' });
  const [first, second] = [await send(copy), await send(copy)];
  assert.deepEqual([first.headers.get('retry-after'), second.headers.get('retry-after')], ['1', '2']);
  assert.equal((await call(url, 'POST', HEARTBEAT)).status, 200, 'a plain heartbeat is never refused');
  assert.equal((await call(url, 'PATCH', '/registry/vms/vm-1', { name: 'new' })).status, 200);
  await send({ spend: token(2), next: token(3), incarnation: 'one' });
  const decided = await send(copy);
  assert.deepEqual([decided.status, decided.headers.get('retry-after')], [409, null]);
  await workers.seen('updated');
  assert.deepEqual(workers.lines(), ['synced', 'conflict vm-1', 'updated vm-1']);
  const { event, id } = workers.told[1]!;
  const { conflict } = event as VmEvent;
  assert.deepEqual([id, conflict?.state, conflict?.other.address], [store.positionAt(1), 'open', '10.0.0.2']);
  assert.deepEqual(infra.lines(), ['synced']);
});

test('conflicts that cannot be removed from the disk are not reported as cleared', async (t) => {
  const store = new GatedStore();
  const { url, registry } = await serveApp(t, { store });
  const registered = registry.register(aVm({ id: 'vm-1' }));
  await store.release();
  await registered;
  await call(url, 'POST', HEARTBEAT, { next: token(2) });
  assert.equal((await call(url, 'POST', HEARTBEAT, { spend: token(1), next: token(2, 'b') })).status, 409);
  store.heartbeatsFailure = new VregError('STORE_FULL', 'the disk is full');
  assert.equal((await call(url, 'DELETE', '/registry/conflicts')).status, 507);
  assert.equal(((await call(url, 'GET', '/registry/conflicts')).body as { count: number }).count, 1);
  store.heartbeatsFailure = undefined;
  assert.deepEqual((await call(url, 'DELETE', '/registry/conflicts')).body, { cleared: 1 });
  assert.equal(((await call(url, 'GET', '/registry/conflicts')).body as { count: number }).count, 0);
});

for (const [what, body, field] of [
  ['no token', { next: 'x' }, 'next'],
  ['a token without a number', { next: `.${'a'.repeat(32)}` }, 'next'],
  ['a number as a token', { spend: 1, next: token(2) }, 'spend'],
  ['a spent token without the next', { spend: token(1) }, 'next'],
  ['a replace that is not a boolean', { next: token(1), replace: 'yes' }, 'replace'],
  ['an address that is not a string', { next: token(1), address: {} }, 'address'],
  ['a name that is too long', { next: token(1), incarnation: 'x'.repeat(129) }, 'incarnation'],
  ['a health that is not an object', { next: token(1), health: [] }, 'health'],
  ['an unknown health', { health: { web: 'fine' } }, 'health.web'],
] as const) {
  test(`a heartbeat with ${what} is 400 and names the field`, async (t) => {
    const { url, registry } = await serveApp(t);
    await registry.register(aVm({ id: 'vm-1' }));
    const answer = await call(url, 'POST', HEARTBEAT, body);
    assert.deepEqual([answer.status, (answer.body as { field: string }).field], [400, field]);
  });
}

test('a heartbeat with a position is answered with its history, and a forged one costs no sign of life', async (t) => {
  const { url, registry, store, clock } = await serveApp(t);
  await registry.register(aVm({ id: 'vm-1' }));
  const own = store.positionAt(1);
  const foreign = `1-${'0'.repeat(16)}`;
  for (const [position, history] of [
    [own, 'same'],
    [foreign, 'other'],
    [`999999999999999-${'0'.repeat(16)}`, 'other'],
    [`0-${'1'.repeat(16)}`, 'other'],
    ['', 'unknown'],
    ['1', 'unknown'],
    [own.toUpperCase().replace('-', '_'), 'unknown'],
    [`${own}\n`, 'unknown'],
    ['x'.repeat(10_000), 'unknown'],
  ] as const) {
    clock.pass(1000);
    const { status, body } = await call(url, 'POST', HEARTBEAT, { position });
    const lastSeen = new Date(clock.wall).toISOString();
    assert.deepEqual([status, body], [200, { id: 'vm-1', lastSeen, history }], position.slice(0, 40));
  }
  for (const position of [7, null, {}, [], true]) {
    assert.deepEqual(Object.keys((await call(url, 'POST', HEARTBEAT, { position })).body as object), [
      'id',
      'lastSeen',
    ]);
    const { body } = await call(url, 'POST', HEARTBEAT, { next: token(1), position, leftPosition: 7, alternates: 'x' });
    assert.equal((body as { history: string }).history, 'unknown');
  }
  const returned = await call(url, 'POST', HEARTBEAT, { position: foreign, leftPosition: own });
  assert.deepEqual((returned.body as { returned: boolean }).returned, true);
});

test('a heartbeat without identity fields is a plain one', async (t) => {
  const { url, registry } = await serveApp(t);
  await registry.register(aVm({ id: 'vm-1' }));
  for (const body of [{}, { hello: 'world' }, { health: 'ok' }, { address: 7 }, [1], undefined])
    assert.equal((await call(url, 'POST', HEARTBEAT, body)).status, 200);
});

test('every response to a vreg client has the id of the registry, and its position unless it is a plain heartbeat', async (t) => {
  const { url, store, registry } = await serveApp(t);
  const facts = async (method: string, path: string, body?: object) => {
    const { headers } = await fetch(url + path, {
      method,
      headers: AS_VREG_CLIENT,
      ...(body ? { body: JSON.stringify(body) } : {}),
    });
    return [headers.get('x-vreg-registry-id'), headers.get('x-vreg-position')];
  };
  assert.deepEqual(await facts('GET', '/health'), [registry.id, null]);
  assert.deepEqual(await facts('POST', '/registry/vms', aVm({ id: 'vm-1' })), [registry.id, store.positionAt(1)]);
  assert.deepEqual(await facts('POST', HEARTBEAT), [registry.id, null]);
  assert.deepEqual(await facts('GET', '/nowhere'), [registry.id, store.positionAt(1)]);
});

test('an entry shows its parent, PATCH with parentId never changes it, and parentVmId is another name for it', async (t) => {
  const { url } = await serveApp(t);
  await call(url, 'POST', '/registry/vms', aVm({ id: 'a' }));
  const made = await call(url, 'POST', '/registry/vms', { ...aVm({ id: 'b' }), parentVmId: ' a ' });
  assert.equal((made.body as { parentId: string }).parentId, 'a');
  const changed = await call(url, 'PATCH', '/registry/vms/b', { parentId: 'x', name: 'new' });
  assert.equal((changed.body as { parentId: string }).parentId, 'a');
  assert.equal('parentId' in ((await call(url, 'GET', '/registry/vms/a')).body as object), false);
  for (const parentId of ['b', 7, 'x'.repeat(2000)]) {
    const { status, body } = await call(url, 'PUT', '/registry/vms/b', { ...aVm({ id: 'b' }), parentId });
    assert.deepEqual([status, (body as { field: string }).field], [400, 'parentId']);
  }
  for (const [of, expected] of [
    ['children', 'b'],
    ['subtree', 'a b'],
  ] as const) {
    const { body } = await call(url, 'GET', `/registry/vms/a/${of}`);
    const list = (body as Record<string, { id: string }[]>)[of]!;
    assert.equal(list.map(({ id }) => id).join(' '), expected);
  }
  assert.equal(((await call(url, 'GET', '/registry/vms/b/ancestors')).body as { count: number }).count, 1);
  assert.equal((await call(url, 'GET', '/registry/vms/x/children')).status, 404);
});

test('a heartbeat with an address that is none is refused, so that no conflict records it', async (t) => {
  const { url, registry } = await serveApp(t);
  await registry.register(aVm({ id: 'vm-1' }));
  for (const address of ['-oProxyCommand=reboot', 'a b', 'http://a/b', 'a\nb', 1, null]) {
    const { status, body } = await call(url, 'POST', HEARTBEAT, { next: token(1), address });
    assert.deepEqual([status, (body as { field: string }).field], [400, 'address'], String(address));
  }
  await call(url, 'POST', HEARTBEAT, { next: token(1), incarnation: 'one', address: 'http://10.0.0.1:81/' });
  await call(url, 'POST', HEARTBEAT, { next: token(1, 'b'), incarnation: 'two', address: '' });
  assert.equal(registry.conflicts.all[0]?.holder.address, '10.0.0.1:81');
});
