/**
 * The VMs of a list at one moment, in parts. A part is the share of one block of {@link VmOrder}. All readers of a list share
 * the parts and their JSON until a change replaces them.
 */
import type { VmRecord } from './vm-record.ts';

/** Milliseconds by which `lastSeen` may lag in an answer with more than one VM. Everything else in an answer is exact. */
export const MAX_LAG = 1000;

/** Milliseconds after the last read for which cached JSON is retained: pollers often read once in 10 or 15 s. */
const RETENTION = 30_000;

/** Bytes of a time in an entry's JSON, and of the characters behind it. */
const TIME = '2026-01-01T00:00:00.000Z'.length;
const AFTER_TIME = '"}'.length;

/** The JSON of a part: its entries, each behind a comma. */
export interface EncodedPart {
  readonly bytes: Buffer;
  /** Number of sockets that have not sent the bytes yet. Meanwhile, they must not change. */
  readers: number;
}

export class Part {
  /** VMs in the order of the list. */
  readonly entries: readonly VmRecord[];
  /** Bytes of the JSON. A sign of life does not change it. */
  readonly size: number;
  #encoded: EncodedPart | undefined;
  #encodedAt = 0;
  /** Time of the last {@link acquire}. */
  #readAt = 0;
  #isOutdated = false;
  /** VMs that were uncertain at the last call of {@link uncertainty}, and its parameter. */
  #uncertain: readonly VmRecord[];
  #certainFrom: number | undefined;
  /** Its result, if a heartbeat can only change it by making its last VM certain. */
  #uncertainty: Uncertainty | undefined;

  constructor(entries: readonly VmRecord[]) {
    this.entries = entries;
    this.#uncertain = entries;
    this.size = entries.reduce((sum, { size }) => sum + 1 + size, 0);
  }

  /**
   * The JSON. The caller decrements `readers` when it is sent.
   * @param now on the listening clock
   * @param maxLag milliseconds by which `lastSeen` may lag
   */
  acquire(now: number, maxLag = MAX_LAG): EncodedPart {
    this.#readAt = now;
    const encoded = this.#encode(now, maxLag);
    encoded.readers++;
    return encoded;
  }

