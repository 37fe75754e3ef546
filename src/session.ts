/**
 * One run of the program. Implements the {@link Context} of commands. Creates the client and loads the renderer on first use.
 */

import { setTimeout } from 'node:timers/promises';
import type { ClientOptions } from './client/connection.ts';
import type { OpenTransport } from './client/transport.ts';
import { RegistryClient } from './client.ts';
import type { Command, Context, LoadCommands } from './command.ts';
import type { OutputFormat } from './config/settings.ts';
import { clientCertificate, trustedCertificates } from './config/tls-files.ts';
import type { Config } from './config.ts';
import type { Io } from './io.ts';
import { timerDelay } from './protocol/duration.ts';
import { VregError } from './protocol/errors.ts';
import { maskTokens, printable, registryUrls } from './protocol/redact.ts';

export interface Deps {
  io: Io;
  commands: LoadCommands;
  openTransport: OpenTransport;
  env: NodeJS.ProcessEnv;
  version: string;
  now(): number;
  /** Milliseconds since the start of the process; absent in tests. */
  elapsed?(): number;
  /** Aborted when a signal ends the program, with an `Interrupted` as the abort reason. */
  signal: AbortSignal;
  /** Same as {@link Context.forwardSignals}; absent in tests without process signals. */
  forwardSignals?(to: (signal: NodeJS.Signals) => void): () => void;
  /** Same as {@link Context.onHangup}. */
  onHangup?(reload: () => void): void;
  /** Makes SIGHUP end the program. Until then, it is remembered for {@link onHangup}. */
  endOnHangup?(): void;
}

/** Values of the global flags. */
export interface GlobalFlags {
  output?: string;
  quiet?: boolean;
  json?: boolean;
  headers: boolean;
  color: boolean;
  verbose?: boolean;
}

export class Session implements Context {
  readonly config: Config;
  readonly #deps: Deps;
  #flags: GlobalFlags = { headers: true, color: true };
  #io: Io | undefined;
  #client: RegistryClient | undefined;
  /** A client of a long-running command does not wait for a URL that was silent for an earlier one. */
  readonly #memory: ClientOptions['memory'] = {};
  /** Falls back to the default output format if the settings are invalid. */
  lenient = false;
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

  commands(): Promise<readonly Command<never>[]> {
    return this.#deps.commands.loadAll();
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

  forwardSignals(to: (signal: NodeJS.Signals) => void): () => void {
    return this.#deps.forwardSignals?.(to) ?? (() => {});
  }

  onHangup(reload: () => void): void {
    this.#deps.onHangup?.(reload);
  }

  endOnHangup(): void {
    this.#deps.endOnHangup?.();
  }

  get version(): string {
    return this.#deps.version;
  }

  get format(): OutputFormat {
    if (this.#flags.quiet) return 'name';
    if (this.#flags.json) return 'json';
    return this.#output() ?? (this.io.tty ? 'table' : 'tsv');
  }

  /** @throws VregError USAGE on an invalid output format or expression */
  async checkFormat(): Promise<void> {
    const { format } = this;
    if (format.includes('=')) await (await import('./render/expression.ts')).checkExpression(format);
  }

  #output(): OutputFormat | undefined {
    try {
      return this.config.get('output') as OutputFormat | undefined;
    } catch (error) {
      if (this.lenient && this.#flags.output === undefined) return undefined;
      throw error;
    }
  }

  now(): number {
    return this.#deps.now();
  }

  sleep(ms: number, signal = this.#deps.signal): Promise<void> {
    return setTimeout(timerDelay(ms), undefined, { signal }).catch(() => {
      throw signal.reason;
    });
  }

  client(): RegistryClient {
    this.#client ??= this.freshClient();
    return this.#client;
  }

  freshClient(options: Partial<Pick<ClientOptions, 'url' | 'warn' | 'signal'>> = {}): RegistryClient {
    return this.#newClient({ timeout: this.config.duration('timeout'), signal: this.#deps.signal, ...options });
  }

  lastClient(timeout: number): RegistryClient {
    return this.#newClient({ timeout });
  }

  #newClient(options: Partial<Pick<ClientOptions, 'timeout' | 'signal' | 'url' | 'warn'>>): RegistryClient {
    const { value: url, origin } = this.config.find('url')!;
    const token = this.config.clientToken();
    const note = (line: string) => this.note(line);
    const own = clientCertificate(this.config);
    return new RegistryClient({
      url: registryUrls(url)
        .map((each) => each.replace(/\/+$/, ''))
        .join(','),
      openTransport: this.#deps.openTransport,
      origin,
      token: token?.value,
      tokenOrigin: token?.origin,
      tls: { ca: trustedCertificates(this.config), cert: own?.cert.text, key: own?.key.text },
      warn: note,
      memory: this.#memory,
      ...options,
      ...(this.#flags.verbose ? { trace: note } : {}),
    });
  }

  /** The text that {@link print} would print. */
  async text(answer: Parameters<Context['print']>[0]): Promise<string> {
    const { format } = await import('./render.ts');
    return format(this.io, answer, { format: this.format, headers: this.#flags.headers, now: this.now() });
  }

  async print(answer: Parameters<Context['print']>[0]): Promise<void> {
    const { print } = await import('./render.ts');
    await print(this.io, answer, { format: this.format, headers: this.#flags.headers, now: this.now() });
  }

  note(text: string): void {
    this.io.err(`vreg: ${printable(maskTokens(text))}\n`);
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
      throw new VregError('REFUSED', `cannot ask for confirmation without a terminal: ${question}`);
    }
    const answer = await this.io.ask(`${printable(maskTokens(question))} [y/N] `, this.signal);
    if (!/^y(es)?$/i.test(answer?.trim() ?? ''))
      throw new VregError('REFUSED', 'aborted: nothing was changed', { hint: 'answer y, or pass --yes' });
  }

  close(): void {
    this.#client?.close();
  }
}
