/** `GET /registry/backup`: a consistent copy of the database, made and checked while the registry goes on. */
import { once } from 'node:events';
import { createReadStream, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { VregError } from '../../../src/protocol/errors.ts';
import { assertActive } from '../../access/authenticator.ts';
import type { RequestContext, Result } from '../context.ts';

/** How the folders of copies that are under way begin, as nobody names a file; `mkdtemp` adds six characters. */
const PREFIX = '.vreg-copy-';
/** The copy in such a folder; its draft lies beside it, under this name and more. */
const COPY = 'registry.db';

/** Milliseconds for which a caller may take nothing of a copy before it is ended: a copy is not kept for who has gone to sleep. */
const STALLED = 60_000;

/** Folders of the copies of this process that are under way. */
const underWay = new Set<string>();

/**
 * Removes what was cut off, a daemon's that was killed for one; only for who has the store, since no other makes backups.
 * It never fails: what cannot be removed just now is removed by the next backup, or the next start.
 */
export function removeCutBackups(dataDir: string): void {
  try {
    for (const entry of readdirSync(dataDir, { withFileTypes: true })) {
      const path = join(dataDir, entry.name);
      if (entry.isDirectory() && isCopy(path) && !underWay.has(path)) remove(path);
    }
  } catch {
    // A folder that cannot be read just now.
  }
}

/** Whoever put something else in there wants to keep it. */
function isCopy(path: string): boolean {
  const name = basename(path);
  if (!name.startsWith(PREFIX) || name.length !== PREFIX.length + 6) return false;
  return readdirSync(path).every((file) => file.startsWith(COPY));
}

function remove(path: string): void {
  try {
    rmSync(path, { recursive: true, force: true });
  } catch {
    // As promised above.
  }
}

/**
 * @throws VregError NOT_FOUND (without a data dir), STORE_FULL, STORE_FAILED, BUSY (another is being made),
 * TOO_MANY_REQUESTS, UNAUTHORIZED (the caller's token was revoked meanwhile)
 */
export async function sendBackup(ctx: RequestContext): Promise<Result> {
  const { response, principal } = ctx;
  const { registry, dataDir, backups } = ctx.services;
  if (dataDir === undefined) throw new VregError('NOT_FOUND', 'this registry has no data dir to copy');
  const release = backups.acquire();
  let dir: string | undefined;
  const clean = () => {
    release();
    if (dir === undefined) return;
    underWay.delete(dir);
    remove(dir);
  };
  try {
    removeCutBackups(dataDir);
    dir = mkdtempSync(join(dataDir, PREFIX));
    underWay.add(dir);
    const file = join(dir, COPY);
    await registry.backup(file);
    const stream = createReadStream(file);
    stream.once('close', clean);
    await once(stream, 'open');
    assertActive(principal);
    ctx.destroyWhenRevoked();
    response.setTimeout(STALLED);
    return {
      status: 200,
      type: 'application/vnd.sqlite3',
      length: statSync(file).size,
      headers: { 'content-disposition': 'attachment; filename="registry.db"' },
      body: stream,
    };
  } catch (error) {
    clean();
    throw translate(error as NodeJS.ErrnoException);
  }
}

/** What the system refuses is the disk's fault, or that of a machine without files to open: no bug, and worth another try. */
function translate(cause: NodeJS.ErrnoException): Error {
  const { code, syscall, message } = cause;
  if (cause instanceof VregError || syscall === undefined) return cause;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new VregError('STORE_FULL', 'the disk of the registry is full: there is no room for a copy', {
      hint: "free space on the registry's disk, then try again",
      retryAfter: 5,
      cause,
    });
  }
  return new VregError('STORE_FAILED', `the registry could not make a copy of itself: ${message}`, {
    hint: "look at the registry's disk and limits (dmesg, mount, ulimit -n), then try again",
    retryAfter: 5,
    cause,
  });
}
