/**
 * `npm run build`: creates the bundles of the program, V8's code caches for a fast start, the fleet page, the manual pages, and the
 * skill and the extension for coding agents. With `--if-changed`, does nothing if `dist` is newer than all sources and was built by
 * the same version of Node, because V8 rejects the code cache of another version.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { build } from 'esbuild';
import { bundles, extensionBundle, ROOT, runBuilt, writeCodeCaches } from './bundles.mjs';
import { buildPage } from './page.mjs';

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
await Promise.all([buildPage(dist), ...[...(await bundles()), extensionBundle()].map((options) => build(options))]);
await Promise.all([
  runBuilt(process.execPath, dist, ['help', '--write-man', `${dist}/man`]),
  writeCodeCaches(process.execPath, dist),
]);
mkdirSync(`${dist}/skills/registry`, { recursive: true });
const skill = execFileSync(process.execPath, [`${dist}/boot.cjs`, 'skill'], { env: { PATH: process.env.PATH } });
writeFileSync(`${dist}/skills/registry/SKILL.md`, skill);
// The package consists of modules, but this file is CommonJS.
writeFileSync(`${dist}/pi/package.json`, '{ "type": "commonjs" }\n');
writeFileSync(`${ROOT}${BUILT_BY}`, process.version);
