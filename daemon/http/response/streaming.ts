/** Responses that may be large: lists of entries, and streams that are produced as their client reads them. */
import type { ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { type Budget, type Reservation, UNCOUNTED } from '../../limits/budgets.ts';
import type { Scheduler } from '../../limits/scheduler.ts';
import type { VmRecord } from '../../registry/vm-record.ts';
import type { EncodedPart, Snapshot } from '../../registry/vm-snapshot.ts';

/**
 * Size of a chunk of a streamed response in UTF-16 units: hundreds of entries, so most lists fit in one chunk, but little
 * memory per slow client.
 */
export const CHUNK_SIZE = 65_536;
/**
 * Bytes of a list that are passed to a socket at once. Measured with 3 MB lists: sending them takes a tenth longer than sending a
 * single buffer, whereas half of the size takes a quarter longer. TLS holds a copy of this size for each slow client.
 */
const BATCH_SIZE = 524_288;
/** Bytes per element of an array. */
export const POINTER_SIZE = 8;

/**
 * Reserves bytes until the response is closed.
 * @throws VregError TOO_MANY_REQUESTS if the budget is used up
 */
export function reserveFor(response: ServerResponse, budget: Budget, bytes = 0): Reservation {
  budget.assertFits(bytes);
  return releaseWhenClosed(budget.reserveAnyway(bytes), response);
}

/**
 * Reserves the bytes of a text response until it is closed, unless the text is small.
 * @param isCommitted true if the request has already changed something, so its response can no longer be refused
 * @throws VregError TOO_MANY_REQUESTS
 */
export function reserveText(response: ServerResponse, budget: Budget, text: string, isCommitted: boolean): void {
  if (text.length <= UNCOUNTED.response) return;
  const bytes = Buffer.byteLength(text);
  if (!isCommitted) budget.assertFits(bytes);
  releaseWhenClosed(budget.reserveAnyway(bytes), response);
}

function releaseWhenClosed(reservation: Reservation, response: ServerResponse): Reservation {
  // A destroyed response has already emitted "close".
  if (response.destroyed) reservation.release();
  else response.once('close', () => reservation.release());
  return reservation;
}

/**
 * Creates a stream that produces each chunk after the client has read the previous one.
 * @param next resolves to undefined at the end
 * @param reservation of memory for the current chunk
 */
export function pullStream(next: () => Promise<string | undefined>, reservation: Reservation): Readable {
  const produce = async (stream: Readable) => {
    const text = await next();
    const bytes = text === undefined ? null : Buffer.from(text);
    reservation.resize(bytes?.length ?? 0);
    stream.push(bytes);
  };
  return new Readable({
    // Produce no chunk in advance.
    highWaterMark: 0,
    read() {
      produce(this).catch((error: Error) => this.destroy(error));
    },
  });
}

const VMS = ['vms'];

/** Encodes `{vms, count}` from cached JSON. @param now on the listening clock */
export function encodeSnapshot(snapshot: Snapshot, now: number): string {
  return `{"vms":[${snapshot.json(now)}],"count":${snapshot.count}}`;
}

/** Length of `{vms, count}` in bytes. */
export function snapshotLength({ size, count }: Snapshot): number {
  return `{"vms":[],"count":${count}}`.length + size;
}

/**
 * A long list as a body. It is sent from the cached parts of a snapshot, a batch at a time, after the client has read the
 * batch before. All readers share the parts, so a slow client takes only the memory of a batch.
 */
export class SnapshotBody {
  readonly #snapshot: Snapshot;
  readonly #now: () => number;
  readonly #scheduler: Scheduler;
  readonly #reservation: Reservation;

  /**
   * @param now the listening clock
   * @param reserve called with the bytes of the first batch
   * @throws VregError TOO_MANY_REQUESTS
   */
  constructor(snapshot: Snapshot, now: () => number, scheduler: Scheduler, reserve: (bytes: number) => Reservation) {
    this.#snapshot = snapshot;
    this.#now = now;
    this.#scheduler = scheduler;
    const { parts } = snapshot;
    // Encode a part before the response begins, because an error can then still be reported.
    parts[0]!.acquire(now()).readers--;
    let first = 0;
    for (let at = 0; at < parts.length && first < BATCH_SIZE; at++) first += parts[at]!.size;
    this.#reservation = reserve(first);
    this.#reservation.share(snapshot, snapshot.count * POINTER_SIZE);
  }

  /** Sends the body and ends the response. @param failed called if a part cannot be encoded */
  send(response: ServerResponse, failed: (error: unknown) => void): void {
    const { parts, count, maxLag } = this.#snapshot;
    let at = 0;
    let batch: EncodedPart[] = [];
    const releaseBatch = () => {
      for (const encoded of batch) encoded.readers--;
      batch = [];
    };
    response.once('close', releaseBatch);
    const sendBatch = () => {
      releaseBatch();
      if (response.destroyed) return;
      let bytes = 0;
      // One system call sends all writes until `uncork`.
      response.cork();
      if (at === 0) response.write('{"vms":[');
      for (; at < parts.length && bytes < BATCH_SIZE; at++) {
        const encoded = parts[at]!.acquire(this.#now(), maxLag);
        batch.push(encoded);
        // Each part begins with a comma.
        response.write(at === 0 ? encoded.bytes.subarray(1) : encoded.bytes);
        bytes += encoded.bytes.length;
      }
      const isOver = at === parts.length;
      if (isOver) response.end(`],"count":${count}}`);
      response.uncork();
      this.#reservation.resize(bytes);
      if (!isOver) response.once('drain', resume);
    };
    const resume = () => {
      // The scheduler also defers the next batch of a fast client, so that no list blocks the event loop.
      new Promise((resolve) => resolve(this.#scheduler.run(sendBatch))).catch(failed);
    };
    resume();
  }
}

/**
 * Encodes `{vms, count}`. Declared fields have their values at the time of the call, even if they are sent later; liveness is
 * computed when it is sent.
 * @param reserve called with the bytes of the first chunk if there is more than one
 * @param names of the list in the response, which contains it once for each name
 * @returns a text if it fits in one chunk, otherwise a stream. The text of a long list would occupy memory for each slow
 * client, and can exceed the maximum length of a JavaScript string.
 * @throws VregError TOO_MANY_REQUESTS
 */
export function encodeList(
  entries: readonly VmRecord[],
  encode: (entry: VmRecord) => string,
  scheduler: Scheduler,
  reserve: (bytes: number) => Reservation,
  names: readonly string[] = VMS,
): string | Readable {
  const list = new ListEncoder(entries, encode, names);
  const first = list.next();
  if (list.isOver) return first;
  const reservation = reserve(first.length);
  reservation.share(entries, entries.length * POINTER_SIZE);
  let pending: string | undefined = first;
  return pullStream(async () => {
    const text = pending;
    pending = undefined;
    if (text !== undefined) return text;
    return list.isOver ? undefined : scheduler.run(() => list.next());
  }, reservation);
}

/** The length of {@link encodeList} in bytes, for entries without added fields. */
export function listLength(entries: readonly VmRecord[], names: readonly string[] = VMS): number {
  const commas = Math.max(0, entries.length - 1);
  const list = entries.reduce((sum, { size }) => sum + size, commas);
  const frame = `{"count":${entries.length}}`.length;
  return names.reduce((sum, name) => sum + `"${name}":[],`.length + list, frame);
}

/** Encodes a list and its length chunk by chunk. A generator would take half as long as encoding a short list. */
class ListEncoder {
  /** True when the last chunk has been returned. */
  isOver = false;
  readonly #entries: readonly VmRecord[];
  readonly #encode: (entry: VmRecord) => string;
  readonly #names: readonly string[];
  /** Index of the current name. */
  #list = 0;
  #index = 0;

  constructor(entries: readonly VmRecord[], encode: (entry: VmRecord) => string, names: readonly string[]) {
    this.#entries = entries;
    this.#encode = encode;
    this.#names = names;
  }

  /** Returns the next chunk. Must not be called after the last one. */
  next(): string {
    const entries = this.#entries;
    const names = this.#names;
    let chunk = this.#list === 0 && this.#index === 0 ? `{"${names[0]}":[` : '';
    for (;;) {
      while (this.#index < entries.length) {
        if (this.#index > 0) chunk += ',';
        chunk += this.#encode(entries[this.#index++]!);
        if (chunk.length >= CHUNK_SIZE) return chunk;
      }
      if (++this.#list >= names.length) break;
      this.#index = 0;
      chunk += `],"${names[this.#list]}":[`;
    }
    this.isOver = true;
    return `${chunk}],"count":${entries.length}}`;
  }
}
