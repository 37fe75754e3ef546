/** `POST /registry/import`: whole entries of another registry. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { Registry } from '../../../../daemon/registry/registry.ts';
import type { ForEach } from '../../../../daemon/store/store.ts';
import { type Imported, MAX_IMPORT, MAX_IMPORT_BODY, type VmList } from '../../../../src/protocol/api.ts';
import { VregError } from '../../../../src/protocol/errors.ts';
import type { VmEvent } from '../../../../src/protocol/events.ts';
import type { Vm } from '../../../../src/protocol/vm.ts';
import { type ServedApp, serveApp } from '../../../helpers/app.ts';
import { FakeClock } from '../../../helpers/clock.ts';
import { GatedStore } from '../../../helpers/gated-store.ts';
import { call, errorOf } from '../../../helpers/http.ts';
import { MemoryStore } from '../../../helpers/memory-store.ts';
import { readEvents } from '../../../helpers/stream.ts';
import { until } from '../../../helpers/until.ts';
import { aVm } from '../../../helpers/vm.ts';

const LEASE = 300_000;
const PATH = '/registry/import';

const post = (url: string, body: unknown) => call(url, 'POST', PATH, { body });
const outcomes = ({ body }: { body: unknown }) =>
  (body as Imported).entries.map(({ id, outcome, field }) => [id, outcome, field].filter((part) => part !== undefined));
const idsOf = async (url: string, path = '/registry/vms') =>
  ((await call(url, 'GET', path)).body as VmList).vms.map(({ id }) => id);
const iso = (time: number) => new Date(time).toISOString();

/** A whole entry that was registered and last seen so many milliseconds ago. */
function whole({ clock }: Pick<ServedApp, 'clock'>, id: string, ages: { registered: number; seen: number }) {
  const times = { registeredAt: iso(clock.wall - ages.registered), lastSeen: iso(clock.wall - ages.seen) };
  return { ...aVm({ id }), ...times };
}

test('an import keeps the times of each entry, and the order of registration whatever the order in the body', async (t) => {
  const app = await serveApp(t);
  const entries = [
    whole(app, 'new', { registered: 1000, seen: 10 }),
    {
      ...whole(app, 'old', { registered: 9000, seen: 20 }),
      parentVmId: 'p',
      reefConfig: { services: [], capabilities: [] },
    },
    { ...whole(app, 'paused', { registered: 5000, seen: 4000 }), status: 'paused', metadata: { a: [1, { b: null }] } },
  ];
  const answer = await post(app.url, { vms: entries, count: 3 });
  assert.equal(answer.status, 200);
  const created = entries.map(({ id }) => ({ id, outcome: 'created' }));
  assert.deepEqual(answer.body, { entries: created, count: 3, created: 3 });
  assert.equal(answer.headers.get('x-vreg-position'), app.store.positionAt(3));
  assert.deepEqual(await idsOf(app.url), ['new', 'paused', 'old']);
  assert.deepEqual(await idsOf(app.url, '/registry/discover/worker'), ['old', 'new']);
  for (const entry of entries) {
    const expected = 'parentVmId' in entry ? { ...entry, parentId: 'p' } : entry;
    assert.deepEqual((await call(app.url, 'GET', `/registry/vms/${entry.id}`)).body, expected);
  }
});

test('an import is not a sign of life: a VM that was silent for a lease is stale at once, also after a restart', async (t) => {
  const app = await serveApp(t, { massLoss: 0.5 });
  app.clock.pass(1000);
  const entries = Array.from({ length: 20 }, (_, n) =>
    whole(app, `dead-${n}`, { registered: 10 * LEASE, seen: LEASE + 1 }),
  );
  const live = whole(app, 'live', { registered: 10 * LEASE, seen: LEASE - 5000 });
  await post(app.url, [...entries, live]);
  assert.deepEqual(await idsOf(app.url, '/registry/discover/worker'), ['live']);
  const { store, clock } = app;
  const restarted = new Registry({ store, clock, staleAfter: LEASE }, store.contents());
  assert.deepEqual(
    restarted.discover('worker').map(({ vm }) => vm.id),
    ['live'],
  );
  clock.pass(5001);
  assert.deepEqual(await idsOf(app.url, '/registry/discover/worker'), []);
  await call(app.url, 'POST', '/registry/vms/dead-3/heartbeat');
  assert.deepEqual(await idsOf(app.url, '/registry/discover/worker'), ['dead-3']);
});

