/** The program: hands the process to {@link main} and its answer back as the exit code. */
import { main } from './cli.ts';
import { Interrupted } from './exit.ts';
import { systemIo } from './io.ts';
import { VERSION } from './version.ts';

const controller = new AbortController();
let taker: ((signal: NodeJS.Signals) => void) | undefined;
let reload: (() => void) | undefined;
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (taker) return taker(signal);
    if (signal === 'SIGHUP' && reload) return reload();
    const reason = new Interrupted(signal);
    // Who asks twice does not want to wait.
    if (controller.signal.aborted) process.exit(reason.exit);
    controller.abort(reason);
  });
}
// Node would open its debugger for it, to everybody on this machine.
process.on('SIGUSR1', () => {});

const io = systemIo(process.env);
const onHangup = (to: () => void) => {
  reload = to;
};
const handOver = (to: (signal: NodeJS.Signals) => void) => {
  taker = to;
  return () => {
    taker = undefined;
  };
};
main(process.argv.slice(2), {
  io,
  env: process.env,
  version: VERSION,
  now: Date.now,
  signal: controller.signal,
  handOver,
  onHangup,
}).then((code) => {
  process.exitCode = code;
});
