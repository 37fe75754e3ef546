/** Registries on a store in a real etcd cluster. */
import type { TestContext } from 'node:test';
import { Tokens } from '../../daemon/access/tokens.ts';
import { ListeningClock, TICK_INTERVAL } from '../../daemon/clock.ts';
import { Registry } from '../../daemon/registry/registry.ts';
import { VmRecord } from '../../daemon/registry/vm-record.ts';
import { type EtcdContents, EtcdStore } from '../../daemon/store/etcd/etcd-store.ts';
import { parseEtcdUrl } from '../../daemon/store/etcd/etcd-url.ts';
import { endAfter } from './daemon.ts';

/** The time of several replicas, which only the test moves. The timers of the store run in real time. */
export class SharedTime {
  #now = Date.parse('2026-01-01T00:00:00.000Z');
  readonly #clocks = new Set<ListeningClock>();

  readonly now = (): number => this.#now;

  add(clock: ListeningClock): void {
    this.#clocks.add(clock);
  }

  /** Advances the time in steps that the replicas notice, as they do while they run. */
  pass(ms: number): void {
    for (let left = ms; left > 0; left -= TICK_INTERVAL) {
      this.#now += Math.min(left, TICK_INTERVAL);
      for (const clock of this.#clocks) clock.tick();
    }
  }
}

export interface EtcdReplica {
  store: EtcdStore;
  registry: Registry;
  tokens: Tokens;
  /** Type, id and revision of each event. */
  events: string[];
  problems: string[];
  contents: EtcdContents<VmRecord>;
  close(): Promise<void>;
}

/** Starts a replica, and closes it when the test ends. @param prefix one registry per prefix */
export async function startReplica(
  t: TestContext,
  endpoints: readonly string[],
  prefix = '/vreg/v1/',
  {
    flushInterval = 1000,
    staleAfter = 300_000,
    massLoss,
    time,
  }: { flushInterval?: number; staleAfter?: number; massLoss?: number; time?: SharedTime } = {},
): Promise<EtcdReplica> {
  const problems: string[] = [];
  const { store, contents } = await EtcdStore.open({
    target: parseEtcdUrl(`etcd://${endpoints.join(',')}${prefix}`),
    flushInterval,
    details: { host: 'test' },
    decode: (vm) => VmRecord.fromStored(vm),
    onProblem: (text) => problems.push(text),
    onDeath: (reason) => problems.push(reason),
    now: time?.now,
  });
  const clock = new ListeningClock(contents.listened, time?.now, time?.now, contents.silences);
  time?.add(clock);
  clock.start();
  const registry: Registry = new Registry(
    {
      store,
      clock,
      staleAfter,
      massLoss,
      onDeregister: (id) => tokens.removeWithVm(id),
      onMove: (id, created) => tokens.moveWithVm(id, created),
      onTokenRecord: (record) => tokens.recordArrived(record),
    },
    contents,
  );
  const tokens: Tokens = new Tokens(contents, {
    queue: registry.unsaved.records,
    revocations: registry.unsaved.revocations,
    commit: (...change) => registry.commitTokens(...change),
    registrationOf: (id) => registry.registrationOf(id),
    now: () => clock.now(),
  });
  const events: string[] = [];
  registry.events.subscribe({ event: ({ type, id, revision }) => events.push(`${type} ${id} ${revision}`) });
  let closed: Promise<void> | undefined;
  const close = () => {
    closed ??= (async () => {
      clock.stop();
      await registry.saveHeartbeats().catch(() => {});
      await store.close();
    })();
    return closed;
  };
  endAfter(t, close);
  return { store, registry, tokens, events, problems, contents, close };
}
