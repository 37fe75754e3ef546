/**
 * The signals of this process. A signal ends the program, unless the command handles it: the daemon reloads on SIGHUP, and
 * `vreg exec` forwards signals to its child process.
 */
import { basename } from 'node:path';
import { Interrupted } from '../exit.ts';

/** Signals that end the program, and that can be handled. */
const ENDING = ['SIGHUP', 'SIGINT', 'SIGTERM'] as const;

/**
 * Signals that cannot be forwarded. SIGKILL and SIGSTOP cannot be handled, and after a fault (SIGSEGV and others) no JavaScript
 * can run (Node's documentation of signal events). SIGCHLD is about the child itself, V8's profiler uses SIGPROF, and the
 * terminal sends SIGTTIN and SIGTTOU to the child as well.
 */
const NOT_FORWARDED: ReadonlySet<string> = new Set([
  'SIGKILL',
  'SIGSTOP',
  'SIGBUS',
  'SIGFPE',
  'SIGILL',
  'SIGSEGV',
  'SIGCHLD',
  'SIGPROF',
  'SIGTTIN',
  'SIGTTOU',
]);

/** Every signal that can be forwarded to a child process. */
export function forwardedSignals(): NodeJS.Signals[] {
  // Loaded here, because a command without a child process would start slower.
  const { signals } = process.getBuiltinModule('node:os').constants;
  return (Object.keys(signals) as NodeJS.Signals[]).filter(
    (name, index, all) =>
      !NOT_FORWARDED.has(name) &&
      // Some signals have two names, for example SIGIO and SIGPOLL.
      all.findIndex((other) => signals[other] === signals[name]) === index,
  );
}

/** True if the shell started this program through nohup(1). bash, zsh and ksh set `_` to the path of the program that they start. */
export function isStartedByNohup(env: NodeJS.ProcessEnv): boolean {
  return basename(env._ ?? '') === 'nohup';
}

export interface ProcessSignalsOptions {
  /** SIGHUP is ignored instead of ending the program. A handler of {@link ProcessSignals.onHangup} is called nevertheless. */
  survivesHangup: boolean;
  /** SIGHUP is not forwarded either. */
  forwardsHangup: boolean;
}

export class ProcessSignals {
  readonly #controller = new AbortController();
  readonly #options: ProcessSignalsOptions;
  #forward: ((signal: NodeJS.Signals) => void) | undefined;
  #hangup: (() => void) | undefined;
  #hangupIsPending = false;

  /** Installs the handlers. Create it before anything slow happens, because an unhandled signal ends the process. */
  constructor(options: ProcessSignalsOptions) {
    this.#options = options;
    for (const signal of ENDING) process.on(signal, () => this.#receive(signal));
    // By default, Node opens its debugger port on SIGUSR1, which any user of this machine could connect to.
    process.on('SIGUSR1', () => {});
  }

  /** Aborted by a signal that ends the program, with an {@link Interrupted} as the abort reason. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Makes SIGHUP end the program. Until this or {@link onHangup} is called, a SIGHUP is remembered. */
  readonly endOnHangup = (): void =>
    this.onHangup(() => {
      if (!this.#options.survivesHangup) this.#end('SIGHUP');
    });

  /** Makes SIGHUP call `handler`, at once if one arrived before. */
  readonly onHangup = (handler: () => void): void => {
    this.#hangup = handler;
    if (!this.#hangupIsPending) return;
    this.#hangupIsPending = false;
    handler();
  };

  /** Calls `to` with each of the {@link forwardedSignals}. @returns a function that ends this */
  readonly forwardSignals = (to: (signal: NodeJS.Signals) => void): (() => void) => {
    this.#forward = to;
    const others = forwardedSignals().filter((signal) => !ENDING.some((ending) => ending === signal));
    for (const signal of others) process.on(signal, to);
    return () => {
      this.#forward = undefined;
      for (const signal of others) process.off(signal, to);
    };
  };

  #receive(signal: (typeof ENDING)[number]): void {
    if (this.#forward) {
      if (signal !== 'SIGHUP' || this.#options.forwardsHangup) this.#forward(signal);
    } else if (signal !== 'SIGHUP') this.#end(signal);
    else if (this.#hangup) this.#hangup();
    else this.#hangupIsPending = true;
  }

  #end(signal: (typeof ENDING)[number]): void {
    const reason = new Interrupted(signal);
    // The second signal ends the program immediately.
    if (this.signal.aborted) process.exit(reason.exit);
    this.#controller.abort(reason);
  }
}
