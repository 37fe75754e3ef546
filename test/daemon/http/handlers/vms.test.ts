/**
 * The daemon's additions to the wire: PUT, preconditions, batches of heartbeats, list options, histories and reasons.
 */
import assert from 'node:assert/strict';
import test from 'node:test';
import type { Heartbeats, VmList, Why } from '../../../../src/protocol/api.ts';
import type { ErrorBody } from '../../../../src/protocol/errors.ts';
import type { History } from '../../../../src/protocol/events.ts';
import type { Vm } from '../../../../src/protocol/vm.ts';
import { serveApp } from '../../../helpers/app.ts';
import { type Answered, call, errorOf } from '../../../helpers/http.ts';
import { aVm } from '../../../helpers/vm.ts';

const LEASE = 300_000;
const VM = '/registry/vms/vm-1';

const idsOf = async (url: string, path: string) =>
  ((await call(url, 'GET', path)).body as VmList).vms.map(({ id }) => id);
const codeOf = ({ status, body }: Answered) => [status, (body as ErrorBody).code, (body as ErrorBody).field];
const etagOf = ({ headers }: Answered) => headers.get('etag');

test('PUT registers with 201, and takes the id from the URL if the body has none', async (t) => {
  const { url } = await serveApp(t);
  const { id: _id, ...rest } = aVm({ metadata: { a: 1 } });
  const made = await call(url, 'PUT', '/registry/vms/a%2Fb', { body: rest });
  assert.equal(made.status, 201);
  const { registeredAt, lastSeen, ...vm } = made.body as Vm;
  assert.deepEqual([vm, lastSeen], [{ ...rest, id: 'a/b' }, registeredAt]);
  assert.equal((await call(url, 'PUT', VM, { body: aVm() })).status, 201);
  assert.equal((await call(url, 'PUT', VM, { body: { ...aVm(), id: ' vm-1 ' } })).status, 200);
  const other = await call(url, 'PUT', VM, { body: aVm({ id: 'vm-2' }) });
  assert.deepEqual(codeOf(other), [400, 'INVALID', 'id']);
  assert.match(errorOf(other), /"vm-2" in the body and "vm-1" in the URL/);
  assert.deepEqual(codeOf(await call(url, 'PUT', VM, { body: { name: 'x' } })), [400, 'INVALID', 'role']);
  assert.equal((await call(url, 'GET', '/registry/vms/vm-2')).status, 404);
});

test('PUT replaces the declared fields and keeps the time and order of the registration', async (t) => {
  const { url, clock } = await serveApp(t);
  const first = { ...aVm({ services: [{ name: 'a', port: 1 }], metadata: { a: 1 } }), registeredBy: 'one' };
  const before = (await call(url, 'POST', '/registry/vms', { body: first })).body as Vm;
  for (const id of ['b', 'c']) await call(url, 'POST', '/registry/vms', { body: aVm({ id, role: 'infra' }) });
  clock.pass(1000);
  const put = await call(url, 'PUT', VM, { body: { ...aVm({ role: 'infra', address: 'new' }), registeredBy: 'two' } });
  assert.equal(put.status, 200);
  const { lastSeen, ...rest } = put.body as Vm;
  assert.deepEqual(rest, {
    ...aVm({ role: 'infra', address: 'new', registeredBy: 'two' }),
    registeredAt: before.registeredAt,
  });
  assert.equal(Date.parse(lastSeen) - Date.parse(before.lastSeen), 1000);
  assert.deepEqual(await idsOf(url, '/registry/vms'), ['c', 'b', 'vm-1']);
  assert.deepEqual(await idsOf(url, '/registry/discover/infra'), ['vm-1', 'b', 'c']);
  assert.deepEqual(await idsOf(url, '/registry/vms?role=infra'), ['c', 'b', 'vm-1']);
  assert.deepEqual(await idsOf(url, '/registry/discover/worker'), []);
});

test('a repeated PUT makes no revision, and is a sign of life if its status is running', async (t) => {
  const { url, clock, registry, store } = await serveApp(t);
  const first = await call(url, 'PUT', VM, { body: aVm() });
  clock.pass(LEASE + 1);
  registry.sweep();
  assert.deepEqual(await idsOf(url, '/registry/discover/worker'), []);
  const again = await call(url, 'PUT', VM, { body: aVm() });
  assert.deepEqual([again.status, etagOf(again), store.changes], [200, etagOf(first), 1]);
  assert.deepEqual(await idsOf(url, '/registry/discover/worker'), ['vm-1']);
  await registry.saveHeartbeats();

  const paused = await call(url, 'PUT', VM, { body: aVm({ status: 'paused' }) });
  clock.pass(1000);
  const still = await call(url, 'PUT', VM, { body: aVm({ status: 'paused' }) });
  assert.deepEqual(still.body, paused.body);
  assert.equal(store.changes, 2);
});

