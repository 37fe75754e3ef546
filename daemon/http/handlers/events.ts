/**
 * `GET /registry/events`: server-sent events, as defined by the HTML standard. A subscriber that resumes after a position
 * receives the events that it missed, or, if the event log does not reach back that far, one event per changed VM. If it reads
 * too slowly, it receives `lagged` and the stream ends. If the subscriber cannot resume, it receives `reset` and the full
 * state. This happens if the registry does not know its position, or if it has a filter and the events must come from the
 * journal, which does not record which VMs no longer match a filter.
 */
import { type Position, parsePosition } from '../../../src/protocol/position.ts';
import type { Reservation } from '../../limits/budgets.ts';
import { abandon } from '../audit.ts';
import { assertPrincipalActive } from '../auth.ts';
import type { RequestContext } from '../context.ts';
import { openStream } from '../response/response.ts';
import { CHUNK_SIZE, POINTER_SIZE, reserveFor } from '../response/streaming.ts';
import type { Subscription } from './event-fanout.ts';
import { type EventFilter, parseFilter } from './event-filter.ts';
import { CLOSE_GRACE, EventWriter } from './event-writer.ts';
import { changedState, formatSelected, fullState, joinChunks, missedEvents, snapshotFor } from './initial-events.ts';

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
    writeStream(ctx, opened, fullState(ctx, snapshotFor(ctx, reservation), filter));
  } else return resumeFromJournal(ctx, opened, start);
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
    const state = snapshotFor(ctx, reservation);
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

/** The position of this history after which the stream starts; `start` for the full state; undefined for new events only. */
type Start = Position | 'start' | undefined;

/** The start of the stream, from `Last-Event-ID` or `since`. */
function startText(ctx: RequestContext): string | undefined {
  const header = ctx.headers['last-event-id'];
  return (Array.isArray(header) ? header[0] : header) || ctx.param('since');
}

/** A position that may not belong to this history means `start`. */
function parseStart(ctx: RequestContext, text: string | undefined): Start {
  if (text === undefined) return undefined;
  return ctx.services.registry.positions.compare(text) === 'same' ? parsePosition(text) : 'start';
}
