/** `vreg daemon unit` and `vreg daemon install`: the systemd units, printed or put in place. */
import { execFile } from 'node:child_process';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { UnitFile, UnitKind } from '../../../daemon/systemd/units.ts';
import { type Argument, type Context, defineCommand, type Flag } from '../../command.ts';
import { VregError } from '../../protocol/errors.ts';
import { suggestion } from '../../suggest.ts';

const KINDS = ['serve', 'agent', 'heartbeat-timer', 'wait-online'] as const satisfies readonly UnitKind[];
const TOKEN = '/etc/vreg/token';

interface Flags {
  user?: boolean;
  token?: boolean;
}

const ARGUMENTS: readonly Argument[] = [
  { name: 'which', about: 'serve, agent, heartbeat-timer or wait-online', values: KINDS },
  { name: 'arguments', about: 'behind --: flags for its command line', optional: true, variadic: true },
];
const FLAGS: readonly Flag[] = [
  { flags: '--user', about: "for your own services, not the system's" },
  { flags: '--no-token', about: `without the token that it is handed from ${TOKEN}` },
];

export const unit = defineCommand<Flags>({
  name: 'unit',
  summary: 'print a systemd unit',
  description: `Prints a hardened systemd unit: the registry, the heartbeat agent, a timer that beats where no agent shall run, or a target that waits until the registry answers. Settings come from flags behind -- and from /etc/default/vreg. The token is read from ${TOKEN} (mode 0600, owner root) and handed over as a credential, never in the environment.`,
  arguments: ARGUMENTS,
  flags: FLAGS,
  examples: [
    { about: 'the agent of a lieutenant', command: 'vreg daemon unit agent -- --role lieutenant' },
    { about: 'the registry, on loopback, without a token', command: 'vreg daemon unit serve --no-token' },
    { about: 'the timer instead of an agent', command: 'vreg daemon unit heartbeat-timer' },
  ],
  async run(context, [which, ...args], flags) {
    const files = await unitsOf(context, which, args, flags);
    // Each file begins with its name, as systemctl cat prints it.
    const text = files.map(({ name, text }) => `# ${name}\n${text}`).join('\n');
    await context.print({
      kind: 'value',
      text: text.trimEnd(),
      data: files.map(({ name, text }) => ({ name, text })),
    });
  },
});

interface InstallFlags extends Flags {
  now?: boolean;
  dryRun?: boolean;
  yes?: boolean;
  unitDir?: string;
}

export const install = defineCommand<InstallFlags>({
  name: 'install',
  summary: 'put systemd units in place and enable them',
  description:
    'Says which files it will write and what it will run, asks, and does it: writes the units of vreg daemon unit, and enables them. A script says --yes. Doing it again brings them up to date.',
  arguments: ARGUMENTS,
  flags: [
    ...FLAGS,
    { flags: '--now', about: 'start them, too' },
    { flags: '--dry-run', about: 'only say what would be done' },
    { flags: '-y, --yes', about: 'do not ask' },
    { flags: '--unit-dir <dir>', about: 'where the files go (default: as systemd has it)', file: true },
  ],
  examples: [
    { about: 'the agent of this VM', command: 'vreg daemon install agent --now -- --role worker' },
    { about: 'the registry, for a fleet', command: 'vreg daemon install serve --now -- --host 0.0.0.0' },
    { about: 'what would it do?', command: 'vreg daemon install heartbeat-timer --dry-run' },
  ],
  exits: [2, 7],
  async run(context, [which, ...args], flags) {
    const files = await unitsOf(context, which, args, flags);
    const dir = flags.unitDir ?? unitDirOf(context, flags);
    if (!flags.user) refuseHome(files);
    const manager = ['systemctl', ...(flags.user ? ['--user'] : [])];
    const enabled = files.filter(({ enable }) => enable).map(({ name }) => name);
    const commands = [
      [...manager, 'daemon-reload'],
      [...manager, 'enable', ...(flags.now ? ['--now'] : []), ...enabled],
    ];
    const plan = files.map((file) => ({
      ...file,
      path: join(dir, file.name),
      change: changeOf(join(dir, file.name), file),
    }));
    await context.print({
      kind: 'rows',
      rows: [
        ...plan.map(({ path, change }) => ({ step: change, what: path })),
        ...commands.map((words) => ({ step: 'run', what: words.join(' ') })),
      ],
      columns: [
        { title: 'STEP', cell: ({ step }) => step },
        { title: 'WHAT', cell: ({ what }) => what },
      ],
      name: ({ what }) => what,
    });
    if (flags.dryRun) return;
    if (!flags.user && flags.unitDir === undefined && process.getuid?.() !== 0) {
      throw new VregError('FORBIDDEN', 'only root may write units of the system', {
        hint: 'run it with sudo, or install them for yourself: --user',
      });
    }
    await context.confirm('Do that?', flags.yes);
    mkdirSync(dir, { recursive: true });
    for (const { path, text } of plan) {
      writeFileSync(`${path}.new`, text, { mode: 0o644 });
      renameSync(`${path}.new`, path);
    }
    for (const [program, ...words] of commands) await runTool(program!, words);
    const watch = `systemctl ${flags.user ? '--user ' : ''}status ${enabled[0]}`;
    context.note(
      `installed; see how it does: ${watch}${flags.now ? '' : `, after: ${manager.join(' ')} start ${enabled[0]}`}`,
    );
  },
});

