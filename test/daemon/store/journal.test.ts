import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import Database from 'libsql';
import { DamageError } from '../../../daemon/store/integrity.ts';
import { JOURNAL_SCHEMA, Journal, withJournalText } from '../../../daemon/store/journal.ts';
import type { Change } from '../../../daemon/store/store.ts';
import { JOURNAL_LENGTH } from '../../../src/protocol/events.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { openStore, putOf, removalOf } from '../../helpers/store.ts';

function openJournal(t: TestContext) {
  const db = new Database(':memory:');
  db.exec(JOURNAL_SCHEMA);
  t.after(() => db.close());
  return { db, journal: new Journal(db) };
}

function removal(id: string, revision: number): Change<string> {
  const note = { type: 'deregistered', at: revision, by: 'test', changes: {} } as const;
  return withJournalText({ ...removalOf(id, revision), note });
}

test('a journal retains the last changes, and removes the oldest ones a hundred at a time', (t) => {
  const { db, journal } = openJournal(t);
  const revisions = () => [...journal.rows()].map(({ row }) => row[0]);
  const addUntil = (last: number, from: number) => {
    for (let revision = from; revision <= last; revision++) journal.add(removal(`vm-${revision % 2}`, revision));
    journal.trim(from - 1, last);
  };
  db.exec('BEGIN');
  addUntil(JOURNAL_LENGTH + 500, 1);
  db.exec('COMMIT');
  assert.deepEqual([revisions().length, revisions()[0]], [JOURNAL_LENGTH, 501]);
  assert.deepEqual(
    journal.read('vm-0', 2).map(({ revision }) => revision),
    [JOURNAL_LENGTH + 500, JOURNAL_LENGTH + 498],
  );
  assert.deepEqual(
    journal.read('vm-0', 2, JOURNAL_LENGTH + 498).map(({ revision }) => revision),
    [JOURNAL_LENGTH + 496, JOURNAL_LENGTH + 494],
  );
  assert.deepEqual(journal.read('vm-1', 2, 501), []);
  addUntil(JOURNAL_LENGTH + 599, JOURNAL_LENGTH + 501);
  assert.equal(revisions()[0], 501);
  addUntil(JOURNAL_LENGTH + 600, JOURNAL_LENGTH + 600);
  assert.deepEqual([revisions().length, revisions()[0]], [JOURNAL_LENGTH, 601]);
});

test('a journal whose revisions have gaps retains as many changes', (t) => {
  const { db, journal } = openJournal(t);
  const last = 50 * (JOURNAL_LENGTH + 10);
  db.exec('BEGIN');
  for (let revision = 50; revision <= last; revision += 50) journal.add(removal('vm', revision));
  journal.trim(last - 50, last);
  db.exec('COMMIT');
  const revisions = [...journal.rows()].map(({ row }) => row[0]);
  assert.deepEqual([revisions.length, revisions[0]], [JOURNAL_LENGTH, 50 * 11]);
});

test('a flipped bit in the journal is found', (t) => {
  const { db, journal } = openJournal(t);
  journal.add(removal('vm-1', 1));
  assert.equal([...journal.rows()].length, 1);
  db.exec(`UPDATE journal SET by = 'somebody else'`);
  assert.throws(() => [...journal.rows()], DamageError);
});

test('the journal replaces a large value by its length', async (t) => {
  const { store } = await openStore(t, tempDir(t));
  const changes = { name: ['one', 'two'], metadata: [null, { x: 'x'.repeat(10_000) }] } as Record<
    string,
    [unknown, unknown]
  >;
  await store.commit({ ...putOf({ id: 'a', revision: 1 }), note: { type: 'updated', at: 0, by: 'test', changes } });
  const [item] = await store.history('a', 10);
  assert.deepEqual(item?.changes, { name: ['one', 'two'], metadata: [null, '(10008 characters)'] });
});
