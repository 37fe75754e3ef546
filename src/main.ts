/** Entry point of the bundle: connects {@link main} to the arguments, terminal, signals and exit code of the process. */
import { main } from './cli.ts';
import { COMPLETE_COMMAND } from './command.ts';
import { Interrupted } from './exit.ts';
import { systemIo } from './io.ts';
import { VERSION } from './version.ts';

const controller = new AbortController();
let forward: ((signal: NodeJS.Signals) => void) | undefined;
let reload: (() => void) | undefined;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (forward) return forward(signal);
    if (signal === 'SIGHUP' && reload) return reload();
    const reason = new Interrupted(signal);
    // The second signal ends the program immediately.
    if (controller.signal.aborted) process.exit(reason.exit);
    controller.abort(reason);
  });
}
// By default, Node opens its debugger port on SIGUSR1, which any user of this machine could connect to.
process.on('SIGUSR1', () => {});

const io = systemIo(process.env);
const onHangup = (to: () => void) => {
  reload = to;
};
const forwardSignals = (to: (signal: NodeJS.Signals) => void) => {
  forward = to;
  return () => {
    forward = undefined;
  };
};
const argv = process.argv.slice(2);
main(argv, {
  io,
  env: process.env,
  version: VERSION,
  now: Date.now,
  elapsed: () => performance.now(),
  signal: controller.signal,
  forwardSignals,
  onHangup,
}).then((code) => {
  process.exitCode = code;
  // A lookup of a host name cannot be aborted, and the shell would wait for it.
  if (argv[0] === COMPLETE_COMMAND) process.exit();
});
