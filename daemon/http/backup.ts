/** `GET /registry/backup`: a consistent copy of the database, made and checked while the registry goes on. */
import { createReadStream, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { VregError } from '../../src/protocol/errors.ts';
import type { Answer, Call } from './call.ts';

/** How the folders of copies that are under way begin; `mkdtemp` adds six characters. */
const PREFIX = 'backup-';

/** Copies that may be there at once, one being made and the others being sent: each is as large as the registry. */
const MAX_COPIES = 4;
/** Milliseconds for which a caller may take nothing of a copy before it is ended: a copy is not kept for who has gone to sleep. */
const STALLED = 60_000;

/** Removes what a daemon that was killed had under way; only for who has the store, since no other makes backups. */
export function removeCutBackups(dataDir: string): void {
  for (const name of copiesIn(dataDir)) rmSync(join(dataDir, name), { recursive: true, force: true });
}

function copiesIn(dataDir: string): string[] {
  return readdirSync(dataDir).filter((name) => name.startsWith(PREFIX) && name.length === PREFIX.length + 6);
}

export async function sendBackup({ registry, reply, dataDir, backups }: Call): Promise<Answer | undefined> {
  if (dataDir === undefined) throw new VregError('NOT_FOUND', 'this registry has no data dir to copy');
  const release = backups.take();
  let dir: string | undefined;
  const clean = () => {
    release();
    if (dir !== undefined) rmSync(dir, { recursive: true, force: true });
  };
  try {
    dir = makeRoom(dataDir);
    const file = join(dir, 'registry.db');
    await registry.backup(file);
    const stream = createReadStream(file);
    stream.once('close', clean);
    reply.raw.setTimeout(STALLED);
    await reply
      .header('content-length', statSync(file).size)
      .header('content-disposition', 'attachment; filename="registry.db"')
      .type('application/vnd.sqlite3')
      .send(stream);
  } catch (error) {
    clean();
    throw error;
  }
  return undefined;
}

/** @throws VregError STORE_FULL, BUSY */
function makeRoom(dataDir: string): string {
  if (copiesIn(dataDir).length >= MAX_COPIES) {
    const hint = 'try again when one of them is done';
    throw new VregError('BUSY', `${MAX_COPIES} backups are under way`, { hint, retryAfter: 5 });
  }
  try {
    return mkdtempSync(join(dataDir, PREFIX));
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code !== 'ENOSPC' && code !== 'EDQUOT') throw cause;
    throw new VregError('STORE_FULL', 'the disk of the registry is full: there is no room for a copy', {
      hint: "free space on the registry's disk, then try again",
      retryAfter: 5,
      cause,
    });
  }
}
