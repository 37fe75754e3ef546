/**
 * `GET /registry/backup`: a consistent copy of the database. The copy is created and verified while the registry serves other
 * requests.
 */
import { once } from 'node:events';
import { createReadStream, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { VregError } from '../../../src/protocol/errors.ts';
import { assertActive } from '../../access/authenticator.ts';
import { abandon } from '../audit.ts';
import type { RequestContext, Result } from '../context.ts';

/** Prefix of the temporary folders for backups; `mkdtemp` appends six characters. */
const PREFIX = '.vreg-copy-';
/** File name of the copy in its folder. The names of temporary files beside it begin with this name. */
const COPY = 'registry.db';

/** Milliseconds after which a client that has stopped reading is disconnected, because its copy occupies disk space. */
const STALL_TIMEOUT = 60_000;

/** Folders of the backups that this process is sending. */
const active = new Set<string>();

/**
 * Removes copies that a killed daemon left behind. Only the process that has locked the store may call this, because only that
 * process creates backups. Never throws: the next backup or the next start tries again.
 */
export function removeLeftoverBackups(dataDir: string): void {
  try {
    for (const entry of readdirSync(dataDir, { withFileTypes: true })) {
      const path = join(dataDir, entry.name);
      if (entry.isDirectory() && isCopy(path) && !active.has(path)) remove(path);
    }
  } catch {
    // If the data dir cannot be read, the next call tries again.
  }
}

/** False for a folder that contains other files, which vreg did not create. */
function isCopy(path: string): boolean {
  const name = basename(path);
  if (!name.startsWith(PREFIX) || name.length !== PREFIX.length + 6) return false;
  return readdirSync(path).every((file) => file.startsWith(COPY));
}

function remove(path: string): void {
  try {
    rmSync(path, { recursive: true, force: true });
  } catch {
    // If the copy cannot be removed, the next call tries again.
  }
}

/**
 * The copy ends when the client leaves.
 * @throws VregError NOT_FOUND (the registry has no data dir), STORE_FULL, STORE_FAILED, BUSY (another backup is in progress),
 * TOO_MANY_REQUESTS, UNAUTHORIZED (the token was revoked in the meantime)
 */
export async function sendBackup(ctx: RequestContext): Promise<Result | undefined> {
  const { response, principal } = ctx;
  const { registry, dataDir, backups } = ctx.services;
  if (dataDir === undefined)
    throw new VregError('NOT_FOUND', 'this registry has no data dir, so it cannot be backed up');
  const release = backups.acquire();
  let dir: string | undefined;
  const left = new AbortController();
  const onLeave = () => left.abort();
  response.once('close', onLeave);
  const clean = () => {
    response.off('close', onLeave);
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
    await registry.backup(file, left.signal);
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
    if (left.signal.aborted) return abandon(ctx);
    throw translate(error as NodeJS.ErrnoException);
  }
}

/** Converts the error of a failed system call. The cause is the disk or the machine, so a retry may succeed. */
function translate(cause: NodeJS.ErrnoException): Error {
  const { code, syscall, message } = cause;
  if (cause instanceof VregError || syscall === undefined) return cause;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new VregError('STORE_FULL', "the registry's disk is full: there is no space for a backup", {
      hint: "free up space on the registry's disk, then retry",
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
