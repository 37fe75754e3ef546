import { resolve } from 'node:path';
import { type Context, defineCommand } from '../command.ts';
import { openConfigFile } from '../config/config-file.ts';
import { camelCase, checkSetting } from '../config/settings.ts';
import { suggestion } from '../help/suggest.ts';
import { VregError } from '../protocol/errors.ts';
import { maskName, maskRegistryUrl } from '../protocol/redact.ts';
import type { RowsAnswer } from '../render.ts';

/** Settings that belong to a registry. */
const FILES = ['token-file', 'ca-file', 'cert-file', 'key-file'] as const;
const KEYS = ['url', ...FILES] as const;

interface Named extends Partial<Record<(typeof KEYS)[number], string>> {
  name: string;
  current: boolean;
}

const NAME = { name: 'name', about: 'name of the context' } as const;

const add = defineCommand<Record<string, string | undefined> & { use?: boolean }>({
  name: 'add',
  summary: 'name a registry, or change what a name means',
  description:
    'Names a registry: its URL, and where its token, its CA certificate and the certificate to show to it are. The token itself is not written. Of a name that is there already, what is not said stays.',
  arguments: [NAME],
  flags: [{ flags: '--use', about: 'and use it from now on' }],
  examples: [
    { about: 'a registry', command: 'vreg context add prod --url https://infra.example.com:3000' },
    {
      about: 'with its token',
      command: 'vreg context add prod --url https://infra.example.com:3000 --token-file ~/.vreg-prod',
    },
    { about: 'and use it', command: 'vreg context add dev --url http://127.0.0.1:3000 --use' },
  ],
  lenient: true,
  async run(context, [name], flags) {
    const { url, use } = flags;
    if (!/^[\w.@-]+$/.test(name!)) {
      throw new VregError('USAGE', `"${maskName(name!)}" is not the name of a context`, {
        field: 'name',
        hint: 'letters, digits and . _ @ - make one',
      });
    }
    const { contexts = {} } = context.config.file;
    const before = Object.hasOwn(contexts, name!) ? contexts[name!]! : {};
    if (url === undefined && before.url === undefined)
      throw new VregError('USAGE', '--url is required', {
        field: 'url',
        hint: 'for example: --url http://127.0.0.1:3000',
      });
    if (url !== undefined) checkSetting('url', url);
    const named = FILES.map((key) => [key, flags[camelCase(key)]] as const)
      .filter(([, path]) => path !== undefined)
      .map(([key, path]) => [key, resolve(path!)]);
    const entry = {
      ...before,
      ...(url === undefined ? {} : { url }),
      ...Object.fromEntries(named),
    };
    const file = await openConfigFile(context);
    file.set('contexts', { ...contexts, [name!]: entry });
    if (use) file.set('context', name);
  },
});

const use = defineCommand({
  name: 'use',
  summary: 'use a context from now on',
  arguments: [NAME],
  examples: [
    { about: 'from now on', command: 'vreg context use prod' },
    { about: 'for one command', command: 'vreg ls --context prod' },
    { about: 'for this shell', command: 'export VREG_CONTEXT=prod; vreg status' },
  ],
  exits: [3],
  lenient: true,
  async run(context, [name]) {
    find(context, name!);
    (await openConfigFile(context)).set('context', name);
  },
});

const ls = defineCommand({
  name: 'ls',
  aliases: ['list'],
  summary: 'list the contexts',
  examples: [
    { about: 'which are there?', command: 'vreg context ls' },
    { about: 'names only', command: 'vreg context ls -q' },
    { about: 'for programs', command: 'vreg context ls -o json' },
  ],
  lenient: true,
  async run(context) {
    await context.print(answer(all(context), { none: 'no contexts; add one: vreg context add NAME --url URL' }));
  },
});

