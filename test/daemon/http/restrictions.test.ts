/** Tokens that are limited to a VM, a role or both: which role a VM may have, and what a reader of one role sees. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { Registry } from '../../../daemon/registry/registry.ts';
import type { TokenRequest, Whoami } from '../../../src/protocol/token.ts';
import type { Role, Vm } from '../../../src/protocol/vm.ts';
import { serveApp } from '../../helpers/app.ts';
import { call, errorOf } from '../../helpers/http.ts';
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
  const restarted = new Registry({ store: app.store, clock: app.clock, staleAfter: 300_000 }, app.store.contents());
  assert.deepEqual(
    restarted.list({}).map(({ vm }) => vm.id),
    ['w', 'i', 'x'],
  );
  assert.equal((await move('w', 'worker', token)).status, 403, 'out of its role');
  assert.equal((await move('w', 'infra', token)).status, 200);
  assert.deepEqual(await ids('/registry/discover/infra'), ['i', 'w'], 'a repetition keeps the place');
});

test('a token without a limit changes roles and keeps the place in the order', async (t) => {
  const { app, create, register, move, ids } = await guarded(t);
  await register('w', 'worker');
  await register('i', 'infra');
  const { registeredAt } = app.registry.get('w').vm;
  assert.equal((await move('w', 'infra', await create({ scope: 'write' }))).status, 200);
  assert.deepEqual(await ids('/registry/discover/infra'), ['w', 'i']);
  assert.equal(app.registry.get('w').vm.registeredAt, registeredAt);
});

test('a VM with a new place in the order does not count as a new VM', async (t) => {
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