test('the ETag of every response with one entry is the position of its last change, which heartbeats do not change', async (t) => {
  const { url, store } = await serveApp(t);
  const etagAt = (revision: number) => `"${store.positionAt(revision)}"`;
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'other' }) });
  assert.equal(etagOf(await call(url, 'POST', '/registry/vms', { body: aVm() })), etagAt(2));
  assert.equal(etagOf(await call(url, 'GET', VM)), etagAt(2));
  assert.equal(etagOf(await call(url, 'HEAD', VM)), etagAt(2));
  assert.equal(etagOf(await call(url, 'PATCH', VM, { body: { name: 'two' } })), etagAt(3));
  await call(url, 'POST', `${VM}/heartbeat`);
  assert.equal(etagOf(await call(url, 'GET', VM)), etagAt(3));
  assert.equal(etagOf(await call(url, 'PUT', VM, { body: aVm({ name: 'three' }) })), etagAt(4));
});

for (const [method, body] of [
  ['PATCH', { name: 'mine' }],
  ['PUT', aVm({ name: 'mine' })],
  ['DELETE', undefined],
] as const) {
  test(`${method} with If-Match changes only the version that the client has seen`, async (t) => {
    const { url, store } = await serveApp(t);
    const change = (match: string, path = VM) =>
      call(url, method, path, { headers: { 'if-match': match }, ...(body ? { body } : {}) });
    await call(url, 'POST', '/registry/vms', { body: aVm() });
    await call(url, 'PATCH', VM, { body: { name: 'theirs' } });
    const [old, current] = [1, 2].map((revision) => `"${store.positionAt(revision)}"`);
    const lost = await change(old!);
    assert.deepEqual(codeOf(lost), [412, 'PRECONDITION_FAILED', undefined]);
    assert.ok(errorOf(lost).includes(`has the ETag ${current}, not the one in if-match: it was changed since`));
    const other = '"2-0123456789abcdef"';
    for (const match of [`${old}, ${other}`, `W/${current}`, '"2"', '"a"', '""', '"a,b"', ',"2",,', '"\u00e9"']) {
      assert.deepEqual(codeOf(await change(match)), [412, 'PRECONDITION_FAILED', undefined], match);
    }
    for (const malformed of ['1', '2-0123456789abcdef', '"2', 'w/"2"', `${current} ${old}`, '*, "2"', '"a b"', ',']) {
      assert.deepEqual(codeOf(await change(malformed)), [400, 'INVALID', 'if-match'], malformed);
    }
    assert.equal(((await call(url, 'GET', VM)).body as Vm).name, 'theirs');
    const nobody = '/registry/vms/nobody';
    const absent = await call(url, method, nobody, {
      headers: { 'if-match': '*' },
      ...(body ? { body: method === 'PUT' ? aVm({ id: 'nobody' }) : body } : {}),
    });
    assert.equal(absent.status, method === 'PUT' ? 412 : 404);
    assert.equal((await call(url, 'GET', nobody)).status, 404);
    assert.equal((await change(`W/"x" ,, ${old},${current}`)).status, 200);
    if (method !== 'DELETE') assert.equal((await change('*')).status, 200);
  });
}

test('If-None-Match: * never changes an existing VM, and any other value is 400', async (t) => {
  const { url } = await serveApp(t);
  const put = (value: string) => call(url, 'PUT', VM, { body: aVm(), headers: { 'if-none-match': value } });
  assert.equal((await put('*')).status, 201);
  assert.deepEqual(codeOf(await put('*')), [412, 'PRECONDITION_FAILED', undefined]);
  assert.deepEqual(codeOf(await put('"1"')), [400, 'INVALID', 'if-none-match']);
  const taken = await call(url, 'POST', '/registry/vms', { body: aVm(), headers: { 'if-none-match': '*' } });
  assert.equal(taken.status, 409);
});

