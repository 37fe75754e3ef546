/**
 * The table of settings, with the flag, variables, default and accepted values of each. Config, help, completions and READMEs
 * use it.
 */
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
import {
  checkAddress,
  checkBytes,
  checkCount,
  checkDuration,
  checkOrigins,
  checkPageUrl,
  checkPort,
  checkProxies,
  checkShare,
  checkUrl,
  PROXY_RANGES,
  type Setting,
} from './values.ts';

/** Formats milliseconds as the value of a setting. */
const duration = (ms: number) => (ms % 60_000 === 0 ? `${ms / 60_000}m` : `${ms / 1000}s`);

export const OUTPUT_FORMATS = ['table', 'wide', 'json', 'ndjson', 'yaml', 'name', 'tsv'] as const;
/** Formats that take an expression: `jsonpath=$[*].id`, `template={{name}}`. */
export const EXPRESSION_FORMATS = ['jsonpath', 'template'] as const;
export type OutputFormat = (typeof OUTPUT_FORMATS)[number] | `${(typeof EXPRESSION_FORMATS)[number]}=${string}`;

/** True for formats that print columns or plain lines instead of structured data. */
export function isTextFormat(format: OutputFormat): boolean {
  return ['table', 'wide', 'tsv', 'name'].includes(format);
}

