/** Reads values to offer from the registry and the config file. After a failure there are none. */
import { statSync } from 'node:fs';
import { type Context, GLOBAL_SETTINGS } from '../command.ts';
import { camelCase, settingOf } from '../config/settings.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import type { TokenInfo } from '../protocol/token.ts';
import type { CommandLine } from './command-line.ts';

/** Flags that decide which registry is asked, and how. */
const REGISTRY_FLAGS: ReadonlySet<string> = new Set(['context', ...GLOBAL_SETTINGS.map(camelCase)]);

export class Sources {
  readonly context: Context;
  readonly #line: CommandLine;
  readonly #timeout: number;

  /**
   * @param line whose flags, for example `--url` or `--context`, determine the registry
   * @param timeout milliseconds for all requests together
   */
  constructor(line: CommandLine, context: Context, timeout: number) {
    this.#line = line;
    this.context = context;
    this.#timeout = timeout;
  }

  vms(): Promise<VmWithLiveness[]> {
    return this.#ask(() => this.context.client().list());
  }

  tokens(): Promise<TokenInfo[]> {
    return this.#ask(() => this.context.client().tokens());
  }

  /** The contexts in the config file with their settings. */
  contexts(): Record<string, Record<string, unknown>> {
    try {
      return this.context.config.file.contexts ?? {};
    } catch {
      return {};
    }
  }

  async #ask<T>(request: () => Promise<T[]>): Promise<T[]> {
    let timer: NodeJS.Timeout | undefined;
    // The timeout of the client limits each request, and does not limit the lookup of the host name.
    const late = new Promise<T[]>((resolve) => {
      timer = setTimeout(resolve, this.#timeout, []);
    });
    try {
      this.#readFlags();
      return await Promise.race([request(), late]);
    } catch {
      return [];
    } finally {
      clearTimeout(timer);
    }
  }

  /** Applies the flags on the line. @throws if the registry or its token cannot be determined */
  #readFlags(): void {
    const { config, env } = this.context;
    const flags = [...this.#line.given]
      .filter(([{ key }]) => REGISTRY_FLAGS.has(key))
      .map(([{ key }, values]) => [key, expand(values.at(-1)!, env)]);
    config.setFlags(Object.fromEntries(flags));
    config.limitTimeout(this.#timeout);
    for (const key of GLOBAL_SETTINGS) {
      const path = 'file' in settingOf(key) ? config.get(key) : undefined;
      // Reading a pipe could block, and would take the token away from the command.
      if (path !== undefined && !statSync(path).isFile()) throw new Error(`${path} is not a file`);
    }
  }
}

/**
 * Expands `~/` and variables in the value of a flag, as the shell will when it runs the command.
 * @throws if a variable is not exported: the registry is unknown then
 */
function expand(value: string | true, env: NodeJS.ProcessEnv): string | true {
  if (value === true) return value;
  return value
    .replace(/^~(?=\/)/, () => env.HOME ?? '~')
    .replace(/\$(?:(\w+)|\{(\w+)\})/g, (_, plain?: string, braced?: string) => {
      const found = env[plain ?? braced!];
      if (found === undefined) throw new Error('unset variable');
      return found;
    });
}
