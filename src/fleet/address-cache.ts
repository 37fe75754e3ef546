/** Reads the addresses that this VM's agent caches in its run dir, for scripts that run while the registry is unreachable. */
import { dirname, join, resolve } from 'node:path';
import type { Context } from '../command.ts';
import { parseDuration } from '../config/values.ts';
import { folderFault, readRegularFile } from '../files.ts';
import { normalizeAddress } from '../protocol/address.ts';
import { formatDuration } from '../protocol/duration.ts';
import { VregError } from '../protocol/errors.ts';

export interface MaxStaleFlags {
  maxStale?: string;
}

/**
 * Asks the registry. If it is unreachable, reads the agent's cached answer instead.
 * @param file `addr` or `url`
 * @throws VregError TOO_OLD if the cached answer is older than `maxStale` or dated in the future, or the error of `ask` if there is no cached answer
 */
export async function askOrReadCache<T>(
  context: Context,
  { role, file, maxStale }: { role: string; file: 'addr' | 'url'; maxStale: string | undefined },
  ask: () => Promise<T>,
): Promise<T | string> {
  if (maxStale === undefined) return ask();
  const maxAge = parseDuration(maxStale, '--max-stale');
  try {
    return await ask();
  } catch (error) {
    if (!(error instanceof VregError) || (error.code !== 'UNREACHABLE' && error.code !== 'BUSY')) throw error;
    const known = readCache(context.config.runDir, role, file);
    if (!known) throw error;
    const age = context.now() - known.at;
    // A negative age means that the clock was set back, so the real age is not known.
    if (age < 0) {
      throw new VregError(
        'TOO_OLD',
        `${error.message}, and the agent's cached answer is dated ${formatDuration(-age)} in the future`,
        { hint: 'check the clock of this machine, or start the registry', cause: error },
      );
    }
    if (age <= maxAge) {
      context.verbose(`${error.message}; using the answer that the agent cached ${formatDuration(age)} ago`);
      return known.value;
    }
    throw new VregError('TOO_OLD', `${error.message}, and the agent's cached answer is ${formatDuration(age)} old`, {
      hint: 'start the registry, or pass a longer --max-stale',
      cause: error,
    });
  }
}

/**
 * The cached answer; undefined if the agent has written none.
 * @throws VregError USAGE if another user could have written it
 */
function readCache(dir: string | undefined, role: string, file: string): { value: string; at: number } | undefined {
  if (dir === undefined) return undefined;
  const folder = resolve(dir, 'by-role', role);
  const at = readRegularFile(join(folder, 'at'));
  const value = readRegularFile(join(folder, file));
  if (!at || !value) return undefined;
  const me = process.geteuid?.() ?? 0;
  // Anyone can create a folder in /tmp, so the folder of another user is trusted only if root or that user owns its parent.
  const place = at.uid === 0 || at.uid === me ? [] : [dirname(resolve(dir))];
  for (const each of [...place, resolve(dir), folder]) {
    const fault = folderFault(each, at.uid);
    if (!fault) continue;
    throw new VregError('USAGE', `refusing to read addresses from ${each}: ${fault.reason}`, {
      field: 'run-dir',
      hint: `make it private: ${fault.command}`,
    });
  }
  const time = 1000 * Number(at.text);
  const address = value.text.trim();
  // A URL in the cache has neither path nor user, so the rest after its scheme is an address.
  const host = file === 'url' ? address.replace(/^[a-z][a-z0-9+.-]*:\/\//, '') : address;
  return normalizeAddress(host) !== undefined && Number.isFinite(time) ? { value: address, at: time } : undefined;
}
