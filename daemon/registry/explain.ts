/** Why `discover` offers a VM, or does not. */
import type { Why } from '../../src/protocol/api.ts';
import type { Registry } from './registry.ts';
import type { VmRecord } from './vm-record.ts';

export function explain(registry: Registry, entry: VmRecord): Why {
  const { id, role, status } = entry.vm;
  const silent = Math.floor((registry.clock.listening() - entry.life.heardAt) / 1000);
  const lease = registry.staleAfter / 1000;
  const heard = `last heard at ${entry.lastSeen}, ${silent} s of listening time ago`;
  const reasons: Why['reasons'] = [];
  if (status !== 'running') reasons.push({ code: status, message: `it was declared ${status}` });
  if (registry.isStale(entry))
    reasons.push({ code: 'stale', message: `it is stale: ${heard}; the lease is ${lease} s` });
  const offered = reasons.length === 0;
  const suspect = entry.isSuspect
    ? '; it is suspect: so many others fell silent with it that it has one lease more'
    : '';
  const because = offered
    ? `it is running and was ${heard}; the lease is ${lease} s${suspect}`
    : reasons.map(({ message }) => message).join('; ');
  const isDisputed = registry.identities.conflicts.some((conflict) => conflict.id === id && conflict.state === 'open');
  const dispute = isDisputed ? '; another incarnation says that it is this VM, too: vreg conflicts' : '';
  return {
    id,
    offered,
    summary: `discover ${role} ${offered ? 'offers' : 'does not offer'} ${id}: ${because}${dispute}`,
    reasons,
  };
}
