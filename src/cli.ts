/** argv to exit code: builds the commander tree, runs one command, and is the one place that prints errors. */
import { Command as Commander, CommanderError, Option } from 'commander';
import { ChildEnded } from './child.ts';
import { RegistryClient } from './client.ts';
import { type Command, type Context, type Flag, GLOBAL_FLAGS, GLOBAL_SETTINGS, SHORT } from './command.ts';
import { Config } from './config.ts';
import { type Io, printable } from './io.ts';
import { EXIT, VregError } from './protocol/errors.ts';
import { type OutputFormat, type SettingKey, settingOf } from './settings.ts';
import { suggestion } from './suggest.ts';
import { loadAllCommands, loadCommand } from './tree.ts';

export interface Deps {
  io: Io;
  env: NodeJS.ProcessEnv;
  version: string;
  now(): number;
  /** Aborted with an {@link Interrupted} when a signal asks the program to end. */
  signal: AbortSignal;
}

/** The reason of an abort by a signal; the program ends with 128 + its number. */
export class Interrupted extends Error {
  readonly exit: number;

  constructor(signal: 'SIGINT' | 'SIGTERM' | 'SIGHUP') {
    super(`ended by ${signal}`);
    this.exit = 128 + { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 }[signal];
  }
}

interface GlobalFlags {
  output?: string;
  quiet?: boolean;
  json?: boolean;
  headers: boolean;
  color: boolean;
  verbose?: boolean;
}

/** Runs one command line. Never throws, never exits: the exit code is its answer. */
export async function main(argv: readonly string[], deps: Deps): Promise<number> {
  const config = new Config(deps.env);
  const session = new Session(argv, deps, config);
  try {
    const named = commandOf(argv);
    const only = named === undefined ? undefined : await loadCommand(named);
    const commands = only ? [only] : await loadAllCommands();
    const program = buildProgram(commands, session, await loadHelp(argv, only));
    await program.parseAsync([...argv], { from: 'user' });
    return EXIT.ok;
  } catch (error) {
    return report(error, session);
  } finally {
    session.close();
  }
}

/** What one run holds: made piece by piece, when a command asks for it. */
class Session implements Context {
  readonly config: Config;
  readonly #deps: Deps;
  #flags: GlobalFlags = { headers: true, color: true };
  #io: Io | undefined;
  #client: RegistryClient | undefined;

  readonly argv: readonly string[];

  constructor(argv: readonly string[], deps: Deps, config: Config) {
    this.argv = argv;
    this.#deps = deps;
    this.config = config;
  }

  setFlags(flags: GlobalFlags & Record<string, unknown>): void {
    this.#flags = flags;
    this.config.setFlags(flags);
  }

  get io(): Io {
    this.#io ??= this.#flags.color ? this.#deps.io : { ...this.#deps.io, color: false, errColor: false };
    return this.#io;
  }

  get env(): NodeJS.ProcessEnv {
    return this.#deps.env;
  }

  get signal(): AbortSignal {
    return this.#deps.signal;
  }

  get version(): string {
    return this.#deps.version;
  }