test('leases of imported VMs expire in the order of their last signs of life', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm({ id: 'before' }));
  app.clock.pass(10_000);
  await post(app.url, [
    whole(app, 'b', { registered: LEASE, seen: LEASE - 2000 }),
    whole(app, 'a', { registered: LEASE, seen: LEASE - 1000 }),
    whole(app, 'c', { registered: LEASE, seen: LEASE - 3000 }),
  ]);
  const events = await readEvents(t, app.url);
  for (let second = 1; second <= 3; second++) {
    app.clock.pass(1001);
    app.registry.sweep();
    await events.seen('stale', second);
  }
  assert.deepEqual(events.lines(), ['synced', 'stale a', 'stale b', 'stale c']);
  assert.deepEqual(await idsOf(app.url, '/registry/discover/worker'), ['before']);
});

test('leases of imported VMs expire in order even if the import fails when they are visible', async (t) => {
  const { registry, clock } = await serveApp(t);
  await registry.register(aVm({ id: 'before' }));
  clock.pass(10_000);
  let calls = 0;
  const forEach: ForEach = async (items, act) => {
    for (const item of items) act(item);
    // The last call makes the VMs visible.
    if (++calls === 4) throw new Error('interrupted');
  };
  const seen = new Date(clock.now() - LEASE + 1000).toISOString();
  const entry = { ...aVm({ id: 'a' }), lastSeen: seen };
  await assert.rejects(registry.import([entry], { forEach }), { message: 'interrupted' });
  clock.pass(1001);
  assert.equal(registry.counts.stale, 1);
});

test('times in the future become the current time, and absent ones count as the registration', async (t) => {
  const app = await serveApp(t);
  const now = iso(app.clock.wall);
  const registeredAt = iso(app.clock.wall - 1000);
  await post(app.url, [
    { ...aVm({ id: 'a' }), registeredAt: '2999-01-01T00:00:00Z', lastSeen: '9999-12-31T23:59:59.999-14:00' },
    { ...aVm({ id: 'b' }), registeredAt, lastSeen: '2999-01-01T00:00:00Z' },
    { ...aVm({ id: 'c' }), registeredAt },
    { ...aVm({ id: 'd' }), registeredAt: null, lastSeen: '' },
    { ...aVm({ id: 'e' }), registeredAt: registeredAt.replace('Z', '+00:00'), lastSeen: now },
  ]);
  const times = async (id: string) => {
    const vm = (await call(app.url, 'GET', `/registry/vms/${id}`)).body as Vm;
    return [vm.registeredAt, vm.lastSeen];
  };
  assert.deepEqual(await times('a'), [now, now]);
  assert.deepEqual(await times('b'), [registeredAt, now]);
  assert.deepEqual(await times('c'), [registeredAt, registeredAt]);
  assert.deepEqual(await times('d'), [now, now]);
  assert.deepEqual(await times('e'), [registeredAt, now]);
});

