/** The journal of a database that nobody has open: which revisions it has, and whether that is all of them. */
import Database from 'libsql';

/** Revisions in the journal, in order. */
export function revisionsOf(file: string): number[] {
  const db = new Database(file);
  const rows = db.prepare('SELECT revision FROM journal ORDER BY revision').raw().all() as [number][];
  db.close();
  return rows.map(([revision]) => revision);
}
