/**
 * `GET /registry/events`: server-sent events (the HTML standard's). A reader is told everything or told that it is not:
 * one that falls behind gets `lagged` and the end, one that asks for a revision that is no longer known gets `reset` and
 * the full state.
 */
import type { ServerResponse } from 'node:http';
import type { Heartbeat } from '../../src/protocol/api.ts';
import type { Entry } from '../registry/entry.ts';
import type { Event } from '../registry/events.ts';
import { type Call, invalidQuery } from './call.ts';

/** Milliseconds between two comment lines, so that proxies and readers see that the stream lives. */
const KEEP_ALIVE = 15_000;
/** Bytes that may wait for a reader: seconds of a busy fleet. More means that it does not keep up. */
const MAX_WAITING = 1_048_576;
/** Milliseconds that a reader who fell behind has to take the last word. */
const LAST_WORD = 5_000;

export function streamEvents(call: Call): undefined {
  const { registry, request, reply, stopping } = call;
  const wanted = readFilter(call);
  const from = readStart(call);
  const { heartbeats } = call.query('heartbeats');

  reply.hijack();
  const { raw } = reply;
  raw.writeHead(200, {
    ...(reply.getHeaders() as Record<string, string>),
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-store',
    // nginx would gather the events otherwise.
    'x-accel-buffering': 'no',
  });
  if (request.method === 'HEAD') {
    raw.end();
    return;
  }
  const reader = new Reader(raw);
  const current = registry.revision;
  const missed = from === undefined ? [] : registry.events.since(from, current);
  if (missed) for (const event of missed.filter(wanted)) reader.event(event);
  else {
    reader.control('reset', current);
    // Oldest first, so that a reader builds the same order. Without ids: only the whole of it is a place to resume from.
    for (const entry of registry.list({}).reverse()) if (wanted(ofState(entry))) reader.state(entry, current);
  }
  reader.control('synced', current);

  const stopWatching = registry.events.watch({
    event: (event) => {
      if (wanted(event) && !reader.event(event)) reader.lagged(registry.revision);
    },
    heartbeat: (entry) => {
      if (heartbeats !== 'true' || !wanted(ofState(entry))) return;
      if (!reader.heartbeat(entry)) reader.lagged(registry.revision);
    },
  });
  const keepAlive = setInterval(() => raw.write(': alive\n\n'), KEEP_ALIVE);
  const end = () => raw.end();
  stopping.addEventListener('abort', end, { once: true });
  request.raw.socket.setTimeout(0);
  raw.once('close', () => {
    clearInterval(keepAlive);
    stopping.removeEventListener('abort', end);
    stopWatching();
  });
}

/** Writes to one reader, and knows when it does not read. */
class Reader {
  readonly #raw: ServerResponse;
  #ended = false;

  constructor(raw: ServerResponse) {
    this.#raw = raw;
  }

  /** @returns false when the reader has fallen behind */
  event({ type, revision, json }: Event): boolean {
    return this.#send(`id: ${revision}\nevent: ${type}\ndata: ${json}\n\n`);
  }

  heartbeat(entry: Entry): boolean {
    const beat: Heartbeat = { id: entry.vm.id, lastSeen: entry.lastSeen };
    return this.#send(`event: heartbeat\ndata: ${JSON.stringify(beat)}\n\n`);
  }

  /** An entry of the full state; a burst of these is no sign of a slow reader. */
  state(entry: Entry, revision: number): void {
    const head = JSON.stringify({ type: 'registered', revision, at: entry.vm.registeredAt }).slice(0, -1);
    this.#raw.write(`event: registered\ndata: ${head},"vm":${entry.json}}\n\n`);
  }

  control(type: 'reset' | 'synced', revision: number): void {
    const id = type === 'synced' ? `id: ${revision}\n` : '';
    this.#raw.write(`${id}event: ${type}\ndata: ${JSON.stringify({ type, revision })}\n\n`);
  }

  /** The last word to a reader that fell behind: it has to start again. */
  lagged(revision: number): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#raw.end(`event: lagged\ndata: ${JSON.stringify({ type: 'lagged', revision })}\n\n`);
    setTimeout(() => this.#raw.destroy(), LAST_WORD).unref();
  }

  #send(text: string): boolean {
    if (this.#ended) return true;
    this.#raw.write(text);
    return this.#raw.writableLength <= MAX_WAITING;
  }
}

type Seen = Pick<Event, 'id' | 'role' | 'status' | 'from'>;

function ofState({ vm }: Entry): Seen {
  return { id: vm.id, role: vm.role, status: vm.status, from: undefined };
}

/** `role`, `status` and `id` filter; each may list several, with commas. A change of status shows under both of them. */
function readFilter(call: Call): (event: Seen) => boolean {
  const { role, status, id } = call.query('role', 'status', 'id');
  const [roles, statuses, ids] = [role, status, id].map((text) =>
    text === undefined ? undefined : new Set(text.split(',')),
  );
  return (event) =>
    (!roles || roles.has(event.role)) &&
    (!ids || ids.has(event.id)) &&
    (!statuses || statuses.has(event.status) || (event.from !== undefined && statuses.has(event.from)));
}

/**
 * The revision after which the reader wants to know: from `Last-Event-ID`, or `since`; `since=start` asks for the full
 * state. Without either, only what comes is told.
 */
function readStart(call: Call): number | undefined {
  const header = call.request.headers['last-event-id'];
  const text = (Array.isArray(header) ? header[0] : header) || call.query('since').since;
  if (text === undefined) return undefined;
  if (text === 'start') return -1;
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw invalidQuery('since', `since: "${text}" is not a revision, nor "start"`);
}
