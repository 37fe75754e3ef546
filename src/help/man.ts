/** Manual pages in man(7) format, generated from the command tree: one for vreg itself and one for each command. */
import { type Command, type Flag, GLOBAL_FLAGS, GLOBAL_SETTINGS } from '../command.ts';
import { EXIT_MEANING } from '../protocol/errors.ts';
import { flagRow, groupsOf, settingRow, usageOf } from './help.ts';

export interface ManPage {
  /** `vreg-ls.1` */
  file: string;
  text: string;
}

export function manPages(commands: readonly Command<never>[], version: string): ManPage[] {
  return [
    { file: 'vreg.1', text: page('vreg', version, overview(commands)) },
    ...commands.map((command) => ({
      file: `vreg-${command.name}.1`,
      text: page(`vreg-${command.name}`, version, body(command, ['vreg'])),
    })),
  ];
}

function page(name: string, version: string, text: string): string {
  return `.\\" Generated from the command tree by the build.\n.TH ${quoted(name.toUpperCase())} 1 "" ${quoted(`vreg ${version}`)} "vreg manual"\n${text}`;
}

function overview(commands: readonly Command<never>[]): string {
  return [
    section('NAME', 'vreg \\- service discovery for fleets of VMs\n', true),
    section('SYNOPSIS', 'vreg COMMAND [ARGS] [FLAGS]'),
    section('COMMANDS', groupsOf(commands).map(commandGroup).join(''), true),
    section('GLOBAL FLAGS', rows(globals()), true),
    section('EXIT STATUS', rows(Object.entries(EXIT_MEANING)), true),
  ].join('');
}

function commandGroup({ title, commands }: { title: string; commands: readonly Command<never>[] }): string {
  return `.SS ${quoted(title)}\n${rows(commands.map(({ name, summary }) => [`vreg-${name}(1)`, summary]))}`;
}

function body(command: Command<never>, parents: readonly string[]): string {
  const {
    name,
    summary,
    description = summary,
    settings = [],
    flags = [],
    examples,
    exits = [],
    commands = [],
  } = command;
  const path = [...parents, name];
  const own = [...settings.map(settingRow), ...flags.map(flagRow)];
  return [
    section('NAME', `${path.join('-')} \\- ${roff(summary)}\n`, true),
    section('SYNOPSIS', usageOf(command, path)),
    section('DESCRIPTION', description),
    own.length > 0 ? section('FLAGS', rows(own), true) : '',
    commands.length > 0 ? section('COMMANDS', commands.map((child) => subcommand(child, path)).join(''), true) : '',
    command.table ? section(command.table.title.toUpperCase(), rows(command.table.rows), true) : '',
    section(
      'EXAMPLES',
      examples.map(({ about, command: line }) => `.TP\n${roff(about)}\n.nf\n${roff(line)}\n.fi\n`).join(''),
      true,
    ),
    section(
      'EXIT STATUS',
      rows([0, 1, 5, ...exits].sort((a, b) => a - b).map((code) => [String(code), EXIT_MEANING[code]!])),
      true,
    ),
    section('SEE ALSO', 'vreg(1) for the global flags'),
  ].join('');
}

function subcommand(command: Command<never>, path: readonly string[]): string {
  const { name, summary, description = summary, settings = [], flags = [] } = command;
  const own = [...settings.map(settingRow), ...flags.map(flagRow)];
  const text = `.SS ${quoted(usageOf(command, [...path, name]))}\n${roff(description)}\n`;
  return own.length > 0 ? `${text}${rows(own)}` : text;
}

function globals(): [string, string][] {
  return [...GLOBAL_SETTINGS.map(settingRow), ...GLOBAL_FLAGS.map((flag: Flag) => flagRow(flag))];
}

function section(title: string, text: string, isRoff = false): string {
  return `.SH ${title}\n${isRoff ? text : `${roff(text)}\n`}`;
}

function rows(pairs: readonly (readonly [string, string])[]): string {
  return pairs.map(([left, right]) => `.TP\n.B ${roff(left)}\n${roff(right)}\n`).join('');
}

/** Escapes text for roff: backslashes, hyphens and leading dots. */
function roff(text: string): string {
  return text
    .replaceAll('\\', '\\e')
    .replaceAll('-', '\\-')
    .replace(/^([.'])/gm, '\\&$1');
}

function quoted(text: string): string {
  return `"${roff(text).replaceAll('"', '""')}"`;
}
