import { resolve } from 'node:path';
import { type Context, defineCommand } from '../command.ts';
import { changeConfigFile } from '../config/config-file.ts';
import { camelCase, checkSetting } from '../config/settings.ts';
import { suggestion } from '../help/suggest.ts';
import { missingFlag, VregError } from '../protocol/errors.ts';
import { maskName, maskRegistryUrls } from '../protocol/redact.ts';
import type { RowsAnswer } from '../render.ts';

/** Settings that differ between registries. */
const FILES = ['token-file', 'ca-file', 'cert-file', 'key-file'] as const;
const KEYS = ['url', ...FILES] as const;

interface ContextEntry extends Partial<Record<(typeof KEYS)[number], string>> {
  name: string;
  current: boolean;
}

const NAME = { name: 'name', about: 'name of the context', values: 'contexts' } as const;

const add = defineCommand<Record<string, string | undefined> & { use?: boolean }>({
  name: 'add',
  summary: 'add or change a context',
  description:
    'Adds a context: a name for the URL of a registry, together with the paths of the token file, CA certificates and client certificate to use. The token itself is not stored. If the context exists, only the given fields change.',
  arguments: [NAME],
  flags: [{ flags: '--use', about: 'switch to the context' }],
  examples: [
    { about: 'add a registry', command: 'vreg context add prod --url https://infra.example.com:3000' },
    {
      about: 'add a registry that requires a token',
      command: 'vreg context add prod --url https://infra.example.com:3000 --token-file ~/.vreg-prod',
    },
    { about: 'add a registry and switch to it', command: 'vreg context add dev --url http://127.0.0.1:3000 --use' },
  ],
  exits: [4],
  lenient: true,
  async run(context, [name], flags) {
    const { url, use } = flags;
    if (!/^[\w.@-]+$/.test(name!)) {
      throw new VregError('USAGE', `invalid context name "${maskName(name!)}"`, {
        field: 'name',
        hint: 'use letters, digits and . _ @ -',
      });
    }
    if (url !== undefined) checkSetting('url', url);
    const named = FILES.map((key) => [key, flags[camelCase(key)]] as const)
      .filter(([, path]) => path !== undefined)
      .map(([key, path]) => [key, resolve(path!)]);
    await changeConfigFile(context, ({ contexts = {}, ...rest }) => {
      const before = Object.hasOwn(contexts, name!) ? contexts[name!]! : {};
      if (url === undefined && before.url === undefined)
        throw missingFlag('--url', 'for example: --url http://127.0.0.1:3000');
      const entry = { ...before, ...(url === undefined ? {} : { url }), ...Object.fromEntries(named) };
      return { ...rest, contexts: { ...contexts, [name!]: entry }, ...(use ? { context: name! } : {}) };
    });
  },
});

const use = defineCommand({
  name: 'use',
  summary: 'switch to a context',
  arguments: [NAME],
  examples: [
    { about: 'switch permanently', command: 'vreg context use prod' },
    { about: 'use another context for one command', command: 'vreg ls --context prod' },
    { about: 'use another context in this shell', command: 'export VREG_CONTEXT=prod; vreg status' },
  ],
  exits: [3, 4],
  lenient: true,
  async run(context, [name]) {
    await changeConfigFile(context, (content) => {
      requireContext(context, name!);
      return { ...content, context: name! };
    });
  },
});

const ls = defineCommand({
  name: 'ls',
  aliases: ['list'],
  summary: 'list the contexts',
  examples: [
    { about: 'list the contexts', command: 'vreg context ls' },
    { about: 'names only', command: 'vreg context ls -q' },
    { about: 'as JSON', command: 'vreg context ls -o json' },
  ],
  lenient: true,
  async run(context) {
    await context.print(
      contextsAnswer(entriesOf(context), { none: 'no contexts; add one: vreg context add NAME --url URL' }),
    );
  },
});

const rm = defineCommand({
  name: 'rm',
  summary: 'remove a context',
  arguments: [NAME],
  examples: [
    { about: 'remove a context', command: 'vreg context rm dev' },
    { about: 'list the contexts first', command: 'vreg context ls' },
    { about: 'remove all contexts and settings', command: 'rm "$(vreg config path)"' },
  ],
  exits: [3, 4],
  lenient: true,
  async run(context, [name]) {
    await changeConfigFile(context, ({ contexts = {}, context: current, ...rest }) => {
      requireContext(context, name!);
      const { [name!]: _removed, ...others } = contexts;
      return { ...rest, contexts: others, ...(current === undefined || current === name ? {} : { context: current }) };
    });
  },
});

