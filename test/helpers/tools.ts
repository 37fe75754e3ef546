/** Skips tests whose programs are missing on this machine. */
import { spawnSync } from 'node:child_process';

/**
 * @returns the `skip` option of a test that needs these programs: false if all are there, else the reason.
 * In CI the test always runs, and fails if a program is missing.
 */
export function unless(...tools: readonly string[]): { skip: string | false } {
  const missing = tools.filter((tool) => spawnSync('sh', ['-c', `command -v ${tool}`]).status !== 0);
  if (missing.length === 0 || process.env.CI) return { skip: false };
  return { skip: `needs ${missing.join(', ')}, which this machine lacks` };
}
