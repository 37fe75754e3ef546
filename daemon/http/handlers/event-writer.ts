/** Writes events to a subscriber, and detects that it reads too slowly. */
import type { ServerResponse } from 'node:http';
import type { Position } from '../../../src/protocol/position.ts';
import type { Budget, Reservation } from '../../limits/budgets.ts';
import type { Scheduler } from '../../limits/scheduler.ts';
import type { StreamLimits } from '../../limits.ts';
import type { RequestContext } from '../context.ts';
import { CHUNK_SIZE } from '../response/streaming.ts';
import { formatControl } from './event-text.ts';

/** Milliseconds for a subscriber to read the last events after the daemon has stopped or the token has become invalid. */
export const CLOSE_GRACE = 1000;

export class EventWriter {
  readonly #response: ServerResponse;
  readonly #limits: StreamLimits;
  readonly #scheduler: Scheduler;
  /** Reserves memory for {@link #chunk}. */
  readonly #reservation: Reservation;
  /** The chunk of the initial events that is being written. Other subscribers may be reading it, too. */
  #chunk: Buffer | undefined;
  readonly #backlog: Backlog;
  readonly #isExpired: () => boolean;
  #isEnded = false;
  /**
   * Bytes of the initial events that the client has not read yet. They do not count as lag, because the client requested them.
   */
  #burst = 0;

  constructor(response: ServerResponse, { services, principal }: RequestContext, reservation: Reservation) {
    this.#response = response;
    this.#limits = services.streams;
    this.#scheduler = services.scheduler;
    this.#reservation = reservation;
    this.#backlog = new Backlog(services.subscribers);
    this.#isExpired = () => principal.token?.isExpired() ?? false;
  }

  get isEnded(): boolean {
    return this.#isEnded;
  }

  /**
   * Writes chunks as fast as the client reads them; other requests run between two chunks. The first chunk is written
   * immediately, so that a stream that is opened during shutdown is not empty.
   */
  writeChunks(chunks: Iterator<string | Buffer>, then: () => void): void {
    if (this.#response.destroyed || !this.#mayContinue()) return;
    const { value, done } = chunks.next();
    if (done) {
      then();
      return;
    }
    const next = () => void this.#scheduler.run(() => this.writeChunks(chunks, then));
    const bytes = typeof value === 'string' ? Buffer.from(value) : value;
    this.#reserve(bytes);
    const isFlushed = this.#response.write(bytes);
    // A short chunk is the last one. Most initial states fit in one chunk and end here.
    if (value.length < CHUNK_SIZE) this.writeChunks(chunks, then);
    else if (isFlushed) setImmediate(next);
    else this.#response.once('drain', next);
  }

  #reserve(chunk: Buffer): void {
    // Replaces the bytes that the stream has reserved for its first chunk.
    this.#reservation.resize(0);
    if (this.#chunk) this.#reservation.unshare(this.#chunk);
    this.#reservation.share(chunk, chunk.length);
    this.#chunk = chunk;
  }

  /** Called when the client has received the initial events. From then on, it must keep up with new events. */
  follow(): void {
    this.#burst = this.#response.writableLength;
    this.#chunk = undefined;
  }

  /** @returns false if the client has fallen behind */
  write(bytes: Buffer): boolean {
    if (!this.#mayContinue()) return true;
    this.#burst = Math.min(this.#burst, this.#response.writableLength);
    const { socket } = this.#response;
    // Pass the bytes to the kernel now. Node would do so after this turn, and until then they would count as unread.
    socket?.cork();
    this.#response.write(bytes);
    socket?.uncork();
    const waiting = this.#response.writableLength;
    if (waiting > 0) this.#backlog.add(bytes);
    this.#backlog.settle(waiting);
    return waiting <= this.#burst + this.#limits.maxBacklog;
  }

  /** Bytes that the client has not read yet. */
  backlog(): number {
    const { writableLength } = this.#response;
    this.#backlog.settle(writableLength);
    return writableLength;
  }

  keepAlive(): void {
    if (this.#mayContinue()) this.#response.write(': alive\n\n');
  }

  /** Sends `lagged` to a client that fell behind, and ends the stream. */
  lagged(at: Position): void {
    this.end(this.#limits.lagGrace, formatControl('lagged', at));
  }

  /**
   * Called before each write, because a client must not receive events after its token has expired.
   * @returns false if the stream has ended
   */
  #mayContinue(): boolean {
    if (!this.#isEnded && this.#isExpired()) this.end(CLOSE_GRACE);
    return !this.#isEnded;
  }

  /** Ends the stream. @param graceMs milliseconds after which the connection is cut if the client has not read everything */
  end(graceMs: number, lastEvent = ''): void {
    if (!this.#isEnded) this.#response.end(lastEvent);
    this.#isEnded = true;
    setTimeout(() => this.#response.destroy(), graceMs).unref();
  }

  /** Releases the memory budget of a closed stream. */
  release(): void {
    this.#backlog.release();
  }
}

/** The buffers that a subscriber has not read yet. The budget counts a buffer once, even if many subscribers share it. */
class Backlog {
  readonly #reservation: Reservation;
  readonly #buffers: Buffer[] = [];
  #bytes = 0;

  constructor(budget: Budget) {
    this.#reservation = budget.reserveAnyway(0);
  }

  add(buffer: Buffer): void {
    this.#buffers.push(buffer);
    this.#bytes += buffer.length;
    this.#reservation.share(buffer, buffer.length);
  }

  /** Releases the buffers that have been written. @param waiting bytes that are still buffered in the response */
  settle(waiting: number): void {
    for (let [first] = this.#buffers; first && this.#bytes - first.length >= waiting; [first] = this.#buffers) {
      this.#buffers.shift();
      this.#bytes -= first.length;
      this.#reservation.unshare(first);
    }
  }

  release(): void {
    this.#reservation.release();
  }
}
