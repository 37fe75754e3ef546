/** Positions on the disk: across starts, backups, restores and copies, and in stores of the previous schema. */
import assert from 'node:assert/strict';
import { cpSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { Registry } from '../../../daemon/registry/registry.ts';
import { VmRecord } from '../../../daemon/registry/vm-record.ts';
import { restore } from '../../../daemon/store/restore.ts';
import { FakeClock } from '../../helpers/clock.ts';
import { edit } from '../../helpers/crash/damage.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { openStore, putOf, readStore } from '../../helpers/store.ts';
import { aVm } from '../../helpers/vm.ts';

/** A data dir and a backup of schema 3. */
const OLD = join(import.meta.dirname, '../../data/3e95f1a');

async function openRegistry(t: TestContext, dir: string) {
  const { store, contents } = await openStore(t, dir);
  const options = { store, clock: new FakeClock(), staleAfter: 300_000 };
  const registry = new Registry(options, { ...contents, vms: contents.vms.map(VmRecord.fromStored) });
  return { store, registry, positions: registry.positions };
}

/** The position of a data dir that no process uses. */
async function positionIn(t: TestContext, dir: string): Promise<string> {
  const { store, positions } = await openRegistry(t, dir);
  await store.close();
  return positions.current;
}

function copyOf(t: TestContext, dir: string): string {
  const copy = join(tempDir(t), 'copy');
  cpSync(dir, copy, { recursive: true });
  return copy;
}

/** The user version in the header of a closed database (sqlite.org/fileformat2.html, 1.3). */
function schemaOf(dir: string): number {
  return readFileSync(join(dir, 'registry.db')).readUInt32BE(60);
}

test('a position survives starts and heartbeats, and a new store begins at its registry id', async (t) => {
  const [dir, other] = [tempDir(t), tempDir(t)];
  const initial = await positionIn(t, dir);
  assert.match(initial, /^0-[0-9a-f]{16}$/);
  assert.equal(await positionIn(t, dir), initial);
  assert.notEqual(await positionIn(t, other), initial);
  const { store, registry, positions } = await openRegistry(t, dir);
  await registry.register(aVm({ id: 'a' }));
  await registry.commitTokens([{ kind: 'token', key: 'ops', body: '{}' }], 'ops');
  await registry.register(aVm({ id: 'b' }));
  registry.heartbeat('a');
  await registry.saveHeartbeats();
  await store.close();
  const again = await openRegistry(t, dir);
  assert.equal(again.positions.current, positions.current);
  assert.deepEqual(
    [initial, positions.current].map((text) => again.positions.compare(text)),
    ['same', 'same'],
  );
  assert.equal(again.registry.get('a').position, registry.get('a').position);
  assert.deepEqual(
    (await again.registry.history('b', 10)).map(({ position }) => position),
    [positions.current],
  );
});

test('a restored backup of the same, an earlier or a much earlier revision is another history only after its next change', async (t) => {
  const dir = tempDir(t);
  const known: string[] = [];
  let { store, registry, positions } = await openRegistry(t, dir);
  const files = tempDir(t);
  for (const id of ['a', 'b', 'c', 'd', 'e']) {
    await registry.register(aVm({ id }));
    await store.backup(join(files, `${id}.db`));
    known.push(positions.current);
  }
  const etags = new Map(registry.list({}).map(({ vm, position }) => [vm.id, position]));
  await store.close();
  for (const [index, file] of ['e', 'd', 'a'].entries()) {
    const revision = [5, 4, 1][index]!;
    await restore(dir, join(files, `${file}.db`));
    ({ store, registry, positions } = await openRegistry(t, dir));
    assert.equal(positions.current, known[revision - 1]);
    const expected = known.map((_, at) => (at < revision ? 'same' : 'other'));
    assert.deepEqual(
      known.map((position) => positions.compare(position)),
      expected,
      `before new changes: ${file}`,
    );
    for (const { vm, position } of registry.list({})) assert.equal(position, etags.get(vm.id), 'ETags stay');
    for (let n = revision; n < 7; n++) await registry.register(aVm({ id: `new-${n}` }));
    assert.deepEqual(
      known.map((position) => positions.compare(position)),
      expected,
      `after new changes: ${file}`,
    );
    for (const [id, etag] of etags) {
      const update = registry.update(id, { name: 'x' }, { expect: [etag] });
      if (registry.has(id)) await update;
      else await assert.rejects(update, { code: 'NOT_FOUND' });
    }
    await store.close();
  }
});

test('two registries on copies of one data dir have other positions after their next changes', async (t) => {
  const dir = tempDir(t);
  const first = await openRegistry(t, dir);
  await first.registry.register(aVm({ id: 'a' }));
  await first.store.close();
  const copy = copyOf(t, dir);
  const [one, two] = [await openRegistry(t, dir), await openRegistry(t, copy)];
  assert.equal(one.positions.current, two.positions.current);
  await one.registry.update('a', { name: 'one' });
  assert.equal(two.positions.compare(one.positions.current), 'other');
  await two.registry.update('a', { name: 'two' });
  assert.equal(two.positions.compare(one.positions.current), 'other');
  assert.equal(one.positions.compare(two.positions.current), 'other');
  assert.equal(one.positions.compare(first.positions.current), 'same');
});

test('the store refuses a change that does not follow its last one, and stores nothing of its group', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  await store.commit(putOf({ id: 'a', revision: 1 }));
  const foreign = { ...putOf({ id: 'b', revision: 2 }), previousTag: '0123456789abcdef' };
  const outcomes = await Promise.allSettled([store.commit(foreign), store.commit(putOf({ id: 'c', revision: 2 }))]);
  const [refused, follows] = outcomes as [PromiseRejectedResult, PromiseSettledResult<void>];
  assert.equal(refused.reason.code, 'INTERNAL');
  assert.match(refused.reason.message, /change 2 follows tag 0123456789abcdef, but the store ends with tag 0{15}1$/);
  await store.close();
  const { vms } = await readStore(dir);
  assert.deepEqual(
    vms.map(({ id }) => id),
    follows.status === 'fulfilled' ? ['a', 'c'] : ['a'],
  );
});

