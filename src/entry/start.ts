/** Connects a program to the arguments, the terminal, the signals and the exit code of the process. */
import { isatty } from 'node:tty';
import type { Interrupted } from '../exit.ts';
import { systemIo } from '../io.ts';
import { isStartedByNohup, ProcessSignals } from '../run/signals.ts';
import type { Deps } from '../session.ts';
import { VERSION } from '../version.ts';

/** Dependencies that are the same for each program. */
type ProcessDeps = Omit<Deps, 'commands' | 'openTransport'>;

/**
 * Runs the program until it ends.
 * @param run loads the rest of the program after the signal handlers have been installed, because loading takes time; resolves to
 * the exit code
 */
export function start(run: (argv: readonly string[], deps: ProcessDeps) => Promise<number>): void {
  const { env } = process;
  // Node does not report whether SIGHUP was ignored when it started: it resets the handlers of all signals (RegisterSignalHandlers
  // in src/node.cc). nohup(1) disconnects the standard streams from the terminal, so without a terminal there is no hang-up.
  const terminals = [0, 1, 2].filter(isatty);
  const { signal, forwardSignals, onHangup, endOnHangup } = new ProcessSignals({
    survivesHangup: terminals.length === 0 || isStartedByNohup(env),
    forwardsHangup: !isStartedByNohup(env),
  });
  // Node aborts at exit if a terminal that it has used is gone (ResetStdio in src/node.cc), so end by the signal instead.
  process.on('exit', () => {
    if (terminals.every(isatty)) return;
    process.removeAllListeners('SIGHUP');
    process.kill(process.pid, 'SIGHUP');
  });
  const argv = process.argv.slice(2);
  run(argv, {
    io: systemIo(env),
    env,
    version: VERSION,
    now: Date.now,
    elapsed: () => 1000 * process.uptime(),
    signal,
    forwardSignals,
    onHangup,
    endOnHangup,
  }).then((code) => {
    process.exitCode = code;
    // A pending read of stdin would keep the process running.
    if (signal.aborted) process.exit();
    // The process waits only for the reader of its output.
    signal.addEventListener('abort', () => process.exit((signal.reason as Interrupted).exit));
  });
}
