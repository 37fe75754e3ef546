/** Tokens that are limited to a VM, a role or both: which role a VM may have, and what a reader of one role sees. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { text } from 'node:stream/consumers';
import test, { type TestContext } from 'node:test';
import { Registry } from '../../../daemon/registry/registry.ts';
import { formatPosition } from '../../../src/protocol/position.ts';
import type { NewToken, TokenRequest, Whoami } from '../../../src/protocol/token.ts';
import type { Role, Vm } from '../../../src/protocol/vm.ts';
import { anAuthenticator } from '../../helpers/access.ts';
import { serveApp } from '../../helpers/app.ts';
import { call, errorOf } from '../../helpers/http.ts';
import { reopen } from '../../helpers/test-store.ts';
import { aVm } from '../../helpers/vm.ts';

async function guarded(t: TestContext) {
  const app = await serveApp(t, { token: 'root' });
  const ask = (method: string, path: string, body?: unknown, token = 'root') =>
    call(app.url, method, path, { body, headers: { authorization: `Bearer ${token}` } });
  const create = async (request: Omit<TokenRequest, 'name'>) => {
    const name = `token-${app.authenticator.tokens.list.length}`;
    return (await app.authenticator.tokens.create({ name, ...request }, 'test')).token;
  };
  const register = async (id: string, role: Role) => {
    app.clock.pass(1000);
    assert.equal((await ask('POST', '/registry/vms', aVm({ id, role }))).status, 201);
  };
  const move = (id: string, role: Role, token?: string) => {
    app.clock.pass(1000);
    return ask('PUT', `/registry/vms/${id}`, aVm({ id, role }), token);
  };
  const ids = async (path: string) => ((await ask('GET', path)).body as { vms: Vm[] }).vms.map(({ id }) => id);
  return { app, ask, create, register, move, ids };
}

test('a token for a VM cannot change the role of that VM', async (t) => {
  const { ask, create, register, move, ids } = await guarded(t);
  await register('w', 'worker');
  await register('i', 'infra');
  const token = await create({ scope: 'write', vm: 'w' });
  for (const role of ['infra', 'lieutenant', 'golden', 'custom'] as const) {
    const refused = await move('w', role, token);
    assert.deepEqual([refused.status, (refused.body as { field: string }).field], [403, 'role'], role);
    assert.equal(errorOf(refused), `this token cannot change the role of VM "w" to ${role}`);
  }
  assert.equal((await move('w', 'worker', token)).status, 200);
  assert.equal((await ask('PATCH', '/registry/vms/w', { role: 'infra', name: 'x' }, token)).status, 200);
  assert.deepEqual(await ids('/registry/discover/infra'), ['i']);
});

test('a token for a VM cannot remove that VM and register it with another role', async (t) => {
  const { ask, create, register, ids } = await guarded(t);
  await register('w', 'worker');
  await register('i', 'infra');
  const token = await create({ scope: 'write', vm: 'w' });
  const status = async (method: string, path: string, role?: Role) =>
    (await ask(method, path, role && aVm({ id: 'w', role }), token)).status;
  assert.equal(await status('DELETE', '/registry/vms/w'), 200);
  assert.equal(await status('POST', '/registry/vms', 'infra'), 403);
  assert.equal(await status('PUT', '/registry/vms/w', 'infra'), 403);
  assert.equal(await status('POST', '/registry/vms', 'worker'), 201);
  // The removal is not durable yet when the registration arrives.
  const [removed, again] = await Promise.all([
    status('DELETE', '/registry/vms/w'),
    status('POST', '/registry/vms', 'infra'),
  ]);
  assert.deepEqual([removed, [403, 409].includes(again)], [200, true]);
  assert.deepEqual(await ids('/registry/discover/infra'), ['i']);
  const both = await Promise.all([1, 2].map(() => status('POST', '/registry/vms', 'worker')));
  assert.deepEqual(both.sort(), [201, 409]);
  const fresh = await create({ scope: 'register', vm: 'new' });
  assert.equal((await ask('POST', '/registry/vms', aVm({ id: 'new', role: 'infra' }), fresh)).status, 201);
  assert.deepEqual(await ids('/registry/discover/infra'), ['i', 'new']);
});

test('a token for a VM and a role moves its VM into that role, behind the VMs that have it', async (t) => {
  const { app, create, register, move, ids } = await guarded(t);
  await register('w', 'worker');
  await register('x', 'worker');
  await register('i', 'infra');
  const before = app.registry.get('w').vm.registeredAt;
  const token = await create({ scope: 'write', vm: 'w', role: 'infra' });
  for (const role of ['lieutenant', 'golden', 'worker'] as const)
    assert.equal((await move('w', role, token)).status, 403, role);
  assert.equal((await move('x', 'infra', token)).status, 403, 'another VM');
  assert.equal((await move('w', 'infra', token)).status, 200);
  assert.deepEqual(await ids('/registry/discover/infra'), ['i', 'w']);
  assert.deepEqual(await ids('/registry/vms'), ['w', 'i', 'x']);
  assert.deepEqual(await ids('/registry/vms?role=infra'), ['w', 'i']);
  assert.ok(app.registry.get('w').vm.registeredAt > before);
  assert.equal((await move('w', 'worker', token)).status, 403, 'out of its role');
  assert.equal((await move('w', 'infra', token)).status, 200);
  assert.deepEqual(await ids('/registry/discover/infra'), ['i', 'w'], 'a repetition keeps the place');
  const store = await reopen(app.store);
  const restarted = new Registry({ store, clock: app.clock, staleAfter: 300_000 }, store.contents());
  assert.deepEqual(
    restarted.list({}).map(({ vm }) => vm.id),
    ['w', 'i', 'x'],
  );
});

test('an unrestricted token can change a role, and the VM keeps its place in lists', async (t) => {
  const { app, create, register, move, ids } = await guarded(t);
  await register('w', 'worker');
  await register('i', 'infra');
  const { registeredAt } = app.registry.get('w').vm;
  assert.equal((await move('w', 'infra', await create({ scope: 'write' }))).status, 200);
  assert.deepEqual(await ids('/registry/discover/infra'), ['w', 'i']);
  assert.equal(app.registry.get('w').vm.registeredAt, registeredAt);
});

test('a VM that moves to the end of lists does not count as a new VM', async (t) => {
  const { app, create, register, move } = await guarded(t);
  await register('w', 'worker');
  const token = await create({ scope: 'write', vm: 'w', role: 'infra' });
  await move('w', 'infra', token);
  assert.equal(app.registry.list({}).length, 1);
  assert.equal((await move('w', 'infra', token)).status, 200);
  assert.equal(app.store.vms.get('w')!.created, app.registry.get('w').version.created);
});

test('the token of an enrolled VM stays bound to the role of its registration', async (t) => {
  const { ask, create, move } = await guarded(t);
  const image = await create({ scope: 'enrol', role: 'worker' });
  const enrolled = await ask('POST', '/registry/vms', aVm({ id: 'w', role: 'worker' }), image);
  const { token } = enrolled.body as { token: string };
  assert.equal((await move('w', 'infra', token)).status, 403);
  assert.equal((await move('w', 'golden')).status, 200);
  assert.equal((await move('w', 'worker', token)).status, 403);
  assert.equal((await move('w', 'worker')).status, 200);
  assert.equal((await ask('POST', '/registry/vms/w/heartbeat', undefined, token)).status, 200);
});

test('a silent VM that enrols again with another role is a new VM at the end of lists', async (t) => {
  const { app, ask, create, register, ids } = await guarded(t);
  const image = await create({ scope: 'enrol' });
  const enrol = async (role: Role) => (await ask('POST', '/registry/vms', aVm({ id: 'w', role }), image)).status;
  assert.equal(await enrol('worker'), 201);
  app.clock.pass(300_001);
  await register('i', 'infra');
  assert.equal(await enrol('infra'), 201);
  assert.deepEqual(await ids('/registry/discover/infra'), ['i', 'w']);
  assert.equal(await enrol('worker'), 409);
  const history = (await ask('GET', '/registry/vms/w/history')).body as { history: { type: string }[] };
  assert.deepEqual(
    history.history.map(({ type }) => type),
    ['registered', 'deregistered', 'registered'],
  );
});

test('an enrol token that is restricted to a role takes over no silent VM with another role', async (t) => {
  const { app, ask, create, ids } = await guarded(t);
  const [infra, worker] = [await create({ scope: 'enrol' }), await create({ scope: 'enrol', role: 'worker' })];
  const enrol = async (role: Role, token: string) =>
    (await ask('POST', '/registry/vms', aVm({ id: 'i', role }), token)).status;
  assert.equal(await enrol('infra', infra), 201);
  app.clock.pass(300_001);
  assert.equal(await enrol('worker', worker), 409);
  assert.equal(await enrol('infra', worker), 403);
  assert.deepEqual(await ids('/registry/vms?role=infra'), ['i']);
});

for (const [how, restriction] of [
  ['by an administrator', undefined],
  ['by a restricted token', { scope: 'write', vm: 'w', role: 'golden' }],
] as const) {
  test(`an enrolled VM stays live after a change of its role ${how}, also after a restart, and may change nothing`, async (t) => {
    const { app, ask, create, move } = await guarded(t);
    const image = await create({ scope: 'enrol', role: 'worker' });
    const { token } = (await ask('POST', '/registry/vms', aVm({ id: 'w', role: 'worker' }), image)).body as NewToken;
    const mover = restriction && (await create({ ...restriction }));
    assert.equal((await move('w', 'golden', mover)).status, 200);
    const next = `1.${'a'.repeat(32)}`;
    const attempts = async () => [
      (await ask('POST', '/registry/vms/w/heartbeat', undefined, token)).status,
      (await ask('POST', '/registry/vms/w/heartbeat', { next }, token)).status,
      (await ask('POST', '/registry/heartbeats', { ids: ['w'] }, token)).status,
      (await ask('POST', '/registry/vms/w/heartbeat', { next, replace: true }, token)).status,
      (await ask('PATCH', '/registry/vms/w', { name: 'x' }, token)).status,
      (await move('w', 'worker', token)).status,
      (await ask('DELETE', '/registry/vms/w', undefined, token)).status,
    ];
    assert.deepEqual(await attempts(), [200, 200, 200, 403, 403, 403, 403]);
    await app.registry.saveHeartbeats();
    const { authenticator } = anAuthenticator({ store: await reopen(app.store) });
    const { restriction: own } = authenticator.authenticate({
      authorization: `Bearer ${token}`,
      address: '',
      isLocal: false,
    });
    assert.equal(own?.created, app.registry.get('w').version.created);
  });
}

test('a token for a VM and a role registers and changes that VM in that role only', async (t) => {
  const { ask, create, register } = await guarded(t);
  await register('w', 'worker');
  const token = await create({ scope: 'write', vm: 'i', role: 'infra' });
  assert.deepEqual((await ask('GET', '/registry/whoami', undefined, token)).body, {
    name: 'token-0',
    scope: 'write',
    vm: 'i',
    role: 'infra',
  } satisfies Whoami);
  const status = async (method: string, path: string, body?: unknown) => (await ask(method, path, body, token)).status;
  assert.equal(await status('POST', '/registry/vms', aVm({ id: 'i', role: 'worker' })), 403);
  assert.equal(await status('POST', '/registry/vms', aVm({ id: 'j', role: 'infra' })), 403);
  assert.equal(await status('PUT', '/registry/vms/i', aVm({ id: 'i', role: 'worker' })), 403);
  assert.equal(await status('POST', '/registry/vms', aVm({ id: 'i', role: 'infra' })), 201);
  assert.equal(await status('POST', '/registry/vms/i/heartbeat'), 200);
  assert.equal(await status('PATCH', '/registry/vms/i', { name: 'x' }), 200);
  assert.equal(await status('POST', '/registry/vms/w/heartbeat'), 403);
  // An administrator takes the role away: the token may do nothing but take it back.
  assert.equal((await ask('PUT', '/registry/vms/i', aVm({ id: 'i', role: 'worker' }))).status, 200);
  assert.equal(await status('POST', '/registry/vms/i/heartbeat'), 403);
  assert.equal(await status('PATCH', '/registry/vms/i', { name: 'y' }), 403);
  assert.equal(await status('DELETE', '/registry/vms/i'), 403);
  assert.equal(await status('PUT', '/registry/vms/i', aVm({ id: 'i', role: 'infra' })), 200);
  assert.equal(await status('DELETE', '/registry/vms/i'), 200);
});

test('a read token for a VM and a role reads that VM while it has that role', async (t) => {
  const { ask, create, register, move } = await guarded(t);
  await register('w', 'worker');
  await register('x', 'worker');
  const token = await create({ scope: 'read', vm: 'w', role: 'worker' });
  const paths = ['', '/history', '/why', '/children', '/ancestors', '/subtree'].map((part) => `/registry/vms/w${part}`);
  const statuses = async (of: readonly string[]) =>
    Promise.all(of.map(async (path) => (await ask('GET', path, undefined, token)).status));
  const listed = async () => ((await ask('GET', '/registry/vms', undefined, token)).body as { count: number }).count;
  assert.deepEqual(new Set(await statuses(paths)), new Set([200]));
  assert.deepEqual(await statuses(['/registry/vms/x', '/registry/vms/nobody']), [403, 403]);
  assert.equal(await listed(), 1);
  await move('w', 'infra');
  assert.deepEqual(new Set(await statuses(paths)), new Set([403]));
  assert.equal(await listed(), 0);
});

/** Values of the VM `m` outside the role `worker`; no reader of that role may see them. */
const SECRETS = ['before-name', 'before-address', 'before-meta', 'after-name', 'after-address', 'after-meta'];
const secret = (when: 'before' | 'after', role: Role) =>
  aVm({ id: 'm', role, name: `${when}-name`, address: `${when}-address`, metadata: { key: `${when}-meta` } });
