/** The metrics as a scraper reads them, after real requests. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { ROUTES } from '../../../../daemon/http/routes.ts';
import { VmRecord } from '../../../../daemon/registry/vm-record.ts';
import type { StoredVm } from '../../../../daemon/store/store.ts';
import { VregError } from '../../../../src/protocol/errors.ts';
import type { Role } from '../../../../src/protocol/vm.ts';
import { type ServedApp, serveApp } from '../../../helpers/app.ts';
import { FakeClock } from '../../../helpers/clock.ts';
import { Connection } from '../../../helpers/connection.ts';
import { startDaemon } from '../../../helpers/daemon.ts';
import { call } from '../../../helpers/http.ts';
import { MemoryStore } from '../../../helpers/memory-store.ts';
import { tagAt } from '../../../helpers/store.ts';
import { until } from '../../../helpers/until.ts';
import { aVm } from '../../../helpers/vm.ts';

const TOKEN = 's3cret';
const AUTHORIZED = { authorization: `Bearer ${TOKEN}` };
const METRICS = 'vreg_http_requests_total{method="GET",route="/metrics",status="200"}';
const OPEN_METRICS = 'application/openmetrics-text';

async function scrape({ url }: ServedApp, accept?: string): Promise<{ type: string; text: string }> {
  const headers = { ...AUTHORIZED, ...(accept === undefined ? {} : { accept }) };
  const answer = await fetch(`${url}/metrics`, { headers });
  assert.equal(answer.status, 200);
  assert.equal(answer.headers.get('vary'), 'Accept');
  return { type: answer.headers.get('content-type')!, text: await answer.text() };
}

/** The samples of a family, by the text before the value. */
async function samplesOf(app: ServedApp, name: string): Promise<Record<string, number>> {
  const { text } = await scrape(app);
  const lines = text.split('\n').filter((line) => line.startsWith(name));
  return Object.fromEntries(
    lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ') + 1))]),
  );
}

test('requests are counted by route pattern and status, and never by id, unknown path or method', async (t) => {
  const app = await serveApp(t, { token: TOKEN });
  const ask = (method: string, path: string, body?: unknown) =>
    call(app.url, method, path, { headers: AUTHORIZED, ...(body === undefined ? {} : { body }) });
  for (const id of ['a', 'b', 'c']) {
    await ask('POST', '/registry/vms', aVm({ id }));
    await ask('POST', `/registry/vms/${id}/heartbeat`);
    await ask('GET', `/registry/vms/no-${id}`);
    await ask('GET', `/nowhere/${id}`);
    await fetch(`${app.url}/registry/vms/${id}`, { method: 'HEAD', headers: AUTHORIZED });
  }
  await ask('POST', '/registry/heartbeats', { ids: ['a', 'b', 'nobody'] });
  await call(app.url, 'GET', '/registry/vms');
  await Connection.open(t, app.at).send('BREW / HTTP/1.1\r\nHost: a\r\n\r\n').response();
  await Connection.open(t, app.at).send('nonsense\r\n\r\n').response();
  assert.deepEqual(await samplesOf(app, 'vreg_http_requests_total'), {
    'vreg_http_requests_total{method="POST",route="/registry/vms",status="201"}': 3,
    'vreg_http_requests_total{method="GET",route="/registry/vms",status="401"}': 1,
    'vreg_http_requests_total{method="GET",route="/registry/vms/:id",status="200"}': 3,
    'vreg_http_requests_total{method="GET",route="/registry/vms/:id",status="404"}': 3,
    'vreg_http_requests_total{method="POST",route="/registry/vms/:id/heartbeat",status="200"}': 3,
    'vreg_http_requests_total{method="POST",route="/registry/heartbeats",status="200"}': 1,
    'vreg_http_requests_total{method="other",route="unknown",status="400"}': 1,
    'vreg_http_requests_total{method="other",route="unknown",status="404"}': 4,
  });
  assert.deepEqual(await samplesOf(app, 'vreg_heartbeats_total'), { vreg_heartbeats_total: 5 });
  assert.deepEqual(await samplesOf(app, 'vreg_refusals_total'), {
    'vreg_refusals_total{code="NOT_FOUND"}': 7,
    'vreg_refusals_total{code="UNAUTHORIZED"}': 1,
    'vreg_refusals_total{code="INVALID"}': 1,
  });
  const routes = new Set(ROUTES.map(({ path }) => path));
  const { text } = await scrape(app);
  for (const [, route] of text.matchAll(/route="([^"]*)"/g))
    assert.ok(routes.has(route!) || route === 'unknown', route);
});

