/** The journal of a database that nobody has open: which changes it has, and whether that is all of them. */
import Database from 'libsql';

export interface JournalLine {
  revision: number;
  id: string;
  type: string;
}

/** Changes that a store keeps in its journal; older ones are forgotten. */
const KEPT = 10_000;

/** All lines, oldest first. A log beside the database is read, too. */
export function journalOf(file: string): JournalLine[] {
  const db = new Database(file);
  const rows = db.prepare('SELECT revision, id, type FROM journal ORDER BY revision').raw().all();
  db.close();
  return (rows as [number, string, string][]).map(([revision, id, type]) => ({ revision, id, type }));
}

/** Revisions up to the current one that are missing, are there twice, or should not be there. */
export function findGaps(journal: readonly Pick<JournalLine, 'revision'>[], current: number): string[] {
  const wrong: string[] = [];
  let expected = Math.max(1, current - KEPT + 1);
  for (const { revision } of journal) {
    if (revision < expected) wrong.push(`revision ${revision} is there again, or should be forgotten`);
    else {
      while (expected < revision) wrong.push(`revision ${expected++} is missing`);
      if (revision > current) wrong.push(`revision ${revision} is there, but the current one is ${current}`);
      expected = revision + 1;
    }
  }
  while (expected <= current) wrong.push(`revision ${expected++} is missing`);
  return wrong;
}
