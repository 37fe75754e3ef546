/** `vreg daemon install` and `uninstall`: the units of systemd, put in place and taken away. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { InstallOptions, InstallStep } from '../../../daemon/systemd/install.ts';
import { type Context, defineCommand, type Flag } from '../../command.ts';
import { refuseLoose } from '../../config/secret-file.ts';
import { VregError } from '../../protocol/errors.ts';
import type { RowsAnswer } from '../../render.ts';
import { KIND_ARGUMENTS, makeUnits, UNIT_FLAGS, type UnitFlags, whyNoUnitCanStart } from './unit.ts';

interface PlaceFlags extends UnitFlags {
  root?: string;
  dryRun?: boolean;
  yes?: boolean;
}

const PLACE_FLAGS: readonly Flag[] = [
  { flags: '--root <dir>', about: 'into the file system of an image that is mounted there', file: true },
  { flags: '--dry-run', about: 'say what would be done, and do nothing' },
  { flags: '-y, --yes', about: 'do not ask' },
];

export const install = defineCommand<PlaceFlags & { now?: boolean }>({
  name: 'install',
  summary: 'install and enable a systemd unit of vreg',
  description:
    'Writes the units that vreg daemon unit prints, and enables them. Says what it does and asks first; a script says --yes. Doing it again is no error: what has changed is replaced. For the system this needs root.',
  arguments: KIND_ARGUMENTS,
  flags: [...UNIT_FLAGS, { flags: '--now', about: 'start it at once, too' }, ...PLACE_FLAGS],
  examples: [
    { about: 'what would it do?', command: 'vreg daemon install agent --dry-run' },
    { about: 'the registry, from now on', command: 'sudo vreg daemon install serve --now --yes' },
    { about: 'an agent with a role', command: 'sudo vreg daemon install agent --now -- --role lieutenant' },
  ],
  exits: [2, 7],
  async run(context, args, flags) {
    const { kind, files } = await makeUnits(context, args, flags);
    checkPlace(context, flags);
    if (flags.now && flags.root !== undefined) {
      throw new VregError('USAGE', '--now starts nothing in the file system of an image', {
        field: 'now',
        hint: 'leave it out: what is enabled starts with the image',
      });
    }
    if (!flags.user) {
      const closed = await whyNoUnitCanStart();
      if (closed)
        throw new VregError('USAGE', `the unit could not start vreg: ${closed}`, {
          hint: 'install Node and vreg for all users (npm install -g, as root), or say --user',
        });
    }
    checkFiles(join(etcOf(context, flags), 'vreg'), flags);
    const systemd = await import('../../../daemon/systemd/install.ts');
    const options: InstallOptions = { kind, files, now: flags.now === true, ...placeOf(context, flags) };
    const steps = systemd.planInstall(options);
    if (flags.dryRun) return context.print(stepsAnswer(steps));
    await agree(context, steps, flags);
    systemd.executePlan(steps, options.dir, files);
    await context.print(stepsAnswer(steps));
    const { STARTED_UNIT } = await import('../../../daemon/systemd/units.ts');
    const systemctl = `systemctl${flags.user ? ' --user' : ''}`;
    if (flags.root !== undefined) return;
    context.note(
      flags.now
        ? `see how it goes: ${systemctl} status ${STARTED_UNIT[kind]}`
        : `start it: ${systemctl} start ${STARTED_UNIT[kind]}`,
    );
  },
});

export const uninstall = defineCommand<PlaceFlags>({
  name: 'uninstall',
  summary: 'stop, disable and remove a systemd unit of vreg',
  description:
    'Undoes vreg daemon install. Says what it does and asks first; a script says --yes. What the unit kept in its state folder stays. Without such a unit it ends with 3.',
  arguments: [KIND_ARGUMENTS[0]],
  flags: [UNIT_FLAGS[0]!, ...PLACE_FLAGS],
  examples: [
    { about: 'what would it do?', command: 'vreg daemon uninstall agent --dry-run' },
    { about: 'in a script', command: 'sudo vreg daemon uninstall agent --yes' },
    { about: "the user's own", command: 'vreg daemon uninstall heartbeat-timer --user' },
  ],
  exits: [2, 3, 7],
  async run(context, args, flags) {
    const { kind, files } = await makeUnits(context, args, { ...flags, token: false });
    checkPlace(context, flags);
    const systemd = await import('../../../daemon/systemd/install.ts');
    const options = { kind, files, ...placeOf(context, flags) };
    const steps = systemd.planUninstall(options);
    if (steps.length === 0) {
      throw new VregError('NO_LIVE', `there is no ${files[0]!.name} in ${options.dir}`, {
        hint: flags.user ? 'is it one of the system? leave --user out' : "is it the user's own? say --user",
      });
    }
    if (!flags.dryRun) {
      await agree(context, steps, flags);
      systemd.executePlan(steps, options.dir, files);
    }
    await context.print(stepsAnswer(steps));
  },
});

/** @throws VregError USAGE naming a file without which the unit would not start, or a secret that others can read */
function checkFiles(dir: string, { token, tls }: UnitFlags): void {
  if (token && !existsSync(join(dir, 'token'))) {
    throw new VregError('USAGE', `there is no ${join(dir, 'token')}, so the unit would not start`, {
      field: 'token',
      hint: `write the registry's token into it (mode 0600), or say --no-token when it has none`,
    });
  }
  const missing = tls ? ['tls.crt', 'tls.key'].find((name) => !existsSync(join(dir, name))) : undefined;
  if (missing !== undefined)
    throw new VregError('USAGE', `there is no ${join(dir, missing)}, so the unit would not start`, {
      field: 'tls',
      hint: 'put the certificate and its key (mode 0600) there, or leave --tls out',
    });
  // A unit gets them as credentials, whose mode says nothing of these.
  const [ofToken, ofKey] = [join(dir, 'token'), join(dir, 'tls.key')];
  if (token) refuseLoose(ofToken, 'token-file', `the token file ${ofToken}`, {});
  if (tls) refuseLoose(ofKey, 'tls-key', `the private key ${ofKey}`, {});
}