test('buckets are cumulative, and a long poll has no latency', async (t) => {
  const app = await serveApp(t, { token: TOKEN });
  const get = (path: string) => call(app.url, 'GET', path, { headers: AUTHORIZED });
  await get('/registry/discover/worker');
  await get('/registry/discover/worker?wait=20ms');
  const labels = 'method="GET",route="/registry/discover/:role"';
  const samples = await samplesOf(app, 'vreg_http_request_duration_seconds');
  const buckets = Object.entries(samples).filter(([name]) => name.includes(`_bucket{${labels}`));
  const counts = buckets.map(([, count]) => count);
  assert.deepEqual(
    counts,
    counts.toSorted((a, b) => a - b),
  );
  assert.equal(counts.at(-1), 1);
  assert.equal(samples[`vreg_http_request_duration_seconds_count{${labels}}`], 1);
  assert.ok(samples[`vreg_http_request_duration_seconds_sum{${labels}}`]! > 0);
});

for (const [accept, isOpen] of [
  [undefined, false],
  ['*/*', false],
  ['text/plain', false],
  [OPEN_METRICS, true],
  [`${OPEN_METRICS};version=1.0.0`, true],
  [
    `${OPEN_METRICS};version=1.0.0;q=0.5,${OPEN_METRICS};version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.1`,
    true,
  ],
  [`${OPEN_METRICS};q=0.2, text/plain;q=0.9`, false],
  [`${OPEN_METRICS};q=0`, false],
  [`${OPEN_METRICS};q=nonsense`, false],
  ['nonsense;;,,;q=', false],
] as const) {
  test(`Accept: ${accept} gets ${isOpen ? 'OpenMetrics' : 'the text format of Prometheus'}`, async (t) => {
    const app = await serveApp(t, { token: TOKEN });
    const { type, text } = await scrape(app, accept);
    assert.equal(
      type,
      isOpen ? `${OPEN_METRICS}; version=1.0.0; charset=utf-8` : 'text/plain; version=0.0.4; charset=utf-8',
    );
    assert.equal(text.endsWith('\n# EOF\n'), isOpen);
    assert.match(text, isOpen ? /^# TYPE vreg_heartbeats counter$/m : /^# TYPE vreg_heartbeats_total counter$/m);
    assert.match(text, /^vreg_heartbeats_total 0$/m);
  });
}

test('commits, failures, long polls and subscribers are counted', async (t) => {
  const store = new MemoryStore();
  const app = await serveApp(t, { token: TOKEN, store });
  const register = (id: string) => call(app.url, 'POST', '/registry/vms', { headers: AUTHORIZED, body: aVm({ id }) });
  await register('a');
  store.failure = new VregError('STORE_FULL', 'the disk of the registry is full: nothing was changed');
  await register('b');
  assert.deepEqual(await samplesOf(app, 'vreg_store_commit_duration_seconds_count'), {
    vreg_store_commit_duration_seconds_count: 2,
  });
  assert.deepEqual(await samplesOf(app, 'vreg_store_write_'), {
    vreg_store_write_failures_total: 1,
    vreg_store_write_failing: 1,
  });
  const head = (target: string) => `GET ${target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${TOKEN}\r\n\r\n`;
  Connection.open(t, app.at).send(head('/registry/events'));
  Connection.open(t, app.at).send(head('/registry/discover/infra?wait=50s'));
  await until('both to wait', async () => {
    const { text } = await scrape(app);
    return /^vreg_subscribers 1$/m.test(text) && /^vreg_long_polls 1$/m.test(text);
  });
});

test('a client that leaves during its upload or its long poll is counted once, with 499', async (t) => {
  const app = await serveApp(t, { token: TOKEN });
  const head = (line: string) => `${line} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer ${TOKEN}\r\n`;
  const type = 'Content-Type: application/json\r\n';
  const upload = Connection.open(t, app.at).send(`${head('POST /registry/vms')}${type}Content-Length: 100\r\n\r\n{`);
  const poll = Connection.open(t, app.at).send(`${head('GET /registry/discover/infra?wait=50s')}\r\n`);
  await until('the poll to wait', async () => (await scrape(app)).text.includes('vreg_long_polls 1'));
  upload.socket.resetAndDestroy();
  poll.socket.destroy();
  await until('both to be counted', async () => {
    const counts = await samplesOf(app, 'vreg_http_requests_total');
    return Object.keys(counts).filter((name) => !name.includes('/metrics')).length >= 2;
  });
  const { [METRICS]: _scrapes, ...counts } = await samplesOf(app, 'vreg_http_requests_total');
  assert.deepEqual(counts, {
    'vreg_http_requests_total{method="POST",route="/registry/vms",status="499"}': 1,
    'vreg_http_requests_total{method="GET",route="/registry/discover/:role",status="499"}': 1,
  });
  assert.deepEqual(await samplesOf(app, 'vreg_refusals_total{'), {});
});

test('an address counts as throttled once, and only if it must wait', async (t) => {
  const app = await serveApp(t, { token: TOKEN });
  const { authenticator } = app;
  const fail = (address: string, secret: string) => {
    const credentials = { authorization: `Bearer ${secret}`, address, isLocal: false };
    assert.throws(() => authenticator.authenticate(credentials));
  };
  const old = `vreg_${'A'.repeat(43)}`;
  const sendRight = () =>
    authenticator.authenticate({ authorization: `Bearer ${TOKEN}`, address: '192.0.2.1', isLocal: false });
  sendRight();
  for (let n = 0; n < 61; n++) fail('192.0.2.1', 'wrong');
  assert.equal(authenticator.throttledClients, 0, 'an address that has sent the right token need not wait');
  for (let n = 0; n < 61; n++) fail('192.0.2.2', 'wrong');
  for (let n = 0; n < 601; n++) fail('192.0.2.2', old);
  assert.deepEqual(await samplesOf(app, 'vreg_throttled_clients'), { vreg_throttled_clients: 1 });
});

/** The figures that operators expect, and the metrics that show them. */
const EXPECTED: Readonly<Record<string, readonly string[]>> = {
  'VMs by role and state': ['vreg_vms{role="worker",status="running",liveness="live"}'],
  heartbeats: ['vreg_heartbeats_total'],
  'requests by route and status': ['vreg_http_requests_total{method="POST",route="/registry/vms",status="201"}'],
  'latency histograms': ['vreg_http_request_duration_seconds_bucket{method="POST",route="/registry/vms",le="+Inf"}'],
  'commit time': ['vreg_store_commit_duration_seconds_sum', 'vreg_store_commit_duration_seconds_count'],
  'event-loop delay': ['vreg_event_loop_delay_seconds{percentile="99"}', 'vreg_event_loop_busy_seconds_total'],
  heap: ['vreg_heap_used_bytes', 'vreg_heap_limit_bytes'],
  subscribers: ['vreg_subscribers'],
  'long polls': ['vreg_long_polls'],
  'budgets used': ['vreg_budget_used_bytes{budget="changes"}', 'vreg_budget_limit_bytes{budget="changes"}'],
  'store size': ['vreg_store_size_bytes'],
  refusals: ['vreg_refusals_total{code="NOT_FOUND"}'],
  'throttled clients': ['vreg_throttled_clients'],
  rollbacks: ['vreg_rollback_vms', 'vreg_other_registry'],
};

test('a scrape of a daemon has each figure that operators expect', async (t) => {
  const { url } = await startDaemon(t, { env: { VERS_AUTH_TOKEN: TOKEN } });
  await call(url, 'POST', '/registry/vms', { headers: AUTHORIZED, body: aVm() });
  await call(url, 'GET', '/registry/vms/nobody', { headers: AUTHORIZED });
  const text = await (await fetch(`${url}/metrics`, { headers: AUTHORIZED })).text();
  for (const [figure, series] of Object.entries(EXPECTED))
    for (const each of series) assert.ok(text.includes(`\n${each} `), `${figure}: ${each}`);
});

test('the start of the process stays the same when the clock is set', async (t) => {
  const app = await serveApp(t, { token: TOKEN });
  const before = await samplesOf(app, 'process_start_time_seconds');
  const now = Date.now();
  t.mock.method(Date, 'now', () => now + 3_600_000);
  const after = await samplesOf(app, 'process_start_time_seconds');
  assert.deepEqual(after, before);
  const age = now / 1000 - before.process_start_time_seconds!;
  assert.ok(age > 0 && age < 86_400, String(age));
});

test('the many roles that clients invent add no series', async (t) => {
  const app = await serveApp(t, { token: TOKEN });
  const invent = async (n: number) => {
    const role = `r${n}"} 1\n\\evil{a="`;
    const path = `/registry/discover/${encodeURIComponent(role)}`;
    const found = await fetch(app.url + path, { headers: AUTHORIZED });
    await found.arrayBuffer();
    if (n % 100 > 0) return;
    const body = aVm({ role: role as Role });
    assert.equal((await call(app.url, 'POST', '/registry/vms', { headers: AUTHORIZED, body })).status, 400);
  };
  const series = async () => Object.keys(await samplesOf(app, 'vreg_')).sort();
  await invent(0);
  await scrape(app);
  const before = await series();
  for (let n = 1; n <= 1000; n += 50) await Promise.all(Array.from({ length: 50 }, (_, i) => invent(n + i)));
  assert.deepEqual(await series(), before);
  assert.doesNotMatch((await scrape(app)).text, /evil/);
});

test('a scrape looks at as many VMs with a fleet of 10,000 as with one of ten', async (t) => {
  const looks: number[] = [];
  for (const size of [10, 10_000]) {
    const store = new MemoryStore();
    const { records, clock } = fleetOf(size);
    for (const vm of records) store.vms.set(vm.id, vm);
    const app = await serveApp(t, { token: TOKEN, store, clock });
    await scrape(app);
    let count = 0;
    for (const name of ['leaseFrom', 'heardAt', 'seen', 'isSuspect'] as const) {
      const { get } = Object.getOwnPropertyDescriptor(VmRecord.prototype, name)!;
      t.mock.getter(VmRecord.prototype, name, function (this: VmRecord) {
        count++;
        return get!.call(this);
      });
    }
    const list = t.mock.method(app.registry, 'list');
    const { text } = await scrape(app);
    t.mock.restoreAll();
    assert.ok(text.includes(`\nvreg_vms{role="worker",status="running",liveness="live"} ${size}\n`));
    assert.equal(list.mock.callCount(), 0);
    looks.push(count);
  }
  assert.equal(looks[1], looks[0]);
});

/** A fleet of live workers, as it is stored. */
function fleetOf(size: number): { records: StoredVm[]; clock: FakeClock } {
  const clock = new FakeClock();
  const records = Array.from({ length: size }, (_, n) => {
    const body = JSON.stringify({ ...aVm({ id: `w-${n}` }), registeredAt: '2026-01-01T00:00:00.000Z' });
    const version = { created: n + 1, revision: n + 1, tag: tagAt(n + 1) };
    return { id: `w-${n}`, ...version, body, lastSeen: clock.wall, heardAt: clock.heard };
  });
  return { records, clock };
}

test('the number of VMs by role, status and liveness follows each change', async (t) => {
  const clock = new FakeClock();
  const app = await serveApp(t, { token: TOKEN, clock, massLoss: 1 });
  const ask = (method: string, path: string, body: unknown) =>
    call(app.url, method, path, { headers: AUTHORIZED, body });
  const counts = async () =>
    Object.fromEntries(
      Object.entries(await samplesOf(app, 'vreg_vms{'))
        .filter(([, value]) => value > 0)
        .map(([name, value]) => [[...name.matchAll(/"(\w+)"/g)].map(([, label]) => label).join(' '), value]),
    );
  await ask('POST', '/registry/vms', aVm({ id: 'a', role: 'infra' }));
  for (const id of ['b', 'c']) await ask('POST', '/registry/vms', aVm({ id, role: 'worker' }));
  assert.deepEqual(await counts(), { 'infra running live': 1, 'worker running live': 2 });
  await ask('PATCH', '/registry/vms/b', { status: 'paused' });
  assert.deepEqual(await counts(), { 'infra running live': 1, 'worker running live': 1, 'worker paused none': 1 });
  clock.pass(300_001);
  assert.deepEqual(await counts(), { 'infra running stale': 1, 'worker running stale': 1, 'worker paused none': 1 });
  await ask('POST', '/registry/vms/a/heartbeat', {});
  await ask('PATCH', '/registry/vms/b', { status: 'running' });
  assert.deepEqual(await counts(), { 'infra running live': 1, 'worker running live': 1, 'worker running stale': 1 });
  await call(app.url, 'DELETE', '/registry/vms/c', { headers: AUTHORIZED });
  assert.deepEqual(await counts(), { 'infra running live': 1, 'worker running live': 1 });
});
