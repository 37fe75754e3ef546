import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import test from 'node:test';

const ROOT = join(import.meta.dirname, '..');

interface Import {
  from: string;
  /** A file of ours by its path in the repository, else the name of a package. */
  to: string;
  own: boolean;
  kind: 'value' | 'type' | 'dynamic';
}

const files = ['src', 'daemon'].flatMap((room) =>
  readdirSync(join(ROOT, room), { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts') && !file.endsWith('.d.ts'))
    .map((file) => join(room, file)),
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

/** Edges that a rule forbids, as lines that say which. */
function wrong(forbidden: (edge: Import) => boolean): string[] {
  return imports.filter(forbidden).map(({ from, to, kind }) => `${from} -> ${to} (${kind})`);
}

function users(name: string): string[] {
  return [...new Set(imports.filter(({ to, kind }) => to === name && kind !== 'type').map(({ from }) => from))].sort();
}

test('imports are found, of every kind', () => {
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

test('every import of ours is of a file that is there', () => {
  assert.deepEqual(
    wrong(({ to, own }) => own && to.endsWith('.ts') && !files.includes(to)),
    [],
  );
});

/** Errors, the type of a journal line, durable files, memory budgets, random ids, and the pid file that a restore checks. */
const STORE_MAY = [
  'src/files.ts',
  'src/protocol/errors.ts',
  'src/protocol/events.ts',
  'daemon/limits.ts',
  'daemon/process/random.ts',
  'daemon/process/pid-file.ts',
];

/** The daemon's subcommands are a room of their own, entered by the daemon's command alone. */
function isOfDaemon(from: string, to: string): boolean {
  const room = 'src/commands/daemon/';
  return to.startsWith(room) && (from === 'src/commands/daemon.ts' || from.startsWith(room));
}

const RULES: readonly [rule: string, why: string, forbidden: (edge: Import) => boolean][] = [
  [
    'the protocol imports nothing of ours outside itself',
    'both sides speak it, so it can belong to neither',
    ({ from, to, own }) => from.startsWith('src/protocol/') && own && !to.startsWith('src/protocol/'),
  ],
  [
    'the protocol imports no package',
    'a client of another project can take it as it is',
    ({ from, to, own }) => from.startsWith('src/protocol/') && !own && !to.startsWith('node:'),
  ],
  [
    'commands never import each other',
    'what two of them need is a room of its own, and a start pays for one command',
    ({ from, to }) => from.startsWith('src/commands/') && to.startsWith('src/commands/') && !isOfDaemon(from, to),
  ],
  [
    'nothing but the tree imports commands',
    'they are found by name, and loaded when named',
    ({ from, to, kind }) =>
      to.startsWith('src/commands/') && (from !== 'src/commands.ts' || kind !== 'dynamic') && !isOfDaemon(from, to),
  ],
  [
    'only the commands that run a daemon or an agent reach it',
    'the CLI asks the registry over HTTP, on one machine too',
    ({ from, to }) =>
      from.startsWith('src/') &&
      to.startsWith('daemon/') &&
      !from.startsWith('src/commands/daemon/') &&
      from !== 'src/commands/heartbeat.ts',
  ],
  [
    'the daemon is reached by dynamic import or for its types',
    'its libraries take a second to load, which no other command shall pay for',
    ({ from, to, kind }) => from.startsWith('src/') && to.startsWith('daemon/') && kind === 'value',
  ],
  [
    'the daemon uses the protocol, the client and files.ts, and nothing else of src',
    'it has no terminal and no command line; atomic writes and checks of file modes exist once, for both sides',
    ({ from, to }) =>
      from.startsWith('daemon/') &&
      to.startsWith('src/') &&
      !to.startsWith('src/protocol/') &&
      !['src/client.ts', 'src/files.ts'].includes(to),
  ],
  [
    'files.ts imports nothing of ours',
    'both sides use it, so it can belong to neither',
    ({ from, own }) => from === 'src/files.ts' && own,
  ],
  [
    'the rules of the registry know the protocol, the kind of store and the kind of clock',
    'they are pure: no HTTP, no files, no clock of their own',
    ({ from, to, own, kind }) =>
      from.startsWith('daemon/registry/') &&
      !to.startsWith('daemon/registry/') &&
      !(own && to.startsWith('src/protocol/')) &&
      !(kind === 'type' && ['daemon/store/store.ts', 'daemon/clock.ts'].includes(to)),
  ],
  [
    'the store knows no rules and no HTTP',
    'it knows records',
    ({ from, to, own }) =>
      from.startsWith('daemon/store/') && own && !to.startsWith('daemon/store/') && !STORE_MAY.includes(to),
  ],
  [
    'nothing of HTTP but the wiring opens a store',
    'a route parses, makes one call of the registry, and encodes',
    ({ from, to, kind }) => from.startsWith('daemon/http/') && to.startsWith('daemon/store/') && kind !== 'type',
  ],
  [
    'the daemon draws no tables and reads no command line',
    'it runs where nobody looks on',
    ({ from, to }) => from.startsWith('daemon/') && ['commander', 'conf', 'chalk', 'cli-table3'].includes(to),
  ],
  ['tests are imported by nothing', 'they are not in the package', ({ to }) => to.startsWith('test/')],
];

for (const [rule, why, forbidden] of RULES) {
  test(`${rule}: ${why}`, () => assert.deepEqual(wrong(forbidden), []));
}

const USERS: readonly [name: string, where: readonly string[], why: string][] = [
  ['undici', ['src/client/transport.ts'], 'one place knows how bytes get to a registry'],
  ['chalk', ['src/render.ts'], 'answers become text in one place'],
  ['cli-table3', ['src/render.ts'], 'answers become text in one place'],
  ['commander', ['src/cli.ts', 'src/completion.ts'], 'commands are definitions, which know no commander'],
  ['conf', ['src/config/config-file.ts'], 'reading a file needs no library, and starts are counted in milliseconds'],
  ['libsql', ['daemon/store/database.ts'], 'one kind of store is SQLite'],
];

for (const [name, where, why] of USERS) {
  test(`${name} is used by ${where.join(' and ')} alone: ${why}`, () => assert.deepEqual(users(name), where));
}
