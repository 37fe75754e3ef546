/**
 * `npm run build`: creates a bundle of the program for a fast start, V8's code cache for it, a bundle of the store worker, and
 * the manual pages. The daemon's libraries are not bundled, because only `vreg daemon` loads them, whose start-up time does not
 * matter. With `--if-changed`, does nothing if `dist` is newer than all sources and was built by the same version of Node, because V8
 * rejects the code cache of another version.
 */
import { spawn } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('..', import.meta.url));
const { default: manifest } = await import('../package.json', { with: { type: 'json' } });

/** Modification time in milliseconds; 0 if the file does not exist. */
const modified = (path) => statSync(`${root}${path}`, { throwIfNoEntry: false })?.mtimeMs ?? 0;
/** The file that the build writes last. */
const LAST_OUTPUT = 'dist/vreg.cjs.cache';
/** The file with the version of Node that ran the build. */
const BUILT_BY = `${root}dist/node-version`;
const filesBelow = (folder) => readdirSync(`${root}${folder}`, { recursive: true }).map((name) => `${folder}/${name}`);

if (process.argv.includes('--if-changed')) {
  const sources = ['package.json', 'bin/build.mjs', ...filesBelow('src'), ...filesBelow('daemon')];
  const isSameNode = existsSync(BUILT_BY) && readFileSync(BUILT_BY, 'utf8') === process.version;
  if (isSameNode && sources.every((source) => modified(source) < modified(LAST_OUTPUT))) process.exit();
}

rmSync(`${root}dist`, { recursive: true, force: true });
await build({
  absWorkingDir: root,
  entryPoints: { vreg: 'src/main.ts', boot: 'src/boot.ts', 'store-worker': 'daemon/store/worker.ts' },
  outdir: 'dist',
  outExtension: { '.js': '.cjs' },
  bundle: true,
  platform: 'node',
  target: 'node20.19',
  format: 'cjs',
  minifyWhitespace: true,
  minifySyntax: true,
  legalComments: 'none',
  external: ['pino', 'pino-pretty', 'libsql'],
  define: { __DIST__: '__dirname', __VERSION__: JSON.stringify(manifest.version) },
  // Converts `import()` to `require()`, because code from the code cache has no module loader.
  supported: { 'dynamic-import': false },
  logOverride: { 'empty-import-meta': 'silent' },
  logLevel: 'warning',
});

const run = (args, env) =>
  new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [`${root}dist/boot.cjs`, ...args], {
      env: { PATH: process.env.PATH, ...env },
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    child.on('exit', (code) =>
      code === 0 ? resolve() : reject(new Error(`vreg ${args.join(' ')} ended with ${code}`)),
    );
  });

writeFileSync(BUILT_BY, process.version);
await run(['help', '--write-man', `${root}dist/man`]);

// The cache contains the functions that have run. Therefore run the command that scripts use most, against a stub server.
const server = createServer((_request, response) => {
  const vm = { id: 'a', name: 'a', role: 'infra', status: 'running', address: 'a', registeredBy: 'a' };
  response.setHeader('content-type', 'application/json').end(JSON.stringify({ vms: [vm], count: 1 }));
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const url = `http://127.0.0.1:${server.address().port}`;
await run(['addr', 'infra'], { VERS_INFRA_URL: url, VREG_WRITE_CODE_CACHE: '1' });
server.close();
