/** How the query of a request is read. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import type { VmList } from '../../../../src/protocol/api.ts';
import { type ServedApp, serveApp } from '../../../helpers/app.ts';
import { askRaw } from '../../../helpers/connection.ts';
import { aVm } from '../../../helpers/vm.ts';

async function ask(t: TestContext, { at }: ServedApp, target: string, method = 'GET') {
  const [response] = await askRaw(
    t,
    at,
    `${method} ${target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n`,
    method,
  );
  return {
    status: response!.status,
    body: JSON.parse(response!.text) as Partial<VmList> & { field?: string; error?: string },
  };
}

/** One VM with a note of two words, one with a note with a plus sign, and one without a note. */
async function withNotes(t: TestContext) {
  const app = await serveApp(t);
  await app.registry.register(aVm({ id: 'words', role: 'worker', metadata: { note: 'two words' } }));
  await app.registry.register(aVm({ id: 'plus', role: 'worker', metadata: { note: 'two+words' } }));
  await app.registry.register(aVm({ id: 'none', role: 'infra' }));
  const ids = async (query: string) => {
    const { status, body } = await ask(t, app, `/registry/vms${query}`);
    assert.equal(status, 200, `${query}: ${body.error}`);
    return body.vms!.map(({ id }) => id).join(' ');
  };
  return { app, ids };
}

test('a plus sign in a query is a space, and %2B is a plus sign', async (t) => {
  const { ids } = await withNotes(t);
  assert.equal(await ids('?selector=note=two+words'), 'words');
  assert.equal(await ids('?selector=note=two%20words'), 'words');
  assert.equal(await ids('?selector=note=two%2Bwords'), 'plus');
  assert.equal(await ids('?selector=note%3Dtwo%2bwords'), 'plus');
  assert.equal(await ids('?role=wor+ker'), '');
});

test('names and values of a query are decoded once, and a value may contain equals signs', async (t) => {
  const { ids } = await withNotes(t);
  assert.equal(await ids('?%72ole=infra'), 'none');
  assert.equal(await ids('?r%6Fle=%69nfra'), 'none');
  assert.equal(await ids('?role=%2569nfra'), '');
  assert.equal(await ids('?role=worker=worker'), '');
  assert.equal(await ids('?selector=note==two+words'), 'words');
  assert.equal(await ids('?role=infra%20'), '');
  assert.equal(await ids('?role=infra%00'), '');
});

test('only ampersands separate parameters, and names are case-sensitive', async (t) => {
  const { ids } = await withNotes(t);
  assert.equal(await ids('?&&role=infra&&'), 'none');
  assert.equal(await ids('?role=infra;status=running'), '');
  for (const query of ['?Role=infra', '?role[]=infra', '?role[0]=infra', '?+role=infra', '?roles=infra'])
    assert.equal(await ids(query), 'none plus words', query);
});

test('a repeated parameter is 400, in whatever form, and the error names it', async (t) => {
  const { app } = await withNotes(t);
  for (const query of [
    'role=infra&role=worker',
    'role=infra&role=infra',
    'role=infra&role=',
    'role&role',
    'role=infra&%72ole=worker',
    'role=a&x=1&y=2&role=b&role=c',
  ]) {
    const { status, body } = await ask(t, app, `/registry/vms?${query}`);
    assert.deepEqual([status, body.field], [400, 'role'], query);
    assert.match(body.error!, /^role is given (twice|\d+ times)/, query);
  }
  const mixed = await ask(t, app, '/registry/vms?status=running&role=infra&status=paused');
  assert.deepEqual([mixed.status, mixed.body.field], [400, 'status']);
});

test('a repeated parameter that the route does not know is ignored', async (t) => {
  const { ids } = await withNotes(t);
  assert.equal(await ids('?x=1&x=2&role=infra'), 'none');
  assert.equal(await ids('?wait=1s&wait=2s&role=infra'), 'none');
});

test('parameters named like members of Object.prototype are ordinary unknown parameters', async (t) => {
  const { ids } = await withNotes(t);
  for (const name of [
    '__proto__',
    'constructor',
    'toString',
    'hasOwnProperty',
    'valueOf',
    '__defineGetter__',
    'prototype',
  ]) {
    assert.equal(await ids(`?${name}=1&role=infra`), 'none', name);
    assert.equal(await ids(`?${name}=1&${name}=2&role=infra`), 'none', name);
    assert.equal(await ids(`?${name}&role=infra`), 'none', name);
  }
  assert.equal(await ids('?__proto__[role]=infra&constructor.prototype.role=infra'), 'none plus words');
  assert.equal(Object.hasOwn(Object.prototype, 'role'), false);
});

