/**
 * The bundle of each command. Scripts and shells start the hot commands so often that their start-up time counts, so they have a
 * small bundle of their own, see entry/hot-main.ts. `vreg mcp` has one because of its library, see entry/mcp-main.ts.
 */
import { COMPLETE_COMMAND, commandOf } from './command.ts';

/** Names and aliases, as the commands declare them. */
export const HOT_COMMANDS = {
  addr: [],
  discover: ['find'],
  get: ['show'],
  health: [],
  heartbeat: ['hb', 'beat'],
  ls: ['list', 'ps'],
  status: [],
  url: [],
  version: [],
} as const;

export type HotCommand = keyof typeof HOT_COMMANDS;

/** The hot command with this name or alias, if any. */
export function hotCommand(word: string): HotCommand | undefined {
  const commands = Object.entries(HOT_COMMANDS) as [HotCommand, readonly string[]][];
  return commands.find(([name, aliases]) => name === word || aliases.includes(word))?.[0];
}

/** True for a hot command, a completion, `vreg --help` and `vreg --version`. */
export function isHot(argv: readonly string[]): boolean {
  const word = commandOf(argv);
  return word === undefined || word === COMPLETE_COMMAND || hotCommand(word) !== undefined;
}

/** The name of the bundle that contains the command. */
export function bundleOf(argv: readonly string[]): 'hot' | 'mcp' | 'vreg' {
  if (isHot(argv)) return 'hot';
  return commandOf(argv) === 'mcp' ? 'mcp' : 'vreg';
}