  #encode(now: number, maxLag: number): EncodedPart {
    let encoded = this.#encoded;
    if (encoded === undefined) encoded = { bytes: encode(this.entries), readers: 0 };
    else if (now - this.#encodedAt < maxLag) return encoded;
    else {
      // Reusing the bytes avoids garbage: 31 MB of it per second would keep the garbage collector busy.
      if (encoded.readers > 0) encoded = { bytes: Buffer.from(encoded.bytes), readers: 0 };
      this.#updateTimes(encoded.bytes);
    }
    // A slow reader may need an outdated part, but it is probably the last one.
    if (this.#isOutdated) return encoded;
    this.#encoded = encoded;
    this.#encodedAt = now;
    return encoded;
  }

  /** Writes the times of the VMs that have given a sign of life. Takes a tenth of the time of {@link encode}. */
  #updateTimes(bytes: Buffer): void {
    let end = 0;
    for (const entry of this.entries) {
      end += 1 + entry.size;
      // A sign of life in the same millisecond may have come before or after.
      if (entry.heardAt < this.#encodedAt) continue;
      bytes.write(entry.lastSeen, end - AFTER_TIME - TIME, TIME, 'latin1');
    }
  }

  /**
   * Which VMs are uncertain. Heartbeats can only make VMs certain, and other changes replace the part, so the result is cached
   * until the VM that determines it is certain or stale. Then only the VMs that were uncertain before are examined.
   * @param certainFrom as for {@link isUncertain}
   * @param now on the listening clock
   * @param horizon as for {@link uncertaintyOf}
   */
  uncertainty(certainFrom: number, now: number, horizon: number): Uncertainty {
    const isSameGap = certainFrom === this.#certainFrom;
    if (isSameGap && this.#uncertainty && isCurrent(this.#uncertainty, certainFrom, horizon)) return this.#uncertainty;
    const candidates = isSameGap ? this.#uncertain : this.entries;
    this.#certainFrom = certainFrom;
    this.#uncertain = candidates.filter((entry) => isUncertain(entry, certainFrom));
    const found = uncertaintyOf(this.#uncertain, certainFrom, horizon);
    // Until then, the heartbeat of another VM leaves it uncertain, for longer.
    this.#uncertainty = now > certainFrom ? found : undefined;
    return found;
  }

  /**
   * Frees the JSON if it is larger than the room, or if nobody, not even a slow reader of an old list, has read it for a while.
   * @param now on the listening clock
   * @param room bytes
   * @returns the room that is left
   */
  limit(now: number, room: number): number {
    if (this.size > room || now - this.#readAt >= RETENTION) this.#encoded = undefined;
    return this.#encoded === undefined ? room : room - this.size;
  }

  /** Marks a part that a change has replaced. */
  retire(): void {
    this.#isOutdated = true;
    this.#encoded = undefined;
  }
}

/**
 * True if a VM counts as live although it may have died: it is suspect, or its last sign of life may have been sent before a gap
 * in listening time.
 * @param certainFrom listening time; a later sign of life was certainly sent after the gap
 */
export function isUncertain({ status, isSuspect, heardAt }: VmRecord, certainFrom: number): boolean {
  return status === 'running' && (isSuspect || heardAt <= certainFrom);
}

/** The VMs of a list whose liveness is uncertain, without stale ones. */
export interface Uncertainty {
  /** The one that can become stale last, and the start of its lease on the listening clock. */
  last: VmRecord | undefined;
  leaseFrom: number;
  /** Number of suspect VMs. */
  suspects: number;
}

/**
 * @param certainFrom as for {@link isUncertain}
 * @param horizon time on the listening clock; a VM whose lease began before it is stale
 */
export function uncertaintyOf(entries: Iterable<VmRecord>, certainFrom: number, horizon: number): Uncertainty {
  const found: Uncertainty = { last: undefined, leaseFrom: Number.NEGATIVE_INFINITY, suspects: 0 };
  for (const entry of entries) {
    const { leaseFrom } = entry;
    if (leaseFrom < horizon || !isUncertain(entry, certainFrom)) continue;
    if (entry.isSuspect) found.suspects++;
    if (leaseFrom <= found.leaseFrom) continue;
    found.last = entry;
    found.leaseFrom = leaseFrom;
  }
  return found;
}

function isCurrent({ last, leaseFrom }: Uncertainty, certainFrom: number, horizon: number): boolean {
  if (last === undefined) return true;
  return last.leaseFrom === leaseFrom && leaseFrom >= horizon && isUncertain(last, certainFrom);
}

function encode(entries: readonly VmRecord[]): Buffer {
  let text = '';
  for (const { json } of entries) text += `,${json}`;
  return Buffer.from(text);
}

export class Snapshot {
  /** Parts with at least one VM. */
  readonly parts: readonly Part[];
  /** Number of VMs. */
  readonly count: number;
  /** Bytes of the entries' JSON and the commas between them. */
  readonly size: number;
  /** The stamp of the {@link VmOrder} at this moment. */
  readonly stamp: string;
  #json: string | undefined;
  #encodedAt = 0;

  constructor(parts: readonly Part[], stamp: string) {
    this.stamp = stamp;
    this.parts = parts.filter(({ entries }) => entries.length > 0);
    this.count = this.parts.reduce((sum, { entries }) => sum + entries.length, 0);
    this.size = Math.max(0, this.parts.reduce((sum, { size }) => sum + size, 0) - 1);
  }

  /** Milliseconds by which `lastSeen` may lag. It is exact in an answer with one VM. */
  get maxLag(): number {
    return this.count > 1 ? MAX_LAG : 0;
  }

  /** The JSON of the entries, separated by commas, for a short list. @param now on the listening clock */
  json(now: number): string {
    if (this.#json !== undefined && now - this.#encodedAt < this.maxLag) return this.#json;
    this.#json = this.parts.flatMap(({ entries }) => entries.map(({ json }) => json)).join(',');
    this.#encodedAt = now;
    return this.#json;
  }
}
