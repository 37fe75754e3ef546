/** `registry_wait`: waits for VMs in one call, instead of many calls that each cost the model a turn. */
import { watchEvents } from '../client/event-source.ts';
import type { RegistryClient } from '../client.ts';
import { POLL_INTERVAL } from '../fleet/lookup.ts';
import { listVms } from '../fleet/selection.ts';
import { isOffered } from '../fleet/table.ts';
import { separate } from '../fleet/usable.ts';
import { MAX_WAIT, type VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { livenessOf } from '../protocol/liveness.ts';
import type { Role } from '../protocol/vm.ts';
import { isAway, isTransient } from '../run/retry.ts';
import { limitRows } from './answer-text.ts';
import { ROLE, VMS } from './schemas.ts';
import type { Arguments, Call, Tool, ToolAnswer } from './tool.ts';

/** Default of `timeoutSeconds`: half of the time after which the MCP SDKs give up on a request. */
const DEFAULT_SECONDS = 30;
/** Milliseconds between two progress notifications, and the longest time without a new answer of the registry. */
const PROGRESS_INTERVAL = 5000;

export const wait: Tool = {
  name: 'registry_wait',
  description: 'Wait until VMs with a role, or one VM, are live, stale or gone. If not met, call again.',
  input: {
    type: 'object',
    properties: {
      role: ROLE,
      id: { type: 'string', description: 'instead of role' },
      for: { type: 'string', enum: ['live', 'stale', 'gone'], description: 'default: live' },
      count: { type: 'integer', minimum: 1, description: 'live VMs with the role' },
      timeoutSeconds: {
        type: 'integer',
        minimum: 1,
        maximum: MAX_WAIT / 1000,
        description: `default: ${DEFAULT_SECONDS}`,
      },
    },
  },
  output: { ...VMS, properties: { met: { type: 'boolean' }, ...VMS.properties }, required: ['met', ...VMS.required!] },
  isLong: true,
  async run(call, args) {
    const { context, client, signal, progress } = call;
    const condition = conditionOf(args);
    const timeout = ((args.timeoutSeconds as number | undefined) ?? DEFAULT_SECONDS) * 1000;
    const started = context.now();
    const requestTimeout = context.config.duration('timeout');
    // Ends the timers of this call.
    const ended = new AbortController();
    const untilEnd = AbortSignal.any([signal, ended.signal]);
    const changes = condition.isPolled ? undefined : new Changes(call, condition.events);
    try {
      let reportedAt = 0;
      let last: Outcome | undefined;
      // The last transient error since the last answer.
      let trouble: VregError | undefined;
      for (;;) {
        const elapsed = context.now() - started;
        // The client of the call gives up soon after the timeout, so no request may outlast it.
        client.maxTimeout = Math.max(1, timeout - elapsed);
        const change = changes?.next();
        const checkedAt = context.now();
        try {
          // A long poll ends before its request times out, and before this call does.
          const poll = Math.floor(Math.min(PROGRESS_INTERVAL, timeout - elapsed - 1000, requestTimeout / 2) / 1000);
          last = await condition.check(client, poll);
          trouble = undefined;
        } catch (error) {
          if (!isTransient(error)) throw error;
          // The end of the wait may have cut off this request, which says less about the registry than an earlier answer.
          if (!(last || trouble) || context.now() - started < timeout) trouble = error;
        }
        const passed = context.now() - started;
        const left = timeout - passed;
        if (last?.met || left <= 0) {
          if (trouble || !last) throw trouble!;
          return answerOf(call, last, timeout);
        }
        if (passed - reportedAt >= PROGRESS_INTERVAL) {
          reportedAt = passed;
          await progress(Math.round(passed / 1000), timeout / 1000, stateOf(client, last, trouble));
        }
        const pause = Math.max(0, POLL_INTERVAL - (context.now() - checkedAt));
        await context.sleep(Math.min(pause, left), untilEnd);
        if (change && !trouble)
          await Promise.race([change, context.sleep(Math.min(PROGRESS_INTERVAL, left), untilEnd)]);
      }
    } finally {
      ended.abort();
      changes?.close();
    }
  },
};

/** The state of a wait for its progress. @param trouble the reason why there is no newer outcome */
function stateOf({ server }: RegistryClient, last: Outcome | undefined, trouble: VregError | undefined): string {
  if (trouble)
    return isAway(trouble, server) ? 'the registry is not reachable' : 'the registry responded with an error';
  const count = last!.vms.length;
  return `${count} VM${count === 1 ? '' : 's'} so far`;
}

interface Outcome {
  met: boolean;
  vms: VmWithLiveness[];
}

interface Condition {
  /** @param poll whole seconds for which the registry may delay its response */
  check(client: RegistryClient, poll: number): Promise<Outcome>;
  /** The registry delays its response until the condition is met; otherwise, {@link events} show when to check it again. */
  isPolled?: true;
  events: { role?: string; id?: string };
}

function answerOf({ client, tools }: Call, { met, vms }: Outcome, timeout: number): ToolAnswer {
  const { rows, more } = limitRows(vms, client.server.now);
  const list = tools.includes('registry_list') ? ': registry_list with a selector' : '';
  return {
    summary: met ? 'the condition is met' : `not met within ${timeout / 1000} s`,
    data: { met, vms: rows, count: vms.length, ...(more > 0 ? { more } : {}) },
    more: more > 0 ? `${more} more${list}` : undefined,
  };
}

/** Shows when something has changed that an event of the registry reports. */
class Changes {
  readonly #ended = new AbortController();
  #resolve: () => void = () => {};
  /** Undefined if there are no events, so that the registry must be asked regularly. */
  #next: Promise<void> | undefined;

  constructor(call: Call, filter: Condition['events']) {
    this.#arm();
    void this.#follow(call, filter);
  }

  /** Resolves at the next event; call it before the check, so that no event is missed. Undefined if there are no events. */
  next(): Promise<void> | undefined {
    return this.#next;
  }

  close(): void {
    this.#ended.abort();
    this.#resolve();
  }

  #arm(): void {
    this.#next = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  async #follow({ context, client }: Call, filter: Condition['events']): Promise<void> {
    const signal = this.#ended.signal;
    const outage = { begins: () => {}, over: () => {} };
    try {
      // The original registry has no events: reading its list for them costs more than asking for the condition.
      if (!(await client.isVreg())) return;
      for await (const _event of watchEvents(context, { ...filter, client, signal, outage })) {
        if (signal.aborted) return;
        this.#resolve();
        this.#arm();
      }
    } catch (error) {
      // For example, the token may not read events.
      if (!(error instanceof VregError) && !signal.aborted && !context.signal.aborted) context.verbose(String(error));
    } finally {
      this.#resolve();
      this.#next = undefined;
    }
  }
}