const during = aVm({ id: 'm', role: 'worker', name: 'during', address: 'during', metadata: { key: 'during' } });

function assertHidden(text: string, what: string): void {
  for (const value of SECRETS) assert.ok(!text.includes(value), `${what} contains ${value}: ${text}`);
}

/** Reads the text of an event stream. */
async function readText(t: TestContext, url: string, token: string) {
  const answer = await fetch(url, { headers: { authorization: `Bearer ${token}` } });
  const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
  t.after(() => reader.cancel().catch(() => {}));
  let text = '';
  const until = async (part: string) => {
    for (; !text.includes(part); ) {
      const { value, done } = await reader.read();
      assert.ok(!done, `the stream ended before ${part}: ${text}`);
      text += value;
    }
    return text;
  };
  return { until, text: () => text };
}

/** The events in a stream, as type, id, name and the fields of the event. */
const eventsIn = (text: string) =>
  [...text.matchAll(/^data: (.*)$/gm)]
    .map(([, json]) => JSON.parse(json!) as { type: string; vm?: Vm })
    .map(({ type, vm, ...rest }) => `${type} ${vm ? `${vm.id} ${vm.role} ${vm.name}` : ''} ${Object.keys(rest)}`);

for (const limit of [{ role: 'worker' }, { role: 'worker', vm: 'm' }] as const) {
  const name = Object.keys(limit).join(' and ');
  test(`a read token for ${name} sees a VM enter and leave the role without its values outside`, async (t) => {
    const { app, ask, create } = await guarded(t);
    const token = await create({ scope: 'read', ...limit });
    await app.registry.replicas.catchUp();
    const since = formatPosition(app.registry.positions.latest);
    const all = await readText(t, `${app.url}/registry/events?heartbeats=true`, 'root');
    const seen = await readText(t, `${app.url}/registry/events?heartbeats=true`, token);
    await all.until('synced');
    await seen.until('synced');
    const put = async (body: object) => assert.ok((await ask('PUT', '/registry/vms/m', body)).status < 300);
    await put(secret('before', 'golden'));
    await put({ ...secret('before', 'golden'), status: 'paused' });
    await put(during);
    await ask('PATCH', '/registry/vms/m', { name: 'renamed' });
    await put(secret('after', 'infra'));
    await put({ ...secret('after', 'infra'), status: 'stopped' });
    await ask('DELETE', '/registry/vms/m');
    await ask('POST', '/registry/vms', aVm({ id: 'm', role: 'worker', name: 'end' }));
    await all.until('"name":"end"');
    const text = await seen.until('"name":"end"');
    const expected = [
      'registered m worker during revision,position,at,by',
      'updated m worker renamed revision,position,at,by,changes',
      'deregistered m worker renamed revision,position,at,by',
      'registered m worker end revision,position,at,by',
    ];
    assert.deepEqual(eventsIn(text).slice(1), expected);
    assertHidden(text, 'the stream');
    assert.ok(
      SECRETS.every((value) => all.text().includes(value)),
      'a reader of all roles sees every value',
    );
    const resumed = await readText(t, `${app.url}/registry/events?since=${since}`, token);
    const again = await resumed.until('event: synced');
    assertHidden(again, 'the resumed stream');
    assert.deepEqual(eventsIn(again).slice(0, -1), expected);
  });
}