test('each entry has its own outcome, and one that is not registered does not stop the others', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm({ id: 'taken' }));
  const answer = await post(app.url, {
    vms: [
      aVm({ id: 'a' }),
      aVm({ id: 'taken', name: 'other' }),
      { ...aVm({ id: 'b' }), role: 'wroker' },
      aVm({ id: ' a ' }),
      { ...aVm({ id: 'c' }), lastSeen: 'yesterday' },
      { ...aVm({ id: 'd' }), registeredAt: 1_700_000_000 },
      { ...aVm({ id: 'e' }), services: [{ name: 'web', port: 0 }] },
      { ...aVm(), id: undefined },
      7,
      null,
      'text',
      [aVm()],
      {},
      aVm({ id: 'z' }),
    ],
  });
  assert.deepEqual(outcomes(answer), [
    ['a', 'created'],
    ['taken', 'exists', 'id'],
    ['b', 'invalid', 'role'],
    ['a', 'exists', 'id'],
    ['c', 'invalid', 'lastSeen'],
    ['d', 'invalid', 'registeredAt'],
    ['e', 'invalid', 'services[0].port'],
    ['invalid', 'id'],
    ['invalid', 'body'],
    ['invalid', 'body'],
    ['invalid', 'body'],
    ['invalid', 'body'],
    ['invalid', 'id'],
    ['z', 'created'],
  ]);
  const { entries, count, created } = answer.body as Imported;
  assert.deepEqual([count, created], [14, 2]);
  for (const { outcome, error, code } of entries)
    assert.equal(outcome === 'created', error === undefined && code === undefined);
  assert.match(entries[1]!.error!, /already registered/);
  assert.match(entries[2]!.error!, /invalid role: wroker/);
  assert.deepEqual(await idsOf(app.url), ['z', 'a', 'taken']);
  assert.equal(((await call(app.url, 'GET', '/registry/vms/taken')).body as Vm).name, 'one');
});

test('an entry that exceeds a limit of the registry is refused, and smaller ones are registered', async (t) => {
  const store = new MemoryStore();
  const limits = { maxVms: 3, maxEntry: 1000, maxTotal: 4500 };
  const registry = new Registry({ store, clock: new FakeClock(), staleAfter: LEASE, limits }, store.contents());
  const { url } = await serveApp(t, { registry, limits: { maxBody: 2000 } });
  const padded = (id: string, length: number) => aVm({ id, metadata: { pad: 'x'.repeat(length) } });
  const answer = await post(url, [
    padded('a', 1),
    padded('b', 1000),
    padded('c', 3000),
    padded('d', 600),
    padded('e', 600),
    aVm({ id: 'f' }),
    aVm({ id: 'g' }),
  ]);
  assert.deepEqual(outcomes(answer), [
    ['a', 'created'],
    ['b', 'refused', 'metadata'],
    ['refused', 'metadata'],
    ['d', 'created'],
    ['e', 'refused', 'metadata'],
    ['f', 'created'],
    ['g', 'refused', 'id'],
  ]);
  assert.deepEqual(
    (answer.body as Imported).entries.map(({ code }) => code ?? ''),
    ['', 'TOO_LARGE', 'TOO_LARGE', '', 'TOO_MANY_REQUESTS', '', 'TOO_MANY_REQUESTS'],
  );
});

test('each imported VM has a position, an event and a history, and the request one line in the audit log', async (t) => {
  const app = await serveApp(t);
  const events = await readEvents(t, app.url);
  await events.seen('synced');
  await post(app.url, [
    whole(app, 'a', { registered: 2000, seen: 10 }),
    whole(app, 'b', { registered: 1000, seen: 2 * LEASE }),
  ]);
  await events.seen('stale');
  assert.deepEqual(events.lines(), ['synced', 'registered a', 'registered b', 'stale b']);
  const [, a, b] = events.told.map(({ event }) => event as VmEvent);
  assert.deepEqual(
    [a!.position, b!.position],
    [1, 2].map((revision) => app.store.positionAt(revision)),
  );
  assert.equal(a!.by, 'anonymous');
  const { body } = await call(app.url, 'GET', '/registry/vms/b/history');
  const { history } = body as { history: { type: string; changes: Record<string, unknown> }[] };
  assert.deepEqual([history.length, history[0]!.type, history[0]!.changes.name], [1, 'registered', [null, 'one']]);
  await until('the audit line', () => app.logged.some((line) => line.includes(PATH)));
  const lines = app.logged.map((line) => JSON.parse(line) as { audit?: true; url?: string; status?: number });
  assert.deepEqual(
    lines.filter(({ audit }) => audit).map(({ url, status }) => [url, status]),
    [[PATH, 200]],
  );
});

