/** The layout: which module may import which, and the reason for each rule. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { basename, dirname, join, relative } from 'node:path';
import test from 'node:test';

const ROOT = join(import.meta.dirname, '..');

interface Import {
  from: string;
  /** Path of a file in this repository, or name of a package. */
  to: string;
  own: boolean;
  kind: 'value' | 'type' | 'dynamic';
}

const files = ['src', 'daemon'].flatMap((folder) =>
  readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .filter((file) => /\.tsx?$/.test(file) && !file.endsWith('.d.ts'))
    .map((file) => join(folder, file)),
);

const imports = files.flatMap((from): Import[] => {
  const source = readFileSync(join(ROOT, from), 'utf8');
  const found = [
    ...source.matchAll(/^(?:import|export)\s+(type\s)?(?:[\w*{][^;'"]*?\sfrom\s+)?'([^']+)'/gm),
    ...source.matchAll(/\b(typeof )?import\(\s*'([^']+)'/g),
  ];
  return found.map(([text, type, specifier]) => {
    const own = specifier!.startsWith('.');
    const dynamic = /import\(/.test(text);
    const kind = type || /typeof import/.test(text) ? 'type' : dynamic ? 'dynamic' : 'value';
    const to = own ? relative(ROOT, join(ROOT, dirname(from), specifier!)) : packageOf(specifier!);
    return { from, to, own, kind };
  });
});

function packageOf(specifier: string): string {
  return specifier.startsWith('node:')
    ? specifier
    : specifier
        .split('/')
        .slice(0, specifier.startsWith('@') ? 2 : 1)
        .join('/');
}

/** Imports that a rule forbids, one line each. */
function violations(forbidden: (edge: Import) => boolean): string[] {
  return imports.filter(forbidden).map(({ from, to, kind }) => `${from} -> ${to} (${kind})`);
}

function users(name: string): string[] {
  return [...new Set(imports.filter(({ to, kind }) => to === name && kind !== 'type').map(({ from }) => from))].sort();
}

test('the parser finds imports of every kind', () => {
  const has = (from: string, to: string, kind: Import['kind']) =>
    assert.ok(
      imports.some((edge) => edge.from === from && edge.to === to && edge.kind === kind),
      `${from} -> ${to}`,
    );
  has('src/cli.ts', 'commander', 'value');
  has('src/cli.ts', 'src/help/help.ts', 'dynamic');
  has('src/client.ts', 'src/protocol/vm.ts', 'type');
  has('src/commands.ts', 'src/commands/ls.ts', 'dynamic');
  has('src/commands/daemon/serve.ts', 'daemon/main.ts', 'dynamic');
  has('daemon/store/database.ts', 'libsql', 'value');
});

test('every relative import names an existing file', () => {
  assert.deepEqual(
    violations(({ to, own }) => own && /\.tsx?$/.test(to) && !files.includes(to)),
    [],
  );
});

/**
 * Errors, types of journal lines, durable files, files of the program, memory budgets, random ids, the processes that own a
 * folder, the pid file that a restore checks, private folders, the histogram of commits, and the times in which no replica received heartbeats.
 */
const STORE_IMPORTS = [
  'src/protocol/api.ts',
  'src/files.ts',
  'src/program.ts',
  'src/protocol/errors.ts',
  'src/protocol/events.ts',
  'src/protocol/position.ts',
  'daemon/clock.ts',
  'daemon/limits/budgets.ts',
  'daemon/observability/histogram.ts',
  'daemon/process/other-process.ts',
  'daemon/process/random.ts',
  'daemon/process/pid-file.ts',
  'daemon/process/state-dir.ts',
];

/** True for imports within `vreg daemon` and its subcommands, which form one module. */
function isWithinDaemonCommand(from: string, to: string): boolean {
  const folder = 'src/commands/daemon/';
  return to.startsWith(folder) && (from === 'src/commands/daemon.ts' || from.startsWith(folder));
}

/** The entry points of the bundles. */
const ENTRIES = [
  'src/entry/boot.ts',
  'src/entry/executable.ts',
  'src/entry/main.ts',
  'src/entry/hot-main.ts',
  'src/entry/mcp-main.ts',
  'src/plugin/pi/extension.ts',
];

const RULES: readonly [rule: string, why: string, forbidden: (edge: Import) => boolean][] = [
  [
    'the protocol imports no module outside its folder',
    'client and daemon share it, so it belongs to neither',
    ({ from, to, own }) => from.startsWith('src/protocol/') && own && !to.startsWith('src/protocol/'),
  ],
  [
    'the protocol imports no package',
    'other projects can copy it without dependencies',
    ({ from, to, own }) => from.startsWith('src/protocol/') && !own && !to.startsWith('node:'),
  ],
  [
    'commands never import each other',
    'shared code has a module of its own, and start-up loads one command only',
    ({ from, to }) =>
      from.startsWith('src/commands/') && to.startsWith('src/commands/') && !isWithinDaemonCommand(from, to),
  ],
  [
    'only the table of commands and the programs of some commands import commands, dynamically',
    'a command is loaded when it is named',
    ({ from, to, kind }) =>
      to.startsWith('src/commands/') &&
      (!['src/commands.ts', 'src/entry/hot-main.ts', 'src/entry/mcp-main.ts'].includes(from) || kind !== 'dynamic') &&
      !isWithinDaemonCommand(from, to),
  ],
  [
    'only the programs that run the daemon or the agent, and the reader of its state, import daemon modules',
    'the CLI reaches the registry over HTTP, also on the same machine',
    ({ from, to }) =>
      from.startsWith('src/') &&
      to.startsWith('daemon/') &&
      !from.startsWith('src/commands/daemon/') &&
      !['src/commands/heartbeat.ts', 'src/commands/hook.ts', 'src/fleet/self.ts', 'src/plugin/pi/own-vm.ts'].includes(
        from,
      ),
  ],
  [
    'commands import daemon modules dynamically or for their types',
    'the libraries of the daemon take a second to load',
    ({ from, to, kind }) => from.startsWith('src/') && to.startsWith('daemon/') && kind === 'value',
  ],
  [
    'of src, the daemon imports the protocol, the client, files.ts and program.ts only',
    'it has no terminal and no command line; both sides write files atomically, and start the program again',
    ({ from, to }) =>
      from.startsWith('daemon/') &&
      to.startsWith('src/') &&
      !to.startsWith('src/protocol/') &&
      !['src/client.ts', 'src/files.ts', 'src/program.ts'].includes(to),
  ],
  [
    'files.ts and program.ts import no module of this repository',
    'client and daemon share them, so they belong to neither',
    ({ from, own }) => ['src/files.ts', 'src/program.ts'].includes(from) && own,
  ],
  [
    'daemon/registry imports the protocol and the types of store and clock only',
    'the rules are pure: no HTTP, no files, no clock of their own',
    ({ from, to, own, kind }) =>
      from.startsWith('daemon/registry/') &&
      !to.startsWith('daemon/registry/') &&
      !(own && to.startsWith('src/protocol/')) &&
      !(kind === 'type' && ['daemon/store/store.ts', 'daemon/clock.ts'].includes(to)),
  ],
  [
    'the store imports neither rules nor HTTP',
    'it stores records and does not interpret them',
    ({ from, to, own }) =>
      from.startsWith('daemon/store/') && own && !to.startsWith('daemon/store/') && !STORE_IMPORTS.includes(to),
  ],
  [
    'daemon/http imports only types of the store',
    'a handler parses the request, calls the registry and encodes the response',
    ({ from, to, kind }) => from.startsWith('daemon/http/') && to.startsWith('daemon/store/') && kind !== 'type',
  ],
  [
    'the daemon imports no library of the terminal',
    'it runs in the background',
    ({ from, to }) =>
      from.startsWith('daemon/') && ['commander', 'conf', 'chalk', 'cli-table3', 'string-width'].includes(to),
  ],
  [
    'the fleet page imports the protocol, its own modules, preact and the parser of event streams only',
    'it runs in browsers, where each library makes the first paint slower',
    ({ from, to, own }) =>
      from.startsWith('src/page/') &&
      !to.startsWith(own ? 'src/page/' : 'preact') &&
      !to.startsWith('src/protocol/') &&
      !['@preact/signals', 'eventsource-parser'].includes(to),
  ],
  [
    'no other module imports the fleet page',
    'the build bundles it for browsers',
    ({ from, to }) => to.startsWith('src/page/') && !from.startsWith('src/page/'),
  ],
  ['no module imports an entry point', 'it would run twice', ({ to }) => ENTRIES.includes(to)],
  [
    'boot.ts imports only what chooses a bundle',
    'it has no code cache',
    ({ from, to, own }) => from === 'src/entry/boot.ts' && own && to !== 'src/hot.ts',
  ],
  ['no module imports tests', 'the package does not contain them', ({ to }) => to.startsWith('test/')],
];

for (const [rule, why, forbidden] of RULES) {
  test(`${rule}: ${why}`, () => assert.deepEqual(violations(forbidden), []));
}

const USERS: readonly [name: string, where: readonly string[], why: string][] = [
  ['undici', ['src/client/transport/undici.ts'], 'one transport uses it'],
  [
    'src/client/transport/undici.ts',
    ['src/entry/main.ts', 'src/entry/mcp-main.ts'],
    'the program chooses the transport of its commands',
  ],
  [
    'src/client/transport/node-http.ts',
    ['src/entry/hot-main.ts', 'src/plugin/pi/pi-session.ts'],
    'the program chooses the transport of its commands',
  ],
  ['chalk', ['src/render.ts'], 'one module formats answers'],
  ['cli-table3', ['src/render/layout.ts'], 'one module lays out tables'],
  ['string-width', ['src/render/layout.ts'], 'one module lays out tables'],
  ['commander', ['src/cli.ts', 'src/completion/command-line.ts'], 'command definitions do not depend on it'],
  ['conf', ['src/config/config-file.ts'], 'it takes 50 ms to load, and only writing needs it'],
  ['proper-lockfile', ['src/config/config-file.ts'], 'only a change of the config file needs a lock'],
  ['@humanwhocodes/momoa', ['src/config/json-file.ts'], 'one module finds places in JSON files'],
  ['jsonc-parser', ['src/setup/json-entries.ts'], 'one module edits JSON files of other programs'],
  ['smol-toml', ['src/setup/toml-table.ts'], 'one module edits TOML files of other programs'],
  ['libsql', ['daemon/store/database.ts'], 'one module opens SQLite'],
  [
    '@grpc/grpc-js',
    ['daemon/store/etcd/grpc.ts'],
    'it is optional: one module loads it and explains that it is missing',
  ],
  [
    '@modelcontextprotocol/server',
    ['src/mcp.ts', 'src/mcp/resources.ts', 'src/mcp/stdio.ts'],
    'tools do not depend on it',
  ],
];

for (const [name, where, why] of USERS) {
  test(`${name} is imported by ${where.join(' and ')} only: ${why}`, () => assert.deepEqual(users(name), where));
}

/** Groups of modules that import each other, directly or through others (strongly connected components). */
function importCycles(): string[][] {
  const reach = new Map<string, Set<string>>();
  const reachable = (file: string): Set<string> => {
    const known = reach.get(file);
    if (known) return known;
    const found = new Set<string>();
    reach.set(file, found);
    const pending = [file];
    while (pending.length > 0) {
      const next = pending.pop();
      for (const { from, to, own } of imports)
        if (own && from === next && !found.has(to) && found.add(to)) pending.push(to);
    }
    return found;
  };
  const cyclic = files.filter((file) => reachable(file).has(file));
  const groups = cyclic.map((file) =>
    cyclic.filter((other) => reachable(file).has(other) && reachable(other).has(file)),
  );
  return groups.filter(([first], index) => groups.findIndex(([other]) => other === first) === index);
}

test('there are no import cycles, type imports included', () => assert.deepEqual(importCycles(), []));

/** Folders without an entry module of the same name: they group small modules of one subject. */
const SUBJECT_FOLDERS = ['src/entry', 'src/fleet', 'src/help', 'src/page', 'src/protocol', 'src/run'];

test('each folder of src holds the parts of an entry module, or small modules of one subject', () => {
  const folders = [...new Set(files.map((file) => dirname(file)))].filter((folder) => /^src\/[^/]+$/.test(folder));
  const orphans = folders.filter((folder) => !files.includes(`${folder}.ts`) && !SUBJECT_FOLDERS.includes(folder));
  assert.deepEqual(orphans, []);
});

/** Base names of several modules, which quick-open cannot tell apart, and the reason for each. */
const SHARED_NAMES: Readonly<Record<string, string>> = {
  'agent.ts': '`vreg daemon agent`, and the agent',
  'api.ts': '`vreg api`, and the shapes of the API',
  'backup.ts': '`vreg backup`, and its handler',
  'check.ts': '`vreg daemon check`, and the check of a database',
  'completion.ts': '`vreg completion`, and the replies to the completion scripts',
  'config.ts': '`vreg config`, and the values of the settings',
  'conflicts.ts': '`vreg conflicts`, and its handlers',
  'context.ts': '`vreg context`, and the request context',
  'discover.ts': '`vreg discover`, and its handler',
  'env.ts': '`vreg env`, and the variables that it prints',
  'errors.ts': 'the error table, and its translation to HTTP responses',
  'events.ts': 'the shapes, the event log, and the handler of the event stream',
  'health.ts': '`vreg health`, and the health of services in the registry',
  'heartbeat.ts': '`vreg heartbeat`, and the body of a heartbeat',
  'help.ts': '`vreg help`, and the help texts',
  'history.ts': '`vreg history`, and its handler',
  'identity.ts': "the agent's side of the identity protocol, and the registry's",
  'install.ts': '`vreg daemon install`, and the installation of units',
  'main.ts': 'the entry points of the CLI and of the daemon',
  'mcp.ts': '`vreg mcp`, and the server that it runs',
  'page.ts': 'the files of the fleet page, and their handlers',
  'process.ts': 'the process of `vreg daemon` commands, and that of the agent',
  'render.ts': '`vreg render`, and the renderer of answers',
  'replicas.ts': 'the replicas that share a store, and their handler',
  'restore.ts': '`vreg daemon restore`, and the restore of the store',
  'sessions.ts': 'the sessions of browsers, and their handlers',
  'setup.ts': '`vreg setup`, and the files that it changes',
  'skill.ts': '`vreg skill`, and the page that it prints',
  'status.ts': '`vreg status`, and `vreg daemon status`',
  'token.ts': '`vreg token`, and the shapes of tokens',
  'tokens.ts': 'the stored tokens, and their handlers',
  'version.ts': '`vreg version`, and the version number',
};

test('modules have different base names, unless they are two sides of one thing', () => {
  const names = files.map((file) => basename(file));
  const shared = names.filter((name, index) => names.indexOf(name) !== index);
  assert.deepEqual([...new Set(shared)].sort(), Object.keys(SHARED_NAMES));
});