test('filters of a restricted stream apply to the event that the reader sees', async (t) => {
  const { app, ask, create } = await guarded(t);
  const token = await create({ scope: 'read', role: 'worker' });
  const readers = await Promise.all(
    ['role=worker', 'role=golden', 'status=paused', 'id=x'].map(async (query) => {
      const reader = await readText(t, `${app.url}/registry/events?${query}`, token);
      await reader.until('synced');
      return reader;
    }),
  );
  await ask('POST', '/registry/vms', { ...secret('before', 'golden'), status: 'paused' });
  await ask('PUT', '/registry/vms/m', { ...during, status: 'running' });
  await ask('PUT', '/registry/vms/m', { ...secret('after', 'golden'), status: 'paused' });
  await ask('POST', '/registry/vms', aVm({ id: 'x', role: 'worker', status: 'paused', name: 'end' }));
  await Promise.all([readers[0]!, readers[2]!, readers[3]!].map((reader) => reader.until('"name":"end"')));
  assert.deepEqual(
    readers.map((reader) =>
      eventsIn(reader.text())
        .slice(1)
        .map((line) => line.split(' ').slice(0, 2).join(' ')),
    ),
    [['registered m', 'deregistered m', 'registered x'], [], ['registered x'], ['registered x']],
  );
  for (const reader of readers) assertHidden(reader.text(), 'the stream');
});

