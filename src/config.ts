/**
 * The value of each setting, and where it came from. Flag > VREG_* > VERS_* > context in the config file > config file >
 * default; a context that -c names is as good as a flag, one that VREG_CONTEXT names as a VREG_* variable. The file is
 * read only when a setting is asked for that no flag and no variable gives.
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

/** The config file as it is written by hand or by `vreg config set`. */
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

  /** Takes the flags of the command line, by their names in camelCase as commander has them. */
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

  /** `$XDG_STATE_HOME/vreg`, or what systemd made for the unit. */
  get stateDir(): string {
    return (
      this.env.STATE_DIRECTORY?.split(':', 1)[0] ||
      join(this.env.XDG_STATE_HOME || join(this.#home, '.local/state'), 'vreg')
    );
  }

  /** Where addresses of live VMs are kept as files; undefined where nothing says where. */
  get runDir(): string | undefined {
    const { RUNTIME_DIRECTORY, XDG_RUNTIME_DIR } = this.env;
    const found = RUNTIME_DIRECTORY?.split(':', 1)[0] || (XDG_RUNTIME_DIR && join(XDG_RUNTIME_DIR, 'vreg'));
    return this.get('run-dir') ?? (found || undefined);
  }

  /** Reads the config file anew when it is asked next. */
  reload(): void {
    this.#file = undefined;
  }

  /** @throws VregError USAGE when the value is not acceptable, saying where it was set */
  find(key: SettingKey): Found | undefined {
    const setting = settingOf(key);
    const found = bareOf(this.given(key, setting), setting);
    if (found) checkSetting(key, found.value, ` (from ${found.origin})`);
    if (found || setting.default === undefined) return found;
    return { value: setting.default, origin: 'default' };
  }

  get(key: SettingKey): string | undefined {
    return this.find(key)?.value;
  }

  /** True when somebody set it, not just its default. */
  isSet(key: SettingKey): boolean {
    return this.given(key) !== undefined;
  }

  /** Caps the timeout whatever was set: for completion. */
  limitTimeout(ms: number): void {
    this.#flags = { ...this.#flags, timeout: `${ms}ms` };
  }

  /** Path of a file that systemd may hand over as a credential, which comes before the config file's, as the token's. */
  fileOrCredential(key: SettingKey): string | undefined {
    const found = this.find(key);
    if (found && /^(flag|VREG_)/.test(found.origin)) return found.value;
    return credentialNamed(key, this.env) ?? found?.value;
  }

  /** Milliseconds. */
  duration(key: 'timeout' | 'stale-after' | 'interval'): number {
    return parseDuration(this.get(key)!, key);
  }

  /**
   * The bearer token: from a file (unless that is left out), else `VREG_TOKEN` or `VERS_AUTH_TOKEN`, else systemd's
   * credential `token`. A flag's file comes before the variables, and the credential before the config file's.
   * @throws VregError USAGE when the file cannot be read, is empty, or others may read it
   */
  token(withoutFile = false): Found | undefined {
    const found = this.#findToken(withoutFile);
    if (!found) return undefined;
    const value = found.value.trim();
    if (/^[\x21-\x7e]+$/.test(value)) return { ...found, value };
    throw new VregError('USAGE', `the token (from ${found.origin}) has characters that no header can carry`, {
      field: 'token',
      hint: 'a token is printable ASCII without spaces: was it cut and pasted whole?',
    });
  }

  /**
   * The token for the registry that is asked: as {@link token}, but one that belongs to a context is for the URL of that
   * context alone, and the config file's own is not for a context's.
   */
  clientToken(): Found | undefined {
    const file = this.find('token-file')?.origin ?? '';
    const url = this.find('url')!.origin;
    const isOfAnother = file.startsWith('context ')
      ? url !== file
      : file === 'config file' && url.startsWith('context ');
    return this.token(isOfAnother);
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

  /** The whole file; empty when there is none. @throws VregError USAGE when it is not readable as JSON */
  get file(): ConfigFile {
    this.#file ??= readConfigFile(this.path);
    return this.#file;
  }

  /** Name of the context in force, if any: flag > VREG_CONTEXT > the config file's. */
  get context(): string | undefined {
    const flag = this.#flags.context;
    return (typeof flag === 'string' ? flag : undefined) || this.env.VREG_CONTEXT || this.file.context || undefined;
  }

  /** What a context says. @throws VregError USAGE when there is none of that name */
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

  /** What somebody set, unchecked; undefined when nobody did. */
  given(key: SettingKey, setting: Setting = settingOf(key)): Found | undefined {
    const flag = this.#flags[camelCase(key)];
    if (flag !== undefined) return { value: String(flag), origin: `flag --${key}` };
    // A context that was asked for by name is meant, whatever the surroundings say.
    const asked = typeof this.#flags.context === 'string' ? this.#ofContext(key) : undefined;
    if (asked) return asked;
    // An empty variable is how a shell unsets one for a child.
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

/** Where a flag may stand without its value, `true` says the same, and `false` that it is not there. */
function bareOf(found: Found | undefined, { bare }: Setting): Found | undefined {
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
    // Told below.
  }
  throw new VregError('USAGE', `the config file ${path} is not a JSON object`, {
    hint: 'correct it: vreg config edit',
  });
}

function readTokenFile(path: string, env: NodeJS.ProcessEnv): string {
  const text = readSecretFile(path, 'token-file', 'the token file', env).trim();
  if (text !== '') return text;
  throw new VregError('USAGE', `the token file ${path} is empty`, {
    field: 'token-file',
    hint: 'write the token into it',
  });
}
