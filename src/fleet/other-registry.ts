/** Describes agents' claim that another registry answers at the same URL, for `vreg status` and `vreg doctor`. */
import type { OtherRegistry } from '../protocol/heartbeat.ts';

export function describeClaim({ vms, lastAt }: OtherRegistry): string {
  const agents = vms === 1 ? 'the agent of 1 VM' : `the agents of ${vms} VMs`;
  return `another registry answers at this URL, as ${agents} last reported at ${lastAt}`;
}
