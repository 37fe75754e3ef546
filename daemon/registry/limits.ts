/** How much one registry takes: so that nobody fills it by mistake, or on purpose. */
import { VregError } from '../../src/protocol/errors.ts';
import type { Entry } from './entry.ts';

export interface RegistryLimits {
  /** VMs at once. */
  maxVms: number;
  /** Bytes of one entry's JSON. */
  maxEntry: number;
}

/** @throws VregError TOO_LARGE */
export function checkSize(entry: Entry, { maxEntry }: RegistryLimits): void {
  const { size } = entry;
  if (size <= maxEntry) return;
  throw new VregError('TOO_LARGE', `the entry is too large: ${size} bytes of JSON, at most ${maxEntry}`, {
    field: 'metadata',
    hint: 'keep less in metadata and services, or raise --max-entry of the daemon',
  });
}

/** @param count VMs that are there, or on their way. @throws VregError TOO_MANY_REQUESTS */
export function checkRoom(count: number, { maxVms }: RegistryLimits): void {
  if (count < maxVms) return;
  throw new VregError('TOO_MANY_REQUESTS', `the registry is full: it has ${count} VMs, at most ${maxVms}`, {
    field: 'id',
    hint: 'remove those that are gone (vreg prune), or raise --max-vms of the daemon',
  });
}
