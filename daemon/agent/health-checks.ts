/** Probes of the VM's own services: HTTP where there is a `healthPath`, a TCP connection where there is none. */
import { get } from 'node:http';
import { connect } from 'node:net';
import type { ServiceHealth } from '../../src/protocol/heartbeat.ts';
import type { Service } from '../../src/protocol/vm.ts';

export interface HealthCheckOptions {
  /** Milliseconds between two probes of a service. */
  interval: number;
  /** Milliseconds after which a probe has failed. */
  timeout: number;
  /** Probes in a row after which a service passes, or fails. */
  rise: number;
  fall: number;
}

/** Where a VM's own services listen: on 127.0.0.1, ::1, or all addresses. */
const HOST = 'localhost';

/** What probes in a row make of a service. Its first probe decides at once. */
export class HealthState {
  readonly #limits: Pick<HealthCheckOptions, 'rise' | 'fall'>;
  #health: ServiceHealth | undefined;
  #contrary = 0;

  constructor(limits: Pick<HealthCheckOptions, 'rise' | 'fall'>) {
    this.#limits = limits;
  }

  get health(): ServiceHealth | undefined {
    return this.#health;
  }

  /** @returns true when it is another than before */
  add(passed: boolean): boolean {
    const seen = passed ? 'passing' : 'failing';
    this.#contrary = seen === this.#health ? 0 : this.#contrary + 1;
    const needed = this.#health === undefined ? 1 : passed ? this.#limits.rise : this.#limits.fall;
    if (this.#contrary < needed) return false;
    this.#health = seen;
    this.#contrary = 0;
    return true;
  }
}

export class HealthChecks {
  readonly #states = new Map<string, HealthState>();
  readonly #timers: NodeJS.Timeout[] = [];

  /** Begins to probe, until {@link stop}. @param changed called when the health of a service has changed */
  constructor(services: readonly Service[], options: HealthCheckOptions, changed: () => void) {
    for (const service of services) {
      const verdict = new HealthState(options);
      this.#states.set(service.name, verdict);
      let busy = false;
      const look = async () => {
        if (busy) return;
        busy = true;
        const passed = await probe(service, options.timeout);
        busy = false;
        if (verdict.add(passed)) changed();
      };
      void look();
      this.#timers.push(setInterval(look, options.interval));
    }
  }

  /** Of each service that has been probed. */
  report(): Record<string, ServiceHealth> {
    const known = [...this.#states].flatMap(([name, { health }]): [string, ServiceHealth][] =>
      health ? [[name, health]] : [],
    );
    return Object.fromEntries(known);
  }

  stop(): void {
    for (const timer of this.#timers) clearInterval(timer);
  }
}

/** @returns true when it answered 2xx or 3xx in time, or accepted a connection where there is no path to ask */
export function probe({ port, healthPath }: Service, timeout: number): Promise<boolean> {
  return healthPath ? probeHttp(port, healthPath, timeout) : probeTcp(port, timeout);
}

function probeHttp(port: number, path: string, timeout: number): Promise<boolean> {
  return new Promise((resolve) => {
    const signal = AbortSignal.timeout(timeout);
    const slash = path.startsWith('/') ? '' : '/';
    try {
      const request = get({ host: HOST, port, path: slash + path, signal, agent: false }, (response) => {
        response.destroy();
        const { statusCode = 0 } = response;
        resolve(statusCode >= 200 && statusCode < 400);
      });
      request.on('error', () => resolve(false));
    } catch {
      // A path that no request can carry.
      resolve(false);
    }
  });
}

function probeTcp(port: number, timeout: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: HOST, port, timeout });
    const end = (passed: boolean) => {
      socket.destroy();
      resolve(passed);
    };
    socket.once('connect', () => end(true));
    socket.once('error', () => end(false));
    socket.once('timeout', () => end(false));
  });
}
