/** The words behind `--` that a unit's command line gets, checked now instead of at the unit's start. */

import type { Command, Context } from '../../command.ts';
import { GLOBAL_SETTINGS, SHORT } from '../../command.ts';
import { checkSetting, isSettingKey, settingOf } from '../../config/settings.ts';
import { suggestion } from '../../help/suggest.ts';
import { VregError } from '../../protocol/errors.ts';
import { maskName, printable } from '../../protocol/redact.ts';

/** @returns what is behind `--` */
export function wordsBehind({ argv }: Context): string[] {
  const at = argv.indexOf('--');
  return at < 0 ? [] : argv.slice(at + 1);
}

/**
 * @param path words of the command that the unit runs
 * @throws VregError USAGE for what that command would refuse, or a unit cannot do
 */
export async function checkWords(context: Context, path: readonly string[], words: readonly string[]): Promise<void> {
  const command = await find(context, path);
  const flags = flagsOf(command);
  // A line break would begin another line of the unit.
  const broken = words.find((word) => printable(word) !== word);
  if (broken !== undefined) throw wrong(broken, 'has a control character, which no unit can hold');
  for (let index = 0; index < words.length; index++) {
    const word = words[index]!;
    if (!word.startsWith('-')) {
      if (!command.arguments?.[0]?.variadic) throw wrong(word, `is no flag of vreg ${path.join(' ')}`);
      continue;
    }
    const [flag = '', ...rest] = word.split('=');
    const takesValue = flags.get(flag);
    if (takesValue === undefined)
      throw wrong(flag, `is no flag of vreg ${path.join(' ')}${suggestion(flag, [...flags.keys()])}`);
    if (flag === '--detach') throw wrong(word, 'cannot be in a unit: systemd is who runs it in the background');
    if (!takesValue || (takesValue === 'maybe' && rest.length === 0 && !isValue(words[index + 1]))) continue;
    const value = rest.length > 0 ? rest.join('=') : words[++index];
    if (value === undefined) throw wrong(word, 'lacks its value');
    const key = GLOBAL_SETTINGS.find((setting) => SHORT[setting] === flag) ?? flag.slice(2);
    if (isSettingKey(key)) checkSetting(key, value);
  }
}

async function find(context: Context, path: readonly string[]): Promise<Command<never>> {
  let among: readonly Command<never>[] = await context.commands();
  let found: Command<never> | undefined;
  for (const name of path) {
    found = among.find((command) => command.name === name);
    among = found?.commands ?? [];
  }
  return found!;
}

/** Its flags, long and short, and whether each takes a value. */
function flagsOf({ settings = [], flags = [] }: Command<never>): Map<string, boolean | 'maybe'> {
  const found = new Map<string, boolean | 'maybe'>();
  for (const key of [...GLOBAL_SETTINGS, ...settings]) {
    const { value, bare } = settingOf(key);
    for (const flag of [`--${key}`, SHORT[key]])
      if (flag) found.set(flag, bare === undefined ? value !== undefined : 'maybe');
  }
  for (const { flags: words } of [...flags, { flags: '-c, --context <name>' }, { flags: '-v, --verbose' }]) {
    for (const flag of words.match(/(?<![\w-])--?[\w-]+/g) ?? []) found.set(flag, words.includes('<'));
  }
  return found;
}

/** True of a word that a flag takes which may stand alone. */
function isValue(word: string | undefined): boolean {
  return word !== undefined && !word.startsWith('-');
}

function wrong(word: string, why: string): VregError {
  return new VregError('USAGE', `"${maskName(word)}" ${why}`, {
    field: 'word',
    hint: 'behind -- stand flags for the command that the unit runs, for example: vreg daemon unit agent -- --role worker',
  });
}
