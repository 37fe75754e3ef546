/**
 * A queue of VMs in the order in which their leases began. It counts its VMs by role and status, so that metrics and probes
 * examine no VM.
 */
import { ROLES, type Role, STATUSES, type Status } from '../../src/protocol/vm.ts';
import { LinkedQueue } from './linked-queue.ts';
import type { VmRecord } from './vm-record.ts';

export class LeaseQueue extends LinkedQueue<VmRecord> {
  constructor() {
    super(kindOf);
  }

  /** Number of VMs with a role and a declared status. */
  countWith(role: Role, status: Status): number {
    return this.countOf(kindOf({ role, status }));
  }

  /** Number of VMs that are declared running. */
  get running(): number {
    return ROLES.reduce((sum, role) => sum + this.countWith(role, 'running'), 0);
  }

  /** True if the lease of the first VM began before `horizon`. */
  isDue(horizon: number): boolean {
    const { first } = this;
    return first !== undefined && first.leaseFrom < horizon;
  }

  /** Removes the VMs whose leases began before `horizon`. */
  takeDue(horizon: number): VmRecord[] {
    const due: VmRecord[] = [];
    for (const entry of this) {
      if (entry.leaseFrom >= horizon) break;
      this.remove(entry);
      due.push(entry);
    }
    return due;
  }
}

/** The kind by which the queue counts VMs: a number for each role and status. */
function kindOf({ role, status }: Pick<VmRecord, 'role' | 'status'>): number {
  return ROLES.indexOf(role) * STATUSES.length + STATUSES.indexOf(status);
}
