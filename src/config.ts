/**
 * Settings: what can be set, where, and which one won. Flag > VREG_* > VERS_* > context in the config file > config
 * file > default. The file is read only when a setting is asked for that no flag and no variable gives.
 */
import { readFileSync, statSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { parseDuration } from './duration.ts';
import { DEFAULT_HOST, DEFAULT_INTERVAL, DEFAULT_PORT, DEFAULT_STALE_AFTER, DEFAULT_URL } from './protocol/api.ts';
import { VregError } from './protocol/errors.ts';
import { ROLES } from './protocol/vm.ts';

export type SettingGroup = 'client' | 'vm' | 'daemon' | 'agent';

export interface Setting {
  group: SettingGroup;
  about: string;
  /** How its value is called in help; none for a switch. */
  value?: string;
  /** Names besides `VREG_<KEY>`, which comes first. */
  vers?: string;
  default?: string;
  /** The default in words, where it is found out at run time. */
  defaultIs?: string;
  choices?: readonly string[];
  /** @throws VregError USAGE naming the setting */
  check?: (text: string, name: string) => void;
}

const seconds = (ms: number) => (ms % 60_000 === 0 ? `${ms / 60_000}m` : `${ms / 1000}s`);

export const OUTPUT_FORMATS = ['table', 'wide', 'json', 'ndjson', 'yaml', 'name', 'tsv'] as const;
export type OutputFormat = (typeof OUTPUT_FORMATS)[number];

/** Every setting. `--kebab-case` is its flag and `VREG_KEBAB_CASE` its variable. */
export const SETTINGS = {
  url: {
    group: 'client',
    value: 'URL',
    vers: 'VERS_INFRA_URL',
    default: DEFAULT_URL,
    check: checkUrl,
    about: 'the registry: http(s)://HOST:PORT or unix:/path/to.sock',
  },
  'token-file': {
    group: 'client',
    value: 'FILE',
    about: 'file with the bearer token, mode 0600 (or VERS_AUTH_TOKEN: the token itself)',
  },
  output: {
    group: 'client',
    value: 'FORMAT',
    choices: OUTPUT_FORMATS,
    defaultIs: 'table on a TTY, else tsv',
    about: 'how answers are printed',
  },
  timeout: {
    group: 'client',
    value: 'DURATION',
    default: '10s',
    check: checkDuration,
    about: 'longest wait for one answer of the registry',
  },
  id: { group: 'vm', value: 'ID', vers: 'VERS_VM_ID', defaultIs: 'the host name', about: "this VM's id" },
  name: { group: 'vm', value: 'NAME', vers: 'VERS_AGENT_NAME', defaultIs: 'the host name', about: "this VM's name" },
  role: {
    group: 'vm',
    value: 'ROLE',
    vers: 'VERS_AGENT_ROLE',
    default: 'worker',
    choices: ROLES,
    about: "this VM's role",
  },
  address: { group: 'vm', value: 'ADDRESS', defaultIs: 'ID.vm.vers.sh', about: 'where clients reach this VM' },
  'registered-by': { group: 'vm', value: 'WHO', defaultIs: 'VERS_AGENT_NAME, else the user', about: 'who registers' },
  host: {
    group: 'daemon',
    value: 'HOST',
    default: DEFAULT_HOST,
    about: 'address to listen on; any but loopback needs a token',
  },
  port: {
    group: 'daemon',
    value: 'PORT',
    default: String(DEFAULT_PORT),
    check: checkPort,
    about: 'TCP port to listen on; 0 takes a free one',
  },
  socket: {
    group: 'daemon',
    value: 'PATH',
    about: 'unix socket to listen on, mode 0600; alone unless --host or --port is given',
  },
  'data-dir': {
    group: 'daemon',
    value: 'DIR',
    defaultIs: '$STATE_DIRECTORY, else $XDG_STATE_HOME/vreg',
    about: 'where the registry, or the agent, keeps its state',
  },
  'stale-after': {
    group: 'daemon',
    value: 'DURATION',
    default: seconds(DEFAULT_STALE_AFTER),
    check: checkDuration,
    about: 'listening time without a sign of life that makes a VM stale',
  },
  'log-level': {
    group: 'daemon',
    value: 'LEVEL',
    default: 'info',
    choices: ['debug', 'info', 'warn', 'error', 'silent'],
    about: 'least level that is logged',
  },
  'log-format': {
    group: 'daemon',
    value: 'FORMAT',
    choices: ['pretty', 'json'],
    defaultIs: 'pretty on a TTY, else json',
    about: 'how the log is written',
  },
  interval: {
    group: 'agent',
    value: 'DURATION',
    default: seconds(DEFAULT_INTERVAL),
    check: checkDuration,
    about: 'time between two beats',
  },
  'on-exit': {
    group: 'agent',
    value: 'WHAT',
    default: 'stopped',
    choices: ['stopped', 'deregister', 'keep'],
    about: 'what becomes of the entry when the agent is told to stop',
  },
} as const satisfies Record<string, Setting>;

export type SettingKey = keyof typeof SETTINGS;
export const SETTING_KEYS = Object.keys(SETTINGS) as SettingKey[];

export function settingOf(key: SettingKey): Setting {
  return SETTINGS[key];
}

export function isSettingKey(key: string): key is SettingKey {
  return Object.hasOwn(SETTINGS, key);
}

/** `VREG_TOKEN_FILE` of `token-file`. */
export function envNameOf(key: SettingKey): string {
  return `VREG_${key.toUpperCase().replaceAll('-', '_')}`;
}

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
  readonly #env: NodeJS.ProcessEnv;
  #flags: Readonly<Record<string, unknown>> = {};
  #file: ConfigFile | undefined;

  constructor(env: NodeJS.ProcessEnv) {
    this.#env = env;
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
    return join(this.#env.XDG_CONFIG_HOME || join(this.#home, '.config'), 'vreg');
  }

  /** `$XDG_STATE_HOME/vreg`, or what systemd made for the unit. */
  get stateDir(): string {
    return (
      this.#env.STATE_DIRECTORY?.split(':', 1)[0] ||
      join(this.#env.XDG_STATE_HOME || join(this.#home, '.local/state'), 'vreg')
    );
  }

  /** @throws VregError USAGE when the value is not acceptable, saying where it was set */
  find(key: SettingKey): Found | undefined {
    const setting = settingOf(key);
    const found = this.#given(key, setting);
    if (found) checkSetting(key, found.value, ` (from ${found.origin})`);
    if (found || setting.default === undefined) return found;
    return { value: setting.default, origin: 'default' };
  }

  get(key: SettingKey): string | undefined {
    return this.find(key)?.value;
  }

  /** True when somebody set it, not just its default. */
  isSet(key: SettingKey): boolean {
    return this.#given(key, settingOf(key)) !== undefined;
  }

  /** Caps the timeout whatever was set: for completion. */
  limitTimeout(ms: number): void {
    this.#flags = { ...this.#flags, timeout: `${ms}ms` };
  }

  /** Milliseconds. */
  duration(key: 'timeout' | 'stale-after' | 'interval'): number {
    return parseDuration(this.get(key)!, key);
  }

  /**
   * The bearer token: from a file, else `VREG_TOKEN` or `VERS_AUTH_TOKEN`. A flag's file comes before the variables.
   * @throws VregError USAGE when the file cannot be read, is empty, or others may read it
   */
  token(): Found | undefined {
    const file = this.find('token-file');
    const variable = ['VREG_TOKEN', 'VERS_AUTH_TOKEN'].find((name) => this.#env[name]);
    if (file && (!variable || file.origin.startsWith('flag') || file.origin.startsWith('VREG_'))) {
      return {
        value: readTokenFile(file.value, this.#env.CREDENTIALS_DIRECTORY),
        origin: `${file.value}, ${file.origin}`,
      };
    }
    return variable ? { value: this.#env[variable]!, origin: variable } : undefined;
  }

  /** The whole file; empty when there is none. @throws VregError USAGE when it is not readable as JSON */
  get file(): ConfigFile {
    this.#file ??= readConfigFile(this.path);
    return this.#file;
  }

  get #home(): string {
    return this.#env.HOME || homedir();
  }

  #given(key: SettingKey, setting: Setting): Found | undefined {
    const flag = this.#flags[camelCase(key)];
    if (flag !== undefined) return { value: String(flag), origin: `flag --${key}` };
    for (const name of [envNameOf(key), setting.vers]) {
      // An empty variable is how a shell unsets one for a child.
      const value = name && this.#env[name];
      if (value) return { value, origin: name };
    }
    const context = this.#env.VREG_CONTEXT || this.file.context;
    const ofContext = context === undefined ? undefined : this.file.contexts?.[context]?.[key];
    if (ofContext !== undefined) return { value: String(ofContext), origin: `context ${context}` };
    const ofFile = this.file[key];
    return ofFile === undefined ? undefined : { value: String(ofFile), origin: 'config file' };
  }
}

/** @throws VregError USAGE naming the setting, the reason and what is accepted */
export function checkSetting(key: SettingKey, value: string, where = ''): void {
  const { choices, check } = settingOf(key);
  if (choices && !choices.includes(value)) {
    throw new VregError('USAGE', `${key}: "${value}" is not possible${where}`, {
      field: key,
      hint: `one of: ${choices.join(', ')}`,
    });
  }
  check?.(value, `${key}${where}`);
}

export function camelCase(key: string): string {
  return key.replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase());
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

/** A token that others can read is no secret, so such a file is refused, as ssh refuses a key. */
function readTokenFile(path: string, credentials: string | undefined): string {
  let text: string;
  let mode: number;
  try {
    text = readFileSync(path, 'utf8').trim();
    mode = statSync(path).mode;
  } catch (cause) {
    throw new VregError('USAGE', `cannot read the token file ${path} (${(cause as NodeJS.ErrnoException).code})`, {
      field: 'token-file',
      hint: 'check its path, owner and mode',
      cause,
    });
  }
  // systemd guards its credentials by the folder they are in (systemd.exec(5)).
  const guarded = credentials !== undefined && path.startsWith(`${credentials}/`);
  if ((mode & 0o077) !== 0 && !guarded) {
    throw new VregError(
      'USAGE',
      `the token file ${path} can be read by others (mode ${(mode & 0o777).toString(8).padStart(4, '0')})`,
      {
        field: 'token-file',
        hint: `chmod 600 ${path}`,
      },
    );
  }
  if (text === '')
    throw new VregError('USAGE', `the token file ${path} is empty`, {
      field: 'token-file',
      hint: 'write the token into it',
    });
  return text;
}

function checkUrl(text: string, name: string): void {
  if (URL.canParse(text) && ['http:', 'https:', 'unix:'].includes(new URL(text).protocol)) return;
  throw new VregError('USAGE', `${name}: "${text}" is not the URL of a registry`, {
    field: 'url',
    hint: 'write it as http://HOST:PORT, https://HOST:PORT or unix:/path/to.sock',
  });
}

function checkDuration(text: string, name: string): void {
  parseDuration(text, name);
}

function checkPort(text: string, name: string): void {
  if (/^\d{1,5}$/.test(text) && Number(text) <= 65_535) return;
  throw new VregError('USAGE', `${name}: "${text}" is not a port`, {
    field: 'port',
    hint: 'a number from 0 (any) to 65535',
  });
}
