import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import Database from 'libsql';
import { createBudgets } from '../../../daemon/limits.ts';
import { DamageError } from '../../../daemon/store/integrity.ts';
import { JOURNAL_SCHEMA, Journal } from '../../../daemon/store/journal.ts';
import { SqliteStore } from '../../../daemon/store/sqlite-store.ts';
import type { Change } from '../../../daemon/store/store.ts';
import { tempDir } from '../../helpers/daemon.ts';

/** Changes that the journal retains. */
const MAX_CHANGES = 10_000;

function openJournal(t: TestContext) {
  const db = new Database(':memory:');
  db.exec(JOURNAL_SCHEMA);
  t.after(() => db.close());
  return { db, journal: new Journal(db) };
}

function removal(id: string, revision: number): Change {
  return { kind: 'remove', id, revision, note: { type: 'deregistered', at: revision, by: 'test', changes: {} } };
}

test('a journal retains the last changes, and removes the oldest one for each new one', (t) => {
  const { db, journal } = openJournal(t);
  db.exec('BEGIN');
  for (let revision = 1; revision <= MAX_CHANGES + 500; revision++)
    journal.add(removal(`vm-${revision % 2}`, revision));
  db.exec('COMMIT');
  const revisions = ['vm-0', 'vm-1'].flatMap((id) => journal.read(id, 2 * MAX_CHANGES).map(({ revision }) => revision));
  assert.equal(revisions.length, MAX_CHANGES);
  assert.deepEqual([Math.min(...revisions), Math.max(...revisions)], [501, MAX_CHANGES + 500]);
  assert.deepEqual(
    journal.read('vm-0', 2).map(({ revision }) => revision),
    [MAX_CHANGES + 500, MAX_CHANGES + 498],
  );
  assert.deepEqual(
    journal.read('vm-0', 2, MAX_CHANGES + 498).map(({ revision }) => revision),
    [MAX_CHANGES + 496, MAX_CHANGES + 494],
  );
  assert.deepEqual(journal.read('vm-1', 2, 501), []);
  journal.check();
});

test('a flipped bit in the journal is found', (t) => {
  const { db, journal } = openJournal(t);
  journal.add(removal('vm-1', 1));
  journal.check();
  db.exec(`UPDATE journal SET by = 'somebody else'`);
  assert.throws(() => journal.check(), DamageError);
});

test('the journal replaces a large value by its length', async (t) => {
  const { store } = await SqliteStore.open({
    dataDir: tempDir(t),
    budget: createBudgets().changes,
    onDeath: assert.fail,
  });
  const vm = { id: 'a', created: 1, revision: 1, body: '{"id":"a"}', lastSeen: 1, heardAt: 1 };
  const changes = { name: ['one', 'two'], metadata: [null, { x: 'x'.repeat(10_000) }] } as Record<
    string,
    [unknown, unknown]
  >;
  await store.commit({ kind: 'put', vm, revision: 1, note: { type: 'updated', at: 0, by: 'test', changes } });
  const [item] = await store.history('a', 10);
  assert.deepEqual(item?.changes, { name: ['one', 'two'], metadata: [null, '(10008 characters)'] });
  await store.close();
});