test('exactly one of many PATCHes with the same ETag succeeds, and the others are 412', async (t) => {
  const { url, store } = await serveApp(t);
  const etag = etagOf(await call(url, 'POST', '/registry/vms', { body: aVm() }))!;
  const headers = { 'if-match': etag };
  const answers = await Promise.all(
    Array.from({ length: 20 }, (_, i) => call(url, 'PATCH', VM, { body: { name: `n${i}` }, headers })),
  );
  const won = answers.filter(({ status }) => status === 200);
  assert.equal(won.length, 1);
  assert.equal(answers.filter(({ status }) => status === 412).length, 19);
  assert.equal(store.changes, 2);
  assert.equal(((await call(url, 'GET', VM)).body as Vm).name, (won[0]!.body as Vm).name);
});

test('a batch of heartbeats counts for each known VM and names each unknown one once', async (t) => {
  const { url, clock } = await serveApp(t);
  for (const id of ['a', 'b']) await call(url, 'POST', '/registry/vms', { body: aVm({ id }) });
  clock.pass(5000);
  const beat = (ids: unknown) => call(url, 'POST', '/registry/heartbeats', { body: { ids } });
  const { status, body } = await beat(['a', ' x ', 'a', 'x', '__proto__']);
  assert.equal(status, 200);
  const lastSeen = new Date(clock.now()).toISOString();
  assert.deepEqual(body, { lastSeen, count: 1, unknown: ['x', '__proto__'] } satisfies Heartbeats);
  assert.equal(((await call(url, 'GET', '/registry/vms/a')).body as Vm).lastSeen, lastSeen);
  assert.notEqual(((await call(url, 'GET', '/registry/vms/b')).body as Vm).lastSeen, lastSeen);
  assert.deepEqual((await beat([])).body, { lastSeen, count: 0, unknown: [] });

  const many = Array.from({ length: 10_000 }, (_, i) => `vm-${i}`);
  assert.equal(((await beat(many)).body as Heartbeats).unknown.length, 10_000);
  for (const [ids, field, saying] of [
    [[...many, 'one more'], 'ids', /^too many ids: 10001 \(limit 10000\)$/],
    [undefined, 'ids', /^ids is required and must be an array of strings$/],
    ['a', 'ids', /not a string/],
    [{ 0: 'a' }, 'ids', /not an object/],
    [['a', 5], 'ids[1]', /ids\[1\] must be a string, not a number/],
    [[null], 'ids[0]', /ids\[0\] is required/],
    [['a', ''], 'ids[1]', /ids\[1\] is required/],
  ] as const) {
    const answer = await beat(ids);
    assert.deepEqual(codeOf(answer), [400, 'INVALID', field]);
    assert.match(errorOf(answer), saying);
  }
  assert.equal((await call(url, 'POST', '/registry/heartbeats')).status, 400);
});

test('lists can be selected by metadata, sorted and limited, together with role and status', async (t) => {
  const { url, clock } = await serveApp(t);
  for (const [id, name, role, metadata] of [
    ['a', 'z', 'worker', { env: 'prod', n: 1 }],
    ['b', 'y', 'infra', { env: 'test' }],
    ['c', 'x', 'worker', undefined],
    ['d', 'x', 'worker', { env: 'prod', 'a,b': 1, on: true }],
  ] as const) {
    clock.pass(1000);
    await call(url, 'POST', '/registry/vms', { body: aVm({ id, name, role, ...(metadata ? { metadata } : {}) }) });
  }
  clock.pass(1000);
  await call(url, 'POST', '/registry/vms/b/heartbeat');
  const list = async (query: string) => (await idsOf(url, `/registry/vms?${query}`)).join('');
  const selected = (selector: string) => list(`selector=${encodeURIComponent(selector)}`);
  assert.equal(await selected('env=prod'), 'da');
  assert.equal(await selected('env!=prod'), 'cb');
  assert.equal(await selected('env'), 'dba');
  assert.equal(await selected('!env'), 'c');
  assert.equal(await selected('env=prod, n=1'), 'a');
  assert.equal(await selected('on=true'), 'd');
  assert.equal(await list('selector='), 'dcba');
  assert.equal(await list('sort=id'), 'abcd');
  assert.equal(await list('sort=name'), 'dcba');
  assert.equal(await list('sort=role'), 'bdca');
  assert.equal(await list('sort=seen'), 'bdca');
  assert.equal(await list('sort=registered'), 'dcba');
  assert.equal(await list('limit=2'), 'dc');
  assert.equal(await list('limit=99'), 'dcba');
  assert.equal(await list('role=worker&status=running&selector=env&sort=id&limit=1'), 'a');
  for (const [query, field] of [
    ['sort=age', 'sort'],
    ['limit=0', 'limit'],
    ['limit=-1', 'limit'],
    ['limit=many', 'limit'],
    ['limit=99999999999999999999', 'limit'],
    ['selector=,', 'selector'],
    ['selector=a%3Db,', 'selector'],
    ['selector=!a%3Db', 'selector'],
    ['selector=a&selector=b', 'selector'],
  ] as const) {
    assert.deepEqual(codeOf(await call(url, 'GET', `/registry/vms?${query}`)), [400, 'INVALID', field], query);
  }
});

