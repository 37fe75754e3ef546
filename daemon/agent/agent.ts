/**
 * The heartbeat agent keeps the entry of one VM live, whatever happens to the registry. It registers the VM, sends heartbeats,
 * registers again if the registry has lost the entry, and backs off while the registry is unreachable. It ends only if its
 * first request is refused, for example because of an invalid token, or if another incarnation of this VM is alive. A restored
 * registry never ends it.
 */
import { createHash } from 'node:crypto';
import { heartbeatInterval } from '../../src/protocol/api.ts';
import { timerDelay } from '../../src/protocol/duration.ts';
import { type ErrorCode, VregError } from '../../src/protocol/errors.ts';
import { type HeartbeatResult, RegistrySession, type RegistrySessionOptions } from './registry-session.ts';

/** Milliseconds before the first retry. The delay doubles with each further retry, up to the heartbeat interval. */
const FIRST_RETRY_DELAY = 1000;
/**
 * Maximum share of the interval by which heartbeats are delayed, so that VMs cloned from one image do not send them at the same
 * time.
 */
const JITTER = 0.1;
/** Least timeout of a request in milliseconds, however short the heartbeat interval is: a busy machine needs some time to respond. */
const MIN_TIMEOUT = 1000;

/** Errors in {@link FATAL_AT_START} that an agent whose VM was accepted before retries, because a restore can cause them. */
const REVERSIBLE: readonly ErrorCode[] = ['UNAUTHORIZED', 'FORBIDDEN', 'BAD_ANSWER'];

/** Errors in {@link FATAL_AT_START} that such an agent retries if the response is not from vreg, because a gateway can send them. */
const OF_GATEWAYS: readonly ErrorCode[] = ['INVALID', 'METHOD_NOT_ALLOWED'];

/** Errors of the first request that a retry cannot fix. */
const FATAL_AT_START: readonly ErrorCode[] = [
  'INVALID',
  'UNAUTHORIZED',
  'FORBIDDEN',
  'USAGE',
  'BAD_ANSWER',
  'METHOD_NOT_ALLOWED',
];

/** Resolves a decided conflict with another incarnation of this VM. @returns the options with which the agent continues */
export type CloneHandler = (conflict: VregError) => Promise<Partial<RegistrySessionOptions>>;

export interface AgentOptions extends RegistrySessionOptions {
  /** Milliseconds between two heartbeats; shortened if the registry's lease requires it. */
  interval: number;
  /** True to register the VM or update its entry at the start; otherwise the agent only sends heartbeats. */
  announce: boolean;
  /** Handles the conflict if another incarnation of this VM is alive. If absent, such a conflict ends the agent. */
  onClone?: CloneHandler | undefined;
  /** Called before each request until the registry has accepted one. @throws VregError USAGE to end the agent */
  checkToken?: (() => Promise<void>) | undefined;
  /** A monotonic clock in milliseconds. Default: that of this process. */
  ticks?(): number;
  /** Resolves after the given milliseconds; rejects when the signal is aborted. */
  sleep(ms: number, signal: AbortSignal): Promise<void>;
  /** Called once, after the first request; with a warning if it failed and the agent keeps trying. */
  onReady?(warning?: string): void;
  /** Called after each accepted heartbeat. */
  onHeartbeat?(result: HeartbeatResult): Promise<void> | void;
  /** Called after each accepted announcement or heartbeat. */
  onContact?(): Promise<void> | void;
  /** Called with the reason when the registry becomes unreachable, and without one when it is reachable again. */
  onOutage?(reason?: string): void;
}

export class Agent {
  #options: AgentOptions;
  #session: RegistrySession;
  #due: 'announce' | 'heartbeat';
  /** Number of delays computed so far; it varies their jitter. */
  #delays = 0;
  /**
   * Agents that were started or resumed together are synchronized until their next delay spreads them.
   */
  #isSynchronized = true;
  #failures = 0;
  /** Codes of the errors that were logged since the registry last accepted a request. */
  #logged = new Set<ErrorCode>();
  /** Time of the last request on the clock {@link AgentOptions.ticks}. */
  #requestedAt = 0;
  /** The registry has accepted a request from this agent. */
  #accepted = false;
  /** The registry has refused this incarnation because of another one, and has not accepted it since. */
  #isContested = false;
  #isReady = false;
  #leaseLogged = false;
  /** The URL that accepted the last request. */
  #url: string | undefined;
  /** The next request must be sent without a delay. */
  #isDueNow = false;
  #pause = new AbortController();

