/** README.md as data: its sections and code blocks, and those parts of it that are made from the sources. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Command, SHORT } from '../../src/command.ts';
import { envNameOf, flagOf, SETTING_KEYS, settingOf } from '../../src/config/settings.ts';
import { usageOf } from '../../src/help/help.ts';
import { EXIT_MEANING } from '../../src/protocol/errors.ts';

export const ROOT = join(import.meta.dirname, '../..');
export const README = join(ROOT, 'README.md');

export function readReadme(): string {
  return readFileSync(README, 'utf8');
}

/** What stands under a heading, up to the next one of its level or above. */
export function section(readme: string, heading: string): string {
  const [marks] = heading.split(' ', 1);
  const lines = readme.split('\n');
  const from = lines.indexOf(heading);
  if (from < 0) throw new Error(`README.md has no heading "${heading}"`);
  let fenced = false;
  const length = lines.slice(from + 1).findIndex((line) => {
    if (line.startsWith('```')) fenced = !fenced;
    return !fenced && /^#+ /.test(line) && line.indexOf(' ') <= marks!.length;
  });
  return lines.slice(from + 1, length < 0 ? undefined : from + 1 + length).join('\n');
}

/** Headings of one level, without their marks. */
export function headings(text: string, level: number): string[] {
  const prose = text.replace(/^```.*?^```$/gms, '');
  return [...prose.matchAll(new RegExp(`^${'#'.repeat(level)} (.+)$`, 'gm'))].map(([, heading]) => heading!);
}

/** The code blocks of one language, in their order. */
export function blocks(text: string, language: string): string[] {
  return [...text.matchAll(new RegExp(`^\`\`\`${language}\\n(.*?)^\`\`\`$`, 'gms'))].map(([, code]) => code!);
}

/** The first table, as it stands. */
export function table(text: string): string {
  return /(?:^\|.*\n)+/m.exec(`${text}\n`)?.[0].trimEnd() ?? '';
}

export interface Step {
  command: string;
  output: string;
}

/** A `console` block: what is typed after each `$ `, and what is printed then. */
export function steps(block: string): Step[] {
  return block
    .split(/^\$ /m)
    .slice(1)
    .map((text) => {
      const [, command, output] = /^((?:.*\\\n)*.*)\n([\s\S]*)$/.exec(text)!;
      return { command: command!, output: output! };
    });
}

export interface Place {
  command: Command<never>;
  /** `vreg daemon agent` */
  path: readonly string[];
}

/** All commands and their subcommands. */
export function placesOf(commands: readonly Command<never>[], parents: readonly string[] = ['vreg']): Place[] {
  return commands.flatMap((command) => {
    const path = [...parents, command.name];
    return [{ command, path }, ...placesOf(command.commands ?? [], path)];
  });
}

/** How a command's section begins. */
export function headOf({ command, path }: Place): string {
  const { aliases = [], exits = [] } = command;
  const codes = [...new Set([0, 1, 5, ...exits])].sort((a, b) => a - b);
  const also = aliases.length > 0 ? `Aliases: ${aliases.map((alias) => `\`${alias}\``).join(', ')}. ` : '';
  return `\n\`\`\`text\n${usageOf(command, path)}\n\`\`\`\n\n${also}Exit codes: ${codes.join(', ')}.\n`;
}

export function settingsTable(): string {
  const rows = SETTING_KEYS.map((key) => {
    const { vers, about, choices, default: preset, defaultIs } = settingOf(key);
    const flag = `\`${SHORT[key] ? `${SHORT[key]}, ` : ''}${flagOf(key)}\``;
    const variables = [envNameOf(key), vers].filter((name) => name !== undefined).map((name) => `\`${name}\``);
    const fallback = preset === undefined ? (defaultIs ?? 'none') : `\`${preset}\``;
    return [flag, variables.join(', '), fallback, about + (choices ? `: ${choices.join(', ')}` : '')];
  });
  return markdownTable(['Flag', 'Variables', 'Default', 'Meaning'], rows);
}

export function exitTable(): string {
  const rows = Object.entries(EXIT_MEANING).map(([code, meaning]) => [code, meaning]);
  return markdownTable(['Code', 'Meaning'], [...rows, ['128+n', 'ended by signal n']]);
}

function markdownTable(titles: readonly string[], rows: readonly (readonly string[])[]): string {
  return [titles, titles.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}
