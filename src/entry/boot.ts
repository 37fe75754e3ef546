/**
 * Starts the bundle that contains the command, from V8's code cache, which halves the start-up time. The build writes the cache
 * beside the bundle. If the cache does not match V8's version, the architecture or the source, V8 ignores it and compiles as usual.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire, wrap } from 'node:module';
import { join } from 'node:path';
import { Script } from 'node:vm';
import { bundleOf } from '../hot.ts';

declare const __DIST__: string;
const bundle = join(__DIST__, `${bundleOf(process.argv.slice(2))}.cjs`);
const cache = `${bundle}.cache`;

// The bundles are ASCII, which is read faster as Latin-1.
const script = new Script(wrap(readFileSync(bundle, 'latin1')), {
  filename: bundle,
  cachedData: readIfExists(cache),
});
const module = { exports: {} };
script.runInThisContext()(module.exports, createRequire(bundle), module, bundle, __DIST__);
if (process.env.VREG_WRITE_CODE_CACHE) process.on('exit', () => writeFileSync(cache, script.createCachedData()));

function readIfExists(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch {
    return undefined;
  }
}
