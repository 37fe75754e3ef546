/**
 * Generates parts of the READMEs: usage, aliases and exit codes of each command, the list of commands, the settings and the
 * exit codes. Each part is between `<!-- generated: NAME -->` and `<!-- end -->`; `npm run docs` updates it.
 */
import { type Command, SHORT } from '../command.ts';
import { envNameOf, flagOf, SETTING_KEYS, settingOf } from '../config/settings.ts';
import { EXIT_MEANING } from '../protocol/errors.ts';
import { usageOf } from './help.ts';

/** READMEs in the package and in the repository, relative to its root. */
export const READMES = [
  'README.md',
  'daemon/README.md',
  'daemon/http/README.md',
  'daemon/store/etcd/README.md',
  'src/README.md',
  'src/commands/README.md',
  'src/page/README.md',
  'test/README.md',
] as const;

export interface NamedCommand {
  command: Command<never>;
  /** `['vreg', 'daemon', 'agent']` */
  path: readonly string[];
}

/** All commands and their subcommands, parents first. */
export function flatten(commands: readonly Command<never>[], parents: readonly string[] = ['vreg']): NamedCommand[] {
  return commands.flatMap((command) => {
    const path = [...parents, command.name];
    return [{ command, path }, ...flatten(command.commands ?? [], path)];
  });
}

/**
 * Returns the text with up-to-date generated parts.
 * @throws Error if a marker names a part that does not exist, or is not closed
 */
export function fillReadme(text: string, commands: readonly Command<never>[]): string {
  const parts = new Map([
    ['commands', commandTable(commands)],
    ['settings', settingsTable()],
    ['exit codes', exitTable()],
    ...flatten(commands).map((named): [string, string] => [`usage of ${named.path.join(' ')}`, usage(named)]),
  ]);
  // A part without an end marker must not extend to the end marker of the next part.
  return text.replaceAll(
    /^<!-- generated: (.+) -->\n((?:(?!<!-- generated: )[\s\S])*?^<!-- end -->$)?/gm,
    (_, name, body) => {
      const part = parts.get(name);
      if (part === undefined) throw new Error(`there is no generated part "${name}"`);
      if (body === undefined) throw new Error(`the generated part "${name}" needs a line "<!-- end -->"`);
      return `<!-- generated: ${name} -->\n${part}\n<!-- end -->`;
    },
  );
}

function usage({ command, path }: NamedCommand): string {
  const { aliases = [], exits = [] } = command;
  const codes = [...new Set([0, 1, 5, ...exits])].sort((a, b) => a - b);
  const also = aliases.length > 0 ? `Aliases: ${aliases.map((alias) => `\`${alias}\``).join(', ')}. ` : '';
  return `\`\`\`text\n${usageOf(command, path)}\n\`\`\`\n\n${also}Exit codes: ${codes.join(', ')}.`;
}

function commandTable(commands: readonly Command<never>[]): string {
  const rows = commands.map(({ name, summary }) => [`[vreg ${name}](#vreg-${name})`, summary]);
  return markdownTable(['Command', 'Purpose'], rows);
}

function settingsTable(): string {
  const rows = SETTING_KEYS.map((key) => {
    const { sharedVariables = [], about, choices, acceptsToo, default: preset, defaultIs } = settingOf(key);
    const flag = `\`${SHORT[key] ? `${SHORT[key]}, ` : ''}${flagOf(key)}\``;
    const variables = [envNameOf(key), ...sharedVariables].map((name) => `\`${name}\``);
    const fallback = preset === undefined ? (defaultIs ?? 'none') : `\`${preset}\``;
    return [
      flag,
      variables.join(', '),
      fallback,
      about + (choices ? `: ${[...choices, ...(acceptsToo ? [acceptsToo] : [])].join(', ')}` : ''),
    ];
  });
  return markdownTable(['Flag', 'Variables', 'Default', 'Meaning'], rows);
}

function exitTable(): string {
  const rows = Object.entries(EXIT_MEANING).map(([code, meaning]) => [code, meaning]);
  return markdownTable(['Code', 'Meaning'], [...rows, ['128+n', 'ended by signal n']]);
}

function markdownTable(titles: readonly string[], rows: readonly (readonly string[])[]): string {
  return [titles, titles.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}