const rm = defineCommand({
  name: 'rm',
  summary: 'forget a context',
  arguments: [NAME],
  examples: [
    { about: 'forget it', command: 'vreg context rm dev' },
    { about: 'which was it?', command: 'vreg context ls' },
    { about: 'start over', command: 'rm "$(vreg config path)"' },
  ],
  exits: [3],
  lenient: true,
  async run(context, [name]) {
    find(context, name!);
    const { [name!]: _gone, ...rest } = context.config.file.contexts ?? {};
    const file = await openConfigFile(context);
    file.set('contexts', rest);
    if (context.config.file.context === name) file.delete('context');
  },
});

const show = defineCommand({
  name: 'show',
  summary: 'show a context',
  arguments: [{ ...NAME, about: 'name of the context (default: the one in use)', optional: true }],
  examples: [
    { about: 'the one in use', command: 'vreg context show' },
    { about: 'another', command: 'vreg context show prod' },
    { about: 'its URL', command: "vreg context show prod -o jsonpath='{.url}'" },
  ],
  exits: [3],
  lenient: true,
  async run(context, [name]) {
    await context.print(answer([find(context, name ?? currentName(context))], { single: true }));
  },
});

const current = defineCommand({
  name: 'current',
  summary: 'print the name of the context in use, for a prompt',
  description:
    'Prints the name of the context in use; nothing and exit code 3 when there is none. It asks no registry.',
  examples: [
    { about: 'which one?', command: 'vreg context current' },
    { about: 'in a prompt', command: 'PROMPT=$(vreg context current)' },
    { about: 'in a script', command: 'test "$(vreg context current)" = prod || exit' },
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
  summary: 'name registries, and switch between them',
  description:
    'Names registries and switches between them. A context gives url, token-file, ca-file, cert-file and key-file; flags and variables win over it.',
  examples: [
    { about: 'name one and use it', command: 'vreg context add prod --url https://infra.example.com:3000 --use' },
    { about: 'ask another once', command: 'vreg status -c dev' },
    { about: 'which are there?', command: 'vreg context ls' },
  ],
  exits: [3],
  commands: [add, use, ls, rm, show, current],
});

function all({ config }: Context): Named[] {
  const { contexts = {} } = config.file;
  return Object.entries(contexts).map(([name, values]) => {
    const known = KEYS.filter((key) => values[key] !== undefined).map((key) => [
      key,
      key === 'url' ? maskRegistryUrl(String(values[key])) : String(values[key]),
    ]);
    return { name, current: name === config.context, ...(Object.fromEntries(known) as object) };
  });
}

function find(context: Context, name: string): Named {
  const entries = all(context);
  const found = entries.find((entry) => entry.name === name);
  if (found) return found;
  const known = entries.map((entry) => entry.name);
  throw new VregError('NOT_FOUND', `there is no context "${maskName(name)}"${suggestion(name, known)}`, {
    field: 'name',
    hint: known.length > 0 ? `one of: ${known.join(', ')}` : 'add it: vreg context add NAME --url URL',
  });
}

function currentName({ config }: Context): string {
  const name = config.context;
  if (name !== undefined) {
    void config.contextNamed(name);
    return name;
  }
  throw new VregError('NOT_FOUND', 'no context is in use', { hint: 'use one: vreg context use NAME' });
}

function answer(rows: readonly Named[], more: Partial<RowsAnswer<Named>>): RowsAnswer<Named> {
  return {
    kind: 'rows',
    rows,
    columns: [
      { title: 'CURRENT', cell: (row) => (row.current ? '*' : '') },
      { title: 'NAME', cell: (row) => row.name },
      { title: 'URL', cell: ({ url }) => url ?? '-' },
      { title: 'TOKEN FILE', cell: (row) => row['token-file'] ?? '-' },
      { title: 'CA FILE', wide: true, cell: (row) => row['ca-file'] ?? '-' },
      { title: 'CERT FILE', wide: true, cell: (row) => row['cert-file'] ?? '-' },
      { title: 'KEY FILE', wide: true, cell: (row) => row['key-file'] ?? '-' },
    ],
    name: (row) => row.name,
    ...more,
  };
}
