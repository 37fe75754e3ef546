/** The fleet in one line for people. */
import type { Registry } from './registry.ts';

/** `12 VMs, 1 stale, 3 suspect`, without what there is none of. */
export function summarize(registry: Registry): string {
  const all = registry.list({});
  const running = all.filter(({ vm }) => vm.status === 'running');
  const stale = running.filter((entry) => registry.isStale(entry));
  const suspect = running.filter((entry) => entry.isSuspect && !registry.isStale(entry));
  const parts = [`${all.length} ${all.length === 1 ? 'VM' : 'VMs'}`];
  if (stale.length > 0) parts.push(`${stale.length} stale`);
  if (suspect.length > 0) parts.push(`${suspect.length} suspect`);
  return parts.join(', ');
}
