import { closeSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { type Context, defineCommand } from '../command.ts';
import { parseDuration } from '../config/values.ts';
import { cannotWrite, missingFlag, VregError } from '../protocol/errors.ts';
import { parseTokenRequest, type Restriction, SCOPES, type TokenInfo } from '../protocol/token.ts';
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
  summary: 'create a token and print it once',
  description:
    'Creates a token and prints it; the registry stores only its hash. Each scope includes the previous ones: read allows queries, heartbeat also heartbeats, register also registering VMs, write also changing and removing VMs, and admin also managing tokens and taking backups. A token with the scope enrol, for use in an image, can only register new VMs, each of which receives its own token in the response.',
  arguments: [{ name: 'name', about: 'name that the log and the history show for the token' }],
  flags: [
    { flags: '--scope <scope>', about: 'permissions of the token', values: SCOPES },
    { flags: '--vm <id>', about: 'restrict the token to this VM; a read token sees only this VM', values: 'ids' },
    {
      flags: '--role <role>',
      about:
        'restrict the token to VMs with this role; a read token sees only these VMs; with --vm, to that VM in this role',
      values: ROLES,
    },
    { flags: '--expires <duration>', about: 'lifetime of the token, e.g. 30d (default: unlimited)' },
    { flags: '--to <file>', about: 'write the token to a new file with mode 0600 instead of stdout', file: true },
  ],
  examples: [
    { about: 'for a dashboard', command: 'TOKEN=$(vreg token create dashboard --scope read --expires 30d)' },
    { about: 'for the agent of one VM', command: 'vreg token create worker-7 --scope write --vm worker-7 --to token' },
    {
      about: 'for the agent of the infra VM',
      command: 'vreg token create infra-1 --scope write --vm infra-1 --role infra --to token',
    },
    { about: 'for a golden image', command: 'vreg token create image-12 --scope enrol --role worker' },
  ],
  exits: [2, 4, 6, 8],
  async run(context, [name], { scope, vm, role, expires, to }) {
    if (scope === undefined) throw missingFlag('--scope', `one of: ${SCOPES.join(', ')}`);
    // An empty value is an error: an unset shell variable must not create a token that never expires.
    const expiresIn = expires === undefined ? undefined : Math.ceil(parseDuration(expires, '--expires') / 1000);
    const request = parseTokenRequest({ name, scope, vm, role, expiresIn });
    if (to === undefined) {
      const created = await context.client().createToken(request);
      await context.print({ kind: 'value', text: created.token, data: created });
      return context.note(`the token "${name}" will not be shown again`);
    }
    const client = context.client();
    const { token: _token, ...created } = await createInFile(to, {
      make: () => client.createToken(request),
      undo: () => client.revokeToken(name!),
    });
    await context.print({ kind: 'value', text: to, data: { ...created, file: to } });
  },
});

/** Creates the file before the token, because a token that cannot be written would be lost. */
async function createInFile<T extends { token: string }>(
  path: string,
  { make, undo }: { make(): Promise<T>; undo(): Promise<unknown> },
): Promise<T> {
  let file: number;
  try {
    file = openSync(path, 'wx', 0o600);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code !== 'EEXIST')
      throw cannotWrite(path, cause, { field: 'to', hint: 'check its folder' });
    throw new VregError('CONFLICT', `${path} already exists`, { field: 'to', hint: 'choose another name' });
  }
  try {
    const created = await make();
    try {
      writeFileSync(file, `${created.token}\n`);
    } catch (cause) {
      const undone = await undo().catch(() => undefined);
      const hint = undone
        ? 'the token was revoked; free up disk space and try again'
        : 'revoke the token, because its value is lost';
      throw cannotWrite(path, cause, { field: 'to', hint });
    }
    return created;
  } catch (error) {
    rmSync(path, { force: true });
    throw error;
  } finally {
    closeSync(file);
  }
}

