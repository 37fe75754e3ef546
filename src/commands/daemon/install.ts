/** `vreg daemon install` and `uninstall`. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { InstallOptions, InstallStep } from '../../../daemon/systemd/install.ts';
import { type Context, defineCommand, type Flag } from '../../command.ts';
import { configFolder } from '../../config/folders.ts';
import { refuseLoose } from '../../config/secret-file.ts';
import { isSingleExecutable } from '../../program.ts';
import { VregError } from '../../protocol/errors.ts';
import type { RowsAnswer } from '../../render.ts';
import { KIND_ARGUMENTS, makeUnits, UNIT_FLAGS, type UnitFlags, whyUnitCannotStart } from './unit.ts';

interface TargetFlags extends UnitFlags {
  root?: string;
  dryRun?: boolean;
  yes?: boolean;
}

const TARGET_FLAGS: readonly Flag[] = [
  { flags: '--root <dir>', about: 'install into the file system of an image mounted at this folder', file: true },
  { flags: '--dry-run', about: 'print the steps, and change nothing' },
  { flags: '-y, --yes', about: 'do not ask for confirmation' },
];

export const install = defineCommand<TargetFlags & { now?: boolean }>({
  name: 'install',
  summary: 'install and enable a systemd unit for vreg',
  description:
    'Writes and enables the units that vreg daemon unit prints. Shows the steps and asks for confirmation unless --yes is given. Running it again replaces units that have changed. System units require root.',
  arguments: KIND_ARGUMENTS,
  flags: [...UNIT_FLAGS, { flags: '--now', about: 'start the unit as well' }, ...TARGET_FLAGS],
  examples: [
    { about: 'show the steps', command: 'vreg daemon install agent --dry-run' },
    { about: 'install and start the registry', command: 'sudo vreg daemon install serve --now --yes' },
    {
      about: 'install and start an agent with a role',
      command: 'sudo vreg daemon install agent --now -- --role lieutenant',
    },
  ],
  exits: [2, 7],
  async run(context, args, flags) {
    const { kind, files } = await makeUnits(context, args, flags);
    checkTarget(context, flags);
    if (flags.now && flags.root !== undefined) {
      throw new VregError('USAGE', '--now cannot start a unit in an image', {
        field: 'now',
        hint: 'omit --now: enabled units start when the image boots',
      });
    }
    if (!flags.user) {
      const reason = await whyUnitCannotStart();
      if (reason)
        throw new VregError('USAGE', `the unit could not start vreg: ${reason}`, {
          hint: isSingleExecutable
            ? 'copy it to /usr/local/bin with mode 0755, or pass --user'
            : 'install Node and vreg for all users (npm install -g, as root), or pass --user',
        });
    }
    checkCredentials(join(configDir(context, flags), 'vreg'), flags);
    const systemd = await import('../../../daemon/systemd/install.ts');
    const options: InstallOptions = { kind, files, now: flags.now === true, ...targetOf(context, flags) };
    const steps = systemd.planInstall(options);
    if (flags.dryRun) return context.print(stepsAnswer(steps));
    await confirmSteps(context, steps, flags);
    systemd.executePlan(steps, options.dir, files);
    await context.print(stepsAnswer(steps));
    const { STARTED_UNIT } = await import('../../../daemon/systemd/units.ts');
    const systemctl = `systemctl${flags.user ? ' --user' : ''}`;
    if (flags.root !== undefined) return;
    context.note(
      flags.now
        ? `see its status: ${systemctl} status ${STARTED_UNIT[kind]}`
        : `start it: ${systemctl} start ${STARTED_UNIT[kind]}`,
    );
  },
});

export const uninstall = defineCommand<TargetFlags>({
  name: 'uninstall',
  summary: 'stop, disable and remove a systemd unit for vreg',
  description:
    "Reverts vreg daemon install. Shows the steps and asks for confirmation unless --yes is given. The unit's state folder remains. Exits with 3 if there is no such unit.",
  arguments: [KIND_ARGUMENTS[0]],
  flags: [UNIT_FLAGS[0]!, ...TARGET_FLAGS],
  examples: [
    { about: 'show the steps', command: 'vreg daemon uninstall agent --dry-run' },
    { about: 'uninstall from a script', command: 'sudo vreg daemon uninstall agent --yes' },
    { about: 'uninstall a user unit', command: 'vreg daemon uninstall heartbeat-timer --user' },
  ],
  exits: [2, 3, 7],
  async run(context, args, flags) {
    const { kind, files } = await makeUnits(context, args, { ...flags, token: false });
    checkTarget(context, flags);
    const systemd = await import('../../../daemon/systemd/install.ts');
    const options = { kind, files, ...targetOf(context, flags) };
    const steps = systemd.planUninstall(options);
    if (steps.length === 0) {
      throw new VregError('NO_LIVE', `there is no ${files[0]!.name} in ${options.dir}`, {
        hint: flags.user ? 'for a system unit, omit --user' : 'for a user unit, pass --user',
      });
    }
    if (!flags.dryRun) {
      await confirmSteps(context, steps, flags);
      systemd.executePlan(steps, options.dir, files);
    }
    await context.print(stepsAnswer(steps));
  },
});

/** @throws VregError USAGE if a credential of the unit is missing, or is a secret that others can read */
function checkCredentials(dir: string, { token, tls }: UnitFlags): void {
  if (token && !existsSync(join(dir, 'token'))) {
    throw new VregError('USAGE', `the unit would not start: ${join(dir, 'token')} does not exist`, {
      field: 'token',
      hint: "write the registry's token into it (mode 0600), or pass --no-token if it has none",
    });
  }
  const missing = tls ? ['tls.crt', 'tls.key'].find((name) => !existsSync(join(dir, name))) : undefined;
  if (missing !== undefined)
    throw new VregError('USAGE', `the unit would not start: ${join(dir, missing)} does not exist`, {
      field: 'tls',
      hint: 'put the certificate and its key (mode 0600) there, or omit --tls',
    });
  // The unit reads copies with another mode, so only this command can check the mode of the files.
  const [tokenFile, keyFile] = [join(dir, 'token'), join(dir, 'tls.key')];
  if (token) refuseLoose(tokenFile, 'token-file', `the token file ${tokenFile}`, {});
  if (tls) refuseLoose(keyFile, 'tls-key', `the private key ${keyFile}`, {});
}