test('an import is one commit: if the store fails, nothing is registered, and the next change takes the revision', async (t) => {
  const app = await serveApp(t);
  app.store.failure = new VregError('STORE_FULL', 'the disk is full');
  const answer = await post(app.url, [aVm({ id: 'a' }), aVm({ id: 'b' })]);
  assert.deepEqual([answer.status, errorOf(answer)], [507, 'the disk is full']);
  assert.deepEqual([await idsOf(app.url), app.store.changes], [[], 0]);
  app.store.failure = undefined;
  assert.equal((await post(app.url, [aVm({ id: 'a' }), aVm({ id: 'b' })])).status, 200);
  assert.deepEqual([await idsOf(app.url), app.store.changes], [['b', 'a'], 2]);
  await app.registry.register(aVm({ id: 'c' }));
  assert.equal(app.store.changes, 3);
});

test('other changes wait for an import, which waits for the changes before it', async (t) => {
  const store = new GatedStore();
  const app = await serveApp(t, { store });
  const before = app.registry.register(aVm({ id: 'x' }));
  const importing = post(app.url, [aVm({ id: 'a' }), aVm({ id: 'x' }), aVm({ id: 'b' })]);
  await until('the import to arrive', () => store.waiting === 1);
  await store.release();
  await before;
  await until('the commit of the import', () => store.waiting === 1);
  assert.equal(app.registry.has('a'), false);
  const after = [
    app.registry.register(aVm({ id: 'a', name: 'late' })).catch(({ code }: VregError) => code),
    app.registry.update('b', { name: 'changed' }).then(({ vm }) => vm.name),
    app.registry.deregister('x').then(({ revision }) => revision > 3),
    app.registry.replace(aVm({ id: 'c' })).then(({ created }) => created),
    app.registry.commitTokens([{ kind: 'token', key: 'k', body: '{}' }], 'test'),
  ];
  assert.equal(store.waiting, 1);
  assert.deepEqual(outcomes(await store.settle(importing)), [
    ['a', 'created'],
    ['x', 'exists', 'id'],
    ['b', 'created'],
  ]);
  assert.deepEqual(await store.settle(Promise.all(after)), ['CONFLICT', 'changed', true, true, undefined]);
  assert.deepEqual(await idsOf(app.url), ['c', 'b', 'a']);
});

test('imports that wait for another one run one after the other, and other changes between them', async (t) => {
  const store = new GatedStore();
  const { registry } = await serveApp(t, { store });
  const forEach: ForEach = async (items, act) => items.forEach(act);
  const imported = (...ids: string[]) =>
    registry
      .import(
        ids.map((id) => aVm({ id })),
        { forEach },
      )
      .then((results) => results.map((result) => (result instanceof VregError ? result.code : result.id)));
  const work = [
    imported('a', 'b'),
    imported('b', 'c'),
    registry.register(aVm({ id: 'd' })).then(({ id }) => id),
    imported('c', 'd', 'e'),
    registry.register(aVm({ id: 'e' })).then(
      ({ id }) => id,
      ({ code }: VregError) => code,
    ),
  ];
  const results = await store.settle(Promise.all(work));
  assert.deepEqual(results.slice(0, 2), [
    ['a', 'b'],
    ['CONFLICT', 'c'],
  ]);
  // Each id is registered once, whichever comes first.
  assert.deepEqual(
    results
      .flat()
      .filter((result) => result !== 'CONFLICT')
      .toSorted(),
    ['a', 'b', 'c', 'd', 'e'],
  );
  const revisions = registry.list({}).map(({ version }) => version.revision);
  assert.deepEqual(revisions, [5, 4, 3, 2, 1]);
});

