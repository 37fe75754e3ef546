/** Counts the VMs for the metrics. */
import { ROLES, type Role, STATUSES, type Status } from '../../src/protocol/vm.ts';
import type { LeaseQueue } from './lease-queue.ts';

/** Number of VMs with a role, a declared status and a liveness. */
export interface Census {
  role: Role;
  status: Status;
  /** `none` unless the status is `running`. */
  liveness: 'live' | 'suspect' | 'stale' | 'none';
  count: number;
}

/** Numbers of VMs by role, status and liveness, also those that are 0. Examines no VM. */
export function censusOf(queues: Readonly<Record<'live' | 'suspect' | 'stale', LeaseQueue>>): Census[] {
  return ROLES.flatMap((role) =>
    STATUSES.flatMap((status): Census[] => {
      const counts = Object.entries(queues).map(([liveness, queue]) => ({
        role,
        status,
        liveness: liveness as keyof typeof queues,
        count: queue.countWith(role, status),
      }));
      if (status === 'running') return counts;
      return [{ role, status, liveness: 'none', count: counts.reduce((sum, { count }) => sum + count, 0) }];
    }),
  );
}
