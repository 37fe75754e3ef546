/**
 * Checks the arguments after `--`, which become part of a unit's command line. Otherwise an invalid one would only show when
 * the unit starts.
 */

import type { Command, Context } from '../../command.ts';
import { GLOBAL_SETTINGS, SHORT } from '../../command.ts';
import { checkSetting, isSettingKey, settingOf } from '../../config/settings.ts';
import { suggestion } from '../../help/suggest.ts';
import { VregError } from '../../protocol/errors.ts';
import { maskName, printable } from '../../protocol/redact.ts';

/** @returns the arguments after `--` */
export function argumentsAfterDashes({ argv }: Context): string[] {
  const at = argv.indexOf('--');
  return at < 0 ? [] : argv.slice(at + 1);
}

/**
 * @param path the command that the unit runs, for example `daemon`, `agent`
 * @throws VregError USAGE if that command would reject an argument, or a unit cannot contain it
 */
export async function checkArguments(
  context: Context,
  path: readonly string[],
  args: readonly string[],
): Promise<void> {
  const command = await findCommand(context, path);
  const flags = flagsOf(command);
  // A line break would begin a new line in the unit.
  const broken = args.find((argument) => printable(argument) !== argument);
  if (broken !== undefined)
    throw refused(`"${maskName(broken)}" contains a control character, which is not allowed in a unit`);
  const notAFlag = (text: string) => `"${maskName(text)}" is not a flag of vreg ${path.join(' ')}`;
  for (let index = 0; index < args.length; index++) {
    const argument = args[index]!;
    if (!argument.startsWith('-')) {
      if (!command.arguments?.[0]?.variadic) throw refused(notAFlag(argument));
      continue;
    }
    const [flag = '', ...rest] = argument.split('=');
    const takesValue = flags.get(flag);
    if (takesValue === undefined) throw refused(`${notAFlag(flag)}${suggestion(flag, [...flags.keys()])}`);
    if (flag === '--detach') throw refused('a unit cannot use --detach: systemd runs it in the background');
    if (!takesValue || (takesValue === 'maybe' && rest.length === 0 && !isValue(args[index + 1]))) continue;
    const value = rest.length > 0 ? rest.join('=') : args[++index];
    if (value === undefined) throw refused(`"${flag}" needs a value`);
    const key = GLOBAL_SETTINGS.find((setting) => SHORT[setting] === flag) ?? flag.slice(2);
    if (isSettingKey(key)) checkSetting(key, value);
  }
}

async function findCommand(context: Context, path: readonly string[]): Promise<Command<never>> {
  let among: readonly Command<never>[] = await context.commands();
  let found: Command<never> | undefined;
  for (const name of path) {
    found = among.find((command) => command.name === name);
    among = found?.commands ?? [];
  }
  return found!;
}

/** Maps each flag of a command, long or short, to whether it takes a value; `maybe` if the value is optional. */
function flagsOf({ settings = [], flags = [] }: Command<never>): Map<string, boolean | 'maybe'> {
  const found = new Map<string, boolean | 'maybe'>();
  for (const key of [...GLOBAL_SETTINGS, ...settings]) {
    const { value, bare } = settingOf(key);
    for (const flag of [`--${key}`, SHORT[key]])
      if (flag) found.set(flag, bare === undefined ? value !== undefined : 'maybe');
  }
  for (const { flags: syntax } of [...flags, { flags: '-c, --context <name>' }, { flags: '-v, --verbose' }]) {
    for (const flag of syntax.match(/(?<![\w-])--?[\w-]+/g) ?? []) found.set(flag, syntax.includes('<'));
  }
  return found;
}

/** True if the argument is the value of the preceding flag, whose value is optional. */
function isValue(argument: string | undefined): boolean {
  return argument !== undefined && !argument.startsWith('-');
}

function refused(message: string): VregError {
  return new VregError('USAGE', message, {
    field: 'args',
    hint: 'put flags for the command that the unit runs after --, for example: vreg daemon unit agent -- --role worker',
  });
}
