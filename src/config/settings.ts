/** Every setting: its flag, its variables, its default, and what is accepted. One table for all that shows or reads them. */

import { suggestion } from '../help/suggest.ts';
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
} from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { maskValue } from '../protocol/redact.ts';
import { ROLES } from '../protocol/vm.ts';
import { parseBytes } from './bytes.ts';
import {
  checkCount,
  checkDuration,
  checkOrigins,
  checkPort,
  checkProxies,
  checkShare,
  checkUrl,
  PROXY_RANGES,
  type Setting,
} from './values.ts';

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
    file: true,
    about: 'file with the bearer token, mode 0600 (or VERS_AUTH_TOKEN: the token itself)',
  },
  'ca-file': {
    group: 'client',
    value: 'FILE',
    file: true,
    about: "certificates to trust for https, besides the system's",
  },
  'cert-file': {
    group: 'client',
    value: 'FILE',
    file: true,
    about: 'certificate to show to a registry that asks for one (--tls-client-ca)',
  },
  'key-file': {
    group: 'client',
    value: 'FILE',
    file: true,
    about: 'its private key, mode 0600',
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
    file: true,
    about: 'unix socket to listen on, mode 0600; alone unless --host or --port is given',
  },
  'tls-cert': {
    group: 'daemon',
    value: 'FILE',
    file: true,
    about: 'certificate, with its chain, by which the TCP address speaks https',
  },
  'tls-key': {
    group: 'daemon',
    value: 'FILE',
    file: true,
    about: 'its private key, mode 0600',
  },
  'tls-client-ca': {
    group: 'daemon',
    value: 'FILE',
    file: true,
    about: 'certificates of which one must have signed that of each client',
  },
  'trust-proxy': {
    group: 'daemon',
    value: 'ADDRESSES',
    bare: 'loopback',
    offers: PROXY_RANGES,
    check: checkProxies,
    about: 'proxies whose X-Forwarded-For and -Proto hold; needs a token',
  },
  'cors-origin': {
    group: 'daemon',
    value: 'ORIGINS',
    check: checkOrigins,
    about: 'origins, with commas, whose pages may use the registry',
  },
  'data-dir': {
    group: 'daemon',
    value: 'DIR',
    file: true,
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
  'allow-host': {
    group: 'daemon',
    value: 'NAMES',
    defaultIs: 'names without a dot, the host name, --host',
    about: 'names, with commas, by which a registry without a token may be asked',
  },
  'max-body': {
    group: 'daemon',
    value: 'BYTES',
    default: '1MiB',
    check: parseBytes,
    about: 'maximum size of a request body, and of an entry as JSON (else 413)',
  },
  'max-vms': {
    group: 'daemon',
    value: 'N',
    default: '100000',
    check: checkCount,
    about: 'maximum number of registered VMs (else 429)',
  },
  'max-connections': {
    group: 'daemon',
    value: 'N',
    default: '10000',
    check: checkCount,
    about: 'maximum number of open connections; more are closed',
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

/** `--port PORT`, `--trust-proxy [ADDRESSES]` */
export function flagOf(key: SettingKey): string {
  const { value, bare } = settingOf(key);
  return `--${key} ${bare === undefined ? value : `[${value}]`}`;
}

/** @throws VregError USAGE naming the setting, the reason and what is accepted */
export function checkSetting(key: SettingKey, value: string, where = ''): void {
  const { choices, accepts, acceptsToo, check, bare } = settingOf(key);
  if (bare !== undefined && ['true', 'false'].includes(value)) return;
  if (choices && !choices.includes(value) && !accepts?.(value)) {
    const near = suggestion(value, choices);
    throw new VregError('USAGE', `${key}: "${maskValue(value)}" is not possible${where}${near}`, {
      field: key,
      hint: `one of: ${[...choices, ...(acceptsToo ? [acceptsToo] : [])].join(', ')}`,
    });
  }
  check?.(value, `${key}${where}`);
}

export function camelCase(key: string): string {
  return key.replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase());
}
