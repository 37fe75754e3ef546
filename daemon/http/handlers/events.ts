/**
 * `GET /registry/events`: server-sent events (the HTML standard's). A reader is told everything or told that it is not:
 * one that falls behind gets `lagged` and the end, one that asks for a revision that is no longer known gets `reset` and
 * the full state.
 */
import type { ServerResponse } from 'node:http';
import { type Event, eventOf } from '../../registry/events.ts';
import { permits } from '../../registry/preconditions.ts';
import type { Registry } from '../../registry/registry.ts';
import type { VmRecord } from '../../registry/vm-record.ts';
import { invalidQuery, type RequestContext } from '../context.ts';
import type { Account } from '../response-budget.ts';
import type { Pieces } from '../scheduler.ts';
import { type Place, type Seen, type State, textOf } from './event-fanout.ts';

export interface StreamLimits {
  /** Milliseconds between two comment lines, so that proxies and readers see that the stream lives. */
  keepAlive: number;
  /** Bytes that may wait for a reader, besides what it asked for at once. More means that it does not keep up. */
  maxWaiting: number;
  /** Milliseconds that a reader who fell behind has to take the last word. */
  lastWord: number;
}

/** A comment every 15 s, as the HTML standard advises; seconds of a busy fleet wait. */
export const STREAM_LIMITS: StreamLimits = { keepAlive: 15_000, maxWaiting: 1_048_576, lastWord: 5000 };
/** UTF-16 units of the start that are made and written at once: a fraction of a millisecond of work. */
const PIECE = 65_536;
/** Milliseconds that a reader has to take what waits for it when the daemon stops. */
const FAREWELL = 1000;
/** Bytes that an entry, or an event, takes in a list of them. */
const REFERENCE = 8;
const EMPTY: State = { entries: [], liveness: [] };

export function streamEvents(ctx: RequestContext): undefined {
  const { registry, responses, openStreams, streams, fanout } = ctx.services;
  const { question, wanted } = parseFilter(ctx);
  const from = readStart(ctx);
  const wantsBeats = ctx.flag('heartbeats');

  const account = responses.open(ctx.response);
  const release = openStreams.take();
  const raw = ctx.openStream({
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-store',
    // nginx would gather the events otherwise.
    'x-accel-buffering': 'no',
  });
  if (ctx.method === 'HEAD') {
    release();
    raw.end();
    return;
  }
  const reader = new Reader(raw, ctx, account);
  let place: Place | undefined;
  let isClosed = false;
  const listen = () => {
    if (isClosed) return;
    // From here on its bytes are those of the others, too.
    account.close();
    reader.begin();
    place = fanout.join({
      question: `${wantsBeats} ${question}`,
      wantsBeats,
      wants: wanted,
      take: (bytes) => {
        if (!reader.take(bytes)) reader.lagged(registry.revision);
        return !reader.isOver;
      },
      lagged: () => reader.lagged(registry.revision),
    });
  };
  const start = piecesOf(startOf(ctx, from, wanted, account));
  let { mark } = registry.events;
  /** Tells what came while the reader took what was before, until there is no more. */
  const catchUp = () => {
    const missed = registry.events.after(mark);
    mark = registry.events.mark;
    if (!missed) reader.lagged(registry.revision);
    else if (missed.length === 0) listen();
    else reader.start(piecesOf(missed.filter(wanted).map(textOf)), catchUp);
  };
  reader.start(start, catchUp);
  const stop = () => {
    place?.giveRest();
    reader.end(FAREWELL);
  };
  const keepAlive = setInterval(() => reader.keepAlive(), streams.keepAlive);
  const stay = ctx.onAbort(stop);
  const { socket } = ctx.request;
  const close = () => {
    isClosed = true;
    clearInterval(keepAlive);
    stay();
    release();
    place?.leave();
    socket.off('close', close);
  };
  raw.once('close', close);
  // A response that waits behind another one on its connection never hears that the connection is gone.
  socket.once('close', close);
}

/** What a reader has to know before it is told what comes: as of now, whenever it is read. */
function startOf(ctx: RequestContext, from: number | undefined, wanted: (event: Seen) => boolean, account: Account) {
  const { registry, fanout } = ctx.services;
  // So that none is told as stale here and once more by the next sweep.
  registry.sweep();
  const current = registry.revision;
  const missed = from === undefined ? [] : registry.events.since(from, current);
  const state = missed ? EMPTY : fanout.state(() => stateOf(registry));
  // Of a state, each entry and how it is.
  if (missed) account.share(missed, missed.length * REFERENCE);
  else account.share(state, state.entries.length * 2 * REFERENCE);
  const at = registry.clock.now();
  return (function* () {
    if (missed) for (const event of missed) if (wanted(event)) yield textOf(event);
    if (!missed) yield controlText('reset', current);
    // Oldest first, so that a reader builds the same order.
    for (let i = state.entries.length - 1; i >= 0; i--) {
      const entry = state.entries[i]!;
      const registered = eventOf('registered', entry, { revision: current, at: Date.parse(entry.vm.registeredAt) });
      if (!wanted(registered)) continue;
      yield stateText(registered);
      const how = state.liveness[i];
      if (how) yield stateText(eventOf(how, entry, { revision: current, at }));
    }
    yield controlText('synced', current);
  })();
}

function stateOf(registry: Registry): State {
  const entries = registry.list({});
  return { entries, liveness: entries.map((entry) => livenessOf(registry, entry)) };
}

