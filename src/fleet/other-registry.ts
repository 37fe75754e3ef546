/** The claim of agents that another registry answers under the same URL, as `vreg status` and `vreg doctor` print it. */
import type { OtherRegistry } from '../protocol/heartbeat.ts';

export function describeClaim({ vms, lastAt }: OtherRegistry): string {
  const agents = vms === 1 ? 'the agent of 1 VM' : `the agents of ${vms} VMs`;
  return `another registry answers under this URL, as ${agents} claimed last at ${lastAt}`;
}
