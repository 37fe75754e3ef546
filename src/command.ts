/**
 * What a command is: a definition (name, arguments, flags, examples) and a `run` that knows no commander. The tree, the
 * help, the completions and the README's test are all made from the definitions.
 */
import type { RegistryClient } from './client.ts';
import type { OutputFormat, SettingKey } from './config/settings.ts';
import type { Config } from './config.ts';
import type { Io } from './io.ts';
import type { Answer } from './render.ts';

/** Values that are asked of the live registry, for completion. */
export type LiveValues = 'ids' | 'names';

export interface Argument {
  name: string;
  about: string;
  optional?: true;
  variadic?: true;
  values?: readonly string[] | LiveValues;
}

export interface Flag {
  /** As commander reads it: `-w, --watch`, `--role <role>`, `--meta <key=value>`. */
  flags: string;
  about: string;
  /** May be given many times; the values are gathered in an array. */
  repeat?: true;
  /** All that is accepted, or what completion offers. */
  values?: readonly string[] | LiveValues;
  /** What completion offers where more than that is accepted. */
  offers?: readonly string[];
  /** Completion offers files. */
  file?: true;
}

export interface Example {
  about: string;
  command: string;
}

export interface Command<F = Record<string, never>> {
  name: string;
  aliases?: readonly string[];
  /** One line for the list of commands. */
  summary: string;
  /** More, for the command's own help. */
  description?: string;
  arguments?: readonly Argument[];
  flags?: readonly Flag[];
  /** Settings that this command takes as flags, besides the global ones. */
  settings?: readonly SettingKey[];
  examples: readonly Example[];
  /** Exit codes that mean something here, besides 0, 1 and 5. */
  exits?: readonly number[];
  commands?: readonly Command<never>[];
  /** Works though the config file or a variable is wrong: what somebody needs to find that out and to correct it. */
  lenient?: true;
  /** What the command does without a subcommand, if it has some. */
  run?(context: Context, args: string[], flags: F): Promise<void>;
}

export interface Context {
  io: Io;
  env: NodeJS.ProcessEnv;
  config: Config;
  /** Aborted by the signals that end the program. */
  signal: AbortSignal;
  /**
   * Signals that ask the program to end go to `to` instead, until the answer is called: while a program that this one has
   * started has the terminal.
   */
  handOver(to: (signal: NodeJS.Signals) => void): () => void;
  /** A SIGHUP calls `reload` from now on, instead of ending the program. */
  onHangup(reload: () => void): void;
  version: string;
  /** The words of the command line. */
  argv: readonly string[];
  /** Milliseconds since the epoch. */
  now(): number;
  /** Resolves after that many milliseconds, or rejects when {@link signal} is aborted. */
  sleep(ms: number): Promise<void>;
  /** The registry of the settings. Made when first asked for, so that `--help` opens nothing. */
  client(): RegistryClient;
  /** As {@link client}, made anew from the settings as they are now, besides those that were made before. */
  freshClient(): RegistryClient;
  /** Another client of the same registry, which {@link signal} does not end; for a last word. @param timeout milliseconds */
  lastClient(timeout: number): RegistryClient;
  /** The format that answers are printed in. */
  readonly format: OutputFormat;
  /** Prints the answer in the format that was asked for. */
  print<T>(answer: Answer<T>): Promise<void>;
  /** The text that {@link print} would print. */
  text<T>(answer: Answer<T>): Promise<string>;
  /** A note for people, on stderr. */
  note(text: string): void;
  /** As {@link note}, but only with `--verbose`. */
  verbose(text: string): void;
  /** True where a line on stderr may come and go while something lasts. */
  readonly showsProgress: boolean;
  /** Asks for a yes. @throws VregError REFUSED on a no, or when there is nobody to ask */
  confirm(question: string, yes: boolean | undefined): Promise<void>;
  /** The command tree: for help and completion. */
  commands(): Promise<readonly Command<never>[]>;
}

/** Keeps a definition's types while it stands among others in the tree. */
export function defineCommand<F = Record<string, never>>(command: Command<F>): Command<never> {
  return command as unknown as Command<never>;
}

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
/** Short names of the few settings that are typed often. */
export const SHORT: Partial<Record<SettingKey, string>> = { url: '-u', output: '-o' };

export const GLOBAL_FLAGS: readonly Flag[] = [
  { flags: '-c, --context <name>', about: 'context of the config file to use [VREG_CONTEXT]' },
  { flags: '-q, --quiet', about: 'print ids only, same as -o name' },
  { flags: '--json', about: 'same as -o json' },
  { flags: '--no-headers', about: 'omit the column titles' },
  { flags: '--no-color', about: 'disable colour, same as NO_COLOR=1' },
  { flags: '-v, --verbose', about: 'log each request to the registry on stderr' },
];
