/** How much one registry takes: so that nobody fills it by mistake, or on purpose. */
import { VregError } from '../../src/protocol/errors.ts';
import type { VmRecord } from './vm-record.ts';

export interface RegistryLimits {
  /** VMs at once. */
  maxVms: number;
  /** Bytes of one entry's JSON. */
  maxEntry: number;
  /** Of all entries' {@link VmRecord.weight}: they are kept in memory. No limit when nothing is said. */
  maxTotal?: number;
}

/** What there is, with what is on its way. */
export interface Holdings {
  vms: number;
  /** Of all entries' {@link VmRecord.weight}. */
  bytes: number;
}

/**
 * @param before the entry whose place it takes
 * @throws VregError TOO_LARGE, TOO_MANY_REQUESTS when the registry is full
 */
export function checkLimits(
  entry: VmRecord,
  before: VmRecord | undefined,
  held: Holdings,
  limits: RegistryLimits,
): void {
  checkSize(entry, limits);
  if (!before) checkRoom(held.vms, limits);
  // What does not grow is taken by a full registry, too.
  const growth = entry.weight - (before?.weight ?? 0);
  if (growth > 0) checkTotal(held.bytes + growth, limits);
}

function checkSize(entry: VmRecord, { maxEntry }: RegistryLimits): void {
  const { size } = entry;
  if (size <= maxEntry) return;
  throw new VregError('TOO_LARGE', `the entry is too large: ${size} bytes of JSON, at most ${maxEntry}`, {
    field: 'metadata',
    hint: 'store less in metadata and services, or raise --max-body of the daemon',
  });
}

function checkTotal(bytes: number, { maxTotal = Number.POSITIVE_INFINITY }: RegistryLimits): void {
  if (bytes <= maxTotal) return;
  throw new VregError(
    'TOO_MANY_REQUESTS',
    `the registry is full: its entries would be ${bytes} bytes, at most ${maxTotal}`,
    {
      field: 'metadata',
      hint: 'keep less in metadata, remove VMs that are gone (vreg prune), or give the daemon more memory: NODE_OPTIONS=--max-old-space-size=MEGABYTES',
    },
  );
}

function checkRoom(count: number, { maxVms }: RegistryLimits): void {
  if (count < maxVms) return;
  throw new VregError('TOO_MANY_REQUESTS', `the registry is full: it has ${count} VMs, at most ${maxVms}`, {
    field: 'id',
    hint: 'remove those that are gone (vreg prune), or raise --max-vms of the daemon',
  });
}
