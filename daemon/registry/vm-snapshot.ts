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
  #uncertain: readonly VmRecord[];
  /** Parameter of the last call of {@link uncertain}. */
  #certainFrom: number | undefined;

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
   * The VMs whose liveness is uncertain, see {@link isUncertain}. Examines only those of the last call: heartbeats can only make
   * VMs certain, and other changes replace the part.
   */
  uncertain(certainFrom: number): readonly VmRecord[] {
    const candidates = certainFrom === this.#certainFrom ? this.#uncertain : this.entries;
    this.#certainFrom = certainFrom;
    if (candidates.length === 0) return candidates;
    this.#uncertain = candidates.filter((entry) => isUncertain(entry, certainFrom));
    return this.#uncertain;
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

  /** The VMs whose liveness is uncertain, see {@link isUncertain}. */
  uncertain(certainFrom: number): VmRecord[] {
    const found: VmRecord[] = [];
    for (const part of this.parts) for (const entry of part.uncertain(certainFrom)) found.push(entry);
    return found;
  }

  /** The JSON of the entries, separated by commas, for a short list. @param now on the listening clock */
  json(now: number): string {
    if (this.#json !== undefined && now - this.#encodedAt < this.maxLag) return this.#json;
    this.#json = this.parts.flatMap(({ entries }) => entries.map(({ json }) => json)).join(',');
    this.#encodedAt = now;
    return this.#json;
  }
}
