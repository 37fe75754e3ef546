/**
 * One endpoint of a registry: its connections, what the process knows about it, and the probes that notice when it is frozen. The
 * kernel of a frozen process still accepts connections, so a request that waits without data cannot distinguish it from one that
 * has nothing to send.
 */
import type { LookupAddress } from 'node:dns';
import { CLIENT_HEADER, PATHS } from '../../protocol/api.ts';
import { type Exchange, isSilence, type Transport } from '../transport.ts';

/**
 * Milliseconds without data from the endpoint after which it is probed while a request waits. Together with the timeout of the
 * probe and the delay before a stream is resumed, they are less than the 4 s for which a frozen replica may stall a client.
 */
const PROBE_AFTER = 2000;
/** Milliseconds for a probe. The probe needs neither the disk nor other machines, so a registry responds within milliseconds. */
const PROBE_TIMEOUT = 1000;

export interface EndpointState {
  /** Asked last until this time. All times are monotonic milliseconds. */
  retryAt: number;
  failedAt: number;
  /** Time of the last response. */
  answeredAt: number;
  /** Id of the registry in the last response. */
  registryId?: string | undefined;
}

/** The state of endpoints, which the clients of a process share. It is empty at first. */
export interface EndpointMemory {
  /** By the name of the endpoint. */
  states?: Map<string, EndpointState>;
  /** The addresses of host names, and when they were looked up. */
  addresses?: readonly EndpointPlace[];
  lookedUpAt?: number;
  /** Resolves when they are known. All requests that need them wait for the same lookup. */
  lookup?: Promise<void>;
  /** The last write that was acknowledged with a position, and the name of the endpoint. */
  written?: { name: string; position: string } | undefined;
}

export interface EndpointPlace {
  url: string;
  /** The address of the host name, if the endpoint is only this one. */
  address?: LookupAddress | undefined;
}

export class Endpoint {
  readonly url: string;
  readonly address: string | undefined;
  readonly state: EndpointState;
  readonly #open: () => Transport;
  readonly #now: () => number;
  #transport: Transport | undefined;
  #isRetired = false;
  /** Has a connection of its own: a request that waits may occupy all the others. */
  #probes: Transport | undefined;
  #probe: AbortController | undefined;
  #heardAt = 0;
  #timer: NodeJS.Timeout | undefined;
  /** Callbacks of the requests that wait. */
  readonly #waiting = new Set<(cause: Error) => void>();

  /** @param now a monotonic clock in milliseconds */
  constructor({ url, address }: EndpointPlace, state: EndpointState, open: () => Transport, now: () => number) {
    this.url = url;
    this.address = address?.address;
    this.state = state;
    this.#open = open;
    this.#now = now;
  }

  get transport(): Transport {
    this.#transport ??= this.#open();
    return this.#transport;
  }

  get name(): string {
    return nameOf(this);
  }

  /** True if the address has left the DNS, so that no further request may be sent to it. */
  get isRetired(): boolean {
    return this.#isRetired;
  }

  /** Closes the connections when the requests in progress have ended. Until then, they are probed. */
  async retire(): Promise<void> {
    this.#isRetired = true;
    await this.#transport?.retire();
    this.close();
  }

  close(): void {
    for (const transport of [this.#transport, this.#probes]) transport?.close();
    this.#transport = undefined;
    this.#probes = undefined;
  }

  /** Notes that data has arrived from the endpoint. */
  heard(): void {
    this.#heardAt = this.#now();
  }

  /**
   * Watches the endpoint while a request waits for it, and probes it if no data arrives.
   * @param onSilence called once, if the endpoint does not respond to a probe
   * @returns ends the watch
   */
  watch(onSilence: (cause: Error) => void): () => void {
    this.#waiting.add(onSilence);
    if (this.#waiting.size === 1) {
      this.heard();
      this.#schedule();
    }
    return () => {
      if (this.#waiting.delete(onSilence) && this.#waiting.size === 0) this.#stop();
    };
  }

  #schedule(): void {
    this.#stop();
    const delay = Math.max(0, this.#heardAt + PROBE_AFTER - this.#now());
    this.#timer = setTimeout(() => void this.#check(), delay).unref();
  }

  #stop(): void {
    clearTimeout(this.#timer);
    this.#probe?.abort();
    this.#probe = undefined;
  }

  async #check(): Promise<void> {
    const heardAt = this.#heardAt;
    if (this.#now() - heardAt >= PROBE_AFTER) {
      const probe = new AbortController();
      this.#probe = probe;
      const cause = await this.#silence(probe.signal);
      // Nothing waits any more, or another probe is due.
      if (probe.signal.aborted) return;
      if (cause && this.#heardAt === heardAt) {
        const waiting = [...this.#waiting];
        this.#waiting.clear();
        this.#stop();
        for (const onSilence of waiting) onSilence(cause);
        return;
      }
      if (!cause) this.heard();
    }
    this.#schedule();
  }

  /** Sends a probe. @returns the reason why the endpoint counts as frozen, if it does */
  async #silence(signal: AbortSignal): Promise<Error | undefined> {
    this.#probes ??= this.#open();
    const headers = { [CLIENT_HEADER]: '1' };
    const exchange: Exchange = { method: 'GET', path: PATHS.livez, headers, timeout: PROBE_TIMEOUT, signal };
    try {
      await this.#probes.send(exchange);
    } catch (error) {
      if (isSilence(error as Error)) return error as Error;
    }
    return undefined;
  }
}

/** `http://vreg:3000`, or `http://vreg:3000 (10.0.0.2)` for one address. */
export function nameOf({ url, address }: { url: string; address?: string | undefined }): string {
  return address === undefined ? url : `${url} (${address})`;
}
