import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import worker_threads from 'node:worker_threads';
import { createBudgets } from '../../../daemon/limits/budgets.ts';
import { checkDatabase } from '../../../daemon/store/check.ts';
import { openDataDir } from '../../../daemon/store/data-dir.ts';
import { prepareStore, SqliteStore } from '../../../daemon/store/sqlite-store.ts';
import type { Change, Contents, ForEach } from '../../../daemon/store/store.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { chain, openDir, openStore, putOf, readStore, removalOf, tagAt } from '../../helpers/store.ts';

/** The contents without the clock. */
const entriesOf = ({ vms, revision, registryId }: Contents) => ({ vms, revision, registryId });

test('a new data dir is an empty registry with a registry id that never changes', async (t) => {
  const dir = join(tempDir(t), 'deep', 'data');
  const first = await openStore(t, dir);
  assert.deepEqual(
    { ...first.contents, registryId: '' },
    { vms: [], records: [], revision: 0, listened: 0, registryId: '', positions: first.contents.positions },
  );
  assert.match(first.contents.registryId, /^[0-9a-f]{32}$/);
  await first.store.close();
  assert.deepEqual(await readStore(dir), first.contents);
  assert.notEqual((await readStore(tempDir(t))).registryId, first.contents.registryId);
});

test('many concurrent changes all become durable, in their order', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  const settled: number[] = [];
  const changes: Change[] = Array.from({ length: 5000 }, (_, index) =>
    putOf({ id: `vm-${index}`, revision: index + 1 }),
  );
  await Promise.all(changes.map((change) => store.commit(change).then(() => settled.push(change.revision))));
  assert.deepEqual(
    settled,
    changes.map(({ revision }) => revision),
  );
  await store.close();
  const { vms, revision } = await readStore(dir);
  assert.equal(revision, 5000);
  assert.deepEqual(
    vms.map(({ id }) => id),
    changes.map((_, index) => `vm-${index}`),
  );
});

const inOrder: ForEach = async (items, act) => {
  for (const item of items) act(item);
};

test('changes of an import become durable together, behind those that were queued before', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  const more = {
    metadata: { text: 'ü"\\\ud800', deep: [{ a: null }] },
    reefConfig: { services: ['a'], capabilities: [] },
  };
  const changes = Array.from({ length: 3000 }, (_, n) => putOf({ id: `vm-${n}`, revision: n + 2, more }));
  const life = { lastSeen: 5, heardAt: -1000.5 };
  changes.push(putOf({ id: 'last', revision: 3002, life }));
  const chained = chain(changes, tagAt(1));
  await Promise.all([store.commit(putOf({ id: 'first', revision: 1 })), store.commitAll(chained, inOrder)]);
  // A change that does not follow the last one fails, and with it all others of the import.
  const wrong = [putOf({ id: 'x', revision: 3003 }), { ...putOf({ id: 'y', revision: 3004 }), previousTag: tagAt(9) }];
  await assert.rejects(store.commitAll(chain(wrong, tagAt(3002)), inOrder), { code: 'INTERNAL' });
  await store.commit({ ...putOf({ id: 'next', revision: 3003 }), previousTag: tagAt(3002) });
  assert.equal((await store.history('vm-7', 10)).length, 1);
  await store.close();
  const { vms, revision } = await readStore(dir);
  assert.equal(revision, 3003);
  assert.deepEqual(
    vms.map(({ id }) => id),
    ['first', ...changes.map((change) => (change.kind === 'put' ? change.vm.id : '')), 'next'],
  );
  assert.deepEqual(JSON.parse(vms[1]!.body), { ...JSON.parse(vms[0]!.body), ...more, id: 'vm-0', name: 'vm-0' });
  const { lastSeen, heardAt } = vms[3001]!;
  assert.deepEqual({ lastSeen, heardAt }, life);
});

