/**
 * The heartbeat agent: keeps one VM's entry alive, through whatever happens to the registry. It registers, beats,
 * registers again when the registry has forgotten it, and backs off while the registry is away. It never gives up by
 * itself: only a refusal of the very first contact (a bad token, a bad field) is an error for whoever started it.
 */
import { crc32 } from 'node:zlib';
import type { RegistryClient } from '../../src/client.ts';
import type { OnExit } from '../../src/protocol/api.ts';
import { type ErrorCode, VregError } from '../../src/protocol/errors.ts';
import type { Registration } from '../../src/protocol/vm.ts';

/** Milliseconds before the first retry; each further one waits twice as long, up to the pause between two beats. */
const FIRST_RETRY = 1000;
/** Share of the interval by which beats are spread, so that VMs cloned from one image do not beat in one instant. */
const JITTER = 0.1;
/** Beats in one lease: two may be late or lost before the VM is stale (etcd's clients beat at a third, too). */
const BEATS_PER_LEASE = 3;

/** Refusals that no retry will change while the agent is being started. */
const FINAL: readonly ErrorCode[] = [
  'INVALID',
  'UNAUTHORIZED',
  'FORBIDDEN',
  'USAGE',
  'BAD_ANSWER',
  'METHOD_NOT_ALLOWED',
];

export interface AgentOptions {
  client: Pick<RegistryClient, 'register' | 'update' | 'heartbeat' | 'deregister' | 'server' | 'url'>;
  vm: Registration;
  /** Milliseconds between two beats; less when the registry's lease asks for it. */
  interval: number;
  onExit: OnExit;
  /** Says of itself at the start what the flags say; otherwise it only beats. */
  announce: boolean;
  /** Registers when the registry does not know the VM. */
  registerIfMissing: boolean;
  log: AgentLog;
  /** Resolves after that many milliseconds; rejects when the signal is aborted. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
  /** Called once, after the first contact, with what is wrong when the registry is away: this agent runs all the same. */
  onUp?(trouble?: string): void;
  /** Called after each beat that the registry took. */
  onBeat?(beat: { id: string; lastSeen: string }): Promise<void> | void;
}

export interface AgentLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

export class Agent {
  readonly #options: AgentOptions;
  #beats = 0;
  #failures = 0;
  /** The registry took the first contact. */
  #welcome = false;
  #up = false;
  #hastened = false;

  constructor(options: AgentOptions) {
    this.#options = options;
  }

  /**
   * Runs until the signal is aborted; then the entry is left as `onExit` says by {@link leave}.
   * @throws VregError when the registry refuses the first contact for good, or NOT_FOUND without `registerIfMissing`
   */
  async run(signal: AbortSignal): Promise<void> {
    const { announce, log, sleep } = this.#options;
    let due: () => Promise<void> = announce ? () => this.#announce() : () => this.#beat();
    while (!signal.aborted) {
      let wait: number;
      try {
        await due();
        if (this.#failures > 0) log.info({ failures: this.#failures }, 'the registry answers again');
        this.#failures = 0;
        due = () => this.#beat();
        wait = this.#nextBeat();
        this.#welcome = true;
        this.#tellUp();
      } catch (error) {
        if (signal.aborted) return;
        wait = this.#afterFailure(error);
        this.#tellUp((error as Error).message);
      }
      await sleep(wait, signal).catch(() => {});
    }
  }

  /** The last word of a VM that is told to stop. Failures are logged: there is nobody left to retry for. */
  async leave(): Promise<void> {
    const { client, vm, onExit, log } = this.#options;
    try {
      if (onExit === 'stopped') await client.update(vm.id, { status: 'stopped' });
      if (onExit === 'deregister') await client.deregister(vm.id);
      if (onExit !== 'keep')
        log.info(
          { id: vm.id },
          onExit === 'stopped' ? 'declared this VM stopped' : 'removed this VM from the registry',
        );
    } catch (error) {
      log.warn({ id: vm.id }, `could not tell the registry that this VM stops: ${(error as Error).message}`);
    }
  }

  async #announce(): Promise<void> {
    const { client, vm, log } = this.#options;
    try {
      await client.register(vm);
      log.info({ id: vm.id, role: vm.role, registry: client.url }, 'registered this VM');
    } catch (error) {
      if (!(error instanceof VregError) || error.code !== 'CONFLICT') throw error;
      const { id, role: _role, registeredBy: _by, ...changes } = vm;
      const known = await client.update(id, changes);
      log.info(
        { id, role: known.role, registry: client.url },
        'this VM was registered already; its entry is up to date',
      );
      if (known.role !== vm.role)
        log.warn({ id }, `the entry keeps its role ${known.role}: a role is given once, with the registration`);
    }
  }

  async #beat(): Promise<void> {
    const { client, vm, registerIfMissing, log, onBeat } = this.#options;
    try {
      const beat = await client.heartbeat(vm.id);
      await onBeat?.(beat);
    } catch (error) {
      if (!(error instanceof VregError) || error.code !== 'NOT_FOUND' || !registerIfMissing) throw error;
      log.info({ id: vm.id }, 'the registry does not know this VM; registering it');
      await this.#announce();
    }
  }

  #tellUp(trouble?: string): void {
    if (this.#up) return;
    this.#up = true;
    this.#options.onUp?.(trouble);
  }

  /** Milliseconds between two beats: the interval, or what the lease demands. */
  get #pace(): number {
    return Math.min(this.#options.interval, this.#options.client.server.lease / BEATS_PER_LEASE);
  }

  /** Milliseconds to the next beat, spread by the VM's identity. */
  #nextBeat(): number {
    const { interval, client, vm, log } = this.#options;
    if (this.#pace < interval && !this.#hastened) {
      this.#hastened = true;
      const lease = client.server.lease / 1000;
      log.info(
        { interval: this.#pace },
        `the registry's lease is ${lease} s, so this agent beats every ${Number((lease / BEATS_PER_LEASE).toFixed(3))} s`,
      );
    }
    // Not from a random generator: a cloned VM has a copy of its state, and would beat in step with its twin.
    const spread = crc32(`${vm.id}#${this.#beats++}`) / 2 ** 32;
    return this.#pace * (1 - JITTER * spread);
  }

  /** Milliseconds to the next try. @throws what no retry will change */
  #afterFailure(error: unknown): number {
    const { log, vm, registerIfMissing } = this.#options;
    if (!(error instanceof VregError)) throw error;
    if (!this.#welcome && FINAL.includes(error.code)) throw error;
    if (error.code === 'NOT_FOUND' && !registerIfMissing) throw error;
    if (this.#failures === 0)
      log.warn({ id: vm.id, code: error.code }, `${error.message}; trying again until it works`);
    // A pause longer than that between two beats would let the VM go stale in a registry that is back.
    const ceiling = Math.min(FIRST_RETRY * 2 ** this.#failures, this.#pace);
    this.#failures++;
    const spread = crc32(`${vm.id}!${this.#failures}`) / 2 ** 32;
    return ceiling * (0.5 + 0.5 * spread);
  }
}
