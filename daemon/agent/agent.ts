/**
 * The heartbeat agent: keeps one VM's entry alive, through whatever happens to the registry. It registers, beats,
 * registers again when the registry has forgotten it, and backs off while the registry is away. It never gives up by
 * itself: only a refusal of the very first contact (a bad token, a bad field), or the discovery that this VM is a clone,
 * is an error for whoever started it.
 */
import { createHash } from 'node:crypto';
import { beatInterval } from '../../src/protocol/api.ts';
import { type ErrorCode, VregError } from '../../src/protocol/errors.ts';
import { type HeartbeatResult, RegistrySession, type RegistrySessionOptions } from './registry-session.ts';

/** Milliseconds before the first retry; each further one waits twice as long, up to the pause between two beats. */
const FIRST_RETRY_DELAY = 1000;
/** Share of the interval by which beats are spread, so that VMs cloned from one image do not beat in one instant. */
const JITTER = 0.1;

/** Refusals that no retry will change while the agent is being started. */
const FATAL_AT_START: readonly ErrorCode[] = [
  'INVALID',
  'UNAUTHORIZED',
  'FORBIDDEN',
  'USAGE',
  'BAD_ANSWER',
  'METHOD_NOT_ALLOWED',
];

/** What an agent needs to live on as another VM, when it finds out that it is a clone. */
export type CloneHandler = (conflict: VregError) => Promise<Partial<RegistrySessionOptions>>;

export interface AgentOptions extends RegistrySessionOptions {
  /** Milliseconds between two beats; less when the registry's lease asks for it. */
  interval: number;
  /** Says of itself at the start what the flags say; otherwise it only beats. */
  announce: boolean;
  /** What to do about another incarnation of this VM; without it, that is an error. */
  onClone?: CloneHandler | undefined;
  /** Resolves after that many milliseconds; rejects when the signal is aborted. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
  /** Called once, after the first contact, with what is wrong when the registry is away: this agent runs all the same. */
  onReady?(trouble?: string): void;
  /** Called after each beat that the registry took. */
  onHeartbeat?(beat: HeartbeatResult): Promise<void> | void;
  /** Called after each announcement and each beat that the registry took. */
  onContact?(): Promise<void> | void;
  /** Called whenever the registry goes away, and with nothing when it is back. */
  onOutage?(trouble?: string): void;
}

export class Agent {
  #options: AgentOptions;
  #session: RegistrySession;
  #due: 'announce' | 'beat';
  #sent = 0;
  /** Many agents may have beaten in one instant: those that were started, or resumed, together. */
  #isSynchronized = true;
  #failures = 0;
  /** The registry took the first contact. */
  #accepted = false;
  #isReady = false;
  #leaseLogged = false;
  /** Somebody wants the next beat now. */
  #isDueNow = false;
  #pause = new AbortController();

  constructor(options: AgentOptions) {
    this.#options = options;
    this.#session = new RegistrySession(options);
    this.#due = options.announce ? 'announce' : 'beat';
  }

