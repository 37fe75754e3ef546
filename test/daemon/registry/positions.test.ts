/** Positions: which histories have equal ones, and how a registry compares the position of a client. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { Tokens } from '../../../daemon/access/tokens.ts';
import { Positions } from '../../../daemon/registry/positions.ts';
import { Registry } from '../../../daemon/registry/registry.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import { JOURNAL_LENGTH } from '../../../src/protocol/events.ts';
import { formatPosition } from '../../../src/protocol/position.ts';
import { anAuthenticator, credentialsWith } from '../../helpers/access.ts';
import { FakeClock } from '../../helpers/clock.ts';
import { GatedStore } from '../../helpers/gated-store.ts';
import { MemoryStore } from '../../helpers/memory-store.ts';
import { aVm } from '../../helpers/vm.ts';

function open<S extends MemoryStore>(store: S, clock = new FakeClock()) {
  return { store, clock, registry: new Registry({ store, clock, staleAfter: 300_000 }, store.contents()) };
}

/** A copy of the contents, as a backup or a copied data dir has them. */
function copyOf(store: MemoryStore): MemoryStore {
  const copy = new MemoryStore();
  for (const [id, vm] of store.vms) copy.vms.set(id, { ...vm });
  for (const [key, record] of store.records) copy.records.set(key, { ...record });
  copy.journal.push(...store.journal);
  copy.positions.splice(0, copy.positions.length, ...store.positions);
  return copy;
}

test('two registries with the same contents have equal positions until their next changes differ', async () => {
  const first = open(new MemoryStore());
  await first.registry.register(aVm({ id: 'a' }));
  const second = open(copyOf(first.store), first.clock);
  assert.equal(second.registry.positions.current, first.registry.positions.current);
  for (const { registry } of [first, second]) await registry.update('a', { name: 'same' });
  assert.equal(second.registry.positions.current, first.registry.positions.current, 'the same change at the same time');
  const shared = first.registry.positions.current;
  await first.registry.update('a', { name: 'one' });
  await second.registry.update('a', { name: 'two' });
  for (const [mine, other] of [
    [first, second],
    [second, first],
  ] as const) {
    const { positions } = mine.registry;
    assert.deepEqual(
      [shared, positions.current, other.registry.positions.current].map((text) => positions.compare(text)),
      ['same', 'same', 'other'],
    );
  }
  for (const { registry } of [first, second]) await registry.update('a', { name: 'equal again' });
  assert.equal(
    second.registry.positions.compare(first.registry.positions.current),
    'other',
    'a tag chains all changes',
  );
});

test('each part of a change affects its tag', async () => {
  const tagAfter = async (change: (registry: Registry, clock: FakeClock) => Promise<unknown>) => {
    const { registry, clock } = open(new MemoryStore());
    await change(registry, clock);
    return registry.positions.latest.tag;
  };
  const tags = [
    await tagAfter(async () => {}),
    await tagAfter((registry) => registry.register(aVm())),
    await tagAfter((registry) => registry.register(aVm({ id: 'other' }))),
    await tagAfter((registry) => registry.register(aVm({ metadata: { n: 1 } }))),
    await tagAfter((registry) => registry.register(aVm(), { by: 'ops' })),
    await tagAfter((registry, clock) => {
      clock.wall += 1;
      return registry.register(aVm());
    }),
    await tagAfter((registry) =>
      registry.register(aVm(), {
        attach: () => ({ records: [{ kind: 'token', key: 't', body: '{}' }], committed() {}, failed() {} }),
      }),
    ),
    await tagAfter((registry) => registry.commitTokens([{ kind: 'token', key: 't', body: '{"n":1}' }], 'ops')),
    await tagAfter((registry) => registry.commitTokens([{ kind: 'token', key: 't', body: '{"n":2}' }], 'ops')),
    await tagAfter((registry) => registry.commitTokens([{ kind: 'token', key: 't', body: undefined }], 'ops')),
  ];
  assert.equal(new Set(tags).size, tags.length);
  assert.equal(await tagAfter((registry) => registry.register(aVm())), tags[1], 'it is deterministic');
});

