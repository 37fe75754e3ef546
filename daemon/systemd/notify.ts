/**
 * What a unit of Type=notify tells systemd of itself (sd_notify(3)). Node has no unix datagrams (nodejs/node#31414), so the
 * words are sent by `systemd-notify`, a program of systemd's own: 8 to 15 ms each, one after the other, in order.
 */
import { type ChildProcess, execFile } from 'node:child_process';

/** Milliseconds between two looks at the status. */
const STATUS_INTERVAL = 10_000;
/** Pings in one time of the watchdog: one may come late, and one be lost. sd_watchdog_enabled(3) asks for two. */
const PINGS_PER_WATCHDOG = 3;
/** Milliseconds for one word: systemd-notify itself waits 5 s for the manager to have read it. */
const SEND_TIMEOUT = 10_000;

export interface NotifyLog {
  warn(fields: object, message: string): void;
}

export interface SystemdNotifier {
  /** It works, and how: `12 VMs, 1 stale`. Once it has been said, it says that a reload is over. */
  ready(): void;
  /** It reads its files again; {@link ready} ends that. */
  reloading(): void;
  /** It has been told to stop, and finishes what it does. Resolves when that was sent, which it is once. */
  stopping(): Promise<void>;
}

export interface NotifyOptions {
  /** `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` as systemd sets them. */
  env: NodeJS.ProcessEnv;
  log: NotifyLog;
  /** One line on how it goes, for `systemctl status`. */
  status(): string;
}

/** @returns undefined where no service manager listens */
export function createNotifier({ env, log, status }: NotifyOptions): SystemdNotifier | undefined {
  if (!env.NOTIFY_SOCKET) return undefined;
  const send = createSender(env, log);
  let isReady = false;
  let told: string | undefined;
  let stopped: Promise<void> | undefined;
  const news = (): string[] => {
    // A line break would begin another assignment.
    const now = status().replace(/\s+/g, ' ');
    if (now === told) return [];
    told = now;
    return [`STATUS=${now}`];
  };
  const refresh = () => {
    if (isReady) void send(news());
  };
  // Of the event loop alone: a registry that is away, or a full disk, is not cured by a restart.
  const every = pingInterval(env);
  const ping = async (every: number) => {
    await send(['WATCHDOG=1']);
    // From the end of the last one: an interval shorter than a ping takes would leave the loop no time for anything else.
    setTimeout(() => void ping(every), every).unref();
  };
  if (every !== undefined) setTimeout(() => void ping(every), every).unref();
  const looking = setInterval(refresh, STATUS_INTERVAL).unref();
  return {
    ready() {
      if (stopped) return;
      isReady = true;
      void send(['READY=1', ...news()]);
    },
    reloading() {
      if (stopped) return;
      // The time is for units of Type=notify-reload (systemd 253 and newer); others pay no attention to it.
      void send(['RELOADING=1', `MONOTONIC_USEC=${process.hrtime.bigint() / 1000n}`]);
    },
    stopping() {
      clearInterval(looking);
      isReady = false;
      stopped ??= send(['STOPPING=1', 'STATUS=stopping']);
      return stopped;
    },
  };
}

/** Milliseconds between two pings; undefined when the watchdog is off, or watches another process. */
function pingInterval({ WATCHDOG_USEC, WATCHDOG_PID }: NodeJS.ProcessEnv): number | undefined {
  if (WATCHDOG_PID && WATCHDOG_PID !== String(process.pid)) return undefined;
  const usec = Number(WATCHDOG_USEC);
  return usec > 0 ? Math.max(usec / 1000 / PINGS_PER_WATCHDOG, 1) : undefined;
}

function createSender(env: NodeJS.ProcessEnv, log: NotifyLog): (words: readonly string[]) => Promise<void> {
  let last: Promise<void> = Promise.resolve();
  let isWarned = false;
  const run = (words: readonly string[]) =>
    new Promise<void>((resolve) => {
      const child: ChildProcess = execFile(
        'systemd-notify',
        words,
        { env, timeout: SEND_TIMEOUT },
        (error, _out, said) => {
          if (error && !isWarned) {
            isWarned = true;
            const why =
              (error as NodeJS.ErrnoException).code === 'ENOENT' ? 'systemd-notify is not there' : said.trim();
            log.warn({}, `systemd hears nothing of this process: ${why || error.message}`);
          }
          resolve();
        },
      );
      child.unref();
    });
  return (words) => {
    if (words.length > 0) last = last.then(() => run(words));
    return last;
  };
}
