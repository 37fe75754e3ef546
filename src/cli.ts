/** Builds the commander tree, runs one command, prints its error and returns the exit code. No other module prints errors. */

import { Command as Commander, CommanderError, Option } from 'commander';
import {
  COMPLETE_COMMAND,
  type Command,
  commandOf,
  type Flag,
  GLOBAL_FLAGS,
  GLOBAL_SETTINGS,
  SHORT,
} from './command.ts';
import { type SettingKey, settingOf } from './config/settings.ts';
import { splitList } from './config/values.ts';
import { Config } from './config.ts';
import { ChildEnded, Interrupted } from './exit.ts';
import { nextStep, suggestion, unknownCommand, usageError } from './help/suggest.ts';
import { EXIT, VregError } from './protocol/errors.ts';
import { escapeControls, maskTokens, maskUrlUsers, printable } from './protocol/redact.ts';
import { ENROL_HINT } from './protocol/token.ts';
import { type Deps, type GlobalFlags, Session } from './session.ts';

/** Runs one command line. Never throws and never exits the process. @returns the exit code */
export async function main(argv: readonly string[], deps: Deps): Promise<number> {
  const config = new Config(deps.env);
  const session = new Session(argv, deps, config);
  try {
    if (argv[0] === COMPLETE_COMMAND) {
      const { completionReply } = await import('./completion.ts');
      session.io.out(await completionReply(argv.slice(1), session, deps.elapsed?.() ?? 0));
      return EXIT.ok;
    }
    const named = commandOf(argv);
    const only = named === undefined ? undefined : await deps.commands.load(named);
    const commands = only ? [only] : await deps.commands.loadAll();
    const program = buildProgram(only, commands, session, await loadHelp(argv, only));
    await program.parseAsync([...argv], { from: 'user' });
    return EXIT.ok;
  } catch (error) {
    return await report(error, session);
  } finally {
    session.close();
  }
}

type Help = typeof import('./help/help.ts');

/** Loads the help module only if help may be printed. */
async function loadHelp(argv: readonly string[], only: Command<never> | undefined): Promise<Help | undefined> {
  const may = !only || only.commands !== undefined || ownWords(argv).some((word) => word === '--help' || word === '-h');
  return may ? import('./help/help.ts') : undefined;
}

/**
 * @param only the command that the command line names; the others are not built, because that takes longer than to run one
 * @param commands for help and for suggestions
 */
function buildProgram(
  only: Command<never> | undefined,
  commands: readonly Command<never>[],
  session: Session,
  help?: Help,
): Commander {
  const program = new Commander('vreg');
  program
    .exitOverride((error) => {
      throw fromCommander(error, ['vreg'], program);
    })
    .configureOutput({ writeOut: (text) => session.io.out(text), writeErr: () => {} })
    .version(`vreg ${session.version}`, '-V, --version', 'print the version')
    .helpCommand(false)
    .addHelpText('beforeAll', '');
  for (const key of GLOBAL_SETTINGS) program.addOption(settingOption(key));
  for (const flag of GLOBAL_FLAGS) program.addOption(new Option(flag.flags, flag.about));
  if (only) program.addCommand(buildCommand(only, session, ['vreg'], help));
  if (help)
    program.helpInformation = () => {
      rejectUnknownCommand(program, commands, ['vreg']);
      return help.programHelp(commands);
    };
  program.action((_flags, self: Commander) => {
    rejectUnknownCommand(self, commands, ['vreg']);
    self.outputHelp();
  });
  program.allowExcessArguments();
  return program;
}

function buildCommand(command: Command<never>, session: Session, parents: readonly string[], help?: Help): Commander {
  const path = [...parents, command.name];
  const self = new Commander(command.name).helpCommand(false).exitOverride((error) => {
    throw fromCommander(error, path, self);
  });
  self.configureOutput({ writeOut: (text) => session.io.out(text), writeErr: () => {} });
  self.aliases([...(command.aliases ?? [])]);
  for (const { name, optional, variadic } of command.arguments ?? []) {
    const word = variadic ? `${name}...` : name;
    self.argument(optional ? `[${word}]` : `<${word}>`);
  }
  for (const key of command.settings ?? []) self.addOption(settingOption(key));
  for (const flag of command.flags ?? []) self.addOption(flagOption(flag));
  for (const child of command.commands ?? []) self.addCommand(buildCommand(child, session, path, help));
  if (help)
    self.helpInformation = () => {
      if (command.commands) rejectUnknownCommand(self, command.commands, path);
      return help.commandHelp(command, path);
    };
  const { run } = command;
  if (command.commands) self.allowExcessArguments();
  self.action(async () => {
    const flags = self.optsWithGlobals();
    session.setFlags(flags as GlobalFlags & Record<string, unknown>);
    session.lenient = command.lenient === true;
    if (!command.reloadsOnHangup) session.endOnHangup();
    for (const flag of command.flags ?? []) checkValues(flag, flags);
    if (command.commands) rejectUnknownCommand(self, command.commands, path);
    if (!run) return self.outputHelp();
    // Reject an invalid format before the command does anything.
    await session.checkFormat();
    await run(session, self.args, flags as never);
  });
  return self;
}

