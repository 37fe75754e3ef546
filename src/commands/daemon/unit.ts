import type { UnitFile, UnitKind } from '../../../daemon/systemd/units.ts';
import { type Context, defineCommand, type Flag } from '../../command.ts';
import { suggestion } from '../../help/suggest.ts';
import { VregError } from '../../protocol/errors.ts';
import { checkWords, wordsBehind } from './unit-flags.ts';

/** As daemon/systemd/units.ts has them, which is loaded when it is needed. */
const KINDS: readonly UnitKind[] = ['serve', 'agent', 'heartbeat-timer', 'wait-online'];

export interface UnitFlags {
  user?: boolean;
  token: boolean;
  tls?: boolean;
}

export const KIND_ARGUMENTS = [
  { name: 'kind', about: 'which unit', values: KINDS },
  { name: 'word', about: 'behind --: flags for the command that the unit runs', optional: true, variadic: true },
] as const;

export const UNIT_FLAGS: readonly Flag[] = [
  { flags: '--user', about: "for the user's own systemd, not the system's; less is closed off there" },
  { flags: '--no-token', about: 'for a registry without a token; else systemd reads it from /etc/vreg/token' },
  { flags: '--tls', about: 'with the certificate /etc/vreg/tls.crt and its key tls.key, which systemd reads' },
];

export const unit = defineCommand<UnitFlags & { outputDir?: string }>({
  name: 'unit',
  summary: 'print a systemd unit for the registry or the agent',
  description:
    'Prints the systemd units of a kind. serve: the registry. agent: what keeps this VM registered. heartbeat-timer: the same by a timer, without a process that stays. wait-online: vreg-online.target, which other units can wait for until this VM is live. vreg daemon install puts them in place.',
  arguments: KIND_ARGUMENTS,
  flags: [...UNIT_FLAGS, { flags: '--output-dir <dir>', about: 'write the files there instead', file: true }],
  examples: [
    { about: 'to read', command: 'vreg daemon unit agent' },
    { about: 'with flags for what it runs', command: 'vreg daemon unit agent -- --role lieutenant' },
    {
      about: 'as files, for an image',
      command: 'vreg daemon unit heartbeat-timer --output-dir image/etc/systemd/system',
    },
  ],
  async run(context, args, flags) {
    const { files } = await makeUnits(context, args, flags);
    const closed = flags.user ? undefined : await whyNoUnitCanStart();
    if (closed) context.note(`${closed}: this unit will not start`);
    if (flags.outputDir !== undefined) {
      const { writeUnits } = await import('../../../daemon/systemd/install.ts');
      writeUnits(flags.outputDir, files);
    }
    const name = ({ name }: UnitFile) => name;
    if (flags.outputDir !== undefined)
      return context.print({ kind: 'value', text: files.map(name).join('\n'), data: files.map(name) });
    // One file stands alone, so that it can be redirected; of several each is named.
    const text = files.map((file) => (files.length === 1 ? file.text : `# ${file.name}\n${file.text}`)).join('\n');
    await context.print({ kind: 'value', text: text.trimEnd(), data: files });
  },
});

/** @throws VregError USAGE naming what is not possible */
export async function makeUnits(
  context: Context,
  args: readonly string[],
  { user = false, token, tls = false }: UnitFlags,
): Promise<{ kind: UnitKind; files: UnitFile[] }> {
  const words = wordsBehind(context);
  const [kind, more] = args.slice(0, args.length - words.length);
  if (!isKind(kind)) {
    throw new VregError('USAGE', `there is no unit "${kind ?? ''}"${suggestion(kind ?? '', KINDS)}`, {
      field: 'kind',
      hint: `one of: ${KINDS.join(', ')}`,
    });
  }
  if (more !== undefined) {
    throw new VregError('USAGE', `what is "${more}"?`, {
      field: 'word',
      hint: `flags for what the unit runs stand behind --: vreg daemon unit ${kind} -- ${more}`,
    });
  }
  const { UNIT_COMMAND, unitsOf } = await import('../../../daemon/systemd/units.ts');
  const { programPaths } = await import('../../../daemon/systemd/install.ts');
  const path = UNIT_COMMAND[kind].filter((_, index, all) =>
    all.slice(0, index + 1).every((word) => !word.startsWith('-')),
  );
  await checkWords(context, path, words);
  return { kind, files: unitsOf(kind, { ...programPaths(), args: words, user, token, tls }) };
}

/** @returns why the hardened units of the system cannot start this program; undefined when they can */
export async function whyNoUnitCanStart(): Promise<string | undefined> {
  const { programPaths, whyUnreadable } = await import('../../../daemon/systemd/install.ts');
  const { node, bin } = programPaths();
  return whyUnreadable(node) ?? whyUnreadable(bin);
}

function isKind(text: string | undefined): text is UnitKind {
  return KINDS.includes(text as UnitKind);
}