test('an empty value counts as not given, with or without an equals sign', async (t) => {
  const { app, ids } = await withNotes(t);
  for (const query of [
    '',
    '?',
    '?role=',
    '?role',
    '?role=&status=&selector=&sort=&limit=&include=',
    '?=',
    '?=infra',
    '?&',
    '?&=&',
  ])
    assert.equal(await ids(query), 'none plus words', query);
  for (const target of [
    '/registry/discover/worker?wait=&min=&strict=&passing=',
    '/registry/discover/worker?wait&min',
  ]) {
    const { status, body } = await ask(t, app, target);
    assert.deepEqual([status, body.count], [200, 2], target);
  }
});

test('a parameter behind thousands of others is not overlooked', async (t) => {
  const { app, ids } = await withNotes(t);
  assert.equal(await ids(`?${'a&'.repeat(5000)}role=infra`), 'none');
  assert.equal(await ids(`?${'&'.repeat(10_000)}role=infra`), 'none');
  const names = Array.from({ length: 1500 }, (_, n) => `p${n}=1`).join('&');
  assert.equal(await ids(`?${names}&role=infra`), 'none');
  const { status, body } = await ask(t, app, `/registry/vms?role=worker&${names}&role=infra`);
  assert.deepEqual([status, body.field], [400, 'role']);
});

test('a query with invalid percent-encoding is 400 wherever the fault is', async (t) => {
  const { app } = await withNotes(t);
  for (const query of [
    '%',
    'role=%',
    'role=%z',
    'role=%zz',
    'role=%ff',
    'role=%C3%28',
    '%zz=1',
    'x=1&%',
    'role=infra&x=%ED%A0%80',
  ]) {
    const { status, body } = await ask(t, app, `/registry/vms?${query}`);
    assert.deepEqual([status, body.field], [400, 'query'], query);
  }
});

test('parentId and parentVmId filter the list, together with the other filters', async (t) => {
  const app = await serveApp(t);
  const register = (id: string, role: 'worker' | 'infra', parentId?: string) =>
    app.registry.register(aVm({ id, role, ...(parentId === undefined ? {} : { parentId }) }));
  await register('a', 'worker', 'gone');
  await register('parent', 'infra');
  await register('b', 'worker', 'parent');
  await register('c', 'infra', 'parent');
  await register('d', 'worker', 'parent');
  await app.registry.replace(aVm({ id: 'a', role: 'worker', parentId: 'parent' }));
  await app.registry.update('b', { status: 'stopped' });
  const ids = async (query: string) => {
    const { status, body } = await ask(t, app, `/registry/vms?${query}`);
    assert.equal(status, 200, `${query}: ${body.error}`);
    assert.equal(body.count, body.vms!.length);
    return body.vms!.map(({ id }) => id).join(' ');
  };
  for (const name of ['parentId', 'parentVmId']) {
    assert.equal(await ids(`${name}=parent`), 'd c b a', 'newest registration first');
    assert.equal(await ids(`${name}=parent&role=worker`), 'd b a');
    assert.equal(await ids(`${name}=parent&role=worker&status=running`), 'd a');
    assert.equal(await ids(`${name}=parent&status=stopped`), 'b');
    assert.equal(await ids(`${name}=parent&sort=id&limit=2`), 'a b');
    assert.equal(await ids(`${name}=d`), '', 'a VM without children');
    assert.equal(await ids(`${name}=gone`), '', 'the parent of no VM any more');
    assert.equal(await ids(`${name}=%20`), '');
  }
  assert.equal(await ids('parentId=parent&parentVmId=parent&role=infra'), 'c');
  await app.registry.deregister('parent');
  assert.equal(await ids('parentId=parent'), 'd c b a', 'the parent need not be registered');
});

test('an empty parent is 400, because it would list the entire fleet', async (t) => {
  const { app } = await withNotes(t);
  for (const [query, field] of [
    ['parentId=', 'parentId'],
    ['parentId', 'parentId'],
    ['parentVmId=', 'parentVmId'],
    ['parentId=a&parentVmId=', 'parentVmId'],
    ['parentId=&role=worker', 'parentId'],
    ['parentId=a&parentId=b', 'parentId'],
    ['parentId=a&parentVmId=b', 'parentVmId'],
  ] as const) {
    const { status, body } = await ask(t, app, `/registry/vms?${query}`);
    assert.deepEqual([status, body.field], [400, field], query);
  }
});

test('an empty id does not clear all conflicts', async (t) => {
  const { app } = await withNotes(t);
  const { status, body } = await ask(t, app, '/registry/conflicts?id=', 'DELETE');
  assert.deepEqual([status, body.field], [400, 'id']);
});