test('heartbeats, identities, conflicts and the last use of a token do not change the position', async () => {
  const { registry, create, authenticator } = anAuthenticator();
  await registry.register(aVm({ id: 'a' }));
  const { token } = await create({ name: 'ops', scope: 'admin' });
  const before = registry.positions.current;
  const proof = { next: `1.${'a'.repeat(32)}`, incarnation: 'one' };
  registry.heartbeat('a', proof);
  try {
    registry.heartbeat('a', { next: `1.${'b'.repeat(32)}`, incarnation: 'two' });
  } catch {
    // The second incarnation is a conflict.
  }
  authenticator.authenticate(credentialsWith(token));
  await registry.saveHeartbeats();
  assert.equal(registry.positions.current, before);
});

test('the last use of a token does not affect the tag of a later change of that token', async () => {
  const commit = async (more: object) => {
    const { registry } = open(new MemoryStore());
    const body = JSON.stringify({ name: 't', ...more });
    await registry.commitTokens([{ kind: 'token', key: 't', body }], 'ops');
    return registry.positions.current;
  };
  const used = { lastUsedAt: '2026-01-01T00:00:00.000Z', lastUsedFrom: '192.0.2.1' };
  assert.equal(await commit(used), await commit({}));
});

test('a registry distinguishes forged, malformed, future and forgotten positions', async () => {
  const { registry, store } = open(new MemoryStore());
  const { positions } = registry;
  assert.equal(positions.compare(positions.current), 'same');
  for (let n = 0; n < 3; n++) await registry.register(aVm({ id: `vm-${n}` }));
  for (const revision of [0, 1, 2, 3]) assert.equal(positions.compare(store.positionAt(revision)), 'same');
  const [, tag] = positions.current.split('-');
  for (const other of [`4-${tag}`, `2-${tag}`, `0-${tag}`, '3-0000000000000000', `999999999999999-${tag}`])
    assert.equal(positions.compare(other), 'other', other);
  const malformed = [
    '',
    '3',
    '-',
    `3-${tag} `,
    `03-${tag}`,
    `3-${tag!.toUpperCase()}G`,
    `3-${tag!.slice(1)}`,
    `-3-${tag}`,
  ];
  for (const text of [...malformed, `1e1-${tag}`, `9999999999999999-${tag}`, `3-${tag}\n`, 'x'.repeat(10_000)])
    assert.equal(positions.compare(text), 'unknown', text.slice(0, 40));
});

test('after as many changes as the journal retains, a position is unknown, and memory does not grow', async () => {
  const { registry } = open(new MemoryStore());
  await registry.register(aVm({ id: 'a' }));
  const { positions } = registry;
  const old = positions.current;
  const tagAt = (revision: number) => revision.toString(16).padStart(16, '0');
  for (let revision = 2; revision <= JOURNAL_LENGTH; revision++) positions.publish({ revision, tag: tagAt(revision) });
  assert.equal(positions.compare(old), 'same');
  for (let revision = JOURNAL_LENGTH + 1; revision <= 100_000; revision++)
    positions.publish({ revision, tag: tagAt(revision) });
  assert.equal(positions.compare(old), 'unknown');
  const oldest = 100_000 - JOURNAL_LENGTH + 1;
  assert.equal(positions.compare(`${oldest - 1}-${tagAt(oldest - 1)}`), 'unknown');
  assert.equal(positions.compare(`${oldest}-${tagAt(oldest)}`), 'same');
  assert.equal(positions.compare(`${oldest}-${tagAt(1)}`), 'other');
});