test('queued large entries are limited in bytes, and small entries are always accepted', async (t) => {
  const budget = createBudgets({ changes: 100_000 }).changes;
  const { store } = await openDir(tempDir(t), { budget });
  t.after(() => store.close());
  const more = { metadata: { pad: 'x'.repeat(40_000) } };
  const durable = [1, 2].map((revision) => store.commit(putOf({ id: `large-${revision}`, revision, more })));
  assert.throws(() => store.commit(putOf({ id: 'large-3', revision: 3, more })), {
    code: 'TOO_MANY_REQUESTS',
    message: /^the changes buffer is full \(limit .*\): changes arrive faster than the disk stores them$/,
    retryAfter: 1,
  });
  durable.push(store.commit(putOf({ id: 'small', revision: 3 })));
  await Promise.all(durable);
  await store.commit(putOf({ id: 'large-3', revision: 4, more }));
});

test('changes that exceed one transaction become durable in several, in their order', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  const more = { metadata: { pad: 'x'.repeat(9_000_000) } };
  const settled: number[] = [];
  const changes = [1, 2, 3].map((revision) => putOf({ id: 'vm', created: 1, revision, more }));
  await Promise.all(changes.map((change) => store.commit(change).then(() => settled.push(change.revision))));
  assert.deepEqual(settled, [1, 2, 3]);
  await store.close();
  assert.equal((await readStore(dir)).revision, 3);
});

test('a start reads back what was written: order, revisions, times, and any text', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  const ids = ['plain', 'ünï/cödé ☃', '𝄞', "'; DROP TABLE vms; --", 'x'.repeat(1024), '%2e', '-'];
  const metadata = {
    text: '\u0000 \ud800 "\\ \u2028',
    big: Number.MAX_SAFE_INTEGER,
    small: 1e-300,
    list: [null, true],
  };
  let revision = 0;
  for (const id of ids) {
    const life = { lastSeen: 1_700_000_000_000 + revision, heardAt: revision + 0.125 };
    await store.commit(putOf({ id, revision: ++revision, life, more: { metadata } }));
  }
  const updated = putOf({ id: ids[1]!, revision: ++revision, created: 2, more: { status: 'paused' } });
  await store.commit(updated);
  await store.saveHeartbeats([{ id: ids[2]!, lastSeen: 1_800_000_000_000, heardAt: 9.5 }], 10.75);
  await store.close();
  const { vms, listened, ...rest } = await readStore(dir);
  assert.equal(rest.revision, revision);
  assert.equal(listened, 10.75);
  assert.deepEqual(
    vms.map(({ id }) => id),
    ids,
  );
  assert.deepEqual(vms[1], updated.kind === 'put' ? updated.vm : undefined);
  assert.deepEqual([vms[2]?.lastSeen, vms[2]?.heardAt], [1_800_000_000_000, 9.5]);
  assert.deepEqual([vms[3]?.lastSeen, vms[3]?.heardAt], [1_700_000_000_003, 3.125]);
  assert.deepEqual(JSON.parse(vms[0]!.body).metadata, JSON.parse(JSON.stringify(metadata)));
});

test('VMs beyond one heartbeat page keep their own times, also in slots of removed VMs', async (t) => {
  const dir = tempDir(t);
  let revision = 0;
  const times = new Map<string, number>();
  const put = (id: string): Change => {
    revision++;
    times.set(id, 1000 * revision);
    return putOf({ id, revision, life: { lastSeen: 1000 * revision, heardAt: revision } });
  };
  const remove = (id: string): Change => {
    times.delete(id);
    return removalOf(id, ++revision);
  };
  const expected = () => [...times];
  const found = ({ vms }: Contents) => vms.map(({ id, lastSeen }) => [id, lastSeen]);
  let { store } = await openStore(t, dir);
  const all = async (changes: Change[]) => void (await Promise.all(changes.map((change) => store.commit(change))));
  await all(Array.from({ length: 700 }, (_, index) => put(`first-${index}`)));
  await all(Array.from({ length: 300 }, (_, index) => remove(`first-${2 * index}`)));
  await all(Array.from({ length: 400 }, (_, index) => put(`second-${index}`)));
  await store.close();
  let again = await openStore(t, dir);
  assert.deepEqual(found(again.contents), expected());
  // Again with the free slots that the load found, in one group with the removals that free more.
  store = again.store;
  await all([remove('first-1'), put('third-0'), remove('second-0'), put('first-1'), put('third-1')]);
  await store.saveHeartbeats([{ id: 'first-699', lastSeen: 5, heardAt: 1e6 }], 1e6);
  times.set('first-699', 5);
  await store.close();
  again = await openStore(t, dir);
  assert.deepEqual(found(again.contents), expected());
});