/** @throws VregError INVALID unless the arguments name either a role or a VM, and for a count without its condition */
function conditionOf({ role, id, for: state = 'live', count }: Arguments): Condition {
  if ((role === undefined) === (id === undefined))
    throw new VregError('INVALID', 'pass either a role or an id', { field: 'role' });
  if (count !== undefined && (id !== undefined || state !== 'live'))
    throw new VregError('INVALID', '"count" applies only to live VMs with a role', {
      field: 'count',
      hint: 'omit it, or pass a role and "for":"live"',
    });
  if (id !== undefined)
    return { events: { id: id as string }, check: (client) => checkVm(client, id as string, state as string) };
  const wanted = role as Role;
  if (state === 'stale')
    return {
      events: { role: wanted },
      async check(client) {
        const vms = await listVms(client, { role: [wanted], stale: true });
        return { met: vms.length > 0, vms };
      },
    };
  if (state === 'gone')
    return {
      events: { role: wanted },
      async check(client) {
        const vms = separate(await client.discover(wanted)).usable;
        return { met: vms.length === 0, vms };
      },
    };
  const min = (count as number | undefined) ?? 1;
  return {
    events: {},
    isPolled: true,
    async check(client, poll) {
      const vms = separate(await client.discover(wanted, {}, poll > 0 ? { wait: poll, min } : undefined)).usable;
      return { met: vms.length >= min, vms };
    },
  };
}

async function checkVm(client: RegistryClient, id: string, state: string): Promise<Outcome> {
  const vm = await client.get(id).catch((error: unknown) => {
    if (error instanceof VregError && error.code === 'NOT_FOUND') return undefined;
    throw error;
  });
  if (!vm) return { met: state === 'gone', vms: [] };
  const met = state === 'live' ? isOffered(vm) : state === 'stale' && livenessOf(vm) === 'stale';
  return { met, vms: [vm] };
}
