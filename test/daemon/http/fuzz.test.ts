/** Seeded random requests on every route: no 5xx, an error message with every refusal, and a consistent registry afterwards. */
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import type { VmList } from '../../../src/protocol/api.ts';
import { parseRegistration } from '../../../src/protocol/vm.ts';
import { type ServedApp, serveApp } from '../../helpers/app.ts';
import { codePoint } from '../../helpers/code-point.ts';
import { call, errorOf } from '../../helpers/http.ts';
import { exchange } from '../../helpers/raw.ts';

/** Fixed, so that a failure can be repeated. Change it to search elsewhere. */
const SEED = 20_260_101;

const fields = ['id', 'name', 'role', 'status', 'address', 'services', 'metadata', 'registeredBy'] as const;
const text = fc.oneof(
  fc.constantFrom('vm-1', 'vm-2', 'infra', 'worker', 'running', 'stopped', '', ' ', '..', '__proto__', 'constructor'),
  fc.string({ unit: codePoint, maxLength: 40 }),
  fc.string({ unit: 'grapheme', maxLength: 10 }).map((part) => part.repeat(150)),
);
const service = fc.record(
  { name: text, port: fc.oneof(fc.integer(), fc.double(), text), healthPath: fc.oneof(text, fc.integer()) },
  { requiredKeys: [] },
);
const value = fc.oneof(text, fc.jsonValue({ maxDepth: 4 }), fc.array(service, { maxLength: 3 }));
const good = {
  id: fc.constantFrom('vm-1', 'vm-2', 'a/b', 'ü'),
  name: fc.constant('one'),
  role: fc.constantFrom('infra', 'worker'),
  address: fc.constant('a.b'),
  registeredBy: fc.constant('fuzz'),
};
/** A body that is valid except for a few fields, or entirely random. */
const body = fc.oneof(
  fc.tuple(fc.record(good), fc.dictionary(fc.constantFrom(...fields), value, { maxKeys: 2 })).map(([base, wrong]) => ({
    ...base,
    ...wrong,
  })),
  fc.record(good),
  fc.dictionary(text, value),
  value,
);
const path = fc.oneof(
  fc.constantFrom(
    '/health',
    '/registry/vms',
    '/registry/vms/vm-1',
    '/registry/vms/vm-1/heartbeat',
    '/registry/discover/infra',
  ),
  text.map((id) => `/registry/vms/${encodeURIComponent(id.toWellFormed())}`),
  text.map((id) => `/registry/vms/${encodeURIComponent(id.toWellFormed())}/heartbeat`),
  text.map((role) => `/registry/discover/${encodeURIComponent(role.toWellFormed())}`),
  fc.webPath(),
);
const query = fc.oneof(
  { weight: 3, arbitrary: fc.constant('') },
  fc.webQueryParameters().map((rest) => `?${rest}`),
  fc
    .tuple(fc.constantFrom('role', 'status', 'include'), text)
    .map(([key, given]) => `?${key}=${encodeURIComponent(given.toWellFormed())}`),
);
const method = fc.constantFrom('GET', 'POST', 'PATCH', 'DELETE', 'PUT', 'OPTIONS');
/** Most requests go to a route that accepts their body; the rest go to random paths. */
const aimed = fc.constantFrom<[string, string]>(
  ['POST', '/registry/vms'],
  ['POST', '/registry/vms'],
  ['PATCH', '/registry/vms/vm-1'],
  ['PATCH', '/registry/vms/a%2Fb'],
  ['POST', '/registry/vms/vm-2/heartbeat'],
  ['DELETE', '/registry/vms/vm-1'],
  ['GET', '/registry/discover/infra'],
);
const target = fc.oneof({ weight: 2, arbitrary: aimed }, { weight: 1, arbitrary: fc.tuple(method, path) });

async function isConsistent({ url, logged, store }: ServedApp): Promise<void> {
  assert.equal((await call(url, 'GET', '/health')).status, 200);
  const { vms, count } = (await call(url, 'GET', '/registry/vms')).body as VmList;
  assert.deepEqual([count, vms.map(({ id }) => id).sort()], [vms.length, [...store.vms.keys()].sort()]);
  // The registry accepts every entry that it holds.
  for (const vm of vms) assert.deepEqual(parseRegistration(JSON.parse(JSON.stringify(vm))).id, vm.id);
  assert.deepEqual(
    logged.filter((line) => (JSON.parse(line) as { level: number }).level >= 40),
    [],
  );
}

test('random requests never cause a 5xx, and every error has a message', async (t) => {
  const app = await serveApp(t);
  const seen = new Set<number>();
  const anyRequest = fc.asyncProperty(target, query, fc.option(body), async ([verb, where], asked, sent) => {
    const hasBody = verb !== 'GET' && sent !== null;
    const answer = await call(app.url, verb, where + asked, hasBody ? { body: JSON.stringify(sent) } : {});
    assert.ok(answer.status < 500, `${verb} ${where} was answered with ${answer.status}`);
    seen.add(answer.status);
    if (answer.status >= 400) errorOf(answer);
  });
  await fc.assert(anyRequest, { seed: SEED, numRuns: 1500 });
  // The random requests reach the handlers and are not all refused by the pipeline.
  for (const status of [200, 201, 400, 404, 405, 409]) assert.ok(seen.has(status), `no ${status} was seen`);
  await isConsistent(app);
});

test('mutated bytes of a request never cause a 5xx', async (t) => {
  const app = await serveApp(t, { limits: { requestTimeout: 1000 } });
  const sent = JSON.stringify({ id: 'vm-1', name: 'one', role: 'infra', address: 'a', registeredBy: 'fuzz' });
  const whole = `POST /registry/vms?include=liveness HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: ${sent.length}\r\n\r\n${sent}`;
  const change = fc.record({
    at: fc.nat({ max: whole.length }),
    drop: fc.nat({ max: 12 }),
    put: fc.oneof(
      fc.uint8Array({ maxLength: 6 }),
      fc.constantFrom('\r\n', '\0', '%', '{', '"', ':').map((s) => Buffer.from(s)),
    ),
  });
  const anyBytes = fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 3 }), async (changes) => {
    let bytes = Buffer.from(whole);
    for (const { at, drop, put } of changes) {
      bytes = Buffer.concat([bytes.subarray(0, at), put, bytes.subarray(at + drop)]);
    }
    for (const { status, text: answer } of await exchange(app.at, bytes, { end: true })) {
      assert.ok(status < 500, `answered with ${status}`);
      if (status >= 400) errorOf({ body: JSON.parse(answer) });
    }
  });
  await fc.assert(anyBytes, { seed: SEED, numRuns: 600 });
  await isConsistent(app);
});
