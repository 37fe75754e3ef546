/**
 * The definition of a command (name, arguments, flags, examples) and its `run` function, which does not depend on commander.
 * The command tree, help, man pages, completions and the reference README are generated from these definitions.
 */
import type { ClientOptions } from './client/connection.ts';
import type { RegistryClient } from './client.ts';
import type { OutputFormat, SettingKey } from './config/settings.ts';
import type { Config } from './config.ts';
import type { Io } from './io.ts';
import type { Answer } from './render.ts';

/** Values that completion looks up: in the registry, the config file or the table of commands. */
export type ValueKind =
  /** Ids of VMs. */
  | 'ids'
  | 'roles-and-ids'
  /** Names of services, of VMs with the role in the first argument. */
  | 'services'
  /** `NAME:PORT` of services. */
  | 'service-ports'
  /** `KEY=VALUE` of metadata. */
  | 'metadata'
  /** Keys of metadata, also as a comma-separated list. */
  | 'metadata-keys'
  /** Terms of a metadata selector. */
  | 'selector'
  /** Names of tokens. */
  | 'tokens'
  /** Names of contexts in the config file. */
  | 'contexts'
  /** Names of commands and, after them, their subcommands. */
  | 'commands'
  /** Values of the setting that the first argument names. */
  | 'setting-value'
  /** Flags after `--` for the command that the unit in the first argument runs. */
  | 'unit-arguments'
  /** `TEMPLATE:DEST:CMD` of `vreg render`. */
  | 'render-job'
  /** A program and its arguments after `--`. */
  | 'program';

export interface Argument {
  name: string;
  about: string;
  optional?: true;
  variadic?: true;
  /** The accepted values, or the kind of values that completion offers. */
  values?: readonly string[] | ValueKind | undefined;
  /** More values that completion offers. Other values are also accepted. */
  offers?: readonly string[] | undefined;
  /** Completion offers files. */
  file?: true | undefined;
}

export interface Flag {
  /** In commander's syntax: `-w, --watch`, `--role <role>`, `--meta <key=value>`. */
  flags: string;
  about: string;
  /** The flag is repeatable; its values form an array. */
  repeat?: true;
  /** The flag is repeatable and accepts comma-separated values; all of them form one array. */
  list?: true;
  /** The accepted values, or the kind of values that completion offers. */
  values?: readonly string[] | ValueKind;
  /** More values that completion offers. Other values are also accepted. */
  offers?: readonly string[];
  /** Completion offers files. */
  file?: true;
}

export interface Example {
  about: string;
  command: string;
}

/** Sections of `vreg --help` in their order, with their titles. */
export const GROUPS = {
  look: 'Look at the fleet',
  change: 'Change the fleet',
  script: 'Use in scripts',
  operate: 'Operate the registry',
  setUp: 'Set up',
} as const;
export type Group = keyof typeof GROUPS;

export interface Command<F = Record<string, never>> {
  name: string;
  aliases?: readonly string[];
  /** Section of `vreg --help`, from the table of commands in `src/commands.ts`. Subcommands have none. */
  group?: Group;
  /** One line in the list of commands. */
  summary: string;
  /** Longer text in the command's own help. */
  description?: string;
  arguments?: readonly Argument[];
  flags?: readonly Flag[];
  /** Settings that this command takes as flags, besides the global ones. */
  settings?: readonly SettingKey[];
  /** A table in the help and the manual page. */
  table?: { title: string; rows: readonly (readonly [name: string, about: string])[] };
  examples: readonly Example[];
  /** Exit codes of this command besides 0, 1 and 5. */
  exits?: readonly number[];
  commands?: readonly Command<never>[];
  /** The command also works with an invalid config file or variable, so that the user can fix it. */
  lenient?: true;
  /** SIGHUP reloads the settings of the command instead of ending it. */
  reloadsOnHangup?: true;
  /** Runs the command; for a command with subcommands, runs when none is given. */
  run?(context: Context, args: string[], flags: F): Promise<void>;
}