/** @throws VregError when this user may not, or the two places exclude each other */
function checkPlace({ argv }: Context, { user, root, dryRun }: PlaceFlags): void {
  if (user && root !== undefined) {
    throw new VregError('USAGE', '--user and --root exclude each other', {
      field: 'root',
      hint: 'an image gets units of the system',
    });
  }
  if (user || root !== undefined || dryRun || process.geteuid?.() === 0) return;
  throw new VregError('FORBIDDEN', 'only root may change the units of the system', {
    hint: `sudo vreg ${argv.join(' ')}, or with --user for your own`,
  });
}

function placeOf(context: Context, flags: PlaceFlags): Pick<InstallOptions, 'dir' | 'flags' | 'managerRuns'> {
  const dir = join(etcOf(context, flags), flags.user ? 'systemd/user' : 'systemd/system');
  const words = flags.user ? ['--user'] : flags.root === undefined ? [] : [`--root=${flags.root}`];
  return { dir, flags: words, managerRuns: flags.root === undefined };
}

/** Where configuration is: what `%E` means in a unit. */
function etcOf({ env }: Context, { user, root = '/' }: PlaceFlags): string {
  return user ? env.XDG_CONFIG_HOME || join(env.HOME || '/', '.config') : join(root, 'etc');
}

async function agree(context: Context, steps: readonly InstallStep[], { yes }: PlaceFlags): Promise<void> {
  if (!yes) for (const { action, what } of steps) context.note(`${action} ${what}`);
  await context.confirm('Do this?', yes);
}

function stepsAnswer(rows: readonly InstallStep[]): RowsAnswer<InstallStep> {
  return {
    kind: 'rows',
    rows,
    columns: [
      { title: 'ACTION', cell: ({ action }) => action },
      { title: 'WHAT', cell: ({ what }) => what },
    ],
    name: ({ what }) => what,
  };
}