test('a history shows a reader of one role nothing from before or after the time in that role', async (t) => {
  const { app, ask, create } = await guarded(t);
  const token = await create({ scope: 'read', role: 'worker' });
  await ask('POST', '/registry/vms', secret('before', 'golden'));
  await ask('PUT', '/registry/vms/m', during);
  await ask('PUT', '/registry/vms/m', secret('after', 'infra'));
  await ask('PUT', '/registry/vms/m', during);
  await ask('PATCH', '/registry/vms/m', { name: 'renamed' });
  const read = async (query = '') => {
    const { status, body } = await ask('GET', `/registry/vms/m/history${query}`, undefined, token);
    return { status, text: JSON.stringify(body), count: (body as { count: number }).count };
  };
  const { text, count } = await read();
  assert.equal(count, 1);
  assertHidden(text, 'the history');
  // The VM leaves the role after the request was authorized, and before the journal is read.
  const { history } = app.store;
  app.store.history = async (...args) => {
    app.store.history = history;
    await ask('PUT', '/registry/vms/m', secret('after', 'infra'));
    await ask('PATCH', '/registry/vms/m', { name: 'after-name' });
    return history.apply(app.store, args);
  };
  const late = await read();
  assert.deepEqual([late.status, late.count], [200, 1]);
  assertHidden(late.text, 'the history');
  assert.equal((await read()).status, 403);
});

