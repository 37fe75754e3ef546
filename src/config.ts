/**
 * The value of each setting and its origin. Precedence: flag > VREG_* > VERS_* > context in the config file > config file >
 * default. A context named by -c counts as a flag, and one named by VREG_CONTEXT as a VREG_* variable. The config file is read
 * only if neither a flag nor a variable sets the setting.
 */
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { credentialNamed, readSecretFile } from './config/secret-file.ts';
import { camelCase, checkSetting, envNameOf, type SettingKey, settingOf } from './config/settings.ts';
import type { Setting } from './config/values.ts';
import { parseDuration } from './config/values.ts';
import { suggestion } from './help/suggest.ts';
import { VregError } from './protocol/errors.ts';
import { maskName } from './protocol/redact.ts';

export interface Found {
  value: string;
  /** `flag --url`, `VERS_INFRA_URL`, `context prod`, `config file`, `default`. */
  origin: string;
}

/** The config file, written by hand or by `vreg config set`. */
export interface ConfigFile {
  context?: string;
  contexts?: Record<string, Record<string, unknown>>;
  [key: string]: unknown;
}

export class Config {
  readonly env: NodeJS.ProcessEnv;
  #flags: Readonly<Record<string, unknown>> = {};
  #file: ConfigFile | undefined;

  constructor(env: NodeJS.ProcessEnv) {
    this.env = env;
  }

  /** @param flags the command-line flags under commander's camelCase names */
  setFlags(flags: Readonly<Record<string, unknown>>): void {
    this.#flags = flags;
  }

  /** `$XDG_CONFIG_HOME/vreg/config.json` */
  get path(): string {
    return join(this.dir, 'config.json');
  }

