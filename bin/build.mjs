/**
 * `npm run build`: creates the bundles of the program, V8's code caches for a fast start, and the manual pages. With
 * `--if-changed`, does nothing if `dist` is newer than all sources and was built by the same version of Node, because V8 rejects
 * the code cache of another version.
 */
import { readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { build } from 'esbuild';
import { bundles, ROOT, runBuilt, writeCodeCaches } from './bundles.mjs';

/** The file that the build writes last, with the version of Node that ran it. */
const BUILT_BY = 'dist/node-version';

/** Modification time in milliseconds; 0 if the file does not exist. */
const modified = (path) => statSync(`${ROOT}${path}`, { throwIfNoEntry: false })?.mtimeMs ?? 0;
/** A folder with everything below it. Removing a file changes the modification time of its folder. */
const withContents = (folder) => [
  folder,
  ...readdirSync(`${ROOT}${folder}`, { recursive: true }).map((name) => `${folder}/${name}`),
];

if (process.argv.includes('--if-changed')) {
  const sources = ['package.json', 'package-lock.json', ...['bin', 'src', 'daemon'].flatMap(withContents)];
  const isSameNode = modified(BUILT_BY) > 0 && readFileSync(`${ROOT}${BUILT_BY}`, 'utf8') === process.version;
  if (isSameNode && sources.every((source) => modified(source) < modified(BUILT_BY))) process.exit();
}

const dist = `${ROOT}dist`;
rmSync(dist, { recursive: true, force: true });
await Promise.all((await bundles()).map((options) => build(options)));
await Promise.all([
  runBuilt(process.execPath, dist, ['help', '--write-man', `${dist}/man`]),
  writeCodeCaches(process.execPath, dist),
]);
writeFileSync(`${ROOT}${BUILT_BY}`, process.version);
