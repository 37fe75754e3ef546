/**
 * The value of each setting and its origin. Precedence: flag > VREG_* > VERS_* > context in the config file > config file >
 * `~/.vers/agent-services.json` > default. A context named by -c counts as a flag, and one named by VREG_CONTEXT as a VREG_*
 * variable. A file is read only if nothing of higher precedence sets the setting.
 */
import { join } from 'node:path';
import { type ConfigContent, checkConfigKeys, readConfigFile } from './config/config-content.ts';
import { configFolder, homeFolder, xdgFolder } from './config/folders.ts';
import { type JsonFile, parseJsonFile, placeOf, readJsonFile } from './config/json-file.ts';
import { credentialNamed, namingOrigin, readNamedFile, readSecretFile, refuseLoose } from './config/secret-file.ts';
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

/** URL and token of the registry, as other programs on a Vers VM share them: `{"url": "…", "token": "…"}`. */
const AGENT_SERVICES = '.vers/agent-services.json';
/** Origin of values from that file. */
const AGENT_SERVICES_ORIGIN = `~/${AGENT_SERVICES}`;

export class Config {
  readonly env: NodeJS.ProcessEnv;
  #flags: Readonly<Record<string, unknown>> = {};
  #file: JsonFile | undefined;
  #content: ConfigContent | undefined;
  /** The files that {@link jsonFile} has read, by path. */
  #jsonFiles = new Map<string, JsonFile>();

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
    return join(configFolder(this.env), 'vreg');
  }

  /** `$XDG_STATE_HOME/vreg`; in a systemd unit, its StateDirectory. */
  get stateDir(): string {
    return (
      this.env.STATE_DIRECTORY?.split(':', 1)[0] ||
      join(xdgFolder(this.env, 'XDG_STATE_HOME') ?? join(homeFolder(this.env), '.local/state'), 'vreg')
    );
  }

  /** Folder for the native addon of the single executable; in a systemd unit, its CacheDirectory. */
  get nativeDir(): string {
    const ofUser = join(xdgFolder(this.env, 'XDG_CACHE_HOME') ?? join(homeFolder(this.env), '.cache'), 'vreg');
    return this.get('native-dir') ?? (this.env.CACHE_DIRECTORY?.split(':', 1)[0] || ofUser);
  }

  /** Folder for the agent's address files; undefined if neither the settings nor the environment name one. */
  get runDir(): string | undefined {
    const ofSession = xdgFolder(this.env, 'XDG_RUNTIME_DIR');
    const found = this.env.RUNTIME_DIRECTORY?.split(':', 1)[0] || (ofSession && join(ofSession, 'vreg'));
    return this.get('run-dir') ?? (found || undefined);
  }

  /** Discards the cached files, so that the next access reads them again. */
  reload(): void {
    this.#file = undefined;
    this.#content = undefined;
    this.#jsonFiles.clear();
  }

  /** @throws VregError USAGE naming the origin if the value is invalid */
  find(key: SettingKey): Found | undefined {
    const setting = settingOf(key);
    const found = expandBare(this.given(key), setting);
    if (found) this.#check(key, found);
    if (found || setting.default === undefined) return found;
    return { value: setting.default, origin: 'default' };
  }

  #check(key: SettingKey, { value, origin }: Found): void {
    const where = ` (from ${origin})`;
    try {
      checkSetting(key, value, where);
    } catch {
      // Finding the place takes longer than the check, so only an error does it.
      checkSetting(key, value, where + this.#placeOf(key, origin));
    }
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
  fileOrCredential(key: SettingKey): Found | undefined {
    const found = this.find(key);
    if (found && /^(flag|VREG_)/.test(found.origin)) return found;
    const credential = credentialNamed(key, this.env);
    return credential === undefined ? found : { value: credential, origin: `systemd credential ${key}` };
  }

  /**
   * Reads the JSON file or pipe that a setting names, once until {@link reload}: a pipe can be read only once.
   * @returns undefined if the setting is not given
   * @throws VregError USAGE as {@link readNamedFile} and {@link parseJsonFile}
   */
  jsonFile(key: SettingKey, what: string, hint: string): JsonFile | undefined {
    const path = this.get(key);
    if (path === undefined) return undefined;
    const file = this.#jsonFiles.get(path) ?? parseJsonFile(path, readNamedFile(path, key, what).bytes, what, hint);
    this.#jsonFiles.set(path, file);
    return file;
  }

  /** @returns milliseconds */
  duration(key: 'timeout' | 'stale-after' | 'interval' | 'heartbeat-flush'): number {
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
    return found && checkToken(found);
  }

  /**
   * The token to send to the configured URL. Same as {@link token}, but the token file of a context is used only with the URL
   * of that context, and the token file at the top level of the config file is not used with the URL of a context. The token in
   * `~/.vers/agent-services.json` is used only with the URL in that file.
   */
  clientToken(): Found | undefined {
    const file = this.find('token-file')?.origin ?? '';
    const url = this.find('url')!.origin;
    const belongsToOther = file.startsWith('context ')
      ? url !== file
      : file === 'config file' && url.startsWith('context ');
    const shared = url === AGENT_SERVICES_ORIGIN ? this.#agentServicesValue('token') : undefined;
    const own = this.token(belongsToOther || (shared !== undefined && file === 'config file'));
    if (own || !shared) return own;
    const path = this.#agentServicesPath;
    refuseLoose(path, 'token-file', `the token in ${path}`, this.env);
    return checkToken(shared);
  }

  #findToken(withoutFile: boolean): Found | undefined {
    const file = withoutFile ? undefined : this.find('token-file');
    const variable = ['VREG_TOKEN', 'VERS_AUTH_TOKEN'].find((name) => this.env[name]);
    const isAsked = file?.origin.startsWith('context') && (this.#flags.context !== undefined || this.env.VREG_CONTEXT);
    const credential = variable ? undefined : credentialNamed('token', this.env);
    if (file && ((!variable && !credential) || isAsked || /^(flag|VREG_)/.test(file.origin))) {
      return {
        value: readTokenFile(file, this.env),
        origin: `${file.value}, ${file.origin}`,
      };
    }
    if (credential !== undefined) {
      const origin = 'systemd credential token';
      return { value: readTokenFile({ value: credential, origin }, this.env), origin };
    }
    return variable ? { value: this.env[variable]!, origin: variable } : undefined;
  }

  /**
   * The parsed config file; empty if it does not exist.
   * @throws VregError USAGE if it cannot be read, is not a JSON object, or has an unknown key
   */
  get file(): ConfigContent {
    if (this.#content === undefined) {
      this.#file = readConfigFile(this.path);
      this.#content = this.#file ? checkConfigKeys(this.#file) : {};
    }
    return this.#content;
  }

  /** ` in PATH, line 2, column 3` if the value comes from the config file, else empty. */
  #placeOf(key: SettingKey, origin: string): string {
    const at = origin === 'config file' ? [] : ['contexts', this.context ?? ''];
    const isInFile = origin === 'config file' || origin.startsWith('context ');
    return isInFile && this.#file ? ` in ${placeOf(this.#file, [...at, key], 'value')}` : '';
  }

  get #agentServicesPath(): string {
    return join(homeFolder(this.env), AGENT_SERVICES);
  }

  /**
   * A value in `~/.vers/agent-services.json`. `null` and the empty string count as absent.
   * @throws VregError USAGE if the file cannot be read, or if the value is not a string
   */
  #agentServicesValue(key: 'url' | 'token'): Found | undefined {
    const hint = 'correct or remove it';
    const file = readJsonFile(this.#agentServicesPath, 'the file', hint);
    const value = file?.content[key] ?? '';
    if (!file || value === '') return undefined;
    if (typeof value === 'string') return { value, origin: AGENT_SERVICES_ORIGIN };
    throw new VregError('USAGE', `"${key}" is not a string (in ${placeOf(file, [key], 'value')})`, { hint });
  }

  /** Name of the current context, if any: flag > VREG_CONTEXT > config file. */
  get context(): string | undefined {
    return this.#contextFlag || this.env.VREG_CONTEXT || this.file.context || undefined;
  }

  get #contextFlag(): string | undefined {
    const flag = this.#flags.context;
    return typeof flag === 'string' ? flag : undefined;
  }

  get #contextOrigin(): string {
    if (this.#contextFlag) return 'from flag --context';
    if (this.env.VREG_CONTEXT || !this.#file) return 'from VREG_CONTEXT';
    return `in ${placeOf(this.#file, ['context'], 'value')}`;
  }

  /** Settings of the current context, if any. @throws VregError USAGE naming the origin if it does not exist */
  get contextSettings(): Record<string, unknown> | undefined {
    const name = this.context;
    if (name === undefined) return undefined;
    const contexts = this.file.contexts ?? {};
    if (Object.hasOwn(contexts, name)) return contexts[name];
    const similar = suggestion(name, Object.keys(contexts));
    throw new VregError('USAGE', `unknown context "${maskName(name)}" (${this.#contextOrigin})${similar}`, {
      field: 'context',
      hint: 'list the contexts: vreg context ls',
    });
  }

  /** The explicitly set value, without validation; undefined if there is none. */
  given(key: SettingKey): Found | undefined {
    for (const found of this.#sources(key)) if (found) return found;
    return undefined;
  }

  /** The setting whose value has the highest precedence; the first one if two have the same. Undefined if none is set. */
  firstGiven<K extends SettingKey>(...keys: readonly K[]): K | undefined {
    const sources = keys.map((key) => this.#sources(key));
    for (;;) {
      const next = sources.map((source) => source.next());
      const key = keys[next.findIndex(({ value }) => value !== undefined)];
      if (key !== undefined || next.some(({ done }) => done)) return key;
    }
  }

  /** Yields the value of each source, highest precedence first, or undefined for a source without one. */
  *#sources(key: SettingKey): Generator<Found | undefined, undefined> {
    const flag = this.#flags[camelCase(key)];
    yield flag === undefined ? undefined : { value: String(flag), origin: `flag --${key}` };
    // A context named on the command line takes precedence over the environment.
    yield typeof this.#flags.context === 'string' ? this.#ofContext(key) : undefined;
    yield this.#ofVariable([envNameOf(key)]);
    yield this.env.VREG_CONTEXT ? this.#ofContext(key) : undefined;
    yield this.#ofVariable(settingOf(key).sharedVariables ?? []);
    yield this.#ofContext(key);
    const ofFile = this.file[key];
    yield ofFile === undefined ? undefined : { value: String(ofFile), origin: 'config file' };
    yield key === 'url' ? this.#agentServicesValue('url') : undefined;
    return undefined;
  }

  /** An empty variable counts as unset: `VAR= command` unsets it for one command. */
  #ofVariable(names: readonly string[]): Found | undefined {
    const name = names.find((each) => this.env[each]);
    return name === undefined ? undefined : { value: this.env[name]!, origin: name };
  }

  #ofContext(key: SettingKey): Found | undefined {
    const value = this.contextSettings?.[key];
    return value === undefined ? undefined : { value: String(value), origin: `context ${this.context}` };
  }
}

/** For a flag with an optional value, `true` means the flag without a value, and `false` means no flag. */
function expandBare(found: Found | undefined, { bare }: Setting): Found | undefined {
  if (bare === undefined || !found || found.value === 'false') return bare === undefined ? found : undefined;
  return found.value === 'true' ? { ...found, value: bare } : found;
}

function checkToken({ value, origin }: Found): Found {
  const token = value.trim();
  if (/^[\x21-\x7e]+$/.test(token)) return { value: token, origin };
  throw new VregError('USAGE', `the token (from ${origin}) contains characters that an HTTP header cannot contain`, {
    field: 'token',
    hint: 'a token consists of printable ASCII characters without spaces; was it copied completely?',
  });
}

function readTokenFile({ value: path, origin }: Found, env: NodeJS.ProcessEnv): string {
  return namingOrigin(origin, () => {
    const text = readSecretFile(path, 'token-file', 'the token file', env).trim();
    if (text !== '') return text;
    throw new VregError('USAGE', `the token file ${path} is empty`, {
      field: 'token-file',
      hint: 'write the token to the file',
    });
  });
}
