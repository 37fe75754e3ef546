import type { UnitFile, UnitKind } from '../../../daemon/systemd/units.ts';
import { type Context, defineCommand, type Flag } from '../../command.ts';
import { suggestion } from '../../help/suggest.ts';
import { isSingleExecutable } from '../../program.ts';
import { VregError } from '../../protocol/errors.ts';
import { argumentsAfterDashes, checkArguments } from './unit-flags.ts';

/** A copy of UNIT_KINDS in daemon/systemd/units.ts, because that module is loaded on demand. */
const KINDS: readonly UnitKind[] = ['serve', 'agent', 'heartbeat-timer', 'wait-online'];

export interface UnitFlags {
  user?: boolean;
  token: boolean;
  tls?: boolean;
}

export const KIND_ARGUMENTS = [
  { name: 'kind', about: 'kind of unit', values: KINDS },
  {
    name: 'args',
    about: 'after --: flags for the command that the unit runs',
    optional: true,
    variadic: true,
    values: 'unit-arguments',
  },
] as const;

export const UNIT_FLAGS: readonly Flag[] = [
  { flags: '--user', about: "create units for the user's systemd instead of the system's (less hardening)" },
  { flags: '--no-token', about: 'do not load a token; by default systemd loads /etc/vreg/token' },
  { flags: '--tls', about: 'load the certificate /etc/vreg/tls.crt and its key /etc/vreg/tls.key' },
];

export const unit = defineCommand<UnitFlags & { outputDir?: string }>({
  name: 'unit',
  summary: 'print a systemd unit for the registry or the agent',
  description: `Prints the systemd units of one kind. To install them, use vreg daemon install. Kinds:
  serve            the registry
  agent            the heartbeat agent for this VM
  heartbeat-timer  heartbeats from a timer, without a resident process
  wait-online      vreg-online.target, which waits until this VM is live`,
  arguments: KIND_ARGUMENTS,
  flags: [...UNIT_FLAGS, { flags: '--output-dir <dir>', about: 'write the unit files to this folder', file: true }],
  examples: [
    { about: 'print the unit for the agent', command: 'vreg daemon unit agent' },
    { about: 'pass flags to the agent', command: 'vreg daemon unit agent -- --role lieutenant' },
    {
      about: 'write the files into an image',
      command: 'vreg daemon unit heartbeat-timer --output-dir image/etc/systemd/system',
    },
  ],
  async run(context, args, flags) {
    const { files } = await makeUnits(context, args, flags);
    const reason = flags.user ? undefined : await whyUnitCannotStart();
    if (reason) context.note(`${reason}: this unit will not start`);
    if (flags.outputDir !== undefined) {
      const { writeUnits } = await import('../../../daemon/systemd/install.ts');
      writeUnits(flags.outputDir, files);
    }
    const name = ({ name }: UnitFile) => name;
    if (flags.outputDir !== undefined)
      return context.print({ kind: 'value', text: files.map(name).join('\n'), data: files.map(name) });
    // A single file is printed without a heading, so that it can be redirected.
    const text = files.map((file) => (files.length === 1 ? file.text : `# ${file.name}\n${file.text}`)).join('\n');
    await context.print({ kind: 'value', text: text.trimEnd(), data: files });
  },
});

/** @throws VregError USAGE naming the invalid kind, flag or argument */
export async function makeUnits(
  context: Context,
  args: readonly string[],
  { user = false, token, tls = false }: UnitFlags,
): Promise<{ kind: UnitKind; files: UnitFile[] }> {
  const unitArgs = argumentsAfterDashes(context);
  const [kind, extra] = args.slice(0, args.length - unitArgs.length);
  if (!isKind(kind)) {
    throw new VregError('USAGE', `unknown unit kind "${kind ?? ''}"${suggestion(kind ?? '', KINDS)}`, {
      field: 'kind',
      hint: `one of: ${KINDS.join(', ')}`,
    });
  }
  if (extra !== undefined) {
    throw new VregError('USAGE', `unexpected argument "${extra}"`, {
      field: 'args',
      hint: `put -- before flags for the command that the unit runs: vreg daemon unit ${kind} -- ${extra}`,
    });
  }
  const { UNIT_COMMAND, unitsOf } = await import('../../../daemon/systemd/units.ts');
  const { unitProgram } = await import('../../../daemon/systemd/install.ts');
  const path = UNIT_COMMAND[kind].filter((_, index, all) =>
    all.slice(0, index + 1).every((part) => !part.startsWith('-')),
  );
  await checkArguments(context, path, unitArgs);
  return {
    kind,
    files: unitsOf(kind, { program: unitProgram(), unpacks: isSingleExecutable, args: unitArgs, user, token, tls }),
  };
}

/** @returns the reason why system units cannot start this program; undefined if they can */
export async function whyUnitCannotStart(): Promise<string | undefined> {
  const { unitProgram, whyUnreadable } = await import('../../../daemon/systemd/install.ts');
  return unitProgram()
    .map(whyUnreadable)
    .find((reason) => reason !== undefined);
}

function isKind(text: string | undefined): text is UnitKind {
  return KINDS.includes(text as UnitKind);
}