test('a history shows who changed what, newest first, even after the VM is removed', async (t) => {
  const { url, clock, store } = await serveApp(t, { token: 's3cret' });
  const headers = { authorization: 'Bearer s3cret' };
  const ask = (method: string, path: string, body?: unknown) =>
    call(url, method, path, { headers, ...(body === undefined ? {} : { body }) });
  await ask('POST', '/registry/vms', aVm());
  clock.pass(1000);
  await ask('POST', '/registry/vms', aVm({ id: 'other' }));
  await ask('PATCH', VM, { metadata: { a: 1 } });
  await ask('PATCH', VM, { metadata: null, status: 'stopped' });
  await ask('POST', `${VM}/heartbeat`);
  await ask('DELETE', VM);
  const answer = await ask('GET', `${VM}/history`);
  const { id, history, count } = answer.body as History;
  assert.deepEqual([id, count], ['vm-1', 4]);
  assert.deepEqual(
    history.map(({ revision, type, by }) => [store.changeOf(revision!), type, by]),
    [
      [5, 'deregistered', 'VERS_AUTH_TOKEN'],
      [4, 'status', 'VERS_AUTH_TOKEN'],
      [3, 'updated', 'VERS_AUTH_TOKEN'],
      [1, 'registered', 'VERS_AUTH_TOKEN'],
    ],
  );
  assert.deepEqual(history[1]?.changes, { status: ['running', 'stopped'], metadata: [{ a: 1 }, null] });
  assert.deepEqual(history[3]?.changes.role, [null, 'worker']);
  assert.deepEqual(history[0]?.changes.role, ['worker', null]);
  assert.equal(history[3]?.at, '2026-01-01T00:00:00.000Z');
  assert.doesNotMatch(JSON.stringify(answer.body), /s3cret/);
  const two = (await ask('GET', `${VM}/history?limit=2`)).body as History;
  assert.deepEqual([two.count, two.history], [2, history.slice(0, 2)]);
  for (const limit of ['0', '10001', '1.5', 'all'])
    assert.deepEqual(codeOf(await ask('GET', `${VM}/history?limit=${limit}`)), [400, 'INVALID', 'limit']);
  assert.deepEqual(codeOf(await ask('GET', '/registry/vms/nobody/history')), [404, 'NOT_FOUND', 'id']);
});

test('why reports that discover returns a VM, or each reason why it does not', async (t) => {
  const { url, clock } = await serveApp(t);
  await call(url, 'POST', '/registry/vms', { body: aVm() });
  const why = async () => (await call(url, 'GET', `${VM}/why`)).body as Why;
  const offered = async () => (await idsOf(url, '/registry/discover/worker')).includes('vm-1');
  const codes = async () => {
    const { id, offered: says, reasons, summary } = await why();
    assert.deepEqual([id, says], ['vm-1', await offered()]);
    assert.match(summary, says ? /^discover worker offers vm-1: / : /^discover worker does not offer vm-1: /);
    for (const { message } of reasons) assert.ok(summary.includes(message));
    return reasons.map(({ code }) => code);
  };
  clock.pass(LEASE);
  assert.deepEqual(await codes(), []);
  assert.match((await why()).summary, /, 5m of listening time ago; the lease is 5m$/);
  clock.pass(1);
  assert.deepEqual(await codes(), ['stale']);
  await call(url, 'PATCH', VM, { body: { status: 'paused' } });
  assert.deepEqual(await codes(), ['paused', 'stale']);
  await call(url, 'POST', `${VM}/heartbeat`);
  assert.deepEqual(await codes(), ['paused']);
  await call(url, 'PATCH', VM, { body: { status: 'stopped' } });
  assert.deepEqual(await codes(), ['stopped']);
  assert.equal((await call(url, 'GET', '/registry/vms/nobody/why')).status, 404);
});

test('a registry without a data dir has no backups', async (t) => {
  const { url } = await serveApp(t);
  assert.deepEqual(codeOf(await call(url, 'GET', '/registry/backup')), [404, 'NOT_FOUND', undefined]);
});
