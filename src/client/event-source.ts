/**
 * Yields the events of the registry as they happen: from the daemon's event stream, which is resumed after each interruption,
 * or, for the original registry (vers-agent-services), from the differences between two lists.
 */
import { createParser } from 'eventsource-parser';
import type { RegistryClient } from '../client.ts';
import type { Context } from '../command.ts';
import { PATHS, type VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import {
  type FieldChanges,
  OCCURRENCE_TYPES,
  type StreamEvent,
  type VmEvent,
  type VmEventType,
} from '../protocol/events.ts';
import { withoutLiveness } from '../protocol/liveness.ts';
import type { Vm } from '../protocol/vm.ts';
import { isTransient, Outage } from '../run/retry.ts';

export interface WatchFilter {
  /** Several roles or statuses are separated by commas. */
  role?: string | undefined;
  status?: string | undefined;
  id?: string | undefined;
}

export interface WatchOptions extends WatchFilter {
  /** Position after which to start, or `start` to begin with the full state. */
  since?: string | undefined;
  heartbeats?: boolean | undefined;
  /** By default, the client of the context. */
  client?: RegistryClient | undefined;
  /** Ends the stream when aborted, like the signal of the program. The caller also closes the client, which ends a pending read. */
  signal?: AbortSignal | undefined;
  /** Notified of outages; by default, they are noted on stderr. */
  outage?: Pick<Outage, 'begins' | 'over'> | undefined;
}

/** Milliseconds between two list requests to a server without an event stream. */
const POLL_INTERVAL = 2000;
/** Delay in milliseconds before a broken stream is resumed; doubles with each consecutive failure up to `max`. */
const RETRY = { first: 500, max: 15_000 };

/**
 * Liveness events to remember: the size of the daemon's event log. The daemon does not resend older events but sends a reset.
 */
const MAX_REMEMBERED = 4096;

/**
 * Yields events until the program ends. A broken stream is resumed after its last event; if the daemon has discarded the events
 * since then, it sends `reset` and the full state. `synced` follows each time the stream has caught up.
 * @throws VregError if the first request fails; UNSUPPORTED if `since` is a position and the server has none
 */
export async function* watchEvents(context: Context, options: WatchOptions): AsyncGenerator<StreamEvent> {
  const { client = context.client() } = options;
  if (!(await client.isVreg())) {
    context.verbose('the registry has no event stream; listing every 2 s');
    return yield* pollEvents(context, options);
  }
  const outage = options.outage ?? new Outage(context);
  const signal = signalOf(context, options);
  let { since } = options;
  let wait = RETRY.first;
  let begun = false;
  const delivered = new DeliveredEvents();
  for (;;) {
    try {
      for await (const { event, id } of readStream(client, { ...options, since })) {
        begun = true;
        wait = RETRY.first;
        outage.over();
        if (id !== undefined && id !== since) {
          since = id;
          delivered.clear();
        }
        if (event.type !== 'lagged' && !delivered.has(event)) yield event;
      }
    } catch (error) {
      signal.throwIfAborted();
      if (!begun || !isTransient(error)) throw error;
      outage.begins(error);
    }
    await context.sleep(wait, signal);
    wait = Math.min(2 * wait, RETRY.max);
  }
}

function signalOf({ signal }: Context, options: WatchOptions): AbortSignal {
  return options.signal ? AbortSignal.any([signal, options.signal]) : signal;
}

/** Filters events that are not changes: they carry the position of the change before them, so a resumed stream sends them again. */
class DeliveredEvents {
  readonly #keys = new Set<string>();

  clear(): void {
    this.#keys.clear();
  }

  /** True for an event that is not a change and has already been delivered since the last {@link clear}. */
  has(event: StreamEvent): boolean {
    if (!OCCURRENCE_TYPES.some((type) => type === event.type)) return false;
    const { type, at, vm, conflict } = event as VmEvent;
    const key = JSON.stringify([type, at, vm.id, conflict]);
    if (this.#keys.has(key)) return true;
    this.#keys.add(key);
    if (this.#keys.size > MAX_REMEMBERED) this.#keys.delete(this.#keys.values().next().value!);
    return false;
  }
}

interface ReceivedEvent {
  event: StreamEvent;
  /** Id for resuming after this event; absent if resuming here would lose events. */
  id: string | undefined;
}

async function* readStream(client: RegistryClient, options: WatchOptions): AsyncGenerator<ReceivedEvent> {
  const { since, heartbeats, client: _client, signal: _signal, outage: _outage, ...filter } = options;
  const query = Object.entries({ ...filter, since, heartbeats: heartbeats ? 'true' : undefined });
  const given = query.filter((pair): pair is [string, string] => pair[1] !== undefined);
  const path = `${PATHS.events}${given.length > 0 ? `?${new URLSearchParams(given)}` : ''}`;
  const body = await client.open(path, { accept: 'text/event-stream' });
  const ready: ReceivedEvent[] = [];
  const parser = createParser({
    onEvent: ({ event: type, data, id }) => ready.push({ event: { type, ...JSON.parse(data) } as StreamEvent, id }),
  });
  const decoder = new TextDecoder();
  try {
    for await (const chunk of body) {
      parser.feed(decoder.decode(chunk, { stream: true }));
      yield* ready.splice(0);
    }
  } catch (error) {
    throw new VregError('UNREACHABLE', `the event stream from ${client.url} broke`, { cause: error });
  }
}

/**
 * Yields the differences between two lists. The original registry has no revisions and no positions, so the revision of each
 * event is 0.
 */
async function* pollEvents(context: Context, options: WatchOptions): AsyncGenerator<StreamEvent> {
  const {
    client = context.client(),
    outage = new Outage(context),
    since,
    heartbeats,
    signal: _signal,
    ...filter
  } = options;
  const signal = signalOf(context, options);
  if (since !== undefined && since !== 'start') {
    throw new VregError('UNSUPPORTED', `the registry at ${client.url} is not a vreg daemon: it has no positions`, {
      field: 'since',
      hint: 'omit --since, or use --since start',
    });
  }
  let known: Map<string, VmWithLiveness> | undefined;
  for (;;) {
    try {
      const vms = await client.list();
      const seen = new Map(vms.reverse().map((vm) => [vm.id, vm]));
      const before: Map<string, VmWithLiveness> = known ?? (since === 'start' ? new Map() : seen);
      outage.over();
      for (const { event, from } of differences(before, seen, new Date(context.now()).toISOString())) {
        if (matches(event.vm, from, filter)) yield event;
      }
      if (heartbeats) yield* heartbeatsBetween(before, seen, filter);
      if (!known) yield { type: 'synced', revision: 0 };
      known = seen;
    } catch (error) {
      signal.throwIfAborted();
      if (!known || !isTransient(error)) throw error;
      outage.begins(error);
    }
    await context.sleep(POLL_INTERVAL, signal);
  }
}

function* heartbeatsBetween(
  before: Map<string, VmWithLiveness>,
  after: Map<string, VmWithLiveness>,
  filter: WatchFilter,
): Generator<StreamEvent> {
  for (const [id, vm] of after) {
    const { lastSeen } = vm;
    const old = before.get(id);
    if (old && old.lastSeen !== lastSeen && matches(vm, undefined, filter)) yield { type: 'heartbeat', id, lastSeen };
  }
}

function* differences(
  before: Map<string, VmWithLiveness>,
  after: Map<string, VmWithLiveness>,
  at: string,
): Generator<{ event: VmEvent; from?: string }> {
  const event = (type: VmEventType, vm: VmWithLiveness, old?: VmWithLiveness) => ({
    event: { type, revision: 0, at, vm: withoutLiveness(vm), ...(old && { changes: changesBetween(old, vm) }) },
    ...(old && { from: old.status }),
  });
  for (const [id, vm] of after) {
    const old = before.get(id);
    if (!old) yield event('registered', vm);
    else if (old.status !== vm.status) yield event('status', vm, old);
    else if (declared(old) !== declared(vm)) yield event('updated', vm, old);
    if (old && vm.status === 'running' && old.stale !== vm.stale) yield event(vm.stale ? 'stale' : 'revived', vm);
  }
  for (const [id, vm] of before) if (!after.has(id)) yield event('deregistered', vm);
}

function changesBetween(before: VmWithLiveness, after: VmWithLiveness): FieldChanges {
  const [old, now] = [withoutLiveness(before), withoutLiveness(after)].map((vm) => new Map(Object.entries(vm))) as [
    Map<string, unknown>,
    Map<string, unknown>,
  ];
  const fields = [...new Set([...old.keys(), ...now.keys()])].filter((field) => field !== 'lastSeen');
  return Object.fromEntries(
    fields
      .map((field): [string, [unknown, unknown]] => [field, [old.get(field) ?? null, now.get(field) ?? null]])
      .filter(([, [was, is]]) => JSON.stringify(was) !== JSON.stringify(is)),
  );
}

function declared(vm: VmWithLiveness): string {
  return JSON.stringify({ ...withoutLiveness(vm), lastSeen: undefined });
}

/** @param from the previous status: as in the daemon, a status change also matches a filter for the previous status */
function matches(vm: Vm, from: string | undefined, { role, status, id }: WatchFilter): boolean {
  const isIn = (list: string | undefined, ...values: (string | undefined)[]) =>
    !list || list.split(',').some((each) => values.includes(each));
  return isIn(role, vm.role) && isIn(status, vm.status, from) && (!id || vm.id === id);
}
