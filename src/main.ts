/** Entry point of the bundle: connects `main()` in cli.ts to the arguments, terminal, signals and exit code of the process. */
import { isatty } from 'node:tty';
import { COMPLETE_COMMAND } from './command.ts';
import { systemIo } from './io.ts';
import { isStartedByNohup, ProcessSignals } from './run/signals.ts';
import { VERSION } from './version.ts';

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
const deps = {
  io: systemIo(env),
  env,
  version: VERSION,
  now: Date.now,
  elapsed: () => performance.now(),
  signal,
  forwardSignals,
  onHangup,
  endOnHangup,
};
const argv = process.argv.slice(2);
// Loaded after the signal handlers have been installed, because loading takes time.
import('./cli.ts')
  .then(({ main }) => main(argv, deps))
  .then((code) => {
    process.exitCode = code;
    // A pending read of stdin would keep the process running.
    if (signal.aborted) process.exit();
    // So would the lookup of a host name for a completion. The callback runs when the reply has been written.
    if (argv[0] === COMPLETE_COMMAND) process.stdout.write('', () => process.exit());
  });
