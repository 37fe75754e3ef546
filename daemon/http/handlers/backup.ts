/**
 * `GET /registry/backup`: a consistent copy of the database. It is made and checked while the registry serves other
 * requests.
 */
import { once } from 'node:events';
import { createReadStream, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { VregError } from '../../../src/protocol/errors.ts';
import { assertActive } from '../../access/authenticator.ts';
import type { RequestContext, Result } from '../context.ts';

/** Begins the names of the temporary folders of backups; `mkdtemp` appends six characters. */
const PREFIX = '.vreg-copy-';
/** Name of the copy in its folder. Names of drafts beside it begin with it. */
const COPY = 'registry.db';

/** Milliseconds after which a client that reads nothing is cut off, because its copy occupies the disk. */
const STALL_TIMEOUT = 60_000;

/** Folders of the backups that this process is sending. */
const active = new Set<string>();

/**
 * Removes copies that a killed daemon has left behind. Only the process that has locked the store may call this, since
 * it makes all backups. It never throws: the next backup or the next start tries again.
 */
export function removeLeftoverBackups(dataDir: string): void {
  try {
    for (const entry of readdirSync(dataDir, { withFileTypes: true })) {
      const path = join(dataDir, entry.name);
      if (entry.isDirectory() && isCopy(path) && !active.has(path)) remove(path);
    }
  } catch {
    // The data dir cannot be read now; see above.
  }
}

/** False for a folder that contains other files: somebody else has put them there. */
function isCopy(path: string): boolean {
  const name = basename(path);
  if (!name.startsWith(PREFIX) || name.length !== PREFIX.length + 6) return false;
  return readdirSync(path).every((file) => file.startsWith(COPY));
}

function remove(path: string): void {
  try {
    rmSync(path, { recursive: true, force: true });
  } catch {
    // See removeLeftoverBackups.
  }
}

/**
 * @throws VregError NOT_FOUND (the registry has no data dir), STORE_FULL, STORE_FAILED, BUSY (another backup is being
 *   made), TOO_MANY_REQUESTS, UNAUTHORIZED (the token was revoked meanwhile)
 */
export async function sendBackup(ctx: RequestContext): Promise<Result> {
  const { response, principal } = ctx;
  const { registry, dataDir, backups } = ctx.services;
  if (dataDir === undefined) throw new VregError('NOT_FOUND', 'this registry has no data dir, so it has no backups');
  const release = backups.acquire();
  let dir: string | undefined;
  const clean = () => {
    release();
    if (dir === undefined) return;
    active.delete(dir);
    remove(dir);
  };
  try {
    removeLeftoverBackups(dataDir);
    dir = mkdtempSync(join(dataDir, PREFIX));
    active.add(dir);
    const file = join(dir, COPY);
    await registry.backup(file);
    const stream = createReadStream(file);
    stream.once('close', clean);
    await once(stream, 'open');
    assertActive(principal);
    ctx.destroyWhenRevoked();
    response.setTimeout(STALL_TIMEOUT);
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

/** A failed system call is a fault of the disk or of the machine, not a bug, and a retry may succeed. */
function translate(cause: NodeJS.ErrnoException): Error {
  const { code, syscall, message } = cause;
  if (cause instanceof VregError || syscall === undefined) return cause;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new VregError('STORE_FULL', "the registry's disk is full: there is no space for a backup", {
      hint: "free space on the registry's disk, then retry",
      retryAfter: 5,
      cause,
    });
  }
  return new VregError('STORE_FAILED', `the backup failed: ${message}`, {
    hint: "check the registry's disk and limits (dmesg, mount, ulimit -n), then retry",
    retryAfter: 5,
    cause,
  });
}
