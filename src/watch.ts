/**
 * What happens in the registry, as it happens: the daemon's stream of events, taken up again after each break, or, of a
 * server that has none, the difference between two lists.
 */
import { createParser } from 'eventsource-parser';
import type { RegistryClient } from './client.ts';
import type { Context } from './command.ts';
import { PATHS, type VmWithLiveness } from './protocol/api.ts';
import { EXIT, VregError } from './protocol/errors.ts';
import { LIVENESS_TYPES, type StreamEvent, type VmEvent, type VmEventType } from './protocol/events.ts';
import type { Vm } from './protocol/vm.ts';

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
 * longer knows by then comes as `reset` and the full state.
 * @throws VregError when the first contact fails, or the daemon no longer lets us in
 */
export async function* watchEvents(context: Context, options: WatchOptions): AsyncGenerator<StreamEvent> {
  const client = context.client();
  if (!(await client.isVreg())) {
    context.verbose('the registry has no events: looking every 2 s');
    return yield* lookAgainAndAgain(context, options);
  }
  let { since } = options;
  let wait = RETRY.first;
  let begun = false;
  const repeated = new Repeated();
  for (;;) {
    try {
      for await (const { event, id } of readStream(client, { ...options, since })) {
        begun = true;
        wait = RETRY.first;
        if (id !== undefined && id !== since) {
          since = id;
          repeated.clear();
        }
        if (event.type !== 'lagged' && !repeated.has(event)) yield event;
      }
    } catch (error) {
      if (!begun || !(error instanceof VregError) || error.exit === EXIT.notAllowed) throw error;
      context.verbose(`${error.message}; taking the stream up again`);
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

async function* lookAgainAndAgain(context: Context, { since, ...filter }: WatchOptions): AsyncGenerator<StreamEvent> {
  let known: Map<string, VmWithLiveness> | undefined;
  for (;;) {
    try {
      const vms = await context.client().list();
      const seen = new Map(vms.reverse().map((vm) => [vm.id, vm]));
      const before: Map<string, VmWithLiveness> = known ?? (since === 'start' ? new Map() : seen);
      known = seen;
      for (const event of differences(before, seen, new Date(context.now()).toISOString())) {
        if (matches(event.vm, filter, before.get(event.vm.id))) yield event;
      }
    } catch (error) {
      if (!known || !(error instanceof VregError) || error.exit === EXIT.notAllowed) throw error;
      context.verbose(`${error.message}; looking again`);
    }
    await context.sleep(LOOK_EVERY);
  }
}

function* differences(
  before: Map<string, VmWithLiveness>,
  after: Map<string, VmWithLiveness>,
  at: string,
): Generator<VmEvent> {
  const event = (type: VmEventType, { stale: _stale, ...vm }: VmWithLiveness): VmEvent => ({
    type,
    revision: 0,
    at,
    vm,
  });
  for (const [id, vm] of after) {
    const old = before.get(id);
    if (!old) yield event('registered', vm);
    else if (old.status !== vm.status) yield event('status', vm);
    else if (declared(old) !== declared(vm)) yield event('updated', vm);
    if (old && vm.status === 'running' && old.stale !== vm.stale) yield event(vm.stale ? 'stale' : 'revived', vm);
  }
  for (const [id, vm] of before) if (!after.has(id)) yield event('deregistered', vm);
}

function declared(vm: VmWithLiveness): string {
  return JSON.stringify({ ...vm, lastSeen: undefined, stale: undefined });
}

/** As the daemon filters: a change of status shows under both. */
function matches(vm: Vm, { role, status, id }: WatchFilter, before = vm): boolean {
  const has = (status: string) => vm.status === status || before.status === status;
  return (!role || vm.role === role) && (!status || has(status)) && (!id || vm.id === id);
}