for (const [form, wrap] of [
  ['a list', (list: string) => list],
  ['an object', (list: string) => `{"vms":${list}}`],
] as const) {
  test(`in ${form}, an entry may have 128 levels, and one that is not acceptable JSON is invalid by itself`, async (t) => {
    const { url } = await serveApp(t);
    const entry = (id: string, metadata: string) =>
      JSON.stringify({ ...aVm({ id }), metadata: {} }).replace('{}', metadata);
    const nested = (depth: number) => `${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`;
    const entries = [
      entry('deep', nested(127)),
      entry('deeper', nested(128)),
      entry('deepest', nested(10_000)),
      entry('number', '{"n":1e999}'),
      entry('prototype', '{"__proto__":{}}'),
      entry('plain', '{}'),
    ];
    const { status, body } = await post(url, wrap(`[${entries}]`));
    const { entries: outcomes } = body as {
      entries: { id: string; outcome: string; field?: string; error?: string }[];
    };
    assert.equal(status, 200);
    assert.deepEqual(
      outcomes.map(({ id, outcome, error }) => [id, outcome, error]),
      [
        ['deep', 'created', undefined],
        ['deeper', 'invalid', 'body is nested more than 128 levels deep'],
        ['deepest', 'invalid', 'body is nested more than 128 levels deep'],
        ['number', 'invalid', `body has a number beyond ${Number.MAX_VALUE}`],
        ['prototype', 'invalid', 'body cannot have the key "__proto__"'],
        ['plain', 'created', undefined],
      ],
    );
    // Its own list of entries, which is two levels deeper, can be imported again.
    const { body: exported } = await call(url, 'GET', '/registry/vms');
    const other = await serveApp(t);
    assert.equal(((await post(other.url, JSON.stringify(exported))).body as { created: number }).created, 2);
  });
}

const BODIES: readonly [name: string, body: string, message: RegExp][] = [
  ['no list', '{"entries":[]}', /body must be \{"vms": \[\.\.\.\]\}/],
  ['a list under another name only', '{"vms":{"vms":[]}}', /body must be/],
  ['a text', '"vms"', /body must be/],
  ['nothing', '', /body must be/],
  ['an entry that is not JSON', `{"vms":[{"id":"a"},{"id":]}`, /not valid JSON/],
  ['an entry that is not JSON besides the list', `{"vms":[],"more":{"a":{"b":}}}`, /not valid JSON/],
  ['crossed brackets', '[{"a":[}]]', /not valid JSON/],
  ['a bracket too many', '[{}]]', /not valid JSON/],
  ['two lists', '[{}][{}]', /not valid JSON/],
  ['no comma between entries', '[{}{}]', /not valid JSON/],
  ['a comma at the end', '[{},]', /not valid JSON/],
  ['an open string', '[{"a":"]}]', /not valid JSON/],
  ['a prototype besides the list', '{"vms":[],"more":[{"__proto__":{"id":"a"}}]}', /__proto__/],
  ['a number beyond the range besides the list', '{"vms":[],"n":1e999}', /number/],
  [
    '129 levels besides the list',
    `{"vms":[],"more":[${'{"a":'.repeat(129)}1${'}'.repeat(129)}]}`,
    /more than 128 levels/,
  ],
  [
    'a million brackets besides the list',
    `{"vms":[],"more":[${'['.repeat(1e6)}${']'.repeat(1e6)}]}`,
    /more than 128 levels/,
  ],
  [
    `${MAX_IMPORT + 1} entries`,
    JSON.stringify(Array.from({ length: MAX_IMPORT + 1 }, () => ({}))),
    /too many entries \(limit 10000\)/,
  ],
  [`${MAX_IMPORT + 1} numbers`, `{"vms":[${'0,'.repeat(MAX_IMPORT)}0]}`, /too many entries/],
  ['a million objects without commas', `[${'{}'.repeat(1_000_000)}]`, /too many entries/],
  ['a million members', `{${'"a":0,'.repeat(1_000_000)}"vms":[]}`, /too many entries/],
];

