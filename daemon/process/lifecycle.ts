/**
 * The life cycle of the registry and of the agent. The process reports its state to systemd and to the process that started it
 * with `--detach`, and reloads on SIGHUP.
 */
import { createNotifier, type SystemdNotifier } from '../systemd/notify.ts';
import { reportReady } from './detach.ts';

export interface Reloader {
  /** Name of the reloaded item for the log, for example `the token`. */
  what: string;
  /** Applies the new version. If it throws, the current version stays in use. */
  reload(): Promise<void> | void;
}

export interface LifecycleLog {
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface LifecycleOptions {
  /** Environment with the variables that systemd sets: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`. */
  env: NodeJS.ProcessEnv;
  log: LifecycleLog;
  /** One line for `systemctl status`, for example `12 VMs, 1 stale`. */
  status(): string;
  /** Aborted when the process is asked to stop. */
  signal: AbortSignal;
  /** Continues the log in a new file, if it is a file that may have been renamed. */
  reopenLog?: (() => void) | undefined;
  /** Sets the function that runs on SIGHUP. */
  onHangup(handler: () => void): void;
}

export class Lifecycle {
  readonly #options: LifecycleOptions;
  readonly #notifier: SystemdNotifier | undefined;

  constructor(options: LifecycleOptions) {
    this.#options = options;
    this.#notifier = createNotifier(options);
    if (options.signal.aborted) void this.stopping();
    else options.signal.addEventListener('abort', () => void this.stopping(), { once: true });
  }

  /** Makes each SIGHUP reopen the log and run the reloaders. */
  reloadOnHangup(reloaders: readonly Reloader[]): void {
    const { onHangup, log, reopenLog } = this.#options;
    const logFile = reopenLog ? [{ what: 'the log file', reload: reopenLog }] : [];
    const reload = createReload([...logFile, ...reloaders], log, this.#notifier);
    onHangup(() => void reload());
  }

  /**
   * Reports that the process is ready. Resolves when the process that started it has been notified.
   * @param warning a problem that does not prevent the process from running, such as an unreachable registry
   */
  ready(warning?: string): Promise<void> {
    this.#notifier?.ready();
    return reportReady(warning);
  }

  /** Resolves when the process is asked to stop. */
  untilStopped(): Promise<void> {
    const { signal } = this.#options;
    if (signal.aborted) return Promise.resolve();
    return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
  }

  /** Notifies systemd once that the process is stopping. Resolves when the notification has been sent. */
  async stopping(): Promise<void> {
    await this.#notifier?.stopping();
  }
}

/**
 * Runs all reloaders even if one fails, so that an invalid file does not prevent the others from being reloaded.
 * @returns a function that reloads. If it is called during a reload, another reload follows
 */
export function createReload(
  reloaders: readonly Reloader[],
  log: Pick<LifecycleLog, 'info' | 'error'>,
  notifier?: Pick<SystemdNotifier, 'reloading' | 'ready'>,
): () => Promise<void> {
  let running: Promise<void> | undefined;
  let again = false;
  const once = async () => {
    notifier?.reloading();
    for (const { what, reload } of reloaders) {
      try {
        await reload();
        log.info({ what }, `reloaded ${what}`);
      } catch (error) {
        log.error({ what, err: error }, `cannot reload ${what}: ${(error as Error).message}; nothing changed`);
      }
    }
    if (reloaders.length === 0) log.info({}, 'nothing to reload');
    notifier?.ready();
  };
  const all = async () => {
    do {
      again = false;
      await once();
    } while (again);
  };
  return () => {
    if (running) again = true;
    running ??= all().finally(() => (running = undefined));
    return running;
  };
}
