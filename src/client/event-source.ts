/**
 * What happens in the registry, as it happens: the daemon's stream of events, taken up again after each break, or, of a
 * server that has none, the difference between two lists.
 */
import { createParser } from 'eventsource-parser';
import type { RegistryClient } from '../client.ts';
import type { Context } from '../command.ts';
import { PATHS, type VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { LIVENESS_TYPES, type StreamEvent, type VmEvent, type VmEventType } from '../protocol/events.ts';
import type { Vm } from '../protocol/vm.ts';
import { isTransient, Outage } from '../run/retry.ts';

export interface WatchFilter {
  role?: string | undefined;
  status?: string | undefined;
  id?: string | undefined;
}

export interface WatchOptions extends WatchFilter {
  /** A revision, or `start` for the full state first. */
  since?: string | undefined;
  heartbeats?: boolean | undefined;
}

/** Milliseconds between two looks at a server without events. */
const LOOK_EVERY = 2000;
/** Milliseconds before a broken stream is taken up again; doubled up to the last with each failure in a row. */
const RETRY = { first: 500, last: 15_000 };

/** Liveness events that are remembered: as many as a daemon keeps, so one that is forgotten comes back only as a reset. */
const REMEMBERED = 4096;

/**
 * Events until the program is ended. A stream that breaks is taken up where it ended, without a gap; what the daemon no
 * longer knows by then comes as `reset` and the full state. `synced` comes whenever the stream has been begun (anew).
 * @throws VregError when the first contact fails; UNSUPPORTED when a revision is asked of a server that has none
 */
export async function* watchEvents(context: Context, options: WatchOptions): AsyncGenerator<StreamEvent> {
  const client = context.client();
  if (!(await client.isVreg())) {
    context.verbose('the registry has no events: looking every 2 s');
    return yield* lookAgainAndAgain(context, options);
  }
  const outage = new Outage(context);
  let { since } = options;
  let wait = RETRY.first;
  let begun = false;
  const repeated = new Repeated();
  for (;;) {
    try {
      for await (const { event, id } of readStream(client, { ...options, since })) {
        begun = true;
        wait = RETRY.first;
        outage.over();
        if (id !== undefined && id !== since) {
          since = id;
          repeated.clear();
        }
        if (event.type !== 'lagged' && !repeated.has(event)) yield event;
      }
    } catch (error) {
      context.signal.throwIfAborted();
      if (!begun || !isTransient(error)) throw error;
      outage.begins(error);
    }
    await context.sleep(wait);
    wait = Math.min(2 * wait, RETRY.last);
  }
}

/** A liveness event has the revision before it, so who takes the stream up at that revision is told it once more. */
class Repeated {
  readonly #told = new Set<string>();

  clear(): void {
    this.#told.clear();
  }

  /** @returns true of a liveness event that was here since the last {@link clear} */
  has(event: StreamEvent): boolean {
    if (!LIVENESS_TYPES.some((type) => type === event.type)) return false;
    const { type, at, vm } = event as VmEvent;
    const key = `${type} ${at} ${vm.id}`;
    if (this.#told.has(key)) return true;
    this.#told.add(key);
    if (this.#told.size > REMEMBERED) this.#told.delete(this.#told.values().next().value!);
    return false;
  }
}

interface Numbered {
  event: StreamEvent;
  /** Where to go on after this event; absent where a break would lose something. */
  id: string | undefined;
}

async function* readStream(client: RegistryClient, options: WatchOptions): AsyncGenerator<Numbered> {
  const { since, heartbeats, ...filter } = options;
  const query = Object.entries({ ...filter, since, heartbeats: heartbeats ? 'true' : undefined });
  const given = query.filter((pair): pair is [string, string] => pair[1] !== undefined);
  const path = `${PATHS.events}${given.length > 0 ? `?${new URLSearchParams(given)}` : ''}`;
  const body = await client.open(path, { accept: 'text/event-stream' });
  const ready: Numbered[] = [];
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
    throw new VregError('UNREACHABLE', `the stream of events from ${client.url} broke`, { cause: error });
  }
}

/** What happened between two looks. Revisions are 0: such a server has none. */
async function* lookAgainAndAgain(context: Context, options: WatchOptions): AsyncGenerator<StreamEvent> {
  const { since, heartbeats, ...filter } = options;
  if (since !== undefined && since !== 'start') {
    throw new VregError(
      'UNSUPPORTED',
      `the registry at ${context.client().url} is not a vreg daemon: it has no revisions`,
      {
        field: 'since',
        hint: 'leave --since out, or say --since start',
      },
    );
  }
  const outage = new Outage(context);
  let known: Map<string, VmWithLiveness> | undefined;
  for (;;) {
    try {
      const vms = await context.client().list();
      const seen = new Map(vms.reverse().map((vm) => [vm.id, vm]));
      const before: Map<string, VmWithLiveness> = known ?? (since === 'start' ? new Map() : seen);
      outage.over();
      for (const { event, from } of differences(before, seen, new Date(context.now()).toISOString())) {
        if (matches(event.vm, from, filter)) yield event;
      }
      if (heartbeats) yield* beats(before, seen, filter);
      if (!known) yield { type: 'synced', revision: 0 };
      known = seen;
    } catch (error) {
      if (!known || !isTransient(error)) throw error;
      outage.begins(error);
    }
    await context.sleep(LOOK_EVERY);
  }
}

function* beats(
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
  const event = (
    type: VmEventType,
    { stale: _stale, suspect: _suspect, health: _health, ...vm }: VmWithLiveness,
    from?: string,
  ) => ({
    event: { type, revision: 0, at, vm },
    ...(from === undefined ? {} : { from }),
  });
  for (const [id, vm] of after) {
    const old = before.get(id);
    if (!old) yield event('registered', vm);
    else if (old.status !== vm.status) yield event('status', vm, old.status);
    else if (declared(old) !== declared(vm)) yield event('updated', vm);
    if (old && vm.status === 'running' && old.stale !== vm.stale) yield event(vm.stale ? 'stale' : 'revived', vm);
  }
  for (const [id, vm] of before) if (!after.has(id)) yield event('deregistered', vm);
}

function declared(vm: VmWithLiveness): string {
  return JSON.stringify({ ...vm, lastSeen: undefined, stale: undefined, suspect: undefined, health: undefined });
}

/** @param from the status before, under which a change of it shows, too: as the daemon has it */
function matches(vm: Vm, from: string | undefined, { role, status, id }: WatchFilter): boolean {
  return (!role || vm.role === role) && (!status || vm.status === status || from === status) && (!id || vm.id === id);
}
