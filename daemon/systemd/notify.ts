/**
 * What a service tells its manager (sd_notify(3)): that it is ready, how it does, that it lives. Node has no datagrams on
 * unix sockets (nodejs/node#31414), so systemd's own program says it. Nothing is told where nobody asked.
 */
import { execFile } from 'node:child_process';

/** Milliseconds for one word: it is said in a few, and a manager that hangs must not hold up anything. */
const PATIENCE = 5000;
/** Milliseconds between two looks whether the status has changed. */
const STATUS_EVERY = 10_000;

export class Notifier {
  readonly #env: NodeJS.ProcessEnv;
  readonly #warn: (message: string) => void;
  readonly #timers: NodeJS.Timeout[] = [];
  /** Words are said in their order. */
  #said: Promise<void> = Promise.resolve();
  #status: string | undefined;
  #isMute = false;

  /** @param warn told once, if nothing can be told */
  constructor(env: NodeJS.ProcessEnv, warn: (message: string) => void) {
    this.#env = env;
    this.#warn = warn;
  }

  /**
   * The service is up: from now on it says how it does, and that its event loop turns. The watchdog is not told whether
   * anybody else does well: a restart would not help that.
   */
  ready(status: () => string): void {
    this.#status = status();
    this.#say('READY=1', `STATUS=${this.#status}`);
    this.#timers.push(setInterval(() => this.#sayStatus(status()), STATUS_EVERY).unref());
    const { WATCHDOG_USEC: usec, WATCHDOG_PID: pid } = this.#env;
    if (!usec || (pid && Number(pid) !== process.pid)) return;
    // A third of the time, so that one word may be late (sd_watchdog_enabled(3) advises half).
    this.#timers.push(setInterval(() => this.#say('WATCHDOG=1'), Number(usec) / 3000).unref());
  }

  /** Around a reload: the manager waits for the end of it. */
  async reloading(reload: () => Promise<void> | void): Promise<void> {
    this.#say('RELOADING=1');
    await reload();
    this.#say('READY=1');
  }

  /** Resolves when the manager knows. */
  async stopping(): Promise<void> {
    for (const timer of this.#timers) clearInterval(timer);
    this.#say('STOPPING=1');
    await this.#said;
  }

  #sayStatus(status: string): void {
    if (status === this.#status) return;
    this.#status = status;
    this.#say(`STATUS=${status}`);
  }

  #say(...words: string[]): void {
    if (this.#isMute) return;
    this.#said = this.#said.then(
      () =>
        new Promise((resolve) => {
          execFile('systemd-notify', words, { env: this.#env, timeout: PATIENCE }, (error) => {
            if (error && !this.#isMute) {
              this.#isMute = true;
              this.#warn(`systemd cannot be told how this service does: ${error.message.trim()}`);
            }
            resolve();
          });
        }),
    );
  }
}
