/** Programs that a test needs and a user's machine may lack. */
import { spawnSync } from 'node:child_process';

/**
 * The `skip` option of a test that needs these programs: false when they are there, else the reason.
 * In CI nothing may be missing, so there the test runs, and fails.
 */
export function unless(...tools: readonly string[]): { skip: string | false } {
  const missing = tools.filter((tool) => spawnSync('sh', ['-c', `command -v ${tool}`]).status !== 0);
  if (missing.length === 0 || process.env.CI) return { skip: false };
  return { skip: `needs ${missing.join(', ')}, which this machine lacks` };
}