async function unitsOf(
  context: Context,
  which: string | undefined,
  args: readonly string[],
  { user = false, token = true }: Flags,
): Promise<UnitFile[]> {
  const kind = KINDS.find((known) => known === which);
  if (!kind) {
    throw new VregError('USAGE', `"${which}" is not a unit${suggestion(which ?? '', KINDS)}`, {
      field: 'which',
      hint: `one of: ${KINDS.join(', ')}`,
    });
  }
  const { unitsOf } = await import('../../../daemon/systemd/units.ts');
  const program = [process.execPath, process.argv[1]!];
  // What is asked is to be said to the unit, not to this command.
  const behind = context.argv.indexOf('--');
  if (args.length > 0 && behind < 0) {
    throw new VregError('USAGE', `what shall "${args[0]}" be?`, {
      field: 'arguments',
      hint: `put the unit's own flags behind --: vreg daemon unit ${kind} -- --role worker`,
    });
  }
  return unitsOf(kind, { program, args, user, token: token ? (user ? '%E/vreg/token' : TOKEN) : undefined });
}

function unitDirOf({ env }: Context, { user }: Flags): string {
  if (!user) return '/etc/systemd/system';
  return join(env.XDG_CONFIG_HOME || join(env.HOME ?? '', '.config'), 'systemd/user');
}

/** The units of the system see no home: a Node from nvm, or a checkout, would not be there. */
function refuseHome(files: readonly UnitFile[]): void {
  const inHome = files.flatMap(({ text }) => /^ExecStart=.*?(\/(?:home|root|run\/user)\/\S*)/m.exec(text)?.[1] ?? []);
  if (inHome.length === 0) return;
  throw new VregError('USAGE', `a service of the system cannot see ${inHome[0]}: it has no home folders`, {
    field: 'which',
    hint: 'install Node and vreg for all (npm install -g as root), or the unit for yourself: --user',
  });
}

function changeOf(path: string, { text }: UnitFile): 'write' | 'replace' | 'keep' {
  try {
    return readFileSync(path, 'utf8') === text ? 'keep' : 'replace';
  } catch {
    return 'write';
  }
}

async function runTool(program: string, args: readonly string[]): Promise<void> {
  await promisify(execFile)(program, [...args]).catch((cause: NodeJS.ErrnoException & { stderr?: string }) => {
    const why = cause.code === 'ENOENT' ? 'it is not installed' : (cause.stderr || cause.message).trim();
    throw new VregError('INTERNAL', `${program} ${args[0]} failed: ${why}`, {
      hint: 'the files are written; mend that and run it again',
      cause,
    });
  });
}
