/**
 * Notifications to systemd from a unit with Type=notify (sd_notify(3)). Node has no unix datagram sockets (nodejs/node#31414),
 * so systemd's program `systemd-notify` sends them, one at a time. Each takes 8 to 15 ms.
 */
import { execFile } from 'node:child_process';

/** Milliseconds between two checks for a new status text. */
const STATUS_INTERVAL = 10_000;
/** Watchdog pings per watchdog interval. sd_watchdog_enabled(3) recommends two; a third allows one to be lost. */
const PINGS_PER_WATCHDOG = 3;
/** Milliseconds for one notification. systemd-notify itself waits 5 s for the service manager to read it. */
const SEND_TIMEOUT = 10_000;

export interface NotifyLog {
  warn(fields: object, message: string): void;
}

export interface SystemdNotifier {
  /** Reports that the process is ready, or that a reload is complete, with the current status. */
  ready(): void;
  /** Reports that a reload has begun; {@link ready} ends it. */
  reloading(): void;
  /** Reports that the process is draining. Resolves when the notification has been sent. */
  stopping(): Promise<void>;
}

export interface NotifyOptions {
  /** `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` as systemd sets them. */
  env: NodeJS.ProcessEnv;
  log: NotifyLog;
  /** One line for `systemctl status`, for example `12 VMs, 1 stale`. */
  status(): string;
}

/** @returns undefined if there is no service manager to notify */
export function createNotifier({ env, log, status }: NotifyOptions): SystemdNotifier | undefined {
  if (!env.NOTIFY_SOCKET) return undefined;
  const send = createSender(env, log);
  let isReady = false;
  let lastStatus: string | undefined;
  let stopped: Promise<void> | undefined;
  const changedStatus = (): string[] => {
    // A line break would begin a new assignment.
    const current = status().replace(/\s+/g, ' ');
    if (current === lastStatus) return [];
    lastStatus = current;
    return [`STATUS=${current}`];
  };
  const refresh = () => {
    if (isReady) void send(changedStatus());
  };
  // The watchdog monitors only the event loop: a restart would not fix an unreachable registry or a full disk.
  const interval = pingInterval(env);
  const ping = async (interval: number) => {
    await send(['WATCHDOG=1']);
    // Schedule the next ping after this one, because slow pings must not occupy the event loop completely.
    setTimeout(() => void ping(interval), interval).unref();
  };
  if (interval !== undefined) setTimeout(() => void ping(interval), interval).unref();
  const statusTimer = setInterval(refresh, STATUS_INTERVAL).unref();
  return {
    ready() {
      if (stopped) return;
      isReady = true;
      void send(['READY=1', ...changedStatus()]);
    },
    reloading() {
      if (stopped) return;
      // Units with Type=notify-reload (systemd 253) require the time; other units ignore it.
      void send(['RELOADING=1', `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`]);
    },
    stopping() {
      clearInterval(statusTimer);
      isReady = false;
      stopped ??= send(['STOPPING=1', 'STATUS=stopping']);
      return stopped;
    },
  };
}

/** @returns milliseconds between two pings; undefined if the watchdog is off or monitors another process */
function pingInterval({ WATCHDOG_USEC, WATCHDOG_PID }: NodeJS.ProcessEnv): number | undefined {
  if (WATCHDOG_PID && WATCHDOG_PID !== String(process.pid)) return undefined;
  const usec = Number(WATCHDOG_USEC);
  return usec > 0 ? Math.max(usec / 1000 / PINGS_PER_WATCHDOG, 1) : undefined;
}

/** @returns a function that sends assignments in order. It logs the first failure and never rejects */
function createSender(env: NodeJS.ProcessEnv, log: NotifyLog): (assignments: readonly string[]) => Promise<void> {
  let last: Promise<void> = Promise.resolve();
  let isWarned = false;
  const run = (assignments: readonly string[]) =>
    new Promise<void>((resolve) => {
      const child = execFile(
        'systemd-notify',
        assignments,
        { env, timeout: SEND_TIMEOUT },
        (error, _stdout, stderr) => {
          if (error && !isWarned) {
            isWarned = true;
            const isMissing = (error as NodeJS.ErrnoException).code === 'ENOENT';
            const reason = isMissing ? 'systemd-notify is not installed' : stderr.trim() || error.message;
            log.warn({}, `cannot notify systemd: ${reason}`);
          }
          resolve();
        },
      );
      child.unref();
    });
  return (assignments) => {
    if (assignments.length > 0) last = last.then(() => run(assignments));
    return last;
  };
}
