/** The text of `--help`, generated from the command definitions: usage, examples, flags with their variables, exit codes. */
import { type Command, type Flag, GLOBAL_FLAGS, GLOBAL_SETTINGS, GROUPS, SHORT } from '../command.ts';
import { envNameOf, flagOf, type SettingKey, settingOf } from '../config/settings.ts';
import { EXIT_MEANING } from '../protocol/errors.ts';

/** Columns: the traditional width of a terminal. */
const WIDTH = 80;
/** Columns of the left cell: a third of the width. */
const MAX_LEFT = 26;

/** Names the most frequent global flags, so that the help of a command consists of its own flags. */
export const GLOBAL_FLAGS_POINTER = 'Global flags (-u, -c, -o, -q, -v and others): vreg --help';

export function programHelp(commands: readonly Command<never>[]): string {
  const groups = groupsOf(commands).map(({ title, commands }): [string, [string, string][]] => [
    title,
    commands.map(({ name, aliases = [], summary }) => [[name, ...aliases].join(', '), summary]),
  ]);
  const longest = longestOf(groups.flatMap(([, rows]) => rows));
  return sections([
    wrap('Service discovery for fleets of VMs: a registry, its agents, and this CLI.'),
    'Usage: vreg COMMAND [ARGS] [FLAGS]',
    ...groups.map(([title, pairs]) => `${title}:\n${rows(pairs, longest)}`),
    ['Global flags', globalRows()],
    [
      'Examples',
      [
        ['INFRA=$(vreg addr infra) || exit', ''],
        ['vreg ls --role worker', ''],
        ['vreg daemon', ''],
      ],
    ],
    'More: vreg COMMAND --help\n      vreg help environment | exit-codes | formatting | recipes',
  ]);
}

/** The commands of each section of `vreg --help`. */
export function groupsOf(
  commands: readonly Command<never>[],
): { title: string; commands: readonly Command<never>[] }[] {
  return Object.entries(GROUPS).map(([group, title]) => ({
    title,
    commands: commands.filter((command) => command.group === group),
  }));
}

export function commandHelp(command: Command<never>, path: readonly string[]): string {
  const { summary, description, aliases = [], examples, exits = [], commands = [] } = command;
  return sections([
    wrap(description ?? `${summary[0]!.toUpperCase()}${summary.slice(1)}.`),
    `Usage: ${usageOf(command, path)}`,
    aliases.length > 0 ? `Aliases: ${aliases.join(', ')}` : '',
    `Examples:\n${examples.map(({ about, command: line }) => `  # ${about}\n  ${wrapShell(line)}`).join('\n')}`,
    ['Commands', commands.map((child) => [child.name, child.summary])],
    [
      'Arguments',
      (command.arguments ?? []).map(({ name, about, values }) => [name.toUpperCase(), about + choices(values)]),
    ],
    ['Flags', [...(command.settings ?? []).map(settingRow), ...(command.flags ?? []).map(flagRow)]],
    command.table ? [command.table.title, command.table.rows] : '',
    GLOBAL_FLAGS_POINTER,
    ['Exit codes', [0, 1, 5, ...exits].sort((a, b) => a - b).map((code) => [String(code), EXIT_MEANING[code]!])],
  ]);
}

/** `vreg get ID... [FLAGS]` */
export function usageOf({ arguments: args = [], commands, run }: Command<never>, path: readonly string[]): string {
  const words = args.map(({ name, optional, variadic }) => {
    const word = name.toUpperCase() + (variadic ? '...' : '');
    return optional ? `[${word}]` : word;
  });
  return [...path, ...(commands ? [run ? '[COMMAND]' : 'COMMAND'] : []), ...words, '[FLAGS]'].join(' ');
}

/** Flag and meaning of a setting, with the variables that set it. */
export function settingRow(key: SettingKey): [string, string] {
  const { about, sharedVariables = [], default: preset, defaultIs, choices: known, acceptsToo, bare } = settingOf(key);
  const short = SHORT[key] ? `${SHORT[key]}, ` : '';
  const origin = `[${[envNameOf(key), ...sharedVariables].join(', ')}]`;
  const fallback = preset ?? defaultIs;
  return [
    `${short}${flagOf(key)}`,
    `${about}${choices(known && [...known, ...(acceptsToo ? [acceptsToo] : [])])}${bare ? ` (without a value: ${bare})` : ''}${fallback ? ` (default: ${fallback})` : ''} ${origin}`,
  ];
}

/** Flag and meaning. */
export function flagRow({ flags, about, values, repeat, list }: Flag): [string, string] {
  const shown = flags.replace(/<(.+)>/, (_, value: string) => value.toUpperCase());
  // The accepted values go before the default.
  const [, what, preset = ''] = /^(.*?)( \(default: .*\))?$/.exec(about)!;
  return [
    shown,
    `${what}${choices(values)}${preset}${repeat || list ? ` (repeatable${list ? ', or comma-separated' : ''})` : ''}`,
  ];
}

function globalRows(): [string, string][] {
  return [...GLOBAL_SETTINGS.map(settingRow), ...GLOBAL_FLAGS.map(flagRow), ['-h, --help', 'show this help']];
}

function choices(values: readonly string[] | string | undefined): string {
  return Array.isArray(values) ? `: ${values.join(', ')}` : '';
}

type Section = string | [title: string, rows: readonly (readonly [string, string] | string[])[]];

function sections(parts: readonly Section[]): string {
  const texts = parts.map((part) =>
    typeof part === 'string' ? part : part[1].length > 0 ? `${part[0]}:\n${rows(part[1])}` : '',
  );
  return `${texts.filter((text) => text !== '').join('\n\n')}\n`;
}

/** Width of the left column. Longer cells than this maximum get a line of their own. */
function longestOf(pairs: readonly (readonly string[])[]): number {
  return Math.max(...pairs.map(([left]) => left!.length).filter((length) => length <= MAX_LEFT), 0);
}

/** Formats two columns. A left cell that is longer than `longest` gets a line of its own. */
function rows(pairs: readonly (readonly string[])[], longest = longestOf(pairs)): string {
  const indent = ' '.repeat(longest + 4);
  return pairs
    .map(([left, right]) => {
      const text = wrap(right ?? '', WIDTH - indent.length).replaceAll('\n', `\n${indent}`);
      if (text === '') return `  ${left}`;
      return left!.length > longest ? `  ${left}\n${indent}${text}` : `  ${left!.padEnd(longest)}  ${text}`;
    })
    .join('\n');
}

/** Wraps a long command line with backslashes, so that it can be pasted into a shell. */
function wrapShell(line: string): string {
  if (line.length <= WIDTH - 2) return line;
  const lines: string[] = [];
  for (const part of line.split(/ (?=--)/)) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + part.length < WIDTH - 8) lines[lines.length - 1] = `${last} ${part}`;
    else lines.push(part);
  }
  return lines.join(' \\\n    ');
}

/** Breaks text at spaces into lines of at most `width` characters. Keeps the indentation of each paragraph. */
export function wrap(text: string, width = WIDTH): string {
  const lines: string[] = [];
  for (const paragraph of text.split('\n')) {
    let line: string | undefined;
    for (const word of paragraph.split(' ')) {
      if (line !== undefined && line.length + 1 + word.length > width) {
        lines.push(line);
        line = word;
      } else line = line === undefined ? word : `${line} ${word}`;
    }
    lines.push(line!);
  }
  return lines.join('\n');
}
