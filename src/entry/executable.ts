/** Entry point of the single executable: starts a bundle that it contains, from V8's code cache (see boot.ts). */
import { wrap } from 'node:module';
import { getRawAsset } from 'node:sea';
import { Script } from 'node:vm';
import { bundleOf } from '../hot.ts';
import { STORE_WORKER } from '../program.ts';

/** The content of an asset, without a copy. */
const asset = (name: string) => Buffer.from(getRawAsset(name) as ArrayBuffer);

// Only a check of the store has all of these arguments. For users, the word is an unknown command.
const [, , word, action, , addon] = process.argv;
const isWorker = word === STORE_WORKER && (action === 'check' || action === 'load') && addon !== undefined;
// The worker expects its arguments at the same positions as in `node store-worker.cjs check DIR`.
if (isWorker) process.argv.splice(1, 1);
const bundle = `dist/${isWorker ? 'store-worker' : bundleOf(process.argv.slice(2))}.cjs`;
// The bundles are ASCII, which is read faster as Latin-1.
const script = new Script(wrap(asset(bundle).toString('latin1')), {
  filename: bundle,
  ...(isWorker ? {} : { cachedData: asset(`${bundle}.cache`) }),
});
const module = { exports: {} };
script.runInThisContext()(module.exports, require, module, process.execPath, '');