  constructor(options: AgentOptions) {
    this.#options = options;
    this.#session = new RegistrySession(options);
    this.#due = options.announce ? 'announce' : 'heartbeat';
  }

  /**
   * Runs until the signal is aborted. Call {@link deregister} afterwards.
   * @throws VregError one of {@link FATAL_AT_START} if the registry refuses the first request, NOT_FOUND without
   *   `registerIfMissing`, IDENTITY_CONFLICT if another incarnation is alive and `onClone` does not resolve that
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
      await this.#rest(wait, signal);
    }
  }

  /** Sleeps until the next heartbeat. Makes a report that is due at a random time before it, to spread the reports of a fleet. */
  async #rest(ms: number, signal: AbortSignal): Promise<void> {
    const share = this.#session.isReportDue ? hashToFraction(`${this.#options.vm.id}?${this.#delays}`) : 1;
    await this.#sleep(ms * share, signal);
    if (this.#isDueNow || signal.aborted || !this.#session.isReportDue) return;
    const started = this.#ticks();
    try {
      await this.#session.report();
    } catch (error) {
      if (signal.aborted) return;
      throw error;
    }
    // A slow report must not delay the next heartbeat.
    await this.#sleep(Math.max(0, ms * (1 - share) - (this.#ticks() - started)), signal);
  }

  /** Sends the next heartbeat now: the VM was suspended, its clock was set, or there is something to report. */
  heartbeatNow(): void {
    this.#isDueNow = true;
    this.#isSynchronized = true;
    this.#pause.abort();
  }

