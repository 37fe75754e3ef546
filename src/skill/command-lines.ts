/** Finds the `vreg` command lines in shell text, and checks them against the declarations of the commands. */
import { type Command, GLOBAL_FLAGS, GLOBAL_SETTINGS, SHORT } from '../command.ts';

/** A command and the words that name it: `['vreg', 'daemon', 'agent']`. */
export interface UsedCommand {
  command: Command<never>;
  path: readonly string[];
}

/** The names of a flag in commander's syntax: `-o` and `--output` of `-o, --output <format>`. */
const NAMES = /(?<![\w-])--?[a-z][\w-]*/g;

/**
 * The commands that the text uses, in the order of their first use.
 * @throws Error for a command, a subcommand or a flag that is not declared
 */
export function commandsIn(text: string, commands: readonly Command<never>[]): UsedCommand[] {
  const used = new Map<string, UsedCommand>();
  for (const [line] of text.matchAll(/(?<![\w./-])vreg [^\n|)`]*/g)) {
    const found = check(line.split(/\s+/), commands, line);
    used.set(found.path.join(' '), used.get(found.path.join(' ')) ?? found);
  }
  return [...used.values()];
}

function check([, ...words]: readonly string[], commands: readonly Command<never>[], line: string): UsedCommand {
  let among = commands;
  const path = ['vreg'];
  let command: Command<never> | undefined;
  for (const word of words) {
    const next = among.find(({ name }) => name === word);
    if (!next) break;
    command = next;
    path.push(word);
    among = next.commands ?? [];
  }
  if (!command || (command.commands && !command.run)) throw new Error(`no such command: ${line}`);
  const known = flagsOf(command);
  for (const word of words) {
    const [flag] = word.startsWith('-') ? word.split('=') : [];
    if (flag !== undefined && !known.has(flag)) throw new Error(`no such flag ${flag}: ${line}`);
  }
  return { command, path };
}

function flagsOf({ flags = [], settings = [] }: Command<never>): Set<string> {
  const keys = [...settings, ...GLOBAL_SETTINGS];
  return new Set([
    ...[...flags, ...GLOBAL_FLAGS].flatMap((flag) => flag.flags.match(NAMES) ?? []),
    ...keys.flatMap((key) => [`--${key}`, SHORT[key] ?? `--${key}`]),
  ]);
}