/** @throws VregError USAGE if the flags contradict each other, FORBIDDEN if this user may not change system units */
function checkTarget({ argv }: Context, { user, root, dryRun }: TargetFlags): void {
  if (user && root !== undefined) {
    throw new VregError('USAGE', '--user and --root cannot be combined', {
      field: 'root',
      hint: 'omit --user: only system units can be installed into an image',
    });
  }
  if (user || root !== undefined || dryRun || process.geteuid?.() === 0) return;
  throw new VregError('FORBIDDEN', 'only root may change system units', {
    hint: `sudo vreg ${argv.join(' ')}, or pass --user for a user unit`,
  });
}

function targetOf(context: Context, flags: TargetFlags): Pick<InstallOptions, 'dir' | 'flags' | 'managerRuns'> {
  const dir = join(configDir(context, flags), flags.user ? 'systemd/user' : 'systemd/system');
  const systemctlFlags = flags.user ? ['--user'] : flags.root === undefined ? [] : [`--root=${flags.root}`];
  return { dir, flags: systemctlFlags, managerRuns: flags.root === undefined };
}

/** The configuration folder, `%E` in unit files (systemd.unit(5)). */
function configDir({ env }: Context, { user, root = '/' }: TargetFlags): string {
  return user ? configFolder(env) : join(root, 'etc');
}

async function confirmSteps(context: Context, steps: readonly InstallStep[], { yes }: TargetFlags): Promise<void> {
  if (!yes) for (const { action, what } of steps) context.note(`${action} ${what}`);
  await context.confirm('Continue?', yes);
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
