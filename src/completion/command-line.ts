/** Finds the command, the flags and the expected kind of word of an incomplete command line, from the declared commands. */
import { Option } from 'commander';
import { type Argument, type Command, type Flag, GLOBAL_FLAGS, GLOBAL_SETTINGS, SHORT } from '../command.ts';
import { camelCase, type SettingKey, settingOf } from '../config/settings.ts';

/** The values that completion offers for a flag or an argument. */
export type Offers = Pick<Argument, 'values' | 'offers' | 'file'>;

export interface FlagSpec extends Offers {
  long: string;
  short?: string | undefined;
  /** Commander's name of the flag: `tokenFile`. */
  key: string;
  about: string;
  takesValue: 'never' | 'optional' | 'always';
  isRepeatable: boolean;
}

export interface CommandLine {
  command: Command<never>;
  /** The flags that completion offers: those of the command and the global ones. */
  flags: readonly FlagSpec[];
  /** The flags on the line with their values; a flag without a value has the value `true`. */
  given: ReadonlyMap<FlagSpec, readonly (string | true)[]>;
  /** The arguments before the cursor. */
  args: readonly string[];
  /** The word at the cursor, up to the cursor. */
  current: string;
  /** The role of the word at the cursor. */
  next:
    | { kind: 'flag' }
    /** The value of a flag, after `skip` characters of the word: those of `--role=`. */
    | { kind: 'value'; flag: FlagSpec; skip: number }
    | { kind: 'argument' }
    /** A program after `--`, or one of its arguments. */
    | { kind: 'program' }
    | { kind: 'unknown' };
}

/**
 * @param program the root command
 * @param words the words after `vreg` without quotes, up to the cursor; the last one may be empty
 */
export function readCommandLine(program: Command<never>, words: readonly string[]): CommandLine {
  const current = words.at(-1) ?? '';
  const given = new Map<FlagSpec, (string | true)[]>();
  const args: string[] = [];
  let command = program;
  let flags = flagsOf(program);
  // Commander accepts the flags of `vreg` and `vreg daemon` after `vreg daemon serve`, too.
  let known = flags;
  /** The flag whose value comes next. */
  let open: FlagSpec | undefined;
  let isEnded = false;
  const add = (flag: FlagSpec, value: string | true) => given.set(flag, [...(given.get(flag) ?? []), value]);

  for (const word of words.slice(0, -1)) {
    if (open && (open.takesValue === 'always' || !isFlag(word))) {
      add(open, word);
      open = undefined;
      continue;
    }
    if (open) add(open, true);
    open = undefined;
    if (!isEnded && word === '--') isEnded = true;
    else if (!isEnded && isFlag(word)) {
      for (const { flag, value } of readFlags(word, known)) {
        if (value === undefined && flag.takesValue !== 'never') open = flag;
        else add(flag, value ?? true);
      }
    } else {
      const child = args.length === 0 && !isEnded ? findCommand(command.commands, word) : undefined;
      if (child) {
        command = child;
        flags = flagsOf(child);
        known = [...flags, ...known];
      } else args.push(word);
    }
  }

  const line = { command, flags, given, args, current };
  if (open && (open.takesValue === 'always' || !current.startsWith('-')))
    return { ...line, next: { kind: 'value', flag: open, skip: 0 } };
  if (isEnded && command.arguments?.at(-1)?.values === 'program') return { ...line, next: { kind: 'program' } };
  if (!isEnded && current.startsWith('-')) return { ...line, next: nextFlag(current, known) };
  // The first argument of a command with subcommands must be one of them.
  const isUnknown = command.commands !== undefined && args.length > 0;
  return { ...line, next: { kind: isUnknown ? 'unknown' : 'argument' } };
}

function nextFlag(current: string, known: readonly FlagSpec[]): CommandLine['next'] {
  const equals = current.startsWith('--') ? current.indexOf('=') : -1;
  // `-ojson`
  const short = /^-[^-]./.test(current) ? readFlags(current, known).at(-1) : undefined;
  if (equals < 0 && short?.value === undefined) return { kind: 'flag' };
  const flag = short ? short.flag : known.find(({ long }) => long === current.slice(0, equals));
  if (!flag || flag.takesValue === 'never') return { kind: 'unknown' };
  return { kind: 'value', flag, skip: short ? current.length - short.value!.length : equals + 1 };
}

function isFlag(word: string): boolean {
  return word.startsWith('-') && word !== '-';
}

/** The flags in `--role=worker`, `--role`, `-o`, `-ojson` or `-qo`, with their values if the word contains them. */
function readFlags(word: string, known: readonly FlagSpec[]): { flag: FlagSpec; value?: string }[] {
  if (word.startsWith('--')) {
    const [, name, , value] = /^([^=]+)(=(.*))?$/s.exec(word)!;
    const flag = known.find(({ long }) => long === name);
    if (!flag) return [];
    return [value === undefined ? { flag } : { flag, value }];
  }
  const found: { flag: FlagSpec; value?: string }[] = [];
  for (let at = 1; at < word.length; at++) {
    const flag = known.find(({ short }) => short === `-${word[at]}`);
    if (!flag) return found;
    const rest = word.slice(at + 1);
    if (flag.takesValue !== 'never') return [...found, rest === '' ? { flag } : { flag, value: rest }];
    found.push({ flag });
  }
  return found;
}

/** Finds a command by its name or an alias. */
export function findCommand(among: readonly Command<never>[] = [], word: string): Command<never> | undefined {
  return among.find(({ name, aliases = [] }) => name === word || aliases.includes(word));
}

function flagsOf({ settings = [], flags = [] }: Command<never>): FlagSpec[] {
  return [
    ...[...flags, ...GLOBAL_FLAGS, { flags: '-h, --help', about: 'show help' }].map(flagSpec),
    ...[...settings, ...GLOBAL_SETTINGS].map(settingSpec),
  ];
}

function settingSpec(key: SettingKey): FlagSpec {
  const { about, bare } = settingOf(key);
  return {
    ...offersOfSetting(key),
    long: `--${key}`,
    short: SHORT[key],
    key: camelCase(key),
    about,
    takesValue: bare === undefined ? 'always' : 'optional',
    isRepeatable: false,
  };
}

export function offersOfSetting(key: SettingKey): Offers {
  const { choices, offers, file } = settingOf(key);
  return { values: choices, offers, file };
}

function flagSpec({ flags, about, repeat, list, values, offers, file }: Flag): FlagSpec {
  const option = new Option(flags);
  return {
    values,
    offers,
    file,
    long: option.long!,
    short: option.short,
    key: option.attributeName(),
    about,
    takesValue: option.required ? 'always' : option.optional ? 'optional' : 'never',
    isRepeatable: repeat === true || list === true,
  };
}