/** @throws VregError USAGE if the first argument, before or after `--help`, is not the name of a subcommand */
function rejectUnknownCommand({ args }: Commander, commands: readonly Command<never>[], path: readonly string[]): void {
  const word = args.find((each) => each !== '--help' && each !== '-h');
  const names = namesOf(commands);
  if (word !== undefined && !word.startsWith('-') && !names.includes(word)) throw unknownCommand(word, names, path);
}

function namesOf(commands: readonly Command<never>[]): string[] {
  return commands.flatMap(({ name, aliases = [] }) => [name, ...aliases]);
}

function settingOption(key: SettingKey): Option {
  const { value, about, bare } = settingOf(key);
  const words = `${SHORT[key] ? `${SHORT[key]}, ` : ''}--${key} `;
  return bare === undefined
    ? new Option(`${words}<${value}>`, about)
    : new Option(`${words}[${value}]`, about).preset(bare);
}

function flagOption({ flags, about, repeat, list }: Flag): Option {
  const option = new Option(flags, about);
  if (list) return option.argParser((text, before: string[] = []) => [...before, ...splitList(text)]);
  return repeat ? option.argParser((value, before: string[] = []) => [...before, value]) : option;
}

function checkValues({ flags, values, list }: Flag, given: Record<string, unknown>): void {
  const option = new Option(flags);
  const value = given[option.attributeName()];
  if (list && Array.isArray(value) && value.includes('')) {
    throw new VregError('USAGE', `empty value in ${option.long}`, {
      field: option.long!.slice(2),
      hint: 'separate the values by single commas',
    });
  }
  if (!Array.isArray(values)) return;
  const known = values as readonly string[];
  for (const each of [value ?? []].flat() as string[]) {
    if (known.includes(each)) continue;
    throw new VregError('USAGE', `invalid ${option.long} "${each}"${suggestion(each, known)}`, {
      field: option.long!.slice(2),
      hint: `one of: ${known.join(', ')}`,
    });
  }
}

async function report(thrown: unknown, session: Session): Promise<number> {
  if (thrown instanceof Interrupted || thrown instanceof ChildEnded) return thrown.exit;
  if (thrown instanceof CommanderError) return EXIT.ok;
  const known = thrown instanceof VregError ? thrown : undefined;
  const exit = known?.exit ?? EXIT.error;
  const message = known
    ? maskUrlUsers(known.message)
    : `unexpected error: ${(thrown as Error).stack ?? String(thrown)}`;
  const hint = known ? await hintFor(known, session) : 'this is a bug in vreg; please report it with the line above';
  // JSON does not escape the characters of a token, so masking the encoded text is enough.
  const print = (text: string) => session.io.err(`${maskTokens(text)}\n`);
  if (wantsJson(session)) {
    const body = {
      code: known?.code ?? 'INTERNAL',
      exit,
      message,
      ...(hint === undefined ? {} : { hint }),
      ...(known?.failures ? { failures: known.failures } : {}),
    };
    print(escapeControls(JSON.stringify({ error: body })));
  } else {
    print(`vreg: ${known ? printable(message) : message}${hint === undefined ? '' : `\nhint: ${printable(hint)}`}`);
  }
  return exit;
}

/** The next step; for an enrol token, names the file with the token that this VM has received. */
async function hintFor(error: VregError, { config }: Session): Promise<string | undefined> {
  if (error.hint !== ENROL_HINT) return nextStep(error);
  const { ownTokenFile } = await import('./fleet/self.ts');
  const file = ownTokenFile(config);
  return file === undefined ? error.hint : `${error.hint}: --token-file ${file}`;
}

function wantsJson(session: Session): boolean {
  // If the command line could not be parsed, the session has no flags yet.
  if (/(^| )(--json|-o ?json|--output[ =]json)( |$)/.test(ownWords(session.argv).join(' '))) return true;
  try {
    return session.format === 'json';
  } catch {
    return false;
  }
}

/** Arguments after `--` belong to another program. */
function ownWords(argv: readonly string[]): readonly string[] {
  const at = argv.indexOf('--');
  return at < 0 ? argv : argv.slice(0, at);
}

/** Converts commander's errors, except the pseudo-errors with which it ends `--help` and `--version`. */
function fromCommander(error: CommanderError, path: readonly string[], command: Commander): Error {
  return error.exitCode === 0 || error.code === 'commander.help' ? error : usageError(error, path, longFlags(command));
}

/** The long flags of a command, including the global ones. */
function longFlags({ options, parent }: Commander): string[] {
  return [...options.flatMap(({ long }) => long ?? []), ...(parent ? longFlags(parent) : ['--help'])];
}