for (const [name, body, message] of BODIES) {
  test(`an import with ${name} is 400, and nothing is registered`, async (t) => {
    const app = await serveApp(t);
    const text = body.replace('[{', `[${JSON.stringify(aVm())},{`);
    const answer = await post(app.url, text);
    assert.deepEqual([answer.status, (answer.body as { field: string }).field], [400, 'body'], errorOf(answer));
    assert.match(errorOf(answer), message);
    assert.equal(app.store.changes, 0);
  });
}

test('strings with brackets, quotes and backslashes, white space and a byte order mark do not confuse an import', async (t) => {
  const { url, registry } = await serveApp(t);
  const odd = ['[{"', '\\', '\\"', '"]}', '{}', '[0]', 'ü🦊\u2028x', '\\u0022', '],"vms":['];
  const entries = odd.map((name, n) => aVm({ id: `vm-${n}`, name, metadata: { [name]: [name, { [name]: {} }] } }));
  const pretty = JSON.stringify({ before: odd, vms: entries, after: { a: [[]] } }, null, '\t');
  const answer = await post(url, `\ufeff \r\n${pretty}\n`);
  assert.equal((answer.body as Imported).created, odd.length, JSON.stringify(answer.body));
  for (const [n, name] of odd.entries()) {
    const { vm } = registry.get(`vm-${n}`);
    assert.deepEqual([vm.name, vm.metadata], [name, { [name]: [name, { [name]: {} }] }]);
  }
  assert.deepEqual((await post(url, [])).body, { entries: [], count: 0, created: 0 });
});

test('an import of 10,000 entries with 16 MiB is one commit, and other requests are served meanwhile', async (t) => {
  const app = await serveApp(t);
  await app.registry.register(aVm({ id: 'x' }));
  const events = await readEvents(t, app.url);
  await events.seen('synced');
  let beats = 0;
  /** Heartbeats before the import was validated, and before each commit. */
  const before = { import: 0, commits: [] as number[] };
  const { store, registry } = app;
  const [commitAll, importAll] = [store.commitAll.bind(store), registry.import.bind(registry)];
  registry.import = (...args) => {
    before.import = beats;
    return importAll(...args);
  };
  store.commitAll = (changes) => {
    before.commits.push(beats);
    return commitAll(changes);
  };
  const entries = Array.from({ length: MAX_IMPORT }, (_, n) => whole(app, `vm-${n}`, { registered: 1000, seen: 10 }));
  const pad = Math.floor((MAX_IMPORT_BODY - JSON.stringify({ vms: entries }).length) / MAX_IMPORT) - 30;
  const body = JSON.stringify({ vms: entries.map((entry) => ({ ...entry, metadata: { pad: 'x'.repeat(pad) } })) });
  assert.ok(body.length > 0.97 * MAX_IMPORT_BODY && body.length <= MAX_IMPORT_BODY);
  let isDone = false;
  const importing = post(app.url, body).finally(() => (isDone = true));
  while (!isDone) {
    await call(app.url, 'POST', '/registry/vms/x/heartbeat');
    beats++;
  }
  const answer = await importing;
  assert.deepEqual([answer.status, (answer.body as Imported).created, before.commits.length], [200, MAX_IMPORT, 1]);
  assert.ok(before.import > 0, 'a heartbeat was received while the entries were read');
  assert.ok(before.commits[0]! > before.import, 'a heartbeat was received while they were validated');
  await events.seen('registered', MAX_IMPORT);
  assert.equal(events.lines().includes('lagged'), false);
});

test('only tokens with the scope admin may import, and their name is in the history', async (t) => {
  const app = await serveApp(t, { token: 's3cret' });
  const { tokens } = app.authenticator;
  const writer = await tokens.create({ name: 'w', scope: 'write' }, 'test');
  const admin = await tokens.create({ name: 'mover', scope: 'admin' }, 'test');
  const as = (secret: string) =>
    call(app.url, 'POST', PATH, { body: [aVm()], headers: { authorization: `Bearer ${secret}` } });
  assert.equal((await as(writer.token)).status, 403);
  assert.equal((await as(admin.token)).status, 200);
  assert.equal((await app.registry.history('vm-1', 1))[0]!.by, 'mover');
});
