import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import Database from 'libsql';
import { DamageError } from '../../../daemon/store/integrity.ts';
import { JOURNAL_SCHEMA, Journal } from '../../../daemon/store/journal.ts';
import type { Change } from '../../../daemon/store/store.ts';

/** As many changes as a journal keeps. */
const KEPT = 10_000;

function journal(t: TestContext) {
  const db = new Database(':memory:');
  db.exec(JOURNAL_SCHEMA);
  t.after(() => db.close());
  return { db, journal: new Journal(db) };
}

function removal(id: string, revision: number): Change {
  return { kind: 'remove', id, revision, note: { type: 'deregistered', at: revision, by: 'test', changes: {} } };
}

test('a journal keeps the last changes, and forgets one for each that is added beyond', (t) => {
  const { db, journal: lines } = journal(t);
  db.exec('BEGIN');
  for (let revision = 1; revision <= KEPT + 500; revision++) lines.add(removal(`vm-${revision % 2}`, revision));
  db.exec('COMMIT');
  const revisions = ['vm-0', 'vm-1'].flatMap((id) => lines.of(id, 2 * KEPT).map(({ revision }) => revision));
  assert.equal(revisions.length, KEPT);
  assert.deepEqual([Math.min(...revisions), Math.max(...revisions)], [501, KEPT + 500]);
  assert.deepEqual(
    lines.of('vm-0', 2).map(({ revision }) => revision),
    [KEPT + 500, KEPT + 498],
  );
  assert.deepEqual(
    lines.of('vm-0', 2, KEPT + 498).map(({ revision }) => revision),
    [KEPT + 496, KEPT + 494],
  );
  assert.deepEqual(lines.of('vm-1', 2, 501), []);
  lines.check();
});

test('a flipped bit in the journal is found', (t) => {
  const { db, journal: lines } = journal(t);
  lines.add(removal('vm-1', 1));
  lines.check();
  db.exec(`UPDATE journal SET by = 'somebody else'`);
  assert.throws(() => lines.check(), DamageError);
});
