/** The bundles of the program, for `npm run build` and `npm run build:exe`. */
import { spawn } from 'node:child_process';
import { createServer } from 'node:http';
import Module, { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { runInThisContext } from 'node:vm';
import { build } from 'esbuild';

export const ROOT = fileURLToPath(new URL('..', import.meta.url));

const { default: manifest } = await import('../package.json', { with: { type: 'json' } });

/** The bundles that start from a code cache, `NAME.cjs.cache`; entry/boot.ts chooses between them. */
export const CACHED_BUNDLES = ['hot', 'mcp', 'vreg'];
/** The commands whose functions the caches contain. The first one is for the bundle with all commands, the second for its own. */
const WARM_UP = [
  ['register', 'a'],
  // Without stdin, the server starts and ends.
  ['mcp'],
  ['addr', 'infra'],
  ['url', 'infra'],
  ['discover', 'infra'],
  ['heartbeat', 'a'],
  ['ls', '-o', 'table'],
  ['version'],
  ['--help'],
  ['__complete', 'bash', 'vreg addr ', '', '9', '80'],
];

/** Libraries of the daemon, whose start-up time does not matter. */
const DAEMON_LIBRARIES = ['pino', 'pino-pretty', 'libsql', '@grpc/grpc-js'];
/** Libraries for formats in which a hot command rarely prints. */
const FORMAT_LIBRARIES = ['yaml', 'jsonpath-rfc9535', 'mustache'];

/** @type {import('esbuild').BuildOptions} */
const OPTIONS = {
  absWorkingDir: ROOT,
  outdir: 'dist',
  outExtension: { '.js': '.cjs' },
  bundle: true,
  platform: 'node',
  target: 'node20.19',
  format: 'cjs',
  minifyWhitespace: true,
  minifySyntax: true,
  legalComments: 'none',
  external: DAEMON_LIBRARIES,
  // Its main file loads its parts in a way that esbuild does not see.
  alias: { 'jsonc-parser': 'jsonc-parser/lib/esm/main.js' },
  define: { __DIST__: '__dirname', __VERSION__: JSON.stringify(manifest.version) },
  // Converts `import()` to `require()`, because code from the code cache has no module loader.
  supported: { 'dynamic-import': false },
  logOverride: { 'empty-import-meta': 'silent' },
  logLevel: 'warning',
};

/** commander loads this module for subcommands that are programs of their own, which vreg has none of. */
const COMMANDER_WITHOUT_CHILD_PROCESS = {
  name: 'commander-without-child-process',
  setup(esbuild) {
    esbuild.onResolve({ filter: /^node:child_process$/ }, ({ importer }) =>
      importer.includes('/commander/') ? { path: 'empty', namespace: 'empty' } : undefined,
    );
    esbuild.onLoad({ filter: /.*/, namespace: 'empty' }, () => ({ contents: '' }));
  },
};

/**
 * cli-table3 measures each cell with a regular expression for emoji, which takes a millisecond to compile. `isSmallTable` in
 * src/render/layout.ts passes no emoji to cli-table3.
 */
const TABLE_WITHOUT_EMOJI = {
  name: 'table-without-emoji',
  setup(esbuild) {
    esbuild.onResolve({ filter: /^emoji-regex$/ }, () => ({ path: 'never', namespace: 'never' }));
    esbuild.onLoad({ filter: /.*/, namespace: 'never' }, () => ({ contents: 'module.exports = () => /(?!)/g' }));
  },
};

/** momoa finds the place of an error in a JSON file. Without an error, a command would load it for nothing. */
const MOMOA_ON_DEMAND = {
  name: 'momoa-on-demand',
  setup(esbuild) {
    esbuild.onResolve({ filter: /^@humanwhocodes\/momoa$/ }, ({ path, namespace }) =>
      namespace === 'on-demand' ? undefined : { path, namespace: 'on-demand' },
    );
    esbuild.onLoad({ filter: /.*/, namespace: 'on-demand' }, ({ path }) => ({
      contents: `exports.parse = (text) => require('${path}').parse(text)`,
      resolveDir: ROOT,
    }));
  },
};

/** The server of `vreg mcp` and its library are in a bundle of their own, which entry/boot.ts starts instead. */
const WITHOUT_MCP = {
  name: 'without-mcp',
  setup(esbuild) {
    esbuild.onResolve({ filter: /^\.\.\/mcp\.ts$/ }, ({ path }) => ({ path, namespace: 'elsewhere' }));
    esbuild.onLoad({ filter: /.*/, namespace: 'elsewhere' }, () => ({ contents: '' }));
  },
};

/** The extension for pi has no output of its own, so its session prints no answers. */
const WITHOUT_RENDER = {
  name: 'without-render',
  setup(esbuild) {
    esbuild.onResolve({ filter: /^\.\/render(\/expression)?\.ts$/ }, ({ path, importer }) =>
      importer.endsWith('/src/session.ts') ? { path, namespace: 'elsewhere' } : undefined,
    );
    esbuild.onLoad({ filter: /.*/, namespace: 'elsewhere' }, () => ({ contents: '' }));
  },
};

/** @returns {Promise<import('esbuild').BuildOptions[]>} options of esbuild; outputs are in `dist/` */
export async function bundles() {
  const declarationsOnly = { ...OPTIONS.define, __DECLARATIONS__: JSON.stringify(await declarations()) };
  return [
    {
      ...OPTIONS,
      // The program that `bin/vreg.js` runs, the program with all commands, and the worker thread of the store.
      entryPoints: { boot: 'src/entry/boot.ts', vreg: 'src/entry/main.ts', 'store-worker': 'daemon/store/worker.ts' },
      plugins: [WITHOUT_MCP],
    },
    {
      ...OPTIONS,
      entryPoints: { hot: 'src/entry/hot-main.ts' },
      external: [...DAEMON_LIBRARIES, ...FORMAT_LIBRARIES],
      plugins: [COMMANDER_WITHOUT_CHILD_PROCESS, MOMOA_ON_DEMAND, TABLE_WITHOUT_EMOJI],
      define: declarationsOnly,
    },
    {
      ...OPTIONS,
      entryPoints: { mcp: 'src/entry/mcp-main.ts' },
      plugins: [MOMOA_ON_DEMAND],
      define: declarationsOnly,
    },
  ];
}

/**
 * The extension for pi, one file. It is CommonJS, because pi would transpile a module, which takes it two seconds. pi loads files with
 * the name extension `.js` only.
 * @returns {import('esbuild').BuildOptions} output is in `dist/pi/`
 */
export function extensionBundle() {
  return {
    ...OPTIONS,
    outdir: 'dist/pi',
    outExtension: {},
    entryPoints: { registry: 'src/plugin/pi/extension.ts' },
    footer: { js: 'module.exports = module.exports.default;' },
    plugins: [MOMOA_ON_DEMAND, WITHOUT_RENDER],
  };
}

/** The declarations of all commands as JSON, for the bundle of the hot commands. */
async function declarations() {
  const { outputFiles } = await build({
    ...OPTIONS,
    entryPoints: ['src/commands.ts'],
    packages: 'external',
    plugins: [WITHOUT_MCP],
    write: false,
  });
  const module = { exports: {} };
  const run = runInThisContext(Module.wrap(outputFiles[0].text));
  run(module.exports, createRequire(import.meta.url), module, `${ROOT}dist/commands.cjs`, `${ROOT}dist`);
  return JSON.stringify(await module.exports.loadAllCommands());
}

/**
 * Writes the code caches beside the bundles. A cache contains the functions that have run: each run adds those of its command.
 * @param node the binary of Node that will read the caches, because V8 rejects those of another version
 * @param dist folder of the bundles
 */
export async function writeCodeCaches(node, dist) {
  const server = createServer((_request, response) => {
    const vm = {
      id: 'a',
      name: 'a',
      role: 'infra',
      status: 'running',
      address: 'a:80',
      registeredBy: 'a',
      lastSeen: '',
    };
    response.setHeader('content-type', 'application/json').end(JSON.stringify({ ...vm, vms: [vm], count: 1 }));
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const url = `http://127.0.0.1:${server.address().port}`;
  for (const args of WARM_UP) await runBuilt(node, dist, args, { VERS_INFRA_URL: url, VREG_WRITE_CODE_CACHE: '1' });
  server.close();
}

/** Runs a command of the bundles in `dist`. */
export async function runBuilt(node, dist, args, env = {}) {
  const child = spawn(node, [`${dist}/boot.cjs`, ...args], {
    env: { PATH: process.env.PATH, ...env },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const code = await new Promise((resolve) => child.on('exit', resolve));
  if (code !== 0) throw new Error(`vreg ${args.join(' ')} ended with ${code}`);
}
