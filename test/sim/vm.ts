/** One VM: a real agent with its own clock, behind a network that loses messages. */
import { Agent } from '../../daemon/agent/agent.ts';
import { createCloneHandler } from '../../daemon/agent/clone.ts';
import { Identity, type IdentityState, type IdentityStore } from '../../daemon/agent/identity.ts';
import type { RegistryClient } from '../../src/client.ts';
import { VregError } from '../../src/protocol/errors.ts';
import type { AgentHeartbeat } from '../../src/protocol/heartbeat.ts';
import type { Registration, VmUpdate } from '../../src/protocol/vm.ts';
import { aVm } from '../helpers/vm.ts';
import type { RegistryVm } from './registry-vm.ts';
import type { Timer, VirtualTime } from './time.ts';

/** Milliseconds in each direction of the network. */
const LATENCY = 5;
/** Milliseconds after which a client gives up on a response. */
const TIMEOUT = 1000;
/** Wall clock of the agents at the start of a simulation, in milliseconds since the epoch. */
const START = Date.parse('2026-01-01T00:00:00.000Z');
/** Milliseconds between two checks of an agent for time jumps. */
const JUMP_CHECK_INTERVAL = 1000;

export interface World {
  time: VirtualTime;
  registryVm: RegistryVm;
  random(): number;
  /** Milliseconds between two heartbeats. */
  interval: number;
  /** Share of requests, and of responses, that are lost. */
  loss: number;
  /** Whether agents prove their identity. */
  proves: boolean;
  /** Replaces the milliseconds that an agent wants to sleep. */
  pause?: ((ms: number) => number) | undefined;
  /** Called for each request that arrives at the registry's VM, also if the registry does not answer. */
  onRequest(vm: SimVm): void;
}

type Sleeper = { left: number; timer: Timer | undefined; resolve(): void };

class Disk implements IdentityStore {
  readonly states = new Map<string, IdentityState>();

  read(vm: string): IdentityState {
    return this.states.get(vm) ?? { vm };
  }

  write(state: IdentityState): void {
    this.states.set(state.vm, state);
  }

  copy(): Disk {
    const copy = new Disk();
    for (const [vm, state] of this.states) copy.states.set(vm, { ...state });
    return copy;
  }
}

export class SimVm {
  readonly name: string;
  id: string;
  isAlive = true;
  isPaused = false;
  isReachable = true;
  /** Time of the last incident that delays heartbeats, in virtual milliseconds. */
  disturbedAt: number;
  diedAt: number | undefined;
  /** The registry has refused this incarnation because of another one. */
  isConflictNoticed = false;
  /** Times of the first and the last accepted announcement or heartbeat of this process, in virtual milliseconds. */
  firstAcceptedAt: number | undefined;
  acceptedAt: number | undefined;
  readonly #world: World;
  readonly #disk: Disk;
  readonly #sleepers = new Set<Sleeper>();
  readonly #end = new AbortController();
  #agent!: Agent;

  private constructor(world: World, name: string, id: string, disk: Disk) {
    this.#world = world;
    this.name = name;
    this.id = id;
    this.#disk = disk;
    this.disturbedAt = world.time.now;
  }

  get isFirstContact(): boolean {
    return this.acceptedAt === undefined;
  }

  static boot(world: World, id: string): SimVm {
    const vm = new SimVm(world, id, id, new Disk());
    vm.#run(true);
    return vm;
  }

