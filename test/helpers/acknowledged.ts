/**
 * Clients that write to a registry through several URLs, and count what was acknowledged. Each VM belongs to one writer, which
 * registers it, updates it twice and removes every third one, so that its last state and its history are known.
 */
import { RegistryClient } from '../../src/client.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { openUndici } from './transports.ts';
import { aVm } from './vm.ts';

/** A VM as its writer knows it. */
export interface Written {
  id: string;
  /** The acknowledged changes, in order: `registered`, the new name, or `removed`. */
  acknowledged: string[];
  /** The change whose outcome is unknown, after which the VM is left alone. */
  unknown?: string;
}

export class Writer {
  readonly vms: Written[] = [];
  /** Failures with a known outcome, by code. */
  readonly refused = new Map<string, number>();
  /** Results that no fault explains, such as a conflict for an id that was never sent before. */
  readonly impossible: string[] = [];
  acknowledged = 0;
  /** The longest time between two acknowledgements since {@link restartGap}, in milliseconds. */
  longestGap = 0;
  #lastAt = performance.now();
  readonly #name: string;
  readonly #client: RegistryClient;
  readonly #stopped = new AbortController();
  readonly #done: Promise<void>;

  constructor(name: string, urls: readonly string[]) {
    this.#name = name;
    this.#client = new RegistryClient({ url: urls.join(','), openTransport: openUndici });
    this.#done = this.#run();
  }

  get unknown(): number {
    return this.vms.filter(({ unknown }) => unknown !== undefined).length;
  }

  restartGap(): void {
    this.longestGap = 0;
    this.#lastAt = performance.now();
  }

  /** Lets the current VM be finished. */
  async stop(): Promise<void> {
    this.#stopped.abort();
    await this.#done;
  }

  async #run(): Promise<void> {
    for (let n = 0; !this.#stopped.signal.aborted; n++) {
      const vm: Written = { id: `${this.#name}-${n}`, acknowledged: [] };
      this.vms.push(vm);
      const { id } = vm;
      const isRegistered = await this.#write(vm, 'registered', () => this.#client.register(aVm({ id, name: id })));
      if (!isRegistered) continue;
      for (const name of ['one', 'two']) await this.#write(vm, name, () => this.#client.update(id, { name }));
      if (n % 3 === 0) await this.#write(vm, 'removed', () => this.#client.deregister(id));
    }
  }

  /** @returns true if the change was acknowledged */
  async #write(vm: Written, change: string, send: () => Promise<unknown>): Promise<boolean> {
    if (vm.unknown !== undefined) return false;
    try {
      await send();
    } catch (error) {
      this.#onFailure(vm, change, error);
      return false;
    }
    const now = performance.now();
    this.longestGap = Math.max(this.longestGap, now - this.#lastAt);
    this.#lastAt = now;
    this.acknowledged++;
    vm.acknowledged.push(change);
    return true;
  }

  #onFailure(vm: Written, change: string, error: unknown): void {
    if (!(error instanceof VregError)) throw error;
    const { code, message } = error;
    if (code === 'OUTCOME_UNKNOWN') vm.unknown = change;
    else if (code === 'BUSY' || code === 'STORE_FAILED' || code === 'UNREACHABLE')
      this.refused.set(code, (this.refused.get(code) ?? 0) + 1);
    else {
      this.impossible.push(`${change} ${vm.id}: ${code} ${message}`);
      vm.unknown = change;
    }
  }
}

/** The names in a list of the registry by id. */
export async function namesAt(url: string): Promise<Map<string, string>> {
  const client = new RegistryClient({ url, openTransport: openUndici });
  return new Map((await client.list()).map(({ id, name }) => [id, name]));
}

/** The differences between what was acknowledged and a list: acknowledged changes that are lost, and refused ones that were made. */
export function differences(writers: readonly Writer[], names: ReadonlyMap<string, string>): string[] {
  return writers
    .flatMap(({ vms }) => vms)
    .flatMap(({ id, acknowledged, unknown }) => {
      const expected = stateAfter(id, acknowledged);
      const possible = unknown === undefined ? [expected] : [expected, stateAfter(id, [...acknowledged, unknown])];
      const found = names.get(id);
      return possible.includes(found) ? [] : [`${id} is ${found}, after ${acknowledged} and perhaps ${unknown}`];
    });
}

/** The name after these changes; undefined if there is no such VM. */
function stateAfter(id: string, changes: readonly string[]): string | undefined {
  const last = changes.at(-1);
  if (last === undefined || last === 'removed') return undefined;
  return last === 'registered' ? id : last;
}

/** The histories that do not consist of the acknowledged changes, each once, and perhaps the one with an unknown outcome. */
export async function wrongHistories(writers: readonly Writer[], url: string): Promise<string[]> {
  const client = new RegistryClient({ url, openTransport: openUndici });
  const wrong: string[] = [];
  for (const { id, acknowledged, unknown } of writers.flatMap(({ vms }) => vms)) {
    if (acknowledged.length === 0) continue;
    const found = (await client.history(id)).map(({ type }) => type).reverse();
    const expected = acknowledged.map(typeOf);
    const others = unknown === undefined ? expected : [...expected, typeOf(unknown)];
    if (![expected, others].some((each) => each.join() === found.join()))
      wrong.push(`${id}: ${found}, after ${acknowledged} and perhaps ${unknown}`);
  }
  return wrong;
}

function typeOf(change: string): string {
  if (change === 'registered') return 'registered';
  return change === 'removed' ? 'deregistered' : 'updated';
}
