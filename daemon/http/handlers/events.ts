/**
 * `GET /registry/events`: server-sent events, as defined by the HTML standard. A subscriber that resumes after a position
 * receives the events that it missed, or, if the event log does not reach back that far, one event per changed VM. If it reads
 * too slowly, it receives `lagged` and the stream ends. If the subscriber cannot resume, it receives `reset` and the full
 * state. This happens if the registry does not know its position, or if it has a filter and the events must come from the
 * journal, which does not record which VMs no longer match a filter.
 */
import type { ServerResponse } from 'node:http';
import { formatPosition, type Position, parsePosition } from '../../../src/protocol/position.ts';
import type { Budget, Reservation, Scheduler, StreamLimits } from '../../limits.ts';
import { type Event, eventInRole, eventOf } from '../../registry/events.ts';
import type { VmChange } from '../../registry/missed-changes.ts';
import { permits } from '../../registry/preconditions.ts';
import type { Registry } from '../../registry/registry.ts';
import type { VmRecord } from '../../registry/vm-record.ts';
import { abandon } from '../audit.ts';
import { assertPrincipalActive } from '../auth.ts';
import type { RequestContext, Result } from '../context.ts';
import { openStream } from '../response/response.ts';
import { CHUNK_SIZE, POINTER_SIZE, reserveFor } from '../response/streaming.ts';
import { type EventSubject, formatEvent, type SelectEvent, type Snapshot, type Subscription } from './event-fanout.ts';
import type { StateChunk } from './state-chunks.ts';

/** Milliseconds for a subscriber to read the last events after the daemon has stopped or the token has become invalid. */
const CLOSE_GRACE = 1000;

const STREAM_HEADERS = {
  'content-type': 'text/event-stream; charset=utf-8',
  // nginx would buffer the events otherwise.
  'x-accel-buffering': 'no',
};

export function streamEvents(ctx: RequestContext): undefined | Promise<undefined> {
  const { registry } = ctx.services;
  const text = startText(ctx);
  // A subscriber of another replica may be ahead of this one.
  if (text === undefined || !registry.positions.isAhead(text)) return stream(ctx, text);
  return registry.replicas.catchUp()!.then(() => {
    if (ctx.response.destroyed) return abandon(ctx);
    assertPrincipalActive(ctx);
    return stream(ctx, text);
  });
}

function stream(ctx: RequestContext, text: string | undefined): undefined | Promise<undefined> {
  const { registry, responses, openStreams } = ctx.services;
  const filter = parseFilter(ctx);
  const start = parseStart(ctx, text);
  const wantsHeartbeats = ctx.flag('heartbeats');

  const reservation = reserveFor(ctx.response, responses, CHUNK_SIZE);
  const release = openStreams.acquire();
  if (ctx.method === 'HEAD') {
    release();
    openStream(ctx, STREAM_HEADERS).end();
    return;
  }
  const opened = { filter, wantsHeartbeats, reservation, release };
  // Sweep first. Otherwise, a VM whose lease has already expired would be reported as stale twice: here and by the next sweep.
  registry.sweep();
  const missed = start === 'start' ? undefined : start ? registry.events.since(start.revision) : [];
  if (missed) {
    reservation.share(missed, missed.length * POINTER_SIZE);
    writeStream(ctx, opened, joinChunks(missedEvents(missed, filter.select, registry.positions.latest)));
  } else if (!start || start === 'start' || filter.isLimited) {
    // The journal does not record which VMs no longer match a filter.
    writeStream(ctx, opened, fullState(ctx, currentState(ctx, reservation), filter));
  } else return resumeFromJournal(ctx, opened, start);
}

/** Events in a response to `GET /registry/recent`, unless the request asks for another number. */
const RECENT = 200;
/** Most events in such a response. */
const MAX_RECENT = 4000;
/** UTF-16 units of JSON after which such a response ends, because an entry may be as large as a request body. */
const MAX_RECENT_SIZE = 1_048_576;

/** `GET /registry/recent`: the events that the event log retains. */
export function recentEvents(ctx: RequestContext): Result {
  const { registry } = ctx.services;
  const limit = ctx.number('limit', 1, MAX_RECENT) ?? RECENT;
  const { select } = parseFilter(ctx);
  registry.sweep();
  const found: string[] = [];
  let size = 0;
  for (const event of registry.events.newestFirst()) {
    const selected = select(event);
    if (!selected) continue;
    size += selected.json.length;
    if (found.length === limit || (found.length > 0 && size > MAX_RECENT_SIZE)) break;
    found.push(selected.json);
  }
  return { status: 200, body: `{"events":[${found.join(',')}],"count":${found.length}}` };
}

/**
 * Resumes a stream after a position of this history from the journal, because the event log no longer contains all later
 * events.
 */
