/** The limits of a registry, so that no client fills it by mistake or on purpose. */
import { formatBytes, VregError } from '../../src/protocol/errors.ts';
import type { VmRecord } from './vm-record.ts';

export interface RegistryLimits {
  maxVms: number;
  /** Maximum size of an entry in bytes of JSON. */
  maxEntry: number;
  /** Maximum sum of {@link VmRecord.weight} in bytes, because all entries are in memory. Default: unlimited. */
  maxTotal?: number;
}

/** Current use of the limits, including pending changes. */
export interface Usage {
  vms: number;
  /** Sum of {@link VmRecord.weight}. */
  bytes: number;
}

/** @param visible the index @param pending changes that are not visible yet */
export function usageOf(visible: { size: number; bytes: number }, pending: { added: number; growth: number }): Usage {
  return { vms: visible.size + pending.added, bytes: visible.bytes + pending.growth };
}

/**
 * @param before the entry that the new one replaces
 * @throws VregError TOO_LARGE if the entry is too large, TOO_MANY_REQUESTS if the registry is full
 */
export function checkLimits(entry: VmRecord, before: VmRecord | undefined, usage: Usage, limits: RegistryLimits): void {
  checkSize(entry, limits);
  if (!before) checkCount(usage.vms, limits);
  // A full registry still accepts changes that do not need more space.
  const growth = entry.weight - (before?.weight ?? 0);
  if (growth > 0) checkTotal(usage.bytes + growth, limits);
}

function checkSize(entry: VmRecord, { maxEntry }: RegistryLimits): void {
  const { size } = entry;
  if (size <= maxEntry) return;
  throw new VregError('TOO_LARGE', `the entry is too large: ${size} bytes of JSON (limit ${maxEntry} bytes)`, {
    field: 'metadata',
    hint: 'store less in metadata and services, or raise --max-body on the daemon',
  });
}

function checkCount(count: number, { maxVms }: RegistryLimits): void {
  if (count < maxVms) return;
  throw new VregError('TOO_MANY_REQUESTS', `the registry is full (limit ${maxVms} VMs)`, {
    field: 'id',
    hint: 'remove dead VMs (vreg prune), or raise --max-vms on the daemon',
  });
}

function checkTotal(bytes: number, { maxTotal = Number.POSITIVE_INFINITY }: RegistryLimits): void {
  if (bytes <= maxTotal) return;
  throw new VregError('TOO_MANY_REQUESTS', `the registry is full (limit ${formatBytes(maxTotal)} of entries)`, {
    field: 'metadata',
    hint: 'store less in metadata, remove dead VMs (vreg prune), or give the daemon more memory: NODE_OPTIONS=--max-old-space-size=MEGABYTES',
  });
}
