/**
 * `npm run bench`: the cost of vreg over the floor of the platform. Each pair is measured in turns within one run, because only
 * ratios within a run mean something. It asserts nothing.
 */
import { bench } from './bench.ts';
import { exitOnSignals } from './cleanup.ts';
import { UsageError } from './options.ts';

exitOnSignals();
try {
  process.exitCode = await bench(process.argv.slice(2), (line) => void process.stdout.write(`${line}\n`));
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  process.stderr.write(`bench: ${error.message}\n`);
  process.exitCode = error.exitCode;
}
