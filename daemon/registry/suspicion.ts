/** The stored record of a suspect VM, so that its remaining time survives a restart. */
import type { VmRecord } from './vm-record.ts';

/** It is valid while the VM stays silent. */
export interface Suspicion {
  /** The last sign of life before the suspicion, on the listening clock. */
  heardAt: number;
  /** End of the second lease on the listening clock. */
  until: number;
}

/** @param lease milliseconds */
export function suspicionOf({ id, heardAt, leaseFrom }: VmRecord, lease: number) {
  const suspicion: Suspicion = { heardAt, until: leaseFrom + lease };
  return { kind: 'lease', key: id, body: JSON.stringify(suspicion) } as const;
}

/** Removes the record of a VM that is no longer suspect. */
export function suspicionRemoval(id: string) {
  return { kind: 'lease', key: id, body: undefined } as const;
}
