/**
 * `npm run build:exe`: builds `dist/exe/vreg`, a single executable for this platform that needs neither Node nor node_modules. It
 * contains the newest LTS of Node, the bundles with their code caches, the completion scripts, and the native addon of libsql,
 * which it unpacks before it opens a store. `dist/exe/LICENSES.txt` has the licences of everything in it.
 *
 *     npm run build:exe -- [--node FILE]
 *
 * Without `--node`, installs the package with the binary of Node into a temporary folder. The next `npm run build` removes the
 * executable, because it is a build of older sources then.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire, isBuiltin } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join, relative, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { build } from 'esbuild';
import { bundles, CACHED_BUNDLES, extensionBundle, ROOT, writeCodeCaches } from './bundles.mjs';
import { buildPage } from './page.mjs';

/** Major version of the newest LTS, which is in the executable. `--build-sea` came with Node 25.5. */
const NODE_MAJOR = 26;
/** Architectures of Linux for which there are packages with Node (`node-linux-ARCH`) and with the addon. */
const ARCHITECTURES = ['arm64', 'x64'];
const COMPLETIONS = ['_vreg', 'vreg.bash', 'vreg.fish'];

const output = join(ROOT, 'dist/exe/vreg');
const licenses = join(ROOT, 'dist/exe/LICENSES.txt');

/** A problem that the user can solve; the message names the next step. */
class BuildError extends Error {}

const temporary = mkdtempSync(join(tmpdir(), 'vreg-exe-'));
try {
  const { values } = parseArgs({ options: { node: { type: 'string' } } });
  checkPlatform();
  const addon = findAddon();
  const node = values.node === undefined ? installNode() : resolve(values.node);
  checkNode(node);
  await buildExecutable(node, addon);
  console.log(`built dist/exe/vreg from Node ${versionOf(node)} for linux-${process.arch}`);
} catch (error) {
  if (!(error instanceof BuildError) && !error.code?.startsWith('ERR_PARSE_ARGS')) throw error;
  console.error(`build:exe: ${error.message}`);
  process.exitCode = 1;
} finally {
  rmSync(temporary, { recursive: true, force: true });
}

function checkPlatform() {
  const isGlibc = process.report.getReport().header.glibcVersionRuntime !== undefined;
  if (process.platform === 'linux' && ARCHITECTURES.includes(process.arch) && isGlibc) return;
  const platform = `${process.platform}-${process.arch}${process.platform === 'linux' && !isGlibc ? ' with musl' : ''}`;
  throw new BuildError(
    `there is no single executable for ${platform}; build it on Linux with glibc, on ${ARCHITECTURES.join(' or ')}`,
  );
}

function findAddon() {
  const name = `@libsql/linux-${process.arch}-gnu`;
  try {
    return createRequire(import.meta.url).resolve(name);
  } catch {
    throw new BuildError(`the package ${name} is missing; install the dependencies: npm ci`);
  }
}

function installNode() {
  const name = `node-linux-${process.arch}`;
  run('npm', ['install', '--prefix', temporary, '--no-save', '--ignore-scripts', `${name}@${NODE_MAJOR}`], {
    hint: `without a network, name a binary of Node ${NODE_MAJOR}: npm run build:exe -- --node FILE`,
  });
  return join(temporary, 'node_modules', name, 'bin/node');
}

function checkNode(node) {
  const version = versionOf(node);
  if (!version) throw new BuildError(`${node} is not a binary of Node for this platform`);
  if (Number(version.split('.')[0]) < NODE_MAJOR)
    throw new BuildError(`${node} is Node ${version}; the executable requires Node ${NODE_MAJOR} or newer`);
}

/** @returns for example `26.1.0`; undefined if the file is not a binary of Node */
function versionOf(node) {
  return /^v(\d+\.\d+\.\d+)\n$/.exec(spawnSync(node, ['--version'], { encoding: 'utf8' }).stdout ?? '')?.[1];
}