  get dir(): string {
    return join(this.env.XDG_CONFIG_HOME || join(this.#home, '.config'), 'vreg');
  }

  /** `$XDG_STATE_HOME/vreg`; in a systemd unit, its StateDirectory. */
  get stateDir(): string {
    return (
      this.env.STATE_DIRECTORY?.split(':', 1)[0] ||
      join(this.env.XDG_STATE_HOME || join(this.#home, '.local/state'), 'vreg')
    );
  }

  /** Folder for the agent's address files; undefined if neither the settings nor the environment name one. */
  get runDir(): string | undefined {
    const { RUNTIME_DIRECTORY, XDG_RUNTIME_DIR } = this.env;
    const found = RUNTIME_DIRECTORY?.split(':', 1)[0] || (XDG_RUNTIME_DIR && join(XDG_RUNTIME_DIR, 'vreg'));
    return this.get('run-dir') ?? (found || undefined);
  }

  /** Discards the cached config file, so that the next access reads it again. */
  reload(): void {
    this.#file = undefined;
  }

  /** @throws VregError USAGE naming the origin if the value is invalid */
  find(key: SettingKey): Found | undefined {
    const setting = settingOf(key);
    const found = expandBare(this.given(key, setting), setting);
    if (found) checkSetting(key, found.value, ` (from ${found.origin})`);
    if (found || setting.default === undefined) return found;
    return { value: setting.default, origin: 'default' };
  }

  get(key: SettingKey): string | undefined {
    return this.find(key)?.value;
  }

  /** True if the setting was set explicitly. */
  isSet(key: SettingKey): boolean {
    return this.given(key) !== undefined;
  }

  /** Overrides the timeout, for example for completion. */
  limitTimeout(ms: number): void {
    this.#flags = { ...this.#flags, timeout: `${ms}ms` };
  }

  /** Path of a file that may be a systemd credential. A credential takes precedence over the config file, as for the token. */
  fileOrCredential(key: SettingKey): string | undefined {
    const found = this.find(key);
    if (found && /^(flag|VREG_)/.test(found.origin)) return found.value;
    return credentialNamed(key, this.env) ?? found?.value;
  }

  /** @returns milliseconds */
  duration(key: 'timeout' | 'stale-after' | 'interval'): number {
    return parseDuration(this.get(key)!, key);
  }

  /**
   * The bearer token: from the token file, else `VREG_TOKEN` or `VERS_AUTH_TOKEN`, else systemd's credential `token`. A file
   * named by a flag takes precedence over the variables, and the credential over a file named in the config file.
   * @param withoutFile true to ignore the token file
   * @throws VregError USAGE if the file cannot be read, is empty, or can be read by other users
   */
  token(withoutFile = false): Found | undefined {
    const found = this.#findToken(withoutFile);
    if (!found) return undefined;
    const value = found.value.trim();
    if (/^[\x21-\x7e]+$/.test(value)) return { ...found, value };
    throw new VregError(
      'USAGE',
      `the token (from ${found.origin}) contains characters that an HTTP header cannot contain`,
      {
        field: 'token',
        hint: 'a token consists of printable ASCII characters without spaces; was it copied completely?',
      },
    );
  }

  /**
   * The token to send to the configured URL. Same as {@link token}, but the token file of a context is used only with the URL
   * of that context, and the token file at the top level of the config file is not used with the URL of a context.
   */
  clientToken(): Found | undefined {
    const file = this.find('token-file')?.origin ?? '';
    const url = this.find('url')!.origin;
    const belongsToOther = file.startsWith('context ')
      ? url !== file
      : file === 'config file' && url.startsWith('context ');
    return this.token(belongsToOther);
  }

  #findToken(withoutFile: boolean): Found | undefined {
    const file = withoutFile ? undefined : this.find('token-file');
    const variable = ['VREG_TOKEN', 'VERS_AUTH_TOKEN'].find((name) => this.env[name]);
    const isAsked = file?.origin.startsWith('context') && (this.#flags.context !== undefined || this.env.VREG_CONTEXT);
    const credential = variable ? undefined : credentialNamed('token', this.env);
    if (file && ((!variable && !credential) || isAsked || /^(flag|VREG_)/.test(file.origin))) {
      return {
        value: readTokenFile(file.value, this.env),
        origin: `${file.value}, ${file.origin}`,
      };
    }
    if (credential !== undefined)
      return { value: readTokenFile(credential, this.env), origin: 'systemd credential token' };
    return variable ? { value: this.env[variable]!, origin: variable } : undefined;
  }

  /**
   * The parsed config file; empty if it does not exist.
   * @throws VregError USAGE if it cannot be read or is not a JSON object
   */
  get file(): ConfigFile {
    this.#file ??= readConfigFile(this.path);
    return this.#file;
  }

  /** Name of the current context, if any: flag > VREG_CONTEXT > config file. */
  get context(): string | undefined {
    const flag = this.#flags.context;
    return (typeof flag === 'string' ? flag : undefined) || this.env.VREG_CONTEXT || this.file.context || undefined;
  }

  /** Settings of a context. @throws VregError USAGE if it does not exist */
  contextNamed(name: string): Record<string, unknown> {
    const contexts = this.file.contexts ?? {};
    if (Object.hasOwn(contexts, name)) return contexts[name]!;
    throw new VregError('USAGE', `unknown context "${maskName(name)}"${suggestion(name, Object.keys(contexts))}`, {
      field: 'context',
      hint: 'list the contexts: vreg context ls',
    });
  }

  get #home(): string {
    return this.env.HOME || homedir();
  }

  /** The explicitly set value, without validation; undefined if there is none. */
  given(key: SettingKey, setting: Setting = settingOf(key)): Found | undefined {
    const flag = this.#flags[camelCase(key)];
    if (flag !== undefined) return { value: String(flag), origin: `flag --${key}` };
    // A context named on the command line takes precedence over the environment.
    const asked = typeof this.#flags.context === 'string' ? this.#ofContext(key) : undefined;
    if (asked) return asked;
    // An empty variable counts as unset: `VAR= command` unsets it for one command.
    const own = this.env[envNameOf(key)];
    if (own) return { value: own, origin: envNameOf(key) };
    const chosen = this.env.VREG_CONTEXT ? this.#ofContext(key) : undefined;
    if (chosen) return chosen;
    const { vers } = setting;
    const foreign = vers && this.env[vers];
    if (foreign) return { value: foreign, origin: vers };
    const ofContext = this.#ofContext(key);
    if (ofContext) return ofContext;
    const ofFile = this.file[key];
    return ofFile === undefined ? undefined : { value: String(ofFile), origin: 'config file' };
  }

  #ofContext(key: SettingKey): Found | undefined {
    const { context } = this;
    const value = context === undefined ? undefined : this.contextNamed(context)[key];
    return value === undefined ? undefined : { value: String(value), origin: `context ${context}` };
  }
}

/** For a flag with an optional value, `true` means the flag without a value, and `false` means no flag. */
function expandBare(found: Found | undefined, { bare }: Setting): Found | undefined {
  if (bare === undefined || !found || found.value === 'false') return bare === undefined ? found : undefined;
  return found.value === 'true' ? { ...found, value: bare } : found;
}

function readConfigFile(path: string): ConfigFile {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return {};
    throw new VregError('USAGE', `cannot read the config file ${path} (${code})`, {
      hint: 'check its owner and mode',
      cause,
    });
  }
  try {
    const parsed: unknown = JSON.parse(text);
    if (typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed)) return parsed as ConfigFile;
  } catch {
    // Falls through to the error.
  }
  throw new VregError('USAGE', `the config file ${path} is not a JSON object`, {
    hint: 'fix it: vreg config edit',
  });
}

function readTokenFile(path: string, env: NodeJS.ProcessEnv): string {
  const text = readSecretFile(path, 'token-file', 'the token file', env).trim();
  if (text !== '') return text;
  throw new VregError('USAGE', `the token file ${path} is empty`, {
    field: 'token-file',
    hint: 'write the token to the file',
  });
}
