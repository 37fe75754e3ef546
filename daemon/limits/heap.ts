/** The heap of the daemon: its size, the part of it that stored entries may fill, and the errors if it is too small for them. */
import { getHeapStatistics } from 'node:v8';
import { formatBytes, VregError } from '../../src/protocol/errors.ts';

const MEBIBYTE = 1_048_576;

/** Share of the heap that stored entries may fill. The budgets are shares of the rest. */
const ENTRIES_SHARE = 1 / 2;

/**
 * Share of the heap above which stored entries are refused at start. The rest holds the program and the garbage of the start.
 * Between this share and {@link ENTRIES_SHARE}, they fit, but no entry can be added.
 */
const START_SHARE = 3 / 4;

/**
 * Bytes of heap per VM by which `--max-vms` is checked at start: the weight of an entry with 370 bytes of JSON and one service,
 * see `VmRecord.weight`.
 */
const USUAL_WEIGHT = 1450;

/** The option that sets the size of the heap for old objects, in MiB. */
const OLD_SPACE_OPTION = /--max[-_]old[-_]space[-_]size[= ](\d+)/g;

/**
 * Bytes for old objects, such as entries. V8's limit includes 48 MiB (Node 20) to 192 MiB (Node 24) for new objects, which is
 * more than half of a heap that was set to be small.
 */
export function heapLimit(): number {
  const { heap_size_limit: limit } = getHeapStatistics();
  const options = [process.env.NODE_OPTIONS ?? '', ...process.execArgv].join(' ');
  const megabytes = [...options.matchAll(OLD_SPACE_OPTION)].at(-1)?.[1];
  return megabytes === undefined ? limit : Math.min(limit, Number(megabytes) * MEBIBYTE);
}

/** @param heap bytes @returns the maximum total weight of all stored entries, in bytes */
export function entriesLimit(heap = heapLimit()): number {
  return Math.floor(heap * ENTRIES_SHARE);
}

/** @returns the heap in MiB that a number of VMs of usual size needs, for `--max-old-space-size` */
export function neededHeap(maxVms: number): number {
  return heapFor(maxVms * USUAL_WEIGHT);
}

/** @param weight of entries, in bytes @returns the smallest heap that has room for them, in MiB */
function heapFor(weight: number): number {
  return Math.ceil(weight / ENTRIES_SHARE / MEBIBYTE);
}

/**
 * Explains that the heap is too small for a number of VMs of usual size.
 * @param heap bytes
 * @returns undefined if they fit; otherwise an error with code USAGE
 */
export function heapTooSmall(maxVms: number, heap = heapLimit()): VregError | undefined {
  const room = Math.floor(entriesLimit(heap) / USUAL_WEIGHT);
  if (maxVms <= room) return undefined;
  const message = `the heap (${formatBytes(heap)}) is too small for ${maxVms} VMs: it has room for about ${room}`;
  return new VregError('USAGE', message, {
    field: 'max-vms',
    hint: `give the daemon more memory: NODE_OPTIONS=--max-old-space-size=${neededHeap(maxVms)}`,
  });
}

/** @param weight of stored entries, in bytes @param heap bytes @returns true if the daemon can start with them, see {@link storeTooLarge} */
export function fitsAtStart(weight: number, heap: number): boolean {
  return weight <= heap * START_SHARE;
}

/**
 * Explains that the stored entries exceed their limit.
 * @param weight of the stored entries, in bytes
 * @param heap bytes
 * @returns undefined if they do not; otherwise an error with code STORE_UNUSABLE, which is only a warning if {@link fitsAtStart}
 */
export function storeTooLarge(weight: number, heap: number): VregError | undefined {
  const limit = entriesLimit(heap);
  if (weight <= limit) return undefined;
  const message = `the heap (${formatBytes(heap)}) is too small for the stored VMs: they need ${formatBytes(weight)} (limit ${formatBytes(limit)})`;
  return new VregError('STORE_UNUSABLE', message, {
    hint: `give the daemon more memory: NODE_OPTIONS=--max-old-space-size=${heapFor(weight)}`,
  });
}

/**
 * Size of the JSON of cached lists, which is outside the heap, as a share of the heap. With a heap of 4 GiB, this is 256 MiB; all
 * lists of 200,000 VMs with 320 bytes each take 194 MB.
 */
const LIST_CACHE_SHARE = 1 / 16;

/** @param heap bytes @returns the maximum size of the JSON of cached lists, in bytes */
export function listCacheLimit(heap = heapLimit()): number {
  return Math.floor(heap * LIST_CACHE_SHARE);
}