test('a failed group releases its revisions and tags, and a rejected change uses none', async () => {
  const { registry, store } = open(new GatedStore());
  const first = registry.register(aVm({ id: 'a' }));
  await store.release();
  await first;
  const before = registry.positions.current;
  const failing = Promise.allSettled([
    registry.register(aVm({ id: 'b' })),
    registry.commitTokens([{ kind: 'token', key: 't', body: '{}' }], 'ops'),
    registry.update('a', { name: 'two' }),
  ]);
  assert.equal(registry.positions.current, before, 'a pending change is not published');
  store.fail(new VregError('STORE_FULL', 'the disk is full'));
  await failing;
  assert.equal(registry.positions.current, before);
  const accepted = registry.update('a', { name: 'three' });
  store.refusal = new VregError('BUSY', 'too many changes are waiting');
  await assert.rejects(registry.register(aVm({ id: 'c' })), { code: 'BUSY' });
  await assert.rejects(registry.commitTokens([], 'ops'), { code: 'BUSY' });
  store.refusal = undefined;
  const next = registry.register(aVm({ id: 'd' }));
  await store.release();
  await Promise.all([accepted, next]);
  assert.equal(registry.revision, 3, 'the store has accepted their tags');
  assert.equal(open(copyOf(store)).registry.positions.current, registry.positions.current);
});

test('positions are published in commit order, before any caller continues, also across kinds of changes', async () => {
  const { registry, store } = open(new GatedStore());
  const seen: [string, number][] = [];
  const note = (name: string) => () => void seen.push([name, registry.revision]);
  const changes = [
    registry.register(aVm({ id: 'a' })).then(note('register')),
    registry.commitTokens([{ kind: 'token', key: 't', body: '{}' }], 'ops').then(note('token')),
    registry.replace(aVm({ id: 'a', name: 'two' })).then(note('replace')),
    registry.deregister('a').then(note('deregister')),
  ];
  const published: number[] = [];
  const publish = registry.positions.publish.bind(registry.positions);
  registry.positions.publish = (position) => {
    published.push(position.revision);
    publish(position);
  };
  await store.release();
  await Promise.all(changes);
  assert.deepEqual(published, [1, 2, 3, 4]);
  const at = { register: 1, token: 2, replace: 3, deregister: 4 };
  for (const [name, revision] of seen) assert.ok(revision >= at[name as keyof typeof at], `${name} saw ${revision}`);
});

test('a repeated revocation is a change with a position, and it is not repeated once it is durable', async () => {
  const store = new MemoryStore();
  const { registry, create, tokens } = anAuthenticator({ store });
  assert.ok(tokens instanceof Tokens);
  await create({ name: 'ops', scope: 'admin' });
  store.failure = new VregError('STORE_FULL', 'the disk is full');
  await assert.rejects(tokens.revoke('ops', 'test'), { code: 'STORE_FULL' });
  await registry.saveHeartbeats();
  store.failure = undefined;
  assert.equal(registry.revision, 1);
  await registry.saveHeartbeats();
  assert.deepEqual([registry.revision, store.records.has('token ops')], [2, false]);
  await registry.saveHeartbeats();
  assert.equal(registry.revision, 2);
});

test('an entry keeps the position of its last change across restarts', async () => {
  const { registry, store } = open(new MemoryStore());
  await registry.register(aVm({ id: 'a' }));
  await registry.register(aVm({ id: 'b' }));
  const { position } = registry.get('a');
  assert.equal(position, store.positionAt(1));
  assert.equal(open(copyOf(store)).registry.get('a').position, position);
});

test('a position from before the first change of this history belongs to another one', () => {
  const [start, tag] = [{ revision: 5, tag: 'a'.repeat(16) }, 'b'.repeat(16)];
  assert.equal(new Positions([start], true, 5).compare(`4-${tag}`), 'other');
  assert.equal(new Positions([{ revision: 8, tag }], true, 5).compare(`6-${tag}`), 'unknown', 'it may have been here');
});

test('the position of an earlier change that becomes known later is remembered, and does not become the current one', () => {
  const at = (revision: number) => ({ revision, tag: String(revision % 10).repeat(16) });
  const positions = new Positions([at(5), at(8)], true, 5);
  const text = formatPosition(at(7));
  assert.equal(positions.compare(text), 'other');
  positions.publish(at(7));
  assert.equal(positions.current, formatPosition(at(8)));
  assert.equal(positions.compare(text), 'same');
});
