/** Reads the addresses that this VM's agent caches in its run dir, for scripts that run while the registry is unreachable. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Context } from '../command.ts';
import { formatDuration, parseDuration } from '../config/values.ts';
import { normalizeAddress } from '../protocol/address.ts';
import { VregError } from '../protocol/errors.ts';

export interface MaxStaleFlags {
  maxStale?: string;
}

/**
 * Asks the registry. If it is unreachable, reads the agent's cached answer instead.
 * @param file `addr` or `url`
 * @throws VregError TOO_OLD if the cached answer is older than `maxStale`, or the error of `ask` if there is no cached answer
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
    const age = Math.max(0, context.now() - known.at);
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

/** The cached answer; undefined if the agent has written none. */
function readCache(dir: string | undefined, role: string, file: string): { value: string; at: number } | undefined {
  if (dir === undefined) return undefined;
  const folder = join(dir, 'by-role', role);
  try {
    const at = 1000 * Number(readFileSync(join(folder, 'at'), 'utf8'));
    const value = readFileSync(join(folder, file), 'utf8').trim();
    // A URL in the cache has neither path nor user, so it is a valid address as well.
    return normalizeAddress(value) !== undefined && Number.isFinite(at) ? { value, at } : undefined;
  } catch {
    return undefined;
  }
}
