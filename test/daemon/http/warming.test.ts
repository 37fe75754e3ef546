/** How responses announce that they may be outdated: after a gap in listening time, and after a mass loss. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { type VmWithLiveness, WARMING_HEADER } from '../../../src/protocol/api.ts';
import type { Service } from '../../../src/protocol/vm.ts';
import { type ServedApp, serveApp } from '../../helpers/app.ts';
import { aVm } from '../../helpers/vm.ts';

const LEASE = 300_000;

interface Body {
  vms?: VmWithLiveness[];
  summary?: string;
  health?: object;
}

async function get({ url }: ServedApp, path: string): Promise<{ ids: string; warming: string | null; body: Body }> {
  const response = await fetch(url + path);
  const body = (await response.json()) as Body;
  const ids = (body.vms ?? []).map(({ id }) => id).join(' ');
  return { ids, warming: response.headers.get(WARMING_HEADER), body };
}

async function idsAndWarming(app: ServedApp, path: string): Promise<[ids: string, warming: string | null]> {
  const { ids, warming } = await get(app, path);
  return [ids, warming];
}

test('after a gap, responses are marked as warming until each VM in them has sent a heartbeat or its lease has expired', async (t) => {
  const app = await serveApp(t);
  for (const id of ['a', 'b']) await app.registry.register(aVm({ id, role: 'worker' }));
  assert.equal((await get(app, '/registry/discover/worker')).warming, null);
  app.clock.pass(100_000);
  app.registry.heartbeat('b');
  app.clock.miss(10 * LEASE);
  app.clock.pass(1000);
  assert.deepEqual(await idsAndWarming(app, '/registry/discover/worker'), ['a b', '299']);
  assert.equal((await get(app, '/registry/vms?status=running')).warming, '299');
  assert.equal((await get(app, '/registry/vms/a')).warming, '199');
  app.registry.heartbeat('b');
  assert.equal((await get(app, '/registry/discover/worker')).warming, '199', 'only the silent VM counts');
  app.registry.heartbeat('a');
  assert.equal((await get(app, '/registry/discover/worker')).warming, null);
});

test('strict leaves out VMs that were silent for a lease of wall time, and the response is still marked as warming', async (t) => {
  const app = await serveApp(t);
  for (const id of ['a', 'b']) await app.registry.register(aVm({ id, role: 'worker' }));
  app.clock.miss(2 * LEASE);
  app.clock.pass(1000);
  app.registry.heartbeat('b');
  assert.deepEqual(await idsAndWarming(app, '/registry/discover/worker?strict=true'), ['b', '299']);
  assert.equal((await get(app, '/registry/discover/worker?strict=false')).ids, 'a b');
  assert.equal((await fetch(`${app.url}/registry/discover/worker?strict=yes`)).status, 400);
});

test('a heartbeat that is read in the first 500 ms after a pause leaves the VM in doubt until it is heard again', async (t) => {
  const app = await serveApp(t);
  for (const id of ['a', 'b']) await app.registry.register(aVm({ id, role: 'worker' }));
  const strict = () => idsAndWarming(app, '/registry/discover/worker?strict=true');
  app.clock.pass(1000);
  app.clock.miss(10_000);
  app.clock.pass(500);
  app.registry.heartbeat('a');
  await app.registry.update('b', { status: 'running' });
  assert.deepEqual(await strict(), ['', '300'], 'both may have been sent before the pause');
  assert.equal((await get(app, '/registry/discover/worker')).ids, 'a b');
  app.clock.pass(1);
  app.registry.heartbeat('a');
  assert.deepEqual(await strict(), ['a', '300']);
  app.clock.pass(1000);
  app.clock.miss(10_000);
  app.clock.pass(1000);
  assert.equal((await strict())[0], 'a', 'after a second pause VM b is still in doubt');
  app.registry.heartbeat('b');
  app.registry.heartbeat('a');
  assert.deepEqual(await strict(), ['a b', null]);
});

test('strict leaves out a VM whose last sign of life is in the future, because the clock was set back', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm({ id: 'a', role: 'worker' }));
  app.clock.wall -= 60_000;
  const ids = async () => (await get(app, '/registry/discover/worker?strict=true')).ids;
  assert.equal(await ids(), '');
  app.registry.heartbeat('a');
  assert.equal(await ids(), 'a');
});

test('a VM that was stale before a gap stays stale', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm({ id: 'a', role: 'worker' }));
  app.clock.pass(LEASE + 1);
  app.clock.miss(10);
  assert.deepEqual(await idsAndWarming(app, '/registry/discover/worker'), ['', null]);
});

test('after a mass loss VMs are offered as suspect for one more lease period', async (t) => {
  const app = await serveApp(t, { massLoss: 0.5 });
  for (let n = 0; n < 10; n++) await app.registry.register(aVm({ id: `vm-${n}`, role: 'worker' }));
  await app.registry.replicas.catchUp();
  const events: string[] = [];
  app.registry.events.subscribe({ event: ({ type, id }) => void events.push(`${type} ${id}`) });
  app.clock.pass(LEASE + 1);
  const { body, warming } = await get(app, '/registry/discover/worker?include=liveness');
  assert.equal(warming, '300; suspect=10');
  assert.deepEqual([body.vms?.[0]?.stale, body.vms?.[0]?.suspect], [false, true]);
  assert.match((await get(app, '/registry/vms/vm-0/why')).body.summary ?? '', /offers vm-0.*suspect/);
  app.registry.heartbeat('vm-0');
  app.clock.pass(LEASE);
  assert.equal((await get(app, '/registry/discover/worker')).ids, 'vm-0');
  assert.deepEqual([events[0], events[10], events.length], ['suspect vm-0', 'revived vm-0', 20]);
  assert.equal(events[19], 'stale vm-9');
  const { vms = [] } = (await get(app, '/registry/vms?include=liveness')).body;
  const lost = vms.find(({ id }) => id === 'vm-9')!;
  assert.deepEqual([lost.stale, 'suspect' in lost], [true, false]);
  assert.doesNotMatch((await get(app, '/registry/vms/vm-9/why')).body.summary ?? '', /suspect/);
});

test('the metrics count suspects separately and show how long responses are warming', async (t) => {
  const app = await serveApp(t, { massLoss: 0.5 });
  const metrics = async () => {
    const answer = await fetch(`${app.url}/metrics`);
    assert.match(answer.headers.get('content-type') ?? '', /^text\/plain/);
    return answer.text();
  };
  for (let n = 0; n < 10; n++) await app.registry.register(aVm({ id: `vm-${n}`, role: 'worker' }));
  await app.registry.register(aVm({ id: 'gone', role: 'infra', status: 'stopped' }));
  app.clock.pass(LEASE + 1);
  const text = await metrics();
  assert.match(text, /^vreg_vms\{role="worker",status="running",liveness="suspect"\} 10$/m);
  assert.match(text, /^vreg_vms\{role="worker",status="running",liveness="live"\} 0$/m);
  assert.match(text, /^vreg_vms\{role="infra",status="stopped",liveness="none"\} 1$/m);
  assert.match(text, /^vreg_warming_seconds 300$/m);
  app.clock.pass(LEASE);
  assert.match(await metrics(), /^vreg_vms\{role="worker",status="running",liveness="stale"\} 10$/m);
});

test('discover by service offers passing VMs first and failing VMs last, and with passing only the first', async (t) => {
  const app = await serveApp(t);
  const services: Service[] = [{ name: 'web', port: 80 }];
  for (const id of ['fails', 'unknown', 'passes', 'without']) {
    await app.registry.register(aVm({ id, role: 'worker', ...(id === 'without' ? {} : { services }) }));
  }
  app.registry.heartbeat('fails', { health: { web: 'failing' } });
  app.registry.heartbeat('passes', { health: { web: 'passing', other: 'failing' } });
  assert.equal((await get(app, '/registry/discover/worker')).ids, 'fails unknown passes without');
  assert.equal((await get(app, '/registry/discover/worker?service=web')).ids, 'passes unknown fails');
  assert.equal((await get(app, '/registry/discover/worker?service=web&passing=true')).ids, 'passes');
  assert.equal((await fetch(`${app.url}/registry/discover/worker?passing=true`)).status, 400);
  assert.deepEqual((await get(app, '/registry/vms/passes?include=liveness')).body.health, { web: 'passing' });
  assert.equal('health' in (await get(app, '/registry/vms/passes')).body, false);
});