  /** Applies new options and announces the VM again immediately. */
  reload(options: Partial<AgentOptions>): void {
    this.#options = { ...this.#options, ...options };
    this.#session = new RegistrySession(this.#options);
    if (this.#options.announce) this.#due = 'announce';
    this.heartbeatNow();
  }

  /** True if another incarnation may be the VM. A refused agent must not sign off the other incarnation. */
  get isContested(): boolean {
    return this.#isContested;
  }

  /** Signs the VM off according to `onExit`; see {@link RegistrySession.deregister}. */
  async deregister(): Promise<void> {
    if (!this.#isContested) await this.#session.deregister();
  }

  async #sync(): Promise<void> {
    const due = this.#due;
    this.#requestedAt = this.#ticks();
    // The next heartbeat must not wait for a response that does not come.
    this.#options.client.maxTimeout = Math.max(this.#interval, MIN_TIMEOUT);
    // Set before the request, so that a reload during the request schedules another announcement.
    this.#due = 'heartbeat';
    try {
      if (!this.#accepted) await this.#options.checkToken?.();
      if (due === 'announce') await this.#session.announce();
      else {
        const result = await this.#session.heartbeat();
        if (result) await this.#options.onHeartbeat?.(result);
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
    await this.#options.sleep(timerDelay(ms), this.#pause.signal).catch(() => {});
  }

  #reportReady(warning?: string): void {
    if (this.#isReady) return;
    this.#isReady = true;
    this.#options.onReady?.(warning);
  }

  #ticks(): number {
    return this.#options.ticks?.() ?? performance.now();
  }

  /** Milliseconds for which the last request waited. */
  get #elapsed(): number {
    return this.#ticks() - this.#requestedAt;
  }

  /** Milliseconds between two heartbeats: the configured interval, or less if the lease is short. */
  get #interval(): number {
    return Math.min(this.#options.interval, heartbeatInterval(this.#options.client.server.lease));
  }

  /** @returns milliseconds to the next heartbeat */
  #afterSuccess(): number {
    const { client, vm, log, onOutage } = this.#options;
    if (this.#failures > 0) {
      log.info({ failures: this.#failures }, 'the registry is reachable again');
      onOutage?.();
    }
    if (this.#url !== undefined && client.url !== this.#url && client.urls.includes(this.#url))
      log.info({ registry: client.url, before: this.#url }, `the registry now responds at ${client.url}`);
    this.#url = client.url;
    this.#failures = 0;
    this.#logged.clear();
    this.#accepted = true;
    this.#isContested = false;
    this.#reportReady();
    if (this.#interval < this.#options.interval && !this.#leaseLogged) {
      this.#leaseLogged = true;
      const lease = client.server.lease / 1000;
      const every = Number((this.#interval / 1000).toFixed(3));
      log.info(
        { interval: this.#interval },
        `the registry's lease is ${lease} s: sending a heartbeat every ${every} s`,
      );
    }
    // Not random: a cloned VM has a copy of the generator's state and would remain synchronized with the original.
    const share = hashToFraction(`${vm.id}#${this.#delays++}`);
    const interval = this.#interval;
    if (this.#isSynchronized) {
      this.#isSynchronized = false;
      // Spread a synchronized fleet over an entire interval.
      return interval * (1 - share);
    }
    // Counted from the request: a registry that was paused answers all waiting requests together.
    const jitter = interval * JITTER * share;
    return Math.max(jitter, interval - jitter - this.#elapsed);
  }

  /**
   * If a registry has accepted this VM before and now refuses its token, an older copy of the registry was restored, or the token
   * was revoked or restricted. The operator can revert all of these, so the agent retries. It also retries if a proxy answers
   * during an outage.
   */
  #isFatalAtStart({ code }: VregError): boolean {
    const { identity, client } = this.#options;
    const retried = client.server.version === undefined ? [...REVERSIBLE, ...OF_GATEWAYS] : REVERSIBLE;
    if (identity?.wasAccepted && retried.includes(code)) return false;
    return FATAL_AT_START.includes(code);
  }

  /** @returns milliseconds to the next attempt. @throws the error if a retry will not change it */
  async #afterFailure(error: unknown): Promise<number> {
    const { log, vm, registerIfMissing, onClone, onOutage, client } = this.#options;
    if (!(error instanceof VregError)) throw error;
    const isConflict = error.code === 'IDENTITY_CONFLICT';
    if (isConflict) this.#isContested = true;
    // The registry has refused `--on-clone replace`, so the conflict remains.
    const isDecided = (isConflict && error.retryAfter === undefined) || isReplaceRefused(error);
    if (isDecided && onClone) {
      this.reload(await onClone(error));
      return 0;
    }
    if (isDecided) throw error;
    if (!this.#accepted && this.#isFatalAtStart(error)) throw asUsageError(error);
    if (error.code === 'NOT_FOUND' && !registerIfMissing) throw error;
    // The reason may change, and the last one is what the operator has to know.
    if (!this.#logged.has(error.code)) {
      this.#logged.add(error.code);
      log.warn({ id: vm.id, code: error.code }, `${error.message}; retrying until it works`);
      onOutage?.(error.message);
    }
    // Requests that waited fail together when the registry is restarted, so a retry is spread over as long as its request
    // has waited. With a delay above the interval, the VM could become stale although the registry is reachable again.
    const delay = Math.max(FIRST_RETRY_DELAY * 2 ** this.#failures, this.#elapsed);
    const ceiling = Math.min(delay, this.#interval);
    this.#failures++;
    const share = hashToFraction(`${vm.id}!${this.#failures}`);
    // Retry-After is honoured up to one lease: a proxy may have sent it.
    const retryAfter = Math.min(1000 * (error.retryAfter ?? 0), client.server.lease);
    // The registry knows when a conflict is decided. A longer delay would only extend the silence of this VM. It is spread widely,
    // because agents that were refused together would otherwise retry together.
    if (isConflict) return retryAfter * (1 + share);
    return Math.max(ceiling * (0.5 + 0.5 * share), retryAfter * (1 + JITTER * share));
  }
}

/**
 * If the server is not a registry, the URL is wrong: report USAGE, so that systemd does not restart the agent.
 */
function asUsageError(error: VregError): VregError {
  if (error.code !== 'BAD_ANSWER') return error;
  return new VregError('USAGE', error.message, { field: 'url', hint: error.hint!, cause: error });
}

/** @returns a number in [0, 1) that depends only on the text and is uniformly distributed over texts */
function hashToFraction(text: string): number {
  return createHash('sha256').update(text).digest().readUInt32BE() / 2 ** 32;
}

/** True if the token may not change the VM, which a heartbeat with `replace` requires. */
function isReplaceRefused({ code, field }: VregError): boolean {
  return code === 'FORBIDDEN' && field === 'replace';
}