/** Every setting. `--kebab-case` is its flag and `VREG_KEBAB_CASE` its variable. */
export const SETTINGS = {
  url: {
    group: 'client',
    value: 'URL',
    sharedVariables: ['VERS_INFRA_URL', 'VERS_VM_REGISTRY_URL'],
    default: DEFAULT_URL,
    check: checkUrl,
    about: 'URL of the registry, as http(s)://HOST:PORT or unix:/path/to.sock; several are separated by commas',
  },
  'token-file': {
    group: 'client',
    value: 'FILE',
    file: true,
    about: 'file with the bearer token, mode 0600; to pass the token itself, set VERS_AUTH_TOKEN',
  },
  'ca-file': {
    group: 'client',
    value: 'FILE',
    file: true,
    about: 'CA certificates to trust for https, besides those of Node, the system and SSL_CERT_FILE',
  },
  'cert-file': {
    group: 'client',
    value: 'FILE',
    file: true,
    about: 'client certificate, for a registry that requires one (--tls-client-ca)',
  },
  'key-file': {
    group: 'client',
    value: 'FILE',
    file: true,
    about: 'private key of the client certificate, mode 0600',
  },
  output: {
    group: 'client',
    value: 'FORMAT',
    choices: OUTPUT_FORMATS,
    accepts: (text) => EXPRESSION_FORMATS.some((format) => text.startsWith(`${format}=`)),
    acceptsToo: 'jsonpath=PATH or template=TEMPLATE',
    defaultIs: 'table on a TTY, else tsv',
    about: 'output format',
  },
  timeout: {
    group: 'client',
    value: 'DURATION',
    default: '10s',
    check: checkDuration,
    about: 'time limit for each request to the registry',
  },
  id: { group: 'vm', value: 'ID', sharedVariables: ['VERS_VM_ID'], defaultIs: 'the host name', about: 'id of this VM' },
  'id-file': {
    group: 'vm',
    value: 'FILE',
    file: true,
    about: 'JSON file with the id of this VM and of its parent, as vmId and parentVmId',
  },
  name: {
    group: 'vm',
    value: 'NAME',
    sharedVariables: ['VERS_AGENT_NAME'],
    defaultIs: 'the host name',
    about: 'name of this VM',
  },
  role: {
    group: 'vm',
    value: 'ROLE',
    sharedVariables: ['VERS_AGENT_ROLE'],
    default: 'worker',
    choices: ROLES,
    about: 'role of this VM',
  },
  address: {
    group: 'vm',
    value: 'ADDRESS',
    defaultIs: 'ID.vm.vers.sh',
    check: checkAddress,
    about: 'address at which clients reach this VM',
  },
  'registered-by': {
    group: 'vm',
    value: 'WHO',
    defaultIs: 'VERS_AGENT_NAME, else the user',
    about: 'name to record in registeredBy',
  },
  host: {
    group: 'daemon',
    value: 'HOST',
    default: DEFAULT_HOST,
    about: 'address to listen on; an address other than loopback requires a token',
  },
  port: {
    group: 'daemon',
    value: 'PORT',
    sharedVariables: ['PORT'],
    default: String(DEFAULT_PORT),
    check: checkPort,
    about: 'TCP port to listen on; 0 picks a free one',
  },
  socket: {
    group: 'daemon',
    value: 'PATH',
    file: true,
    about: 'unix socket to listen on, with mode 0600; disables TCP unless --host or --port is given',
  },
  'tls-cert': {
    group: 'daemon',
    value: 'FILE',
    file: true,
    about: 'certificate and its chain; enables https on the TCP port',
  },
  'tls-key': {
    group: 'daemon',
    value: 'FILE',
    file: true,
    about: 'private key of the certificate, mode 0600',
  },
  'tls-client-ca': {
    group: 'daemon',
    value: 'FILE',
    file: true,
    about: 'CA certificates; requires clients to send a certificate that one of them signed',
  },
  'trust-proxy': {
    group: 'daemon',
    value: 'ADDRESSES',
    bare: 'loopback',
    offers: PROXY_RANGES,
    check: checkProxies,
    about: 'trust X-Forwarded-* headers from proxies at these comma-separated addresses; requires a token',
  },
  'cors-origin': {
    group: 'daemon',
    value: 'ORIGINS',
    check: checkOrigins,
    about: 'comma-separated origins whose web pages may call the API',
  },
  'public-url': {
    group: 'daemon',
    value: 'URL',
    sharedVariables: ['VERS_PUBLIC_URL'],
    check: checkPageUrl,
    about: 'URL under which browsers reach the registry, for the links of vreg ui',
  },
  'data-dir': {
    group: 'daemon',
    value: 'DIR',
    file: true,
    defaultIs: '$STATE_DIRECTORY, else $XDG_STATE_HOME/vreg',
    about: 'folder for the state of the registry or the agent',
  },
  store: {
    group: 'daemon',
    value: 'URL',
    defaultIs: 'a database in the data dir',
    about: 'etcd cluster that several replicas share: etcd://HOST:PORT,…/PREFIX/, or etcds:// for TLS',
  },
  'etcd-user': { group: 'daemon', value: 'NAME', about: 'user of the registry in etcd' },
  'etcd-password-file': {
    group: 'daemon',
    value: 'FILE',
    file: true,
    about: 'file with the password of the etcd user',
  },
  'etcd-ca': { group: 'daemon', value: 'FILE', file: true, about: 'CA certificates that sign those of etcd' },
  'etcd-cert': { group: 'daemon', value: 'FILE', file: true, about: 'client certificate for etcd' },
  'etcd-key': { group: 'daemon', value: 'FILE', file: true, about: 'private key of the client certificate for etcd' },
  'heartbeat-flush': {
    group: 'daemon',
    value: 'DURATION',
    default: '15s',
    check: checkDuration,
    about: 'with etcd: other replicas know of a heartbeat after this time; at most a tenth of the lease',
  },
  'native-dir': {
    group: 'daemon',
    value: 'DIR',
    file: true,
    defaultIs: '$CACHE_DIRECTORY, else $XDG_CACHE_HOME/vreg',
    about: 'folder into which the single executable unpacks its SQLite library',
  },
  'stale-after': {
    group: 'daemon',
    value: 'DURATION',
    default: duration(DEFAULT_STALE_AFTER),
    check: checkDuration,
    about: 'lease: a VM becomes stale this long after its last heartbeat, not counting time when the registry was down',
  },
  'mass-loss': {
    group: 'daemon',
    value: 'SHARE',
    default: `${100 * DEFAULT_MASS_LOSS}%`,
    check: checkShare,
    about:
      'if more than this share of the live VMs, and at least ten, go silent together, mark them suspect instead of stale; off disables this',
  },
  'allow-host': {
    group: 'daemon',
    value: 'NAMES',
    defaultIs: 'names without a dot, the host name, --host',
    about: 'comma-separated host names to accept in the Host header when no token is configured',
  },
  'max-body': {
    group: 'daemon',
    value: 'BYTES',
    default: '1MiB',
    check: checkBytes,
    about: 'maximum size of a request body, and of an entry as JSON; larger ones get 413',
  },
  'max-vms': {
    group: 'daemon',
    value: 'N',
    default: '100000',
    check: checkCount,
    about: 'maximum number of VMs; further registrations get 429',
  },
  'max-connections': {
    group: 'daemon',
    value: 'N',
    default: '10000',
    check: checkCount,
    about: 'maximum number of connections; further ones are closed',
  },
  'log-level': {
    group: 'daemon',
    value: 'LEVEL',
    default: 'info',
    choices: LOG_LEVELS,
    about: 'lowest level to log',
  },
  'log-format': {
    group: 'daemon',
    value: 'FORMAT',
    choices: LOG_FORMATS,
    defaultIs: 'pretty on a TTY, else json',
    about: 'format of the log',
  },
  interval: {
    group: 'agent',
    value: 'DURATION',
    default: duration(DEFAULT_INTERVAL),
    check: checkDuration,
    about: 'time between heartbeats',
  },
  'on-clone': {
    group: 'agent',
    value: 'WHAT',
    default: 'reject',
    choices: ON_CLONE,
    about: 'what to do if this VM is a clone (exit, take a new id, or take over the id)',
  },
  'id-command': {
    group: 'agent',
    value: 'COMMAND',
    defaultIs: 'a random id',
    about: 'command that prints the new id for --on-clone rebirth',
  },
  'run-dir': {
    group: 'agent',
    value: 'DIR',
    file: true,
    defaultIs: '$RUNTIME_DIRECTORY, else $XDG_RUNTIME_DIR/vreg',
    about: 'folder to which the agent writes the addresses of live VMs',
  },
  'on-exit': {
    group: 'agent',
    value: 'WHAT',
    default: 'stopped',
    choices: ON_EXIT,
    about: 'what to do with the entry of the VM when the agent stops',
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

/** `VREG_TOKEN_FILE` for `token-file`. */
export function envNameOf(key: SettingKey): string {
  return `VREG_${key.toUpperCase().replaceAll('-', '_')}`;
}

/** `--port PORT`, `--trust-proxy [ADDRESSES]` */
export function flagOf(key: SettingKey): string {
  const { value, bare } = settingOf(key);
  return `--${key} ${bare === undefined ? value : `[${value}]`}`;
}

/**
 * Checks the value of a setting.
 * @param where ` (from ORIGIN)`, for the error
 * @throws VregError USAGE
 */
export function checkSetting(key: SettingKey, value: string, where = ''): void {
  const { choices, accepts, acceptsToo, check, bare } = settingOf(key);
  if (bare !== undefined && ['true', 'false'].includes(value)) return;
  if (choices && !choices.includes(value) && !accepts?.(value)) {
    throw new VregError('USAGE', `invalid ${key} "${maskValue(value)}"${where}${suggestion(value, choices)}`, {
      field: key,
      hint: `one of: ${[...choices, ...(acceptsToo ? [acceptsToo] : [])].join(', ')}`,
    });
  }
  check?.(value, key, where);
}

/** `tokenFile` for `token-file`. */
export function camelCase(key: string): string {
  return key.replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase());
}