async function resumeFromJournal(ctx: RequestContext, stream: Stream, start: Position): Promise<undefined> {
  const { registry, scheduler } = ctx.services;
  const { filter, reservation, release } = stream;
  const readJournal = async () => {
    registry.sweep();
    // The mark and the state belong together, because nothing can change before the first `await`.
    const { mark } = registry.events;
    const state = currentState(ctx, reservation);
    const changes = await registry.changesSince(start.revision);
    if (changes) reservation.share(changes, changes.length * POINTER_SIZE);
    return { mark, events: changes ? joinChunks(changedState(changes, state)) : fullState(ctx, state, filter) };
  };
  try {
    const { mark, events } = await scheduler.serialize(readJournal);
    if (!ctx.response.destroyed) {
      assertPrincipalActive(ctx);
      writeStream(ctx, stream, events, mark);
      return;
    }
  } catch (error) {
    release();
    throw error;
  }
  release();
  abandon(ctx);
}

/** A stream, without its first events. */
interface Stream {
  filter: EventFilter;
  wantsHeartbeats: boolean;
  reservation: Reservation;
  /** Releases the slot of the stream. */
  release(): void;
}

/**
 * Writes the first events, and then follows the event log.
 * @param initial chunks of the events that bring the subscriber to the current state
 * @param mark end of the event log at the state to which `initial` leads
 */
function writeStream(
  ctx: RequestContext,
  { filter, wantsHeartbeats, reservation, release }: Stream,
  initial: Iterator<string | Buffer>,
  mark = ctx.services.registry.events.mark,
): void {
  const { registry, streams, fanout } = ctx.services;
  const response = openStream(ctx, STREAM_HEADERS);
  const writer = new EventWriter(response, ctx, reservation);
  let subscription: Subscription | undefined;
  let isClosed = false;
  let read = mark;
  const follow = () => {
    if (isClosed) return;
    // From now on, buffers are shared with other subscribers, and the backlog counts them.
    reservation.release();
    writer.follow();
    subscription = fanout.subscribe({
      filterKey: filter.key,
      wantsHeartbeats,
      select: filter.select,
      write: (bytes) => {
        if (!writer.write(bytes)) writer.lagged(registry.positions.latest);
        return !writer.isEnded;
      },
      backlog: () => writer.backlog(),
      lagged: () => writer.lagged(registry.positions.latest),
    });
  };
  /** Writes the events that were added while the client was reading the previous ones, until there are no more. */
  const catchUp = () => {
    const missed = registry.events.after(read);
    read = registry.events.mark;
    if (!missed) writer.lagged(registry.positions.latest);
    else if (missed.length === 0) follow();
    else writer.writeChunks(joinChunks(formatSelected(missed, filter.select)), catchUp);
  };
  writer.writeChunks(initial, catchUp);
  const keepAlive = setInterval(() => writer.keepAlive(), streams.keepAlive);
  const offAbort = ctx.onAbort(() => {
    subscription?.flush();
    writer.end(CLOSE_GRACE);
  });
  const { socket } = ctx.request;
  const close = () => {
    isClosed = true;
    clearInterval(keepAlive);
    offAbort();
    release();
    writer.release();
    subscription?.unsubscribe();
    socket.off('close', close);
  };
  response.once('close', close);
  // A response that is queued behind another one on its connection emits no "close" when the connection ends.
  socket.once('close', close);
}

function currentState({ services: { registry, fanout } }: RequestContext, reservation: Reservation): Snapshot {
  const snapshot = fanout.snapshot(registry.positions.latest, () => takeSnapshot(registry));
  reservation.share(snapshot, (snapshot.entries.length + 3 * snapshot.liveness.size) * POINTER_SIZE);
  return snapshot;
}

function* missedEvents(missed: Iterable<Event>, select: SelectEvent, position: Position): Generator<string> {
  yield* formatSelected(missed, select);
  yield formatControl('synced', position);
}

/**
 * Formats the full state for a subscriber that cannot resume: `reset`, one event per entry, and `synced`. Subscribers with the
 * same filter share chunks.
 */
function* fullState(
  { services: { registry, fanout } }: RequestContext,
  snapshot: Snapshot,
  { key: filterKey, select }: EventFilter,
): Generator<Buffer> {
  for (let next: number | undefined = 0; next !== undefined; ) {
    const start: number = next;
    const format = () => formatChunk(snapshot, start, select);
    const chunk = fanout.stateChunks.get({ snapshot, filterKey, start }, registry.clock.listening(), format);
    yield chunk.bytes;
    next = chunk.next;
  }
}

