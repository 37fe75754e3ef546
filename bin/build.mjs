/**
 * `npm run build`: one bundle of our own code for a fast start, one for the store's worker, the manual pages, and V8's
 * code cache for the first. The daemon's libraries stay outside: they are loaded only by `vreg daemon`, where start-up does not matter.
 */
import { spawn } from 'node:child_process';
import { rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const root = fileURLToPath(new URL('..', import.meta.url));
const { default: manifest } = await import('../package.json', { with: { type: 'json' } });

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
  external: ['fastify', 'pino', 'pino-pretty', 'libsql'],
  define: { __DIST__: '__dirname', __VERSION__: JSON.stringify(manifest.version) },
  // `import()` becomes `require()`: code that runs from the code cache has no module loader of its own.
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

await run(['help', '--write-man', `${root}dist/man`]);

// The cache holds what has run, so the command that scripts call most is run once, against an answer of our own.
const server = createServer((_request, response) => {
  const vm = { id: 'a', name: 'a', role: 'infra', status: 'running', address: 'a', registeredBy: 'a' };
  response.setHeader('content-type', 'application/json').end(JSON.stringify({ vms: [vm], count: 1 }));
});
await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
const url = `http://127.0.0.1:${server.address().port}`;
await run(['addr', 'infra'], { VERS_INFRA_URL: url, VREG_WRITE_CODE_CACHE: '1' });
server.close();
