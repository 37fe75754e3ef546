/** Collects what a registry knows about one VM, for `describe`. */
import type { RegistryClient } from '../client.ts';
import type { VmWithLiveness, Why } from '../protocol/api.ts';
import { type ErrorCode, VregError } from '../protocol/errors.ts';
import type { HistoryItem } from '../protocol/events.ts';
import type { Conflict } from '../protocol/heartbeat.ts';
import type { TokenInfo } from '../protocol/token.ts';
import { entryFault, idFault } from '../protocol/vm.ts';

/** A part is undefined if the registry does not support it, or if the token may not read it. */
export interface Description {
  vm: VmWithLiveness;
  why: Omit<Why, 'id'> | undefined;
  /** `null` if the VM has a parent that is not registered. */
  parent: VmWithLiveness | null | undefined;
  /** Oldest registration first. */
  children: readonly VmWithLiveness[] | undefined;
  /** Tokens that are restricted to this VM, oldest first. */
  tokens: readonly TokenInfo[] | undefined;
  /** Newest first. */
  conflicts: readonly Conflict[] | undefined;
  /** The last changes, newest first. */
  history: readonly HistoryItem[] | undefined;
}

/** Number of changes to show: few enough for one screen together with the other parts. */
const CHANGES = 10;

/** Describes VMs of one registry. Requests the lists of tokens and conflicts, which cover all VMs, only once. */
export class Describer {
  readonly #client: RegistryClient;
  #tokens: Promise<readonly TokenInfo[] | undefined> | undefined;
  #conflicts: Promise<readonly Conflict[] | undefined> | undefined;

  constructor(client: RegistryClient) {
    this.#client = client;
  }

  /** @throws VregError NOT_FOUND if the VM is not registered, or any error of {@link RegistryClient.get} */
  async describe(id: string): Promise<Description> {
    const client = this.#client;
    const vm = await client.get(id);
    if (!(await client.isVreg())) return { ...NOTHING, vm, why: explainEntry(vm) };
    this.#tokens ??= ifAvailable(client.tokens());
    this.#conflicts ??= ifAvailable(client.conflicts().then(({ conflicts }) => conflicts));
    const [why, parent, children, tokens, conflicts, history] = await Promise.all([
      ifAvailable(client.why(id)),
      vm.parentId === undefined ? undefined : readParent(client, vm.parentId),
      ifAvailable(client.children(id)),
      this.#tokens,
      this.#conflicts,
      ifAvailable(client.history(id, CHANGES)),
    ]);
    return {
      vm,
      why:
        typeof why?.summary === 'string'
          ? { offered: why.offered, summary: why.summary, reasons: why.reasons }
          : undefined,
      parent,
      children,
      tokens: list(tokens)?.filter((token) => token.vm === id),
      conflicts: conflicts?.filter((conflict) => conflict.id === id),
      history: list(history),
    };
  }
}

const NOTHING = {
  parent: undefined,
  children: undefined,
  tokens: undefined,
  conflicts: undefined,
  history: undefined,
};

/** The registry lacks the route, possibly because a proxy hides it, or the token may not use it. */
const UNAVAILABLE: readonly ErrorCode[] = ['UNSUPPORTED', 'NOT_FOUND', 'FORBIDDEN', 'BAD_ANSWER'];

/** @returns undefined for a response that is not a list */
function list<T>(items: readonly T[] | undefined): readonly T[] | undefined {
  return Array.isArray(items) ? items : undefined;
}

function ifAvailable<T>(answer: Promise<T>): Promise<T | undefined> {
  return answer.catch((error: unknown) => {
    if (error instanceof VregError && UNAVAILABLE.includes(error.code)) return undefined;
    throw error;
  });
}

/** @returns `null` if the parent is not registered, undefined if the token may not read it */
function readParent(client: RegistryClient, id: string): Promise<VmWithLiveness | null | undefined> {
  // An entry from before the rules may name a parent that no URL can address.
  if (idFault(id)) return Promise.resolve(undefined);
  const isMissing = (error: unknown) => error instanceof VregError && error.code === 'NOT_FOUND';
  return ifAvailable(
    client.get(id).catch((error: unknown) => {
      if (isMissing(error)) return null;
      throw error;
    }),
  );
}

/** Explains the answer of `discover` in place of the original registry, which does not explain it. */
function explainEntry(vm: VmWithLiveness): Omit<Why, 'id'> {
  const { id, role, status, stale, lastSeen } = vm;
  const reasons: Why['reasons'] = [];
  if (status !== 'running') reasons.push({ code: status, message: `it is declared ${status}` });
  else if (stale) reasons.push({ code: 'stale', message: `it is stale: last seen at ${lastSeen}` });
  const fault = entryFault(vm);
  if (fault) reasons.push({ code: 'invalid', message: `scripts could not use it safely: ${fault.message}` });
  const offered = reasons.length === 0;
  const because = offered ? `it is running and was last seen at ${lastSeen}` : formatReasons(reasons);
  return { offered, reasons, summary: `discover ${role} ${offered ? 'offers' : 'does not offer'} ${id}: ${because}` };
}

function formatReasons(reasons: Why['reasons']): string {
  return reasons.map(({ message }) => message).join('; ');
}