test('heartbeats of a large fleet are saved together, but read in slices between which the event loop runs', async (t) => {
  const dir = tempDir(t);
  const { store, contents } = await openStore(t, dir);
  const ids = Array.from({ length: 5000 }, (_, n) => `vm-${n}`);
  const changes = ids.map((id, n) => putOf({ id, revision: n + 1 }));
  await store.commitAll(chain(changes, contents.positions.at(-1)!.tag), inOrder);
  let turn = 0;
  const turns = new Set<number>();
  const counting = setInterval(() => turn++, 0);
  t.after(() => clearInterval(counting));
  function* heartbeats() {
    for (const [n, id] of ids.entries()) {
      turns.add(turn);
      // Let time pass, so that the timer is due in the next turn.
      if (n % 1000 === 0) for (const end = performance.now() + 2; performance.now() < end; );
      yield { id, lastSeen: 1000 + n, heardAt: n + 0.5 };
    }
  }
  await store.saveHeartbeats(heartbeats(), 10);
  assert.ok(turns.size > 1, 'other work ran while the heartbeats were read');
  await store.close();
  const { vms, listened } = await readStore(dir);
  assert.deepEqual(
    vms.map(({ id, lastSeen, heardAt }) => [id, lastSeen, heardAt]),
    ids.map((id, n) => [id, 1000 + n, n + 0.5]),
  );
  assert.equal(listened, 4999.5, 'no heartbeat is in the future of the listening clock');
});

test('a heartbeat that a later change has overtaken does not undo it', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  await store.commit(putOf({ id: 'a', revision: 1, life: { lastSeen: 2000, heardAt: 20 } }));
  await store.saveHeartbeats([{ id: 'a', lastSeen: 1000, heardAt: 10 }], 21);
  await store.saveHeartbeats([{ id: 'gone', lastSeen: 1000, heardAt: 10 }], 22);
  await store.close();
  const { vms, listened } = await readStore(dir);
  assert.deepEqual([vms.length, vms[0]?.lastSeen, vms[0]?.heardAt, listened], [1, 2000, 20, 22]);
});

test('the listening clock continues no earlier than the last sign of life', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  await store.saveHeartbeats([], 100);
  await store.commit(putOf({ id: 'a', revision: 1, life: { lastSeen: 1000, heardAt: 150.5 } }));
  await store.close();
  assert.equal((await readStore(dir)).listened, 150.5);
});

test('removing an unknown VM is still a revision', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  await store.commit(removalOf('nobody', 1));
  await store.close();
  assert.deepEqual(entriesOf(await readStore(dir)).vms, []);
  assert.equal((await readStore(dir)).revision, 1);
});

test('a change that the database refuses fails with its group and the waiting changes, and leaves no trace', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  await store.commit(putOf({ id: 'a', revision: 1, life: { lastSeen: 1000, heardAt: 1 } }));
  // The journal takes each revision once, so the group that repeats one fails as a whole.
  const group = [
    store.commit(putOf({ id: 'first', revision: 2 })),
    store.commit(putOf({ id: 'a', revision: 3, created: 1, life: { lastSeen: 9000, heardAt: 9 } })),
    store.commit(putOf({ id: 'b', revision: 4 })),
    store.commit(removalOf('a', 4)),
    store.commit(putOf({ id: 'c', revision: 5 })),
  ];
  const outcomes = (await Promise.allSettled(group)).map(({ status }) => status);
  assert.deepEqual(outcomes, ['fulfilled', 'rejected', 'rejected', 'rejected', 'rejected']);
  await assert.rejects(group[1]!, { code: 'INTERNAL', message: /could not write to its disk/ });
  await store.saveHeartbeats([{ id: 'first', lastSeen: 2000, heardAt: 2 }], 3);
  await store.commit(putOf({ id: 'd', revision: 3, life: { lastSeen: 3000, heardAt: 3 } }));
  await store.close();
  const { vms, revision } = await readStore(dir);
  assert.equal(revision, 3);
  assert.deepEqual(
    vms.map(({ id, lastSeen, revision }) => [id, lastSeen, revision]),
    [
      ['a', 1000, 1],
      ['first', 2000, 2],
      ['d', 3000, 3],
    ],
  );
});