const show = defineCommand({
  name: 'show',
  summary: 'show a context',
  arguments: [{ ...NAME, about: 'name of the context (default: the current one)', optional: true }],
  examples: [
    { about: 'the current context', command: 'vreg context show' },
    { about: 'another context', command: 'vreg context show prod' },
    { about: 'the URL of a context', command: "vreg context show prod -o jsonpath='{.url}'" },
  ],
  exits: [3],
  lenient: true,
  async run(context, [name]) {
    await context.print(contextsAnswer([requireContext(context, name ?? currentName(context))], { single: true }));
  },
});

const current = defineCommand({
  name: 'current',
  summary: 'print the name of the current context',
  description:
    'Prints the name of the current context on one line, for use in scripts. If there is none, prints nothing and exits with code 3. Sends no request to the registry.',
  examples: [
    { about: 'the current context', command: 'vreg context current' },
    { about: 'in a shell prompt', command: 'PROMPT=$(vreg context current)' },
    { about: 'continue only in a certain context', command: 'test "$(vreg context current)" = prod || exit' },
  ],
  exits: [3],
  lenient: true,
  async run(context) {
    const name = currentName(context);
    await context.print({ kind: 'value', text: name, data: { name } });
  },
});

export const context = defineCommand({
  name: 'context',
  summary: 'name registries and switch between them',
  description:
    'Names registries and switches between them. A context sets url, token-file, ca-file, cert-file and key-file; flags and variables override it.',
  examples: [
    {
      about: 'add a context and switch to it',
      command: 'vreg context add prod --url https://infra.example.com:3000 --use',
    },
    { about: 'use another context once', command: 'vreg status -c dev' },
    { about: 'list the contexts', command: 'vreg context ls' },
  ],
  exits: [3],
  commands: [add, use, ls, rm, show, current],
});

function entriesOf({ config }: Context): ContextEntry[] {
  const { contexts = {} } = config.file;
  return Object.entries(contexts).map(([name, values]) => {
    const known = KEYS.filter((key) => values[key] !== undefined).map((key) => [
      key,
      key === 'url' ? maskRegistryUrls(String(values[key])) : String(values[key]),
    ]);
    return { name, current: name === config.context, ...(Object.fromEntries(known) as object) };
  });
}

function requireContext(context: Context, name: string): ContextEntry {
  const entries = entriesOf(context);
  const found = entries.find((entry) => entry.name === name);
  if (found) return found;
  const known = entries.map((entry) => entry.name);
  throw new VregError('NOT_FOUND', `unknown context "${maskName(name)}"${suggestion(name, known)}`, {
    field: 'name',
    hint: known.length > 0 ? `one of: ${known.join(', ')}` : 'add it: vreg context add NAME --url URL',
  });
}

function currentName({ config }: Context): string {
  const name = config.context;
  // Throws if the context does not exist.
  if (name !== undefined && config.contextSettings) return name;
  throw new VregError('NOT_FOUND', 'no current context', { hint: 'switch to one: vreg context use NAME' });
}

function contextsAnswer(
  rows: readonly ContextEntry[],
  more: Partial<RowsAnswer<ContextEntry>>,
): RowsAnswer<ContextEntry> {
  return {
    kind: 'rows',
    rows,
    columns: [
      { title: 'CURRENT', priority: 1, cell: (row) => (row.current ? '*' : '') },
      { title: 'NAME', priority: 2, cell: (row) => row.name },
      { title: 'URL', priority: 1, minimum: 20, cell: ({ url }) => url ?? '-' },
      { title: 'TOKEN FILE', cell: (row) => row['token-file'] ?? '-' },
      { title: 'CA FILE', wide: true, cell: (row) => row['ca-file'] ?? '-' },
      { title: 'CERT FILE', wide: true, cell: (row) => row['cert-file'] ?? '-' },
      { title: 'KEY FILE', wide: true, cell: (row) => row['key-file'] ?? '-' },
    ],
    name: (row) => row.name,
    ...more,
  };
}