  /**
   * Runs until the signal is aborted; then the entry is left as `onExit` says by {@link deregister}.
   * @throws VregError when the registry refuses the first contact for good, NOT_FOUND without `registerIfMissing`,
   *   IDENTITY_CONFLICT when this VM is a clone or was rewound, and `onClone` has no other answer
   */
  async run(signal: AbortSignal): Promise<void> {
    signal.addEventListener('abort', () => this.#pause.abort(), { once: true });
    while (!signal.aborted) {
      let wait: number;
      try {
        this.#isDueNow = false;
        await this.#sync();
        wait = this.#afterSuccess();
      } catch (error) {
        if (signal.aborted) return;
        wait = await this.#afterFailure(error);
        this.#reportReady((error as Error).message);
      }
      await this.#sleep(wait, signal);
    }
  }

  /** The next beat is due now: the VM was suspended, its clock was set, or it has something to report. */
  heartbeatNow(): void {
    this.#isDueNow = true;
    this.#isSynchronized = true;
    this.#pause.abort();
  }

  /** From now on other options hold; the registry is told of them at once. */
  reload(options: Partial<AgentOptions>): void {
    this.#options = { ...this.#options, ...options };
    this.#session = new RegistrySession(this.#options);
    if (this.#options.announce) this.#due = 'announce';
    this.heartbeatNow();
  }

  /** The last word of a VM that is told to stop. */
  deregister(): Promise<void> {
    return this.#session.deregister();
  }

  async #sync(): Promise<void> {
    const due = this.#due;
    // Set before it is done: a reload while it is under way asks for another announcement.
    this.#due = 'beat';
    try {
      if (due === 'announce') await this.#session.announce();
      else {
        const beat = await this.#session.heartbeat();
        if (beat) await this.#options.onHeartbeat?.(beat);
      }
      await this.#options.onContact?.();
    } catch (error) {
      this.#due = due;
      throw error;
    }
  }

  async #sleep(ms: number, signal: AbortSignal): Promise<void> {
    if (this.#isDueNow || signal.aborted || ms === 0) return;
    this.#pause = new AbortController();
    await this.#options.sleep(ms, this.#pause.signal).catch(() => {});
  }

  #reportReady(trouble?: string): void {
    if (this.#isReady) return;
    this.#isReady = true;
    this.#options.onReady?.(trouble);
  }

  /** Milliseconds between two beats: the interval, or what the lease demands. */
  get #interval(): number {
    return Math.min(this.#options.interval, beatInterval(this.#options.client.server.lease));
  }

  /** @returns milliseconds to the next beat, spread by the VM's identity */
  #afterSuccess(): number {
    const { interval, client, vm, log, onOutage } = this.#options;
    if (this.#failures > 0) {
      log.info({ failures: this.#failures }, 'the registry answers again');
      onOutage?.();
    }
    this.#failures = 0;
    this.#accepted = true;
    this.#reportReady();
    if (this.#interval < interval && !this.#leaseLogged) {
      this.#leaseLogged = true;
      const lease = client.server.lease / 1000;
      const every = Number((this.#interval / 1000).toFixed(3));
      log.info(
        { interval: this.#interval },
        `the registry's lease is ${lease} s, so this agent beats every ${every} s`,
      );
    }
    // Not from a random generator: a cloned VM has a copy of its state, and would beat in step with its twin.
    const share = hashToFraction(`${vm.id}#${this.#sent++}`);
    // A fleet that beats in one instant is spread over a whole interval by its next pause.
    const spread = this.#isSynchronized ? 1 : JITTER;
    this.#isSynchronized = false;
    return this.#interval * (1 - spread * share);
  }

  /** @returns milliseconds to the next try. @throws what no retry will change */
  async #afterFailure(error: unknown): Promise<number> {
    const { log, vm, registerIfMissing, onClone, onOutage, client } = this.#options;
    if (!(error instanceof VregError)) throw error;
    if (error.code === 'IDENTITY_CONFLICT' && onClone) {
      this.reload(await onClone(error));
      return 0;
    }
    if (error.code === 'IDENTITY_CONFLICT') throw error;
    if (!this.#accepted && FATAL_AT_START.includes(error.code)) throw asUsageError(error);
    if (error.code === 'NOT_FOUND' && !registerIfMissing) throw error;
    if (this.#failures === 0) {
      log.warn({ id: vm.id, code: error.code }, `${error.message}; trying again until it works`);
      onOutage?.(error.message);
    }
    // A pause longer than that between two beats would let the VM go stale in a registry that is back.
    const ceiling = Math.min(FIRST_RETRY_DELAY * 2 ** this.#failures, this.#interval);
    this.#failures++;
    const share = hashToFraction(`${vm.id}!${this.#failures}`);
    // A registry that asks for patience gets it, but not for longer than a lease: it may be a proxy that asks.
    const asked = Math.min(1000 * (error.retryAfter ?? 0), client.server.lease);
    return Math.max(ceiling * (0.5 + 0.5 * share), asked * (1 + JITTER * share));
  }
}

/** What answers and is no registry is there by a wrong setting: a service manager need not try that again. */
function asUsageError(error: VregError): VregError {
  if (error.code !== 'BAD_ANSWER') return error;
  return new VregError('USAGE', error.message, { field: 'url', hint: error.hint!, cause: error });
}

/** A number from 0 to below 1 that a text always gives, and that is as good as random among many texts. */
function hashToFraction(text: string): number {
  return createHash('sha256').update(text).digest().readUInt32BE() / 2 ** 32;
}
