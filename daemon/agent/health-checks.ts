/** Health checks for the services of the VM: an HTTP request if the service has a `healthPath`, otherwise a TCP connection. */
import { get } from 'node:http';
import { connect } from 'node:net';
import type { ServiceHealth } from '../../src/protocol/heartbeat.ts';
import type { Service } from '../../src/protocol/vm.ts';

export interface HealthCheckOptions {
  /** Milliseconds between two probes of a service. */
  interval: number;
  /** Milliseconds after which a probe has failed. */
  timeout: number;
  /** Number of consecutive successful probes after which a failing service passes. */
  rise: number;
  /** Number of consecutive failed probes after which a passing service fails. */
  fall: number;
}

/** Services may listen on 127.0.0.1, on ::1 or on all addresses. */
const HOST = 'localhost';

/** The health of a service. The first probe determines it; then `rise` or `fall` consecutive probes change it. */
export class HealthState {
  readonly #limits: Pick<HealthCheckOptions, 'rise' | 'fall'>;
  #health: ServiceHealth | undefined;
  /** Number of consecutive probes that contradict the current health. */
  #contrary = 0;

  constructor(limits: Pick<HealthCheckOptions, 'rise' | 'fall'>) {
    this.#limits = limits;
  }

  get health(): ServiceHealth | undefined {
    return this.#health;
  }

  /** Adds the result of a probe. @returns true if the health has changed */
  add(passed: boolean): boolean {
    const result = passed ? 'passing' : 'failing';
    this.#contrary = result === this.#health ? 0 : this.#contrary + 1;
    const needed = this.#health === undefined ? 1 : passed ? this.#limits.rise : this.#limits.fall;
    if (this.#contrary < needed) return false;
    this.#health = result;
    this.#contrary = 0;
    return true;
  }
}

export class HealthChecks {
  readonly #states = new Map<string, HealthState>();
  readonly #timers: NodeJS.Timeout[] = [];

  /** Starts probing, until {@link stop}. @param onChange called when the health of a service has changed */
  constructor(services: readonly Service[], options: HealthCheckOptions, onChange: () => void) {
    for (const service of services) {
      const state = new HealthState(options);
      this.#states.set(service.name, state);
      let isProbing = false;
      const check = async () => {
        if (isProbing) return;
        isProbing = true;
        const passed = await probe(service, options.timeout);
        isProbing = false;
        if (state.add(passed)) onChange();
      };
      void check();
      this.#timers.push(setInterval(check, options.interval));
    }
  }

  /** @returns the health of each service that has been probed, by name */
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

/**
 * Probes a service once.
 * @param timeout in milliseconds
 * @returns true if it responded with 2xx or 3xx in time or, without a `healthPath`, accepted a connection
 */
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
      // Node throws for a path that cannot be sent in a request line.
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