export interface Context {
  io: Io;
  env: NodeJS.ProcessEnv;
  config: Config;
  /** Aborted by the signals that end the program (SIGINT, SIGTERM, SIGHUP). */
  signal: AbortSignal;
  /**
   * Calls `to` with every signal that can be forwarded, instead of ending the program, while a child process acts in its place.
   * @returns a function that ends the forwarding
   */
  forwardSignals(to: (signal: NodeJS.Signals) => void): () => void;
  /** Makes SIGHUP call `reload`, at once if one arrived before. For commands with {@link Command.reloadsOnHangup}. */
  onHangup(reload: () => void): void;
  version: string;
  /** The command-line arguments. */
  argv: readonly string[];
  /** Milliseconds since the epoch. */
  now(): number;
  /** Resolves after `ms` milliseconds. Rejects when `signal`, by default {@link signal}, is aborted, with its abort reason. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  /** Client of the configured registry. Created on first use, so that `--help` reads no files and opens no connection. */
  client(): RegistryClient;
  /** A new client with the current settings, or only one of the URLs, or another signal. Earlier clients stay usable. */
  freshClient(options?: Partial<Pick<ClientOptions, 'url' | 'warn' | 'signal'>>): RegistryClient;
  /**
   * A client that {@link signal} does not abort, for a request while the program is ending.
   * @param timeout milliseconds
   */
  lastClient(timeout: number): RegistryClient;
  /** The output format. */
  readonly format: OutputFormat;
  /** Prints the answer to stdout in the output format. */
  print<T>(answer: Answer<T>): Promise<void>;
  /** The text that {@link print} would print. */
  text<T>(answer: Answer<T>): Promise<string>;
  /** Prints a note to stderr. */
  note(text: string): void;
  /** Prints a note to stderr with `--verbose` only. */
  verbose(text: string): void;
  /** True if progress bars may be drawn on stderr. */
  readonly showsProgress: boolean;
  /**
   * Asks for confirmation, unless `yes` is set.
   * @throws VregError REFUSED if the user declines, or if there is no terminal to ask on
   */
  confirm(question: string, yes: boolean | undefined): Promise<void>;
  /** Loads the entire command tree, for help and completion. */
  commands(): Promise<readonly Command<never>[]>;
}

/** How a program loads its commands. */
export interface LoadCommands {
  /** Loads the command with this name or alias; undefined if there is none. */
  load(name: string): Promise<Command<never>> | undefined;
  /** Loads all commands, with the section of the help to which each belongs. */
  loadAll(): Promise<readonly Command<never>[]>;
}

/** Checks the types of a definition, then erases the type of its flags so that all commands have one type. */
export function defineCommand<F = Record<string, never>>(command: Command<F>): Command<never> {
  return command as unknown as Command<never>;
}

/** The hidden command that the completion scripts run: `__complete bash LINE …` or `__complete zsh|fish WORD…`. */
export const COMPLETE_COMMAND = '__complete';

/** Settings that every command takes as flags. */
export const GLOBAL_SETTINGS = [
  'url',
  'token-file',
  'ca-file',
  'cert-file',
  'key-file',
  'output',
  'timeout',
] as const satisfies readonly SettingKey[];
/** Short flags for frequently used settings. */
export const SHORT: Partial<Record<SettingKey, string>> = { url: '-u', output: '-o' };

export const GLOBAL_FLAGS: readonly Flag[] = [
  { flags: '-c, --context <name>', about: 'use this context from the config file [VREG_CONTEXT]', values: 'contexts' },
  { flags: '-q, --quiet', about: 'print only ids; same as -o name' },
  { flags: '--json', about: 'same as -o json' },
  { flags: '--no-headers', about: 'omit the column titles' },
  { flags: '--no-color', about: 'disable colour; same as NO_COLOR=1' },
  { flags: '-v, --verbose', about: 'log each request to stderr' },
];

/** The word that names the command: the first argument that is neither a flag nor the value of a global flag. */
export function commandOf(argv: readonly string[]): string | undefined {
  const takesValue = new Set<string>([
    '-c',
    '--context',
    ...GLOBAL_SETTINGS.flatMap((key) => [`--${key}`, SHORT[key] ?? `--${key}`]),
  ]);
  for (let index = 0; index < argv.length; index++) {
    const word = argv[index]!;
    if (takesValue.has(word)) index++;
    else if (!word.startsWith('-')) return word;
    // `vreg --help` lists all commands.
    else if (word === '-h' || word === '--help') return undefined;
  }
  return undefined;
}
