/** The programs that tests run. Skips tests whose programs, or whose kind of address, are missing on this machine. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { networkInterfaces } from 'node:os';

/**
 * @returns the `skip` option of a test that needs these programs: false if all are there, else the reason.
 * In CI the test always runs, and fails if a program is missing.
 */
export function unless(...tools: readonly string[]): { skip: string | false } {
  const missing = tools.filter((tool) => spawnSync('sh', ['-c', `command -v ${tool}`]).status !== 0);
  if (missing.length === 0 || process.env.CI) return { skip: false };
  return { skip: `needs ${missing.join(', ')}, which this machine lacks` };
}

const HAS_IPV6 = Object.values(networkInterfaces()).some((all) => all?.some(({ address }) => address === '::1'));

/** @returns the `skip` option of a test that listens on this address */
export function unlessMissing(address: string): { skip: string | false } {
  return { skip: address.includes('::') && !HAS_IPV6 && 'needs an IPv6 loopback address' };
}

/** The system's python3, if there is one: a version manager first runs shell scripts that take longer than most tests. */
export const PYTHON = existsSync('/usr/bin/python3') ? '/usr/bin/python3' : 'python3';