test('conflicts from before a VM entered a role are hidden from a reader of that role', async (t) => {
  const { app, ask, create } = await guarded(t);
  const tokens = {
    role: await create({ scope: 'read', role: 'worker' }),
    vm: await create({ scope: 'read', vm: 'm' }),
  };
  await ask('POST', '/registry/vms', secret('before', 'golden'));
  const proof = (incarnation: string, address: string, n: number) => ({
    incarnation,
    address,
    next: `${n}.${'a'.repeat(32)}`,
  });
  const refuse = () =>
    assert.throws(() =>
      app.registry.heartbeat('m', { ...proof('two', '192.0.2.66', 2), spend: `1.${'b'.repeat(32)}` }),
    );
  app.registry.heartbeat('m', proof('one', '192.0.2.1', 1));
  refuse();
  const listed = async (token: string) =>
    ((await ask('GET', '/registry/conflicts', undefined, token)).body as { conflicts: { count: number }[] }).conflicts;
  assert.deepEqual(await listed(tokens.role), []);
  await ask('PUT', '/registry/vms/m', during);
  assert.deepEqual(await listed(tokens.role), []);
  assert.equal((await listed(tokens.vm)).length, 1);
  assert.equal((await listed('root')).length, 1);
  refuse();
  assert.deepEqual(
    (await listed(tokens.role)).map(({ count }) => count),
    [1],
  );
  assert.ok(!JSON.stringify(await listed('root')).includes('isPast'));
  await ask('PUT', '/registry/vms/m', secret('after', 'infra'));
  assert.deepEqual(await listed(tokens.role), []);
  await ask('DELETE', '/registry/vms/m');
  await ask('POST', '/registry/vms', during);
  assert.deepEqual(await listed(tokens.role), [], 'another registration');
  assert.equal((await listed(tokens.vm)).length, 1);
});

