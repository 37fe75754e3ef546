/** Every setting: its flag, its variables, its default, and what is accepted. One table for all that shows or reads them. */
import { parseBytes } from './bytes.ts';
import { parseDuration } from './duration.ts';
import {
  DEFAULT_HOST,
  DEFAULT_INTERVAL,
  DEFAULT_MASS_LOSS,
  DEFAULT_PORT,
  DEFAULT_STALE_AFTER,
  DEFAULT_URL,
  LOG_FORMATS,
  LOG_LEVELS,
  ON_CLONE,
  ON_EXIT,
} from './protocol/api.ts';
import { VregError } from './protocol/errors.ts';
import { ROLES } from './protocol/vm.ts';
import { suggestion } from './suggest.ts';

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
  /** What is accepted besides the choices. */
  accepts?: (text: string) => boolean;
  /** The same in words. */
  acceptsToo?: string;
  /** @throws VregError USAGE naming the setting */
  check?: (text: string, name: string) => void;
}

const seconds = (ms: number) => (ms % 60_000 === 0 ? `${ms / 60_000}m` : `${ms / 1000}s`);

export const OUTPUT_FORMATS = ['table', 'wide', 'json', 'ndjson', 'yaml', 'name', 'tsv'] as const;
/** Formats that take an expression: `jsonpath=$[*].id`, `template={{name}}`. */
export const EXPRESSION_FORMATS = ['jsonpath', 'template'] as const;
export type OutputFormat = (typeof OUTPUT_FORMATS)[number] | `${(typeof EXPRESSION_FORMATS)[number]}=${string}`;

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
  'ca-file': {
    group: 'client',
    value: 'FILE',
    about: "certificates to trust for https, besides the system's",
  },
  output: {
    group: 'client',
    value: 'FORMAT',
    choices: OUTPUT_FORMATS,
    accepts: (text) => EXPRESSION_FORMATS.some((format) => text.startsWith(`${format}=`)),
    acceptsToo: 'jsonpath=PATH, template=TEMPLATE',
    defaultIs: 'table on a TTY, else tsv',
    about: 'how answers are printed; also jsonpath=PATH and template=TEMPLATE',
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
  'mass-loss': {
    group: 'daemon',
    value: 'SHARE',
    default: `${100 * DEFAULT_MASS_LOSS}%`,
    check: checkShare,
    about: 'of the live VMs, silent together: suspect, not stale; or off',
  },
  'max-body': {
    group: 'daemon',
    value: 'BYTES',
    default: '1MiB',
    check: parseBytes,
    about: 'largest body of a request; 413 beyond it',
  },
  'max-entry': {
    group: 'daemon',
    value: 'BYTES',
    default: '1MiB',
    check: parseBytes,
    about: 'largest entry, as the JSON that is answered; 413 beyond it',
  },
  'max-vms': {
    group: 'daemon',
    value: 'N',
    default: '100000',
    check: checkCount,
    about: 'most VMs in the registry; 429 beyond it',
  },
  'max-connections': {
    group: 'daemon',
    value: 'N',
    default: '10000',
    check: checkCount,
    about: 'most connections at once; more are closed',
  },
  'request-timeout': {
    group: 'daemon',
    value: 'DURATION',
    default: '30s',
    check: checkDuration,
    about: 'longest time for a request to arrive; 408 beyond it',
  },
  'log-level': {
    group: 'daemon',
    value: 'LEVEL',
    default: 'info',
    choices: LOG_LEVELS,
    about: 'least level that is logged',
  },
  'log-format': {
    group: 'daemon',
    value: 'FORMAT',
    choices: LOG_FORMATS,
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
  'on-clone': {
    group: 'agent',
    value: 'WHAT',
    default: 'reject',
    choices: ON_CLONE,
    about: 'when this VM is a clone: end, take a new id, or take over',
  },
  'id-command': {
    group: 'agent',
    value: 'COMMAND',
    defaultIs: 'a random id',
    about: 'prints the id that a clone takes with --on-clone rebirth',
  },
  'run-dir': {
    group: 'agent',
    value: 'DIR',
    defaultIs: '$RUNTIME_DIRECTORY, else $XDG_RUNTIME_DIR/vreg',
    about: 'where the agent keeps addresses of live VMs as files',
  },
  'on-exit': {
    group: 'agent',
    value: 'WHAT',
    default: 'stopped',
    choices: ON_EXIT,
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

/** @throws VregError USAGE naming the setting, the reason and what is accepted */
export function checkSetting(key: SettingKey, value: string, where = ''): void {
  const { choices, accepts, acceptsToo, check } = settingOf(key);
  if (choices && !choices.includes(value) && !accepts?.(value)) {
    throw new VregError('USAGE', `${key}: "${value}" is not possible${where}${suggestion(value, choices)}`, {
      field: key,
      hint: `one of: ${[...choices, ...(acceptsToo ? [acceptsToo] : [])].join(', ')}`,
    });
  }
  check?.(value, `${key}${where}`);
}

export function camelCase(key: string): string {
  return key.replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase());
}

function checkUrl(text: string, name: string): void {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.username || url?.password) {
    // Without its value: it holds a secret.
    throw new VregError('USAGE', `${name}: a URL with a user or a password in it is not possible`, {
      field: 'url',
      hint: 'put the token into a file of mode 0600, and name that with --token-file',
    });
  }
  if (url && ['http:', 'https:', 'unix:'].includes(url.protocol)) return;
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

function checkShare(text: string, name: string): void {
  if (text === 'off' || (/^\d{1,3}%$/.test(text) && Number.parseInt(text, 10) <= 100)) return;
  throw new VregError('USAGE', `${name}: "${text}" is not a share`, { field: 'mass-loss', hint: 'write 50%, or off' });
}

function checkCount(text: string, name: string): void {
  if (/^[1-9]\d{0,8}$/.test(text)) return;
  throw new VregError('USAGE', `${name}: "${text}" is not a number`, {
    field: name.split(' ')[0]!,
    hint: 'a whole number from 1 to 999999999',
  });
}