test('closing waits for pending changes and accepts no new ones', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  const changes = Array.from({ length: 2500 }, (_, index) =>
    store.commit(putOf({ id: `vm-${index}`, revision: index + 1 })),
  );
  const closed = store.close();
  assert.throws(() => store.commit(putOf({ id: 'late', revision: 2501 })), { code: 'BUSY', retryAfter: 1 });
  await Promise.all(changes);
  await closed;
  assert.equal((await readStore(dir)).vms.length, 2500);
});

test('changes beyond the limit are refused immediately, and queued ones do not fail', async (t) => {
  const { store } = await openStore(t, tempDir(t));
  const taken: Promise<unknown>[] = [];
  let revision = 0;
  assert.throws(
    () => {
      for (;;) taken.push(store.commit(removalOf('nobody', ++revision)));
    },
    { code: 'BUSY', message: /too many queued changes \(limit 20000\)/, retryAfter: 1 },
  );
  await Promise.all(taken);
  await store.commit(removalOf('nobody', revision));
});

test('a second store on one data dir is refused, and the first still works', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  await store.commit(putOf({ id: 'a', revision: 1 }));
  await assert.rejects(openStore(t, dir), { code: 'ALREADY_RUNNING', hint: /vreg daemon stop/ });
  await store.commit(putOf({ id: 'b', revision: 2 }));
  await store.close();
  assert.equal((await readStore(dir)).vms.length, 2);
});

test('if many stores are opened concurrently on a new data dir, one succeeds and no other changes anything', async (t) => {
  const dir = tempDir(t);
  const outcomes = await Promise.allSettled(Array.from({ length: 5 }, () => openStore(t, dir)));
  const won = outcomes.filter((outcome) => outcome.status === 'fulfilled');
  assert.equal(won.length, 1);
  for (const outcome of outcomes) {
    if (outcome.status === 'rejected') assert.equal(outcome.reason.code, 'ALREADY_RUNNING');
  }
  const [{ value: first }] = won as [(typeof won)[0]];
  await first.store.commit(putOf({ id: 'a', revision: 1 }));
  await first.store.close();
  const { vms, registryId } = await readStore(dir);
  assert.deepEqual([vms.length, registryId], [1, first.contents.registryId]);
});

test('a closed store is one file and its mark, and a copy of both is a complete registry', async (t) => {
  const root = tempDir(t);
  const { store, contents } = await openStore(t, join(root, 'data'));
  await store.commit(putOf({ id: 'a', revision: 1 }));
  await store.close();
  const [copy] = [tempDir(t)];
  for (const name of readdirSync(join(root, 'data')).filter((name) => !name.endsWith('-wal'))) {
    writeFileSync(join(copy, name), readFileSync(join(root, 'data', name)));
  }
  const copied = await readStore(copy);
  assert.deepEqual([copied.vms[0]?.id, copied.registryId], ['a', contents.registryId]);
});

test('a second concurrent backup is refused immediately, and the first succeeds', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  await store.commit(putOf({ id: 'a', revision: 1 }));
  const first = store.backup(join(dir, 'first.db'));
  await assert.rejects(store.backup(join(dir, 'second.db')), { code: 'BUSY', retryAfter: 5, hint: /retry/ });
  await first;
  await store.backup(join(dir, 'third.db'));
  const copies = readdirSync(dir).filter((name) => !name.startsWith('registry.'));
  assert.deepEqual(copies.sort(), ['first.db', 'third.db']);
});

test('a backup into a missing folder is STORE_FAILED, and the next one works', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  await assert.rejects(store.backup(join(dir, 'nowhere', 'copy.db')), { code: 'STORE_FAILED', message: /ENOENT/ });
  await store.backup(join(dir, 'copy.db'));
});

/** Milliseconds within which an idle process must end. */
const PATIENCE = 20_000;