const COLUMNS: readonly Column<TokenInfo>[] = [
  { title: 'NAME', cell: ({ name }) => name },
  { title: 'SCOPE', cell: ({ scope }) => scope },
  { title: 'FOR', cell: restrictionOf },
  { title: 'CREATED', cell: ({ createdAt }) => ({ time: createdAt }) },
  { title: 'BY', cell: ({ createdBy }) => createdBy, wide: true },
  { title: 'EXPIRES', cell: ({ expiresAt = '-' }) => expiresAt },
  { title: 'LAST USED', cell: ({ lastUsedAt }) => (lastUsedAt === undefined ? '-' : { time: lastUsedAt }) },
  { title: 'FROM', cell: ({ lastUsedFrom = '-' }) => lastUsedFrom, wide: true },
];

function restrictionOf({ vm, role }: Restriction): string {
  if (vm !== undefined) return role === undefined ? `VM ${vm}` : `VM ${vm}, role ${role}`;
  return role === undefined ? '-' : `role ${role}`;
}

const ls = defineCommand<{ enrolledBy?: string }>({
  name: 'ls',
  aliases: ['list'],
  summary: 'list the tokens of the registry',
  description:
    'Lists the tokens, oldest first, with scope, expiry and last use (to the minute). The registry stores only hashes of the tokens.',
  flags: [
    { flags: '--enrolled-by <name>', about: 'only tokens of VMs that enrolled with this token', values: 'tokens' },
  ],
  examples: [
    { about: 'all tokens', command: 'vreg token ls' },
    { about: 'with the creator and the address of the last client', command: 'vreg token ls -o wide' },
    {
      about: 'tokens of VMs that enrolled with the token of an image',
      command: 'vreg token ls --enrolled-by image-12',
    },
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
  summary: 'revoke tokens',
  description:
    'Revokes tokens immediately: further requests with them are refused, and their open streams end. With --enrolled-by, also revokes the tokens of all VMs that enrolled with that token, even if that token is already revoked.',
  arguments: [{ name: 'name', about: 'name of a token', optional: true, variadic: true, values: 'tokens' }],
  flags: [
    {
      flags: '--enrolled-by <name>',
      about: 'revoke the tokens of VMs that enrolled with this token',
      values: 'tokens',
    },
    { flags: '-y, --yes', about: 'do not ask for confirmation' },
  ],
  examples: [
    { about: 'revoke one token', command: 'vreg token revoke dashboard' },
    {
      about: 'a leaked image token and every VM that enrolled with it',
      command: 'vreg token revoke image-12 --enrolled-by image-12',
    },
    { about: 'in a script', command: 'vreg token revoke dashboard --yes' },
  ],
  exits: [2, 3, 6, 7, 8],
  async run(context, names, { enrolledBy, yes }) {
    if (names.length === 0 && enrolledBy === undefined) {
      throw new VregError('USAGE', 'no token given', {
        field: 'name',
        hint: 'pass the name of a token, or --enrolled-by NAME; list the tokens: vreg token ls',
      });
    }
    const what = [
      ...names.map((name) => `"${name}"`),
      ...(enrolledBy === undefined ? [] : [`all tokens of VMs that enrolled with "${enrolledBy}"`]),
    ];
    await context.confirm(`Revoke ${what.join(', ')}?`, yes);
    const client = context.client();
    const { done, failed } = await each(context, names, (name) => client.revokeToken(name));
    const issued = enrolledBy === undefined ? [] : await client.revokeEnrolledBy(enrolledBy);
    await printRevoked(context, [...done.flat(), ...issued]);
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

export const token = defineCommand({
  name: 'token',
  summary: 'create, list and revoke tokens',
  description:
    'Manages the tokens of the registry. Each token has a name, a scope and optionally an expiry. The VERS_AUTH_TOKEN of the daemon has all permissions and does not appear in the list of tokens. If the daemon has none, the first token must have the scope admin. Once a token exists, the registry requires a token from every client that does not use its unix socket.',
  examples: [
    { about: 'create the first token', command: 'vreg token create admin --scope admin --to ~/.vreg-token' },
    { about: 'create a read-only token', command: 'vreg token create dashboard --scope read' },
    { about: 'list the tokens', command: 'vreg token ls' },
    { about: 'revoke a token', command: 'vreg token revoke dashboard' },
  ],
  commands: [create, ls, revoke],
});