for (const [table, what] of [
  ['state', /state row fails its checksum/],
  ['vms', /entry of VM "a" fails its checksum/],
  ['journal', /journal fails its checksum \(revision 1\)/],
] as const) {
  test(`a wrong or missing tag in the table ${table} is damage`, async (t) => {
    const dir = tempDir(t);
    const { store } = await openStore(t, dir);
    await store.commit(putOf({ id: 'a', revision: 1 }));
    await store.close();
    for (const value of ["'0123456789abcdef'", 'NULL']) {
      const copy = copyOf(t, dir);
      await edit(copy, `UPDATE ${table} SET tag = ${value}`);
      await assert.rejects(readStore(copy), { code: 'STORE_DAMAGED', message: what });
    }
  });
}

test('a store of schema 3 has a position that its copies and backups share, and a start does not upgrade it', async (t) => {
  const dir = copyOf(t, join(OLD, 'data-dir'));
  const position = await positionIn(t, dir);
  assert.match(position, /^36-[0-9a-f]{16}$/);
  const { store, registry, positions } = await openRegistry(t, dir);
  registry.heartbeat('worker-1');
  await registry.saveHeartbeats();
  assert.deepEqual([positions.compare(position), positions.compare('35-0123456789abcdef')], ['same', 'unknown']);
  assert.equal(positions.compare('36-0123456789abcdef'), 'other');
  await store.close();
  assert.equal(schemaOf(dir), 3);
  assert.equal(await positionIn(t, dir), position);
  const backup = tempDir(t);
  cpSync(join(OLD, 'backup.db'), join(backup, 'registry.db'));
  assert.equal(await positionIn(t, backup), position, 'records and heartbeats do not count');
});

test('the first change upgrades a store of schema 3 and keeps its position, its ETags and its history', async (t) => {
  const dir = copyOf(t, join(OLD, 'data-dir'));
  const old = await openRegistry(t, dir);
  const etags = new Map(old.registry.list({}).map(({ vm, position }) => [vm.id, position]));
  const before = old.positions.current;
  const history = await old.registry.history('worker-1', 10);
  assert.ok(history.length > 0 && history.every(({ position }) => position === undefined));
  const foreign = { ...putOf({ id: 'x', revision: 37 }), previousTag: '0123456789abcdef' };
  await assert.rejects(async () => old.store.commit(foreign), { code: 'INTERNAL' });
  old.registry.heartbeat('worker-1');
  await old.registry.saveHeartbeats();
  assert.deepEqual(await old.registry.history('worker-1', 10), history);
  await old.registry.register(aVm({ id: 'new' }));
  await old.registry.update('worker-1', { name: 'changed' });
  const after = old.positions.current;
  await old.store.close();
  assert.equal(schemaOf(dir), 4);

  const { registry, positions, store } = await openRegistry(t, dir);
  assert.equal(positions.current, after);
  assert.deepEqual(
    [before, after, '35-0123456789abcdef'].map((text) => positions.compare(text)),
    ['same', 'same', 'unknown'],
  );
  for (const { vm, position } of registry.list({}))
    if (vm.id !== 'new' && vm.id !== 'worker-1') assert.equal(position, etags.get(vm.id), vm.id);
  assert.equal(registry.get('worker-1').position, after);
  const [change, ...earlier] = await registry.history('worker-1', 10);
  assert.deepEqual([change?.position, earlier], [after, history]);
  assert.deepEqual(
    (await registry.changesSince(36))?.map(({ type, entry }) => `${type} ${entry.vm.id}`),
    ['registered new', 'updated worker-1'],
  );
  assert.equal(await registry.changesSince(0), undefined, 'changes before the upgrade have no positions');
  await store.close();
});

test('a store of schema 3 whose first change fails stays as it was', async (t) => {
  const dir = copyOf(t, join(OLD, 'data-dir'));
  const { store } = await openStore(t, dir);
  const foreign = { ...putOf({ id: 'x', revision: 37 }), previousTag: '0123456789abcdef' };
  await assert.rejects(async () => store.commit(foreign), { code: 'INTERNAL' });
  await store.close();
  assert.equal(schemaOf(dir), 3);
  assert.equal((await readStore(dir)).revision, 36);
});

test('the journal returns the last change of each VM in a range, or nothing if it does not reach back', async (t) => {
  const { store, registry } = await openRegistry(t, tempDir(t));
  for (const id of ['a', 'b', 'c']) await registry.register(aVm({ id, metadata: { large: 'x'.repeat(5000) } }));
  await registry.commitTokens([{ kind: 'token', key: 'ops', body: '{}' }], 'ops');
  await registry.update('a', { name: 'two' });
  await registry.deregister('b');
  const short = async (after: number, until: number) =>
    (await store.lastChanges(after, until))?.map(({ revision, type, id }) => `${revision} ${type} ${id}`);
  assert.deepEqual(await short(0, 6), ['3 registered c', '5 updated a', '6 deregistered b']);
  assert.deepEqual(await short(3, 5), ['5 updated a']);
  assert.deepEqual(await short(6, 6), []);
  const [, , removal] = (await store.lastChanges(0, 6))!;
  assert.deepEqual([removal?.removed.name, removal?.removed.role], ['one', 'worker']);
  const [, event] = (await registry.changesSince(4))!;
  assert.equal(event?.entry.vm.metadata, undefined, 'the journal has only its length');
});