/** @param file the program that they run instead of their own @returns the workers that are started from now on */
function watchWorkers(t: TestContext, file?: string): worker_threads.Worker[] {
  const { Worker } = worker_threads;
  const workers: worker_threads.Worker[] = [];
  worker_threads.Worker = class extends Worker {
    constructor(...[own, options]: ConstructorParameters<typeof Worker>) {
      super(file ?? own, options);
      workers.push(this);
    }
  };
  syncBuiltinESMExports();
  t.after(() => {
    worker_threads.Worker = Worker;
    syncBuiltinESMExports();
  });
  return workers;
}

test('a worker that cannot start fails the start with its cause and does not call onDeath', async (t) => {
  watchWorkers(t, join(tempDir(t), 'nowhere.cjs'));
  const deaths: Error[] = [];
  await assert.rejects(
    SqliteStore.open({
      dataDir: tempDir(t),
      budget: createBudgets().changes,
      decode: (vm) => vm,
      onDeath: (error) => deaths.push(error),
    }),
    {
      code: 'STORE_UNUSABLE',
      message: /^cannot open .*registry\.db: the worker of the store ended: .*nowhere\.cjs/,
      hint: /ulimit -n/,
    },
  );
  assert.deepEqual(deaths, []);
});

test('a process that opens a store and does nothing ends, and another can open it', async (t) => {
  const dir = tempDir(t);
  const program = join(dir, 'program.mts');
  const store = join(import.meta.dirname, '../../../daemon/store/sqlite-store.ts');
  const budgets = join(import.meta.dirname, '../../../daemon/limits/budgets.ts');
  writeFileSync(
    program,
    `import { createBudgets } from ${JSON.stringify(budgets)};
     import { SqliteStore } from ${JSON.stringify(store)};
     const budget = createBudgets().changes;
     await SqliteStore.open({ dataDir: ${JSON.stringify(dir)}, budget, decode: (vm) => vm, onDeath() {} });
     console.log('opened');`,
  );
  const { status, stdout } = spawnSync(process.execPath, ['--import', 'tsx', program], { timeout: PATIENCE });
  assert.deepEqual([status, String(stdout)], [0, 'opened\n']);
  assert.equal((await readStore(dir)).revision, 0);
});

test('if the worker dies, onDeath is called once, and all pending and later requests fail', async (t) => {
  const workers = watchWorkers(t);
  const dir = tempDir(t);
  const deaths: Error[] = [];
  const { store } = await openDir(dir, { onDeath: (error) => deaths.push(error) });
  await store.commit(putOf({ id: 'a', revision: 1 }));
  const waiting = store.commit(putOf({ id: 'b', revision: 2 }));
  const ended = [
    assert.rejects(waiting, { code: 'INTERNAL', message: /worker of the store ended/ }),
    workers[0]!.terminate(),
  ];
  await Promise.all(ended);
  await assert.rejects(store.commit(putOf({ id: 'c', revision: 2 })), {
    code: 'INTERNAL',
    message: /worker of the store ended/,
  });
  await assert.rejects(store.saveHeartbeats([], 1), { code: 'INTERNAL' });
  await assert.rejects(store.history('a', 1), { code: 'INTERNAL', message: /could not read/ });
  await assert.rejects(store.close());
  assert.deepEqual(
    deaths.map(({ message }) => message),
    ['the worker of the store ended'],
  );
  const { vms, revision } = await readStore(dir);
  assert.ok(revision >= 1 && vms[0]?.id === 'a', 'acknowledged changes are there');
});

test('entries larger than a batch of the check are all read, also to prepare a restored store', async (t) => {
  const dir = tempDir(t);
  const { store } = await openStore(t, dir);
  const more = { metadata: { pad: 'x'.repeat(600_000) } };
  const ids = Array.from({ length: 20 }, (_, n) => `vm-${n}`);
  for (const [n, id] of ids.entries()) await store.commit(putOf({ id, revision: n + 1, more }));
  await store.close();
  const checked = await checkDatabase(openDataDir(dir));
  await prepareStore(openDataDir(dir), checked!.state);
  assert.deepEqual(
    (await readStore(dir)).vms.map(({ id }) => id),
    ids,
  );
});