function livenessOf(registry: Registry, entry: VmRecord): State['liveness'][number] {
  if (entry.vm.status !== 'running') return undefined;
  if (registry.isStale(entry)) return 'stale';
  return entry.isSuspect ? 'suspect' : undefined;
}

/** A part of the full state. Without an id: only the whole of it is a place to resume from. */
function stateText({ type, json }: Event): string {
  return `event: ${type}\ndata: ${json}\n\n`;
}

function controlText(type: 'reset' | 'synced', revision: number): string {
  const id = type === 'synced' ? `id: ${revision}\n` : '';
  return `${id}event: ${type}\ndata: ${JSON.stringify({ type, revision })}\n\n`;
}

function* piecesOf(texts: Iterable<string>): Generator<string> {
  let piece = '';
  for (const text of texts) {
    piece += text;
    if (piece.length < PIECE) continue;
    yield piece;
    piece = '';
  }
  if (piece !== '') yield piece;
}

/** Writes to one reader, and knows when it does not read. */
class Reader {
  readonly #raw: ServerResponse;
  readonly #limits: StreamLimits;
  readonly #turns: Pieces;
  readonly #account: Account;
  readonly #isExpired: () => boolean;
  #ended = false;
  /** Bytes of the start that still wait: a burst that was asked for is no sign of a slow reader. */
  #burst = 0;

  /** @param account of what it keeps until it is told what comes */
  constructor(raw: ServerResponse, { services, principal }: RequestContext, account: Account) {
    const { streams, scheduler } = services;
    this.#raw = raw;
    this.#limits = streams;
    this.#turns = scheduler;
    this.#account = account;
    this.#isExpired = () => principal.token?.isExpired() ?? false;
  }

  /** Writes what it has asked for as it takes it, and others have their turn between two pieces. */
  start(pieces: Iterator<string>, then: () => void): void {
    void this.#turns.run(() => this.#next(pieces, then));
  }

  #next(pieces: Iterator<string>, then: () => void): void {
    if (this.#raw.destroyed || !this.#mayGoOn()) return;
    const { value, done } = pieces.next();
    if (done) {
      then();
      return;
    }
    const next = () => this.start(pieces, then);
    const bytes = Buffer.from(value);
    this.#account.keep(bytes.length);
    const isTaken = this.#raw.write(bytes);
    // A start of one piece, as most are, is over at once.
    if (value.length < PIECE) this.#next(pieces, then);
    else if (isTaken) setImmediate(next);
    else this.#raw.once('drain', next);
  }

  /** From here on the reader has to keep up. */
  begin(): void {
    this.#burst = this.#raw.writableLength;
  }

  get isOver(): boolean {
    return this.#ended;
  }

  /** @returns false when the reader has fallen behind */
  take(bytes: Buffer): boolean {
    if (!this.#mayGoOn()) return true;
    this.#burst = Math.min(this.#burst, this.#raw.writableLength);
    const { socket } = this.#raw;
    // Node would hand it to the kernel after this turn: until then all of it would count as waiting.
    socket?.cork();
    this.#raw.write(bytes);
    socket?.uncork();
    return this.#raw.writableLength <= this.#burst + this.#limits.maxWaiting;
  }

  keepAlive(): void {
    if (this.#mayGoOn()) this.#raw.write(': alive\n\n');
  }

  /** The last word to a reader that fell behind: it has to start again. */
  lagged(revision: number): void {
    const word = `event: lagged\ndata: ${JSON.stringify({ type: 'lagged', revision })}\n\n`;
    this.end(this.#limits.lastWord, word);
  }

  /** Before all that it is told: what comes after the end of its token is not for it. @returns false when it has ended */
  #mayGoOn(): boolean {
    if (!this.#ended && this.#isExpired()) this.end(FAREWELL);
    return !this.#ended;
  }

  /** Ends the stream, within so many milliseconds whether the reader reads or not. */
  end(patience: number, lastWord = ''): void {
    if (!this.#ended) this.#raw.end(lastWord);
    this.#ended = true;
    setTimeout(() => this.#raw.destroy(), patience).unref();
  }
}

/** `role`, `status` and `id` filter; each may list several, with commas. A change of role or status shows under both. */
function parseFilter(ctx: RequestContext): { question: string; wanted: (event: Seen) => boolean } {
  const { role, status, id } = ctx.query('role', 'status', 'id');
  const [roles, statuses, ids] = [role, status, id].map((text) =>
    text === undefined ? undefined : new Set<string | undefined>(text.split(',')),
  );
  const { readFilter } = ctx;
  const wanted = (event: Seen) =>
    // Who may see a VM is told that it goes where they may not.
    (permits(readFilter, event) || permits(readFilter, { id: event.id, role: event.before.role ?? event.role })) &&
    (!roles || roles.has(event.role) || roles.has(event.before.role)) &&
    (!ids || ids.has(event.id)) &&
    (!statuses || statuses.has(event.status) || statuses.has(event.before.status));
  return { question: JSON.stringify([role, status, id, readFilter?.vm, readFilter?.role]), wanted };
}

/**
 * The revision after which the reader wants to know: from `Last-Event-ID`, or `since`; `since=start` asks for the full
 * state. Without either, only what comes is told.
 */
function readStart(ctx: RequestContext): number | undefined {
  const header = ctx.headers['last-event-id'];
  const text = (Array.isArray(header) ? header[0] : header) || ctx.query('since').since;
  if (text === undefined) return undefined;
  if (text === 'start') return -1;
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw invalidQuery('since', `since: "${text}" is not a revision, nor "start"`);
}