  /** A copy of this VM's memory and disk that continues from here. */
  clone(name: string): SimVm {
    const twin = new SimVm(this.#world, name, this.id, this.#disk.copy());
    twin.#run(false);
    return twin;
  }

  /** The state for {@link rewind}. */
  snapshot(): { disk: unknown; id: string } {
    return { disk: this.#disk.copy(), id: this.id };
  }

  /** Ends this VM and continues from a snapshot. */
  rewind(name: string, snapshot: { disk: unknown; id: string }): SimVm {
    this.die();
    const before = new SimVm(this.#world, name, snapshot.id, (snapshot.disk as Disk).copy());
    before.#run(false);
    return before;
  }

  /** The same VM with a new process of its agent. */
  restart(): SimVm {
    this.die();
    const again = new SimVm(this.#world, this.name, this.id, this.#disk);
    again.#run(true);
    return again;
  }

  die(): void {
    this.isAlive = false;
    this.diedAt = this.#world.time.now;
    this.#end.abort();
    for (const { timer } of this.#sleepers) timer?.cancel();
    this.#sleepers.clear();
  }

  pause(): void {
    this.isPaused = true;
    for (const sleeper of this.#sleepers) {
      sleeper.left = (sleeper.timer?.at ?? 0) - this.#world.time.now;
      sleeper.timer?.cancel();
    }
  }

  resume(): void {
    this.isPaused = false;
    this.disturbedAt = this.#world.time.now;
    for (const sleeper of this.#sleepers) this.#arm(sleeper);
    this.jump();
  }

  /** The wall clock was set or the VM was suspended. The agent notices it with its next check. */
  jump(): void {
    this.#world.time.after(this.#world.random() * JUMP_CHECK_INTERVAL, () => {
      if (this.isAlive && !this.isPaused) this.#agent.heartbeatNow();
    });
  }

  #run(announces: boolean): void {
    const { proves, interval } = this.#world;
    const log = { info: () => {}, warn: () => {} };
    const now = () => START + this.#world.time.now;
    let identity = Identity.open(this.#disk, this.id, { resume: !announces, now });
    let vm = this.#registration(identity);
    const resolve = createCloneHandler({
      policy: 'rebirth',
      hooks: [],
      makeId: () => `reborn-${this.name}`,
      identity,
      vm,
      vmOf: (id) => this.#registration({ id, parent: undefined }),
      onRebirth: (reborn) => {
        identity = reborn;
        this.id = reborn.id;
        this.disturbedAt = this.#world.time.now;
        vm = this.#registration(reborn);
      },
      log,
    });
    this.id = identity.id;
    this.#agent = new Agent({
      client: new SimClient(this.#world, this),
      vm,
      ...(proves ? { identity } : {}),
      onExit: 'keep',
      interval,
      announce: announces,
      registerIfMissing: true,
      onClone: (conflict) => {
        this.isConflictNoticed = true;
        return resolve(conflict);
      },
      log,
      onContact: () => {
        this.acceptedAt = this.#world.time.now;
        this.firstAcceptedAt ??= this.acceptedAt;
      },
      sleep: (ms, signal) => this.sleep(this.#world.pause?.(ms) ?? ms, signal),
      ticks: () => this.#world.time.now,
    });
    const start = () => {
      this.#agent.run(this.#end.signal).catch((error: Error) => {
        if (this.isAlive) throw error;
      });
    };
    // A clone continues in the middle of its agent's pause.
    if (announces) start();
    else this.#world.time.after(this.#world.random() * interval, start);
  }

  #registration({ id, parent }: { id: string; parent: string | undefined }): Registration {
    return aVm({ id, address: `${this.name}.test`, ...(parent === undefined ? {} : { parentId: parent }) });
  }

  /** Sleeps on the VM's own clock, which stands still while the VM is paused. */
  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (!this.isAlive) return;
      const sleeper: Sleeper = { left: ms, timer: undefined, resolve };
      this.#sleepers.add(sleeper);
      if (!this.isPaused) this.#arm(sleeper);
      signal?.addEventListener(
        'abort',
        () => {
          sleeper.timer?.cancel();
          this.#sleepers.delete(sleeper);
          reject(signal.reason as Error);
        },
        { once: true },
      );
    });
  }

  #arm(sleeper: Sleeper): void {
    sleeper.timer = this.#world.time.after(sleeper.left, () => {
      this.#sleepers.delete(sleeper);
      sleeper.resolve();
    });
  }
}

/** The agent's client, over the simulated network. */
class SimClient {
  readonly url = 'sim:';
  readonly urls = [this.url];
  maxTimeout = Number.POSITIVE_INFINITY;
  readonly #world: World;
  readonly #vm: SimVm;
  #server: RegistryClient['server'];

  constructor(world: World, vm: SimVm) {
    this.#world = world;
    this.#vm = vm;
    this.#server = { lease: world.registryVm.lease, now: 0, version: 'sim' };
  }

  get server(): RegistryClient['server'] {
    return this.#server;
  }

  async isVreg(): Promise<boolean> {
    return true;
  }

  useToken(): void {}

  register(vm: Registration) {
    return this.#call(async (registry) => this.#seen((await registry.register(vm)).vm));
  }

  get(id: string) {
    return this.#call(async (registry) => this.#seen(registry.get(id).vm));
  }

  update(id: string, update: VmUpdate) {
    return this.#call(async (registry) => this.#seen((await registry.update(id, update)).vm));
  }

  registerOrUpdate(vm: Registration) {
    return this.#call(async (registry) => this.#seen((await registry.replace(vm)).entry.vm));
  }

  deregister(id: string) {
    return this.#call(async (registry) => {
      await registry.deregister(id);
      return { deleted: true as const };
    });
  }

  heartbeat(id: string, beat?: AgentHeartbeat) {
    return this.#call(async (registry) => {
      const proof = beat && { ...beat, from: this.#vm.name };
      const { lastSeen } = registry.heartbeat(id, proof);
      return { id, lastSeen, ...(proof && registry.compareHistory(id, proof)) };
    });
  }

  #seen(vm: Omit<Registration, never> & { registeredAt: string }) {
    return { ...vm, lastSeen: vm.registeredAt, stale: false };
  }

  async #call<T>(ask: (registry: RegistryVm['registry']) => Promise<T>): Promise<T> {
    const { registryVm, random, loss } = this.#world;
    await this.#vm.sleep(LATENCY);
    if (!this.#vm.isReachable || random() < loss) await this.#fail();
    this.#world.onRequest(this.#vm);
    // A request to a stopped registry waits in the kernel.
    const continued = registryVm.continued();
    if (continued) {
      const isInTime = await Promise.race([continued.then(() => true), this.#vm.sleep(TIMEOUT).then(() => false)]);
      if (!isInTime) {
        // The registry reads it later, although the client has given up.
        void continued.then(async () => {
          if (registryVm.answers) await ask(registryVm.next()).catch(() => {});
        });
        throw new VregError('UNREACHABLE', 'no answer');
      }
    }
    if (!registryVm.answers) await this.#fail();
    const registry = registryVm.next();
    let failure: unknown;
    const answer = await ask(registry).catch((error: unknown) => {
      failure = error;
    });
    this.#server = { ...this.#server, registryId: registry.id, position: registry.positions.current };
    await this.#vm.sleep(LATENCY);
    if (!this.#vm.isReachable || random() < loss) await this.#fail();
    if (failure) throw failure;
    return answer as T;
  }

  async #fail(): Promise<never> {
    await this.#vm.sleep(TIMEOUT);
    throw new VregError('UNREACHABLE', 'no answer');
  }
}