test('a VM that is moved to the end of lists keeps its incarnation across a restart', async (t) => {
  const { app, create, register, move } = await guarded(t);
  await register('w', 'worker');
  app.registry.heartbeat('w', { incarnation: 'one', next: `1.${'a'.repeat(32)}` });
  await move('w', 'infra', await create({ scope: 'write', vm: 'w', role: 'infra' }));
  await app.registry.saveHeartbeats();
  const store = await reopen(app.store);
  const restarted = new Registry({ store, clock: app.clock, staleAfter: 300_000 }, store.contents());
  assert.throws(
    () => restarted.heartbeat('w', { incarnation: 'two', next: `9.${'b'.repeat(32)}`, address: '192.0.2.66' }),
    /still sending|another|incarnation/,
  );
});

test('a refusal does not name the role of a VM that the token may not read', async (t) => {
  const { ask, create, register } = await guarded(t);
  await register('i', 'infra');
  const token = await create({ scope: 'read', role: 'worker' });
  for (const path of ['', '/why', '/history', '/children', '/ancestors']) {
    const refused = await ask('GET', `/registry/vms/i${path}`, undefined, token);
    assert.equal(refused.status, 403, path);
    assert.doesNotMatch(JSON.stringify(refused.body), /infra/, path);
  }
});

test('a list that is read slowly shows no health of a VM that has left the role in the meantime', async (t) => {
  const { app, ask, create } = await guarded(t);
  const token = await create({ scope: 'read', role: 'worker' });
  const services = [{ name: 'web', port: 80 }];
  // The list is sent newest first, in chunks, so the oldest VM is encoded last.
  for (const id of ['m', 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j'])
    await app.registry.register(aVm({ id, role: 'worker', services, metadata: { blob: 'x'.repeat(900_000) } }));
  const report = (id: string, health: 'passing' | 'failing') => app.registry.heartbeat(id, { health: { web: health } });
  for (const id of ['m', 'a']) report(id, 'passing');
  const asked = request(`${app.url}/registry/vms?include=liveness`, { headers: { authorization: `Bearer ${token}` } });
  const [answer] = (await once(asked.end(), 'response')) as [IncomingMessage];
  await once(answer, 'readable');
  await ask('PUT', '/registry/vms/m', aVm({ id: 'm', role: 'infra', services }));
  report('m', 'failing');
  const { vms } = JSON.parse(await text(answer)) as { vms: (Vm & { health?: object })[] };
  const shown = new Map(vms.map(({ id, role, health }) => [id, { role, health }]));
  assert.deepEqual(shown.get('m'), { role: 'worker', health: undefined });
  assert.deepEqual(shown.get('a'), { role: 'worker', health: { web: 'passing' } });
});

test('a reader of one role receives the conflicts of VMs in that role only', async (t) => {
  const { app, ask, create } = await guarded(t);
  const token = await create({ scope: 'read', role: 'worker' });
  const seen = await readText(t, `${app.url}/registry/events`, token);
  const all = await readText(t, `${app.url}/registry/events`, 'root');
  await Promise.all([seen.until('synced'), all.until('synced')]);
  const clone = (id: string, n: number) => {
    const proof = { incarnation: 'one', address: '192.0.2.1', next: `${n}.${'a'.repeat(32)}` };
    app.registry.heartbeat(id, proof);
    const other = { incarnation: 'two', address: `${id}-clone`, next: `${n + 1}.${'b'.repeat(32)}` };
    assert.throws(() => app.registry.heartbeat(id, { ...other, spend: `${n}.${'c'.repeat(32)}` }));
  };
  await app.registry.register(aVm({ id: 'i', role: 'infra' }));
  await app.registry.register(aVm({ id: 'w', role: 'worker' }));
  clone('i', 1);
  clone('w', 1);
  await ask('PATCH', '/registry/vms/w', { name: 'end' });
  await Promise.all([seen.until('"name":"end"'), all.until('"name":"end"')]);
  assert.ok(all.text().includes('i-clone') && all.text().includes('w-clone'));
  assert.ok(!seen.text().includes('i-clone') && seen.text().includes('w-clone'));
});
