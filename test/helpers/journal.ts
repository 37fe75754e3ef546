/** Reads the journal of a closed database, and checks that no change is missing. */
import Database from 'libsql';
import { TRIM_STEP } from '../../daemon/store/journal.ts';
import { JOURNAL_LENGTH } from '../../src/protocol/events.ts';

export interface JournalLine {
  revision: number;
  id: string;
  type: string;
}

/** @returns all lines, oldest first, those in the write-ahead log included */
export function journalOf(file: string): JournalLine[] {
  const db = new Database(file);
  const rows = db.prepare('SELECT revision, id, type FROM journal ORDER BY revision').raw().all();
  db.close();
  return (rows as [number, string, string][]).map(([revision, id, type]) => ({ revision, id, type }));
}

/** @returns revisions that are missing, duplicate or unexpected */
export function findGaps(journal: readonly Pick<JournalLine, 'revision'>[], current: number): string[] {
  const wrong: string[] = [];
  const [oldest] = journal;
  let expected = Math.max(1, current - JOURNAL_LENGTH + 1);
  if (oldest && oldest.revision > expected - TRIM_STEP) expected = Math.min(expected, oldest.revision);
  for (const { revision } of journal) {
    if (revision < expected) wrong.push(`revision ${revision} is a duplicate, or too old to be retained`);
    else {
      while (expected < revision) wrong.push(`revision ${expected++} is missing`);
      if (revision > current) wrong.push(`revision ${revision} is beyond the current revision ${current}`);
      expected = revision + 1;
    }
  }
  while (expected <= current) wrong.push(`revision ${expected++} is missing`);
  return wrong;
}
