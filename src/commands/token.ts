import { closeSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { type Context, defineCommand } from '../command.ts';
import { MAX_SPAN, parseDuration } from '../config/duration.ts';
import { VregError } from '../protocol/errors.ts';
import { parseTokenRequest, type Restriction, SCOPES, type TokenInfo, type Whoami } from '../protocol/token.ts';
import { ROLES } from '../protocol/vm.ts';
import type { Column, RowsAnswer } from '../render.ts';
import { each, throwFailed } from '../run/batch.ts';

interface CreateFlags {
  scope?: string;
  vm?: string;
  role?: string;
  expires?: string;
  to?: string;
}

const create = defineCommand<CreateFlags>({
  name: 'create',
  summary: 'make a token, and print it this once',
  description:
    'Makes a token and prints it; the registry keeps only a hash of it. Its scope says what it may do: read asks, heartbeat also sends signs of life, register also registers new VMs, write also changes and removes them, admin also makes tokens and backups. A token of the scope enrol registers one new VM after the other, and each gets a token of its own with the answer: that is the one for an image.',
  arguments: [{ name: 'name', about: 'what the log and the history call it' }],
  flags: [
    { flags: '--scope <scope>', about: 'what it may do', values: SCOPES },
    { flags: '--vm <id>', about: 'it may touch this VM only (read: see it only)', values: 'ids' },
    { flags: '--role <role>', about: 'the same, for the VMs of this role', values: ROLES },
    { flags: '--expires <duration>', about: 'good for that long, e.g. 30d (default: for ever)' },
    { flags: '--to <file>', about: 'write it into a new file of mode 0600 instead', file: true },
  ],
  examples: [
    { about: 'for a dashboard', command: 'TOKEN=$(vreg token create dashboard --scope read --expires 30d)' },
    { about: 'for the agent of one VM', command: 'vreg token create worker-7 --scope write --vm worker-7 --to token' },
    { about: 'for a golden image', command: 'vreg token create image-12 --scope enrol --role worker' },
  ],
  exits: [2, 4, 8],
  async run(context, [name], { scope, vm, role, expires, to }) {
    if (scope === undefined)
      throw new VregError('USAGE', '--scope is required', { field: 'scope', hint: `one of: ${SCOPES.join(', ')}` });
    // An empty one is refused: of a variable that is not set no token shall come that is good for ever.
    const expiresIn =
      expires === undefined ? undefined : Math.ceil(parseDuration(expires, '--expires', MAX_SPAN) / 1000);
    const request = parseTokenRequest({ name, scope, vm, role, expiresIn });
    if (to === undefined) {
      const made = await context.client().createToken(request);
      await context.print({ kind: 'value', text: made.token, data: made });
      return context.note(`the token "${name}" is shown this once`);
    }
    const client = context.client();
    const { token: _token, ...made } = await intoFile(to, {
      make: () => client.createToken(request),
      undo: () => client.revokeToken(name!),
    });
    await context.print({ kind: 'value', text: to, data: { ...made, file: to } });
  },
});

/** Makes the file first: a token that cannot be written down would be lost. */
async function intoFile<T extends { token: string }>(
  path: string,
  { make, undo }: { make(): Promise<T>; undo(): Promise<unknown> },
): Promise<T> {
  let file: number;
  try {
    file = openSync(path, 'wx', 0o600);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw cannotWrite(path, cause, 'check its folder');
    throw new VregError('CONFLICT', `${path} is there already`, { field: 'to', hint: 'choose another name' });
  }
  try {
    const made = await make();
    try {
      writeFileSync(file, `${made.token}\n`);
    } catch (cause) {
      const undone = await undo().catch(() => undefined);
      const next = undone ? 'the token is revoked: make room, and try again' : 'revoke the token, which nobody has';
      throw cannotWrite(path, cause, next);
    }
    return made;
  } catch (error) {
    rmSync(path, { force: true });
    throw error;
  } finally {
    closeSync(file);
  }
}

function cannotWrite(path: string, cause: unknown, hint: string): VregError {
  const { code } = cause as NodeJS.ErrnoException;
  return new VregError('USAGE', `cannot write ${path} (${code})`, { field: 'to', hint, cause });
}

const COLUMNS: readonly Column<TokenInfo>[] = [
  { title: 'NAME', cell: ({ name }) => name },
  { title: 'SCOPE', cell: ({ scope }) => scope },
  { title: 'FOR', cell: limitOf },
  { title: 'CREATED', cell: ({ createdAt }) => ({ time: createdAt }) },
  { title: 'BY', cell: ({ createdBy }) => createdBy, wide: true },
  { title: 'EXPIRES', cell: ({ expiresAt = '-' }) => expiresAt },
  { title: 'LAST USED', cell: ({ lastUsedAt }) => (lastUsedAt === undefined ? '-' : { time: lastUsedAt }) },
  { title: 'FROM', cell: ({ lastUsedFrom = '-' }) => lastUsedFrom, wide: true },
];

function limitOf({ vm, role }: Restriction): string {
  if (vm !== undefined) return role === undefined ? `VM ${vm}` : `VM ${vm}, role ${role}`;
  return role === undefined ? '-' : `role ${role}`;
}

const ls = defineCommand<{ enrolledBy?: string }>({
  name: 'ls',
  aliases: ['list'],
  summary: 'list the tokens of the registry',
  description:
    'Lists the tokens, oldest first: what each may do, when it expires, and when it was last used, to the minute. The token itself is not known to anybody but its holder.',
  flags: [{ flags: '--enrolled-by <name>', about: 'only those of VMs that this enrol token let in' }],
  examples: [
    { about: 'which are there?', command: 'vreg token ls' },
    { about: 'made by whom, used from where?', command: 'vreg token ls -o wide' },
    { about: 'whom did an image let in?', command: 'vreg token ls --enrolled-by image-12' },
  ],
  exits: [2, 8],
  async run(context, _args, { enrolledBy }) {
    const tokens = await context.client().tokens();
    const rows = enrolledBy === undefined ? tokens : tokens.filter((token) => token.enrolledBy === enrolledBy);
    await context.print(tokensAnswer(rows));
  },
});

function tokensAnswer(rows: readonly TokenInfo[]): RowsAnswer<TokenInfo> {
  return { kind: 'rows', rows, columns: COLUMNS, name: ({ name }) => name, none: 'no tokens' };
}

const revoke = defineCommand<{ enrolledBy?: string; yes?: boolean }>({
  name: 'revoke',
  aliases: ['rm'],
  summary: 'make tokens good for nothing, at once',
  description:
    'Revokes tokens: they are refused from the next request on, and what was opened with them ends. With --enrolled-by it revokes the tokens of all VMs that came in with one enrol token, also when that one is revoked already.',
  arguments: [{ name: 'name', about: 'name of a token', optional: true, variadic: true }],
  flags: [
    { flags: '--enrolled-by <name>', about: 'those of all VMs that this enrol token let in' },
    { flags: '-y, --yes', about: 'do not ask' },
  ],
  examples: [
    { about: 'one', command: 'vreg token revoke dashboard' },
    {
      about: 'the token of an image that got out, and all that came in with it',
      command: 'vreg token revoke image-12 --enrolled-by image-12',
    },
    { about: 'in a script', command: 'vreg token revoke dashboard --yes' },
  ],
  exits: [2, 3, 7, 8],
  async run(context, names, { enrolledBy, yes }) {
    if (names.length === 0 && enrolledBy === undefined) {
      throw new VregError('USAGE', 'which token? give a name, or --enrolled-by', {
        field: 'name',
        hint: 'see them: vreg token ls',
      });
    }
    const what = [
      ...names.map((name) => `"${name}"`),
      ...(enrolledBy === undefined ? [] : [`all that came of "${enrolledBy}"`]),
    ];
    await context.confirm(`Revoke ${what.join(', ')}?`, yes);
    const client = context.client();
    const { done, failed } = await each(context, names, (name) => client.revokeToken(name));
    const enrolled = enrolledBy === undefined ? [] : await client.revokeEnrolledBy(enrolledBy);
    await printRevoked(context, [...done.flat(), ...enrolled]);
    throwFailed(context, names.length, failed, (name) => name);
  },
});

async function printRevoked(context: Context, names: readonly string[]): Promise<void> {
  await context.print({
    kind: 'rows',
    rows: names,
    columns: [{ title: 'REVOKED', cell: (name) => name }],
    name: (name) => name,
    data: (name) => ({ name, revoked: true }),
    none: 'no such tokens',
  });
}

const whoami = defineCommand({
  name: 'whoami',
  summary: 'say who one is to the registry, and what one may do',
  examples: [
    { about: 'with the token of the environment', command: 'vreg token whoami' },
    { about: 'with another one', command: 'vreg token whoami --token-file ./token' },
    { about: 'may it write?', command: 'vreg token whoami -o json | jq -e \'.scope == "write"\'' },
  ],
  exits: [2, 8],
  async run(context) {
    const self = await context.client().whoami();
    await context.print<Whoami>({
      kind: 'rows',
      rows: [self],
      columns: [
        { title: 'NAME', cell: ({ name }) => name },
        { title: 'SCOPE', cell: ({ scope }) => scope },
        { title: 'FOR', cell: limitOf },
        { title: 'EXPIRES', cell: ({ expiresAt = '-' }) => expiresAt },
      ],
      name: ({ name }) => name,
      single: true,
    });
  },
});

export const token = defineCommand({
  name: 'token',
  summary: 'make, list and revoke tokens: who may do what',
  description:
    'Tokens of the registry. VERS_AUTH_TOKEN, with which a daemon was started, may do everything and is none of them; these each have a name, a scope and perhaps an end. From the first one on, a registry asks everybody for a token who does not come by its unix socket.',
  examples: [
    { about: 'one that may only look', command: 'vreg token create dashboard --scope read' },
    { about: 'which are there?', command: 'vreg token ls' },
    { about: 'not any more', command: 'vreg token revoke dashboard' },
  ],
  commands: [create, ls, revoke, whoami],
});