async function buildExecutable(node, addon) {
  const dist = join(temporary, 'dist');
  const options = (await bundles()).map((bundle) => ({
    ...bundle,
    outdir: dist,
    target: `node${NODE_MAJOR}`,
    external: [],
    metafile: true,
    alias: { ...bundle.alias, '@neon-rs/load': './daemon/store/addon-load.ts' },
    define: {
      ...bundle.define,
      __ADDON_HASH__: JSON.stringify(createHash('sha256').update(readFileSync(addon)).digest('hex')),
      // Makes libsql load its addon through @neon-rs/load only, which `alias` replaces.
      'process.env.LIBSQL_JS_DEV': 'true',
    },
  }));
  const executable = { ...options[0], entryPoints: { executable: 'src/entry/executable.ts' } };
  const built = await Promise.all([...options, executable].map((each) => build(each)));
  assertComplete(built.flatMap(({ metafile }) => Object.values(metafile.outputs)));
  const sources = built.flatMap(({ metafile }) => Object.keys(metafile.inputs));
  await writeCodeCaches(node, dist);
  const ofPage = await buildPage(dist);
  // pi runs it with its own Node.
  const extension = await build({ ...extensionBundle(), outdir: join(dist, 'pi'), metafile: true });
  const names = [
    ...CACHED_BUNDLES.flatMap((name) => [`${name}.cjs`, `${name}.cjs.cache`]),
    'store-worker.cjs',
    'page.json',
    'pi/registry.js',
  ];
  const files = names.map((name) => [`dist/${name}`, join(dist, name)]);
  const scripts = COMPLETIONS.map((name) => [`completions/${name}`, join(ROOT, 'completions', name)]);
  const config = join(temporary, 'sea-config.json');
  writeFileSync(
    config,
    JSON.stringify({
      main: join(dist, 'executable.cjs'),
      output,
      disableExperimentalSEAWarning: true,
      useCodeCache: true,
      assets: { ...Object.fromEntries([...files, ...scripts]), 'libsql.node': addon },
    }),
  );
  mkdirSync(dirname(output), { recursive: true });
  // A running executable cannot be overwritten (ETXTBSY).
  rmSync(output, { force: true });
  run(node, ['--build-sea', config]);
  const ofExtension = Object.keys(extension.metafile.inputs);
  writeLicenses(node, [...sources, ...ofPage, ...ofExtension, relative(ROOT, addon)]);
}

/** Writes the licences of Node and of each package. @param sources paths of the files in the executable, relative to the root */
function writeLicenses(node, sources) {
  const folders = sources.flatMap((path) => /^.*node_modules\/(@[^/]+\/)?[^/]+(?=\/)/.exec(path)?.[0] ?? []);
  const parts = [...new Set(folders)].sort().map((folder) => {
    const { name, version, license } = JSON.parse(readFileSync(join(ROOT, folder, 'package.json'), 'utf8'));
    return `${name} ${version}\n\n${licenseIn(join(ROOT, folder)) ?? `License: ${license}\n`}`;
  });
  const version = versionOf(node);
  const ofNode = licenseIn(dirname(dirname(node))) ?? `See https://github.com/nodejs/node/blob/v${version}/LICENSE\n`;
  writeFileSync(licenses, [`Node.js ${version}\n\n${ofNode}`, ...parts].join(`\n${'='.repeat(80)}\n\n`));
}

/** The text of the licence of a package; undefined if the package has none. */
function licenseIn(folder) {
  const names = readdirSync(folder).filter((name) => /^(licen[cs]e|copying|notice)/i.test(name));
  return names.length === 0 ? undefined : names.map((name) => readFileSync(join(folder, name), 'utf8')).join('\n');
}

/** The executable loads only itself and modules of Node, so each package must be in a bundle. */
function assertComplete(outputs) {
  const paths = outputs.flatMap(({ imports }) => imports.map(({ path }) => path));
  // The Node that runs this script may lack some modules of the Node in the executable.
  const missing = paths.filter((path) => !path.startsWith('node:') && !isBuiltin(path));
  if (missing.length > 0) throw new Error(`these packages are not in the bundles: ${missing.join(', ')}`);
}

/** @param hint the next step if the command fails */
function run(command, args, { hint } = {}) {
  const { status, stderr, error } = spawnSync(command, args, { encoding: 'utf8' });
  if (status === 0) return;
  const reason = error?.message ?? stderr.trim();
  throw new BuildError(`${command} ${args.join(' ')} failed: ${reason}${hint ? `\n${hint}` : ''}`);
}
