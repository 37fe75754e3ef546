/** Reads the addresses that this VM's agent caches in its run dir, for scripts that run while the registry is unreachable. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Context } from '../command.ts';
import { formatDuration, parseDuration } from '../config/values.ts';
import { VregError } from '../protocol/errors.ts';

export interface MaxStaleFlags {
  maxStale?: string;
}

/**
 * What is answered by `ask`, or, while the registry cannot be reached, from the run dir.
 * @param file `addr` or `url`
 * @throws VregError TOO_OLD when the agent's answer is older than `--max-stale`, and what `ask` throws where there is none
 */
export async function askOrRemember<T>(
  context: Context,
  { role, file, maxStale }: { role: string; file: 'addr' | 'url'; maxStale: string | undefined },
  ask: () => Promise<T>,
): Promise<T | string> {
  if (maxStale === undefined) return ask();
  const most = parseDuration(maxStale, '--max-stale');
  try {
    return await ask();
  } catch (error) {
    if (!(error instanceof VregError) || (error.code !== 'UNREACHABLE' && error.code !== 'BUSY')) throw error;
    const known = remember(context.config.runDir, role, file);
    if (!known) throw error;
    const age = Math.max(0, context.now() - known.at);
    if (age <= most) {
      context.verbose(`${error.message}; using the answer that the agent cached ${formatDuration(age)} ago`);
      return known.value;
    }
    throw new VregError('TOO_OLD', `${error.message}, and the agent's cached answer is ${formatDuration(age)} old`, {
      hint: 'raise --max-stale, or start the registry',
      cause: error,
    });
  }
}

/** @returns undefined where the agent has told nothing */
function remember(dir: string | undefined, role: string, file: string): { value: string; at: number } | undefined {
  if (dir === undefined) return undefined;
  const folder = join(dir, 'by-role', role);
  try {
    const at = 1000 * Number(readFileSync(join(folder, 'at'), 'utf8'));
    const value = readFileSync(join(folder, file), 'utf8').trim();
    return value !== '' && Number.isFinite(at) ? { value, at } : undefined;
  } catch {
    return undefined;
  }
}