  get format(): OutputFormat {
    if (this.#flags.quiet) return 'name';
    if (this.#flags.json) return 'json';
    return (this.config.get('output') as OutputFormat | undefined) ?? (this.io.tty ? 'table' : 'tsv');
  }

  now(): number {
    return this.#deps.now();
  }

  sleep(ms: number): Promise<void> {
    const { signal } = this.#deps;
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason);
      const abort = () => {
        clearTimeout(timer);
        reject(signal.reason);
      };
      const timer = setTimeout(() => {
        signal.removeEventListener('abort', abort);
        resolve();
      }, ms);
      signal.addEventListener('abort', abort, { once: true });
    });
  }

  client(): RegistryClient {
    if (!this.#client) {
      const { value: url, origin } = this.config.find('url')!;
      const trace = (line: string) => this.note(line);
      this.#client = new RegistryClient({
        url: url.replace(/\/+$/, ''),
        origin,
        token: this.config.token()?.value,
        ca: this.config.certificates(),
        timeout: this.config.duration('timeout'),
        signal: this.#deps.signal,
        ...(this.#flags.verbose ? { trace } : {}),
      });
    }
    return this.#client;
  }

  async print(answer: Parameters<Context['print']>[0]): Promise<void> {
    const { print } = await import('./render.ts');
    await print(this.io, answer, { format: this.format, headers: this.#flags.headers, now: this.now() });
  }

  note(text: string): void {
    this.io.err(`vreg: ${text}\n`);
  }

  verbose(text: string): void {
    if (this.#flags.verbose) this.note(text);
  }

  get showsProgress(): boolean {
    return this.io.errTty && !this.#flags.verbose;
  }

  async confirm(question: string, yes: boolean | undefined): Promise<void> {
    if (yes) return;
    if (!this.io.canAsk) {
      throw new VregError('REFUSED', `${question} There is nobody to ask: stdin is not a terminal`, {
        hint: 'say yes beforehand: --yes',
      });
    }
    const answer = await this.io.ask(`${question} [y/N] `);
    if (!/^y(es)?$/i.test(answer.trim())) throw new VregError('REFUSED', 'not done');
  }

  commands(): Promise<readonly Command<never>[]> {
    return loadAllCommands();
  }

  close(): void {
    this.#client?.close();
  }
}

/** The first word that is neither a flag nor a global flag's value. */
function commandOf(argv: readonly string[]): string | undefined {
  const takesValue = new Set<string>([
    '-c',
    '--context',
    ...GLOBAL_SETTINGS.flatMap((key) => [`--${key}`, SHORT[key] ?? `--${key}`]),
  ]);
  for (let index = 0; index < argv.length; index++) {
    const word = argv[index]!;
    if (takesValue.has(word)) index++;
    else if (!word.startsWith('-')) return word;
  }
  return undefined;
}

type Help = typeof import('./help.ts');

/** The help's text is loaded when it may be shown. */
async function loadHelp(argv: readonly string[], only: Command<never> | undefined): Promise<Help | undefined> {
  const may = !only || only.commands !== undefined || argv.includes('--help') || argv.includes('-h');
  return may ? import('./help.ts') : undefined;
}

function buildProgram(commands: readonly Command<never>[], session: Session, help?: Help): Commander {
  const program = new Commander('vreg');
  program
    .exitOverride()
    .configureOutput({ writeOut: (text) => session.io.out(text), writeErr: () => {} })
    .version(`vreg ${session.version}`, '-V, --version', 'print the version')
    .helpCommand(false)
    .addHelpText('beforeAll', '');
  for (const key of GLOBAL_SETTINGS) program.addOption(settingOption(key));
  for (const flag of GLOBAL_FLAGS) program.addOption(new Option(flag.flags, flag.about));
  for (const command of commands) program.addCommand(buildCommand(command, session, ['vreg'], help));
  if (help) program.helpInformation = () => help.programHelp(commands);
  program.action((_flags, self: Commander) => {
    const [unknown] = self.args;
    if (unknown !== undefined) throw unknownCommand(unknown, commands);
    self.outputHelp();
  });
  program.allowExcessArguments();
  return program;
}

function buildCommand(command: Command<never>, session: Session, parents: readonly string[], help?: Help): Commander {
  const self = new Commander(command.name).exitOverride().helpCommand(false);
  self.configureOutput({ writeOut: (text) => session.io.out(text), writeErr: () => {} });
  self.aliases([...(command.aliases ?? [])]);
  for (const { name, optional, variadic } of command.arguments ?? []) {
    const word = variadic ? `${name}...` : name;
    self.argument(optional ? `[${word}]` : `<${word}>`);
  }
  for (const key of command.settings ?? []) self.addOption(settingOption(key));
  for (const flag of command.flags ?? []) self.addOption(flagOption(flag));
  const path = [...parents, command.name];
  for (const child of command.commands ?? []) self.addCommand(buildCommand(child, session, path, help));
  if (help) self.helpInformation = () => help.commandHelp(command, path);
  const { run } = command;
  if (command.commands) self.allowExcessArguments();
  self.action(async () => {
    const flags = self.optsWithGlobals();
    session.setFlags(flags as GlobalFlags & Record<string, unknown>);
    for (const flag of command.flags ?? []) checkValues(flag, flags);
    if (command.commands && self.args[0] !== undefined) throw unknownCommand(self.args[0], command.commands, path);
    if (!run) return self.outputHelp();
    await run(session, self.args, flags as never);
  });
  return self;
}

function settingOption(key: SettingKey): Option {
  const { value, about } = settingOf(key);
  return new Option(`${SHORT[key] ? `${SHORT[key]}, ` : ''}--${key} <${value}>`, about);
}

function flagOption({ flags, about, repeat }: Flag): Option {
  const option = new Option(flags, about);
  return repeat ? option.argParser((value, before: string[] = []) => [...before, value]) : option;
}

function checkValues({ flags, values }: Flag, given: Record<string, unknown>): void {
  if (!Array.isArray(values)) return;
  const option = new Option(flags);
  const value = given[option.attributeName()];
  if (typeof value === 'string' && !values.includes(value)) {
    const known = values as readonly string[];
    throw new VregError('USAGE', `${option.long}: "${value}" is not possible${suggestion(value, known)}`, {
      field: option.long!.slice(2),
      hint: `one of: ${known.join(', ')}`,
    });
  }
}

function unknownCommand(
  word: string,
  commands: readonly Command<never>[],
  path: readonly string[] = ['vreg'],
): VregError {
  const names = commands.flatMap(({ name, aliases = [] }) => [name, ...aliases]);
  return new VregError('USAGE', `unknown command: ${path.slice(1).concat(word).join(' ')}${suggestion(word, names)}`, {
    hint: `see what there is: ${path.join(' ')} --help`,
  });
}

function report(thrown: unknown, session: Session): number {
  if (thrown instanceof Interrupted || thrown instanceof ChildEnded) return thrown.exit;
  const error = thrown instanceof CommanderError ? fromCommander(thrown) : thrown;
  if (error === undefined) return EXIT.ok;
  const known = error instanceof VregError ? error : undefined;
  const exit = known?.exit ?? EXIT.error;
  const message = known?.message ?? `unexpected error: ${(error as Error).stack ?? String(error)}`;
  const hint = known ? known.hint : 'this is a bug in vreg; please report it with the line above';
  const { io } = session;
  if (wantsJson(session)) {
    const body = { code: known?.code ?? 'INTERNAL', exit, message, ...(hint === undefined ? {} : { hint }) };
    io.err(`${JSON.stringify({ error: body })}\n`);
  } else {
    io.err(`vreg: ${known ? printable(message) : message}\n${hint === undefined ? '' : `hint: ${printable(hint)}\n`}`);
  }
  return exit;
}

function wantsJson(session: Session): boolean {
  try {
    return session.format === 'json';
  } catch {
    return false;
  }
}

/** @returns undefined for help and version, which are no errors */
function fromCommander(error: CommanderError): VregError | undefined {
  if (error.exitCode === 0 || error.code === 'commander.help') return undefined;
  const [message, more] = error.message.replace(/^error: /, '').split('\n', 2);
  const meant = more === undefined ? '' : `: ${more.replace(/^\((.*)\)$/, '$1').replace(/^Did/, 'did')}`;
  return new VregError('USAGE', `${message}${meant}`, { hint: 'see the usage with --help', cause: error });
}