/** @param start number of entries in the chunks before this one, selected or not */
function formatChunk({ entries, liveness, position, at }: Snapshot, start: number, select: SelectEvent): StateChunk {
  const head = JSON.stringify({ type: 'registered', revision: position.revision, position: formatPosition(position) });
  const prefix = `event: registered\ndata: ${head.slice(0, -1)},"at":"`;
  let text = start === 0 ? formatControl('reset', position) : '';
  let count = 0;
  let next = start;
  while (next < entries.length && text.length < CHUNK_SIZE) {
    // Oldest first, so that subscribers build up the same order.
    const entry = entries[entries.length - ++next]!;
    const { id, role, status, registeredAt } = entry;
    if (!select({ id, role, status, before: {} })) continue;
    count++;
    // Not with `eventOf`, because subscribers with different filters may request the state of a large fleet at the same time.
    text += `${prefix}${registeredAt}","vm":${entry.json}}\n\n`;
    const silence = liveness.get(entry);
    if (silence) text += formatWithoutId(eventOf(silence, entry, { position, at }));
  }
  const isLast = next === entries.length && text.length < CHUNK_SIZE;
  if (isLast) text += formatControl('synced', position);
  return { bytes: Buffer.from(text), next: isLast ? undefined : next, isShareable: count > 1 || start > 0 || !isLast };
}

/** Formats the differences for a subscriber at an earlier position: one event per changed VM, and one per stale or suspect VM. */
function* changedState(changes: readonly VmChange[], { entries, liveness, position, at }: Snapshot): Generator<string> {
  for (const { type, entry, occasion } of changes) yield formatWithoutId(eventOf(type, entry, occasion));
  for (let i = entries.length - 1; i >= 0; i--) {
    const entry = entries[i]!;
    const silence = liveness.get(entry);
    if (silence) yield formatWithoutId(eventOf(silence, entry, { position, at }));
  }
  yield formatControl('synced', position);
}

function* formatSelected(events: Iterable<Event>, select: SelectEvent): Generator<string> {
  for (const event of events) {
    const selected = select(event);
    if (selected) yield formatEvent(selected);
  }
}

function takeSnapshot(registry: Registry): Snapshot {
  const entries = registry.list({});
  const liveness = new Map<VmRecord, 'stale' | 'suspect'>();
  for (const entry of registry.silent()) liveness.set(entry, entry.isSuspect ? 'suspect' : 'stale');
  return { entries, liveness, position: registry.positions.latest, at: registry.clock.now() };
}

/** Formats an event of an initial state. It has no id, because a subscriber can resume only after the complete state. */
function formatWithoutId({ type, json }: Event): string {
  return `event: ${type}\ndata: ${json}\n\n`;
}

function formatControl(type: 'reset' | 'synced' | 'lagged', at: Position): string {
  const position = formatPosition(at);
  const id = type === 'synced' ? `id: ${position}\n` : '';
  return `${id}event: ${type}\ndata: ${JSON.stringify({ type, revision: at.revision, position })}\n\n`;
}

function* joinChunks(texts: Iterable<string>): Generator<string> {
  let chunk = '';
  for (const text of texts) {
    chunk += text;
    if (chunk.length < CHUNK_SIZE) continue;
    yield chunk;
    chunk = '';
  }
  if (chunk !== '') yield chunk;
}

/** Writes events to a subscriber, and detects that it reads too slowly. */
class EventWriter {
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

interface EventFilter {
  /** Filters with equal keys match the same events. */
  key: string;
  /** True unless the filter matches every event. */
  isLimited: boolean;
  readonly select: SelectEvent;
}

/**
 * Parses the filter. `role`, `status` and `id` each accept several values, separated by commas. An event that changes the role
 * or status matches both the old and the new value.
 */
function parseFilter(ctx: RequestContext): EventFilter {
  const { role, status, id } = ctx.query('role', 'status', 'id');
  const [roles, statuses, ids] = [role, status, id].map((text) =>
    text === undefined ? undefined : new Set<string | undefined>(text.split(',')),
  );
  const { readFilter } = ctx;
  const matches = (subject: EventSubject) =>
    permits(readFilter, subject) &&
    (!roles || roles.has(subject.role) || roles.has(subject.before.role)) &&
    (!ids || ids.has(subject.id)) &&
    (!statuses || statuses.has(subject.status) || statuses.has(subject.before.status));
  const select: SelectEvent = (event) => {
    const visible = eventInRole(event, readFilter?.role);
    return visible && matches(visible) ? visible : undefined;
  };
  const isLimited = [role, status, id, readFilter].some((limit) => limit !== undefined);
  return { key: JSON.stringify([role, status, id, readFilter?.vm, readFilter?.role]), isLimited, select };
}

/** The position of this history after which the stream starts; `start` for the full state; undefined for new events only. */
type Start = Position | 'start' | undefined;

/** The start of the stream, from `Last-Event-ID` or `since`. */
function startText(ctx: RequestContext): string | undefined {
  const header = ctx.headers['last-event-id'];
  return (Array.isArray(header) ? header[0] : header) || ctx.query('since').since;
}

/** A position that may not belong to this history means `start`. */
function parseStart(ctx: RequestContext, text: string | undefined): Start {
  if (text === undefined) return undefined;
  return ctx.services.registry.positions.compare(text) === 'same' ? parsePosition(text) : 'start';
}
