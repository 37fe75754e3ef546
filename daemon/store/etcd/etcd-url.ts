/** The URL of an etcd cluster, `etcd://a:2379,b:2379,c:2379/vreg/v1/`, and the files with its certificates and password. */
import { readFile } from 'node:fs/promises';
import { cannotRead, VregError } from '../../../src/protocol/errors.ts';

/** Port on which etcd serves clients by default. */
const DEFAULT_PORT = 2379;
/** The version in it leaves room for a layout that older daemons cannot read. */
const DEFAULT_PREFIX = '/vreg/v1/';
/** etcd's clusters have up to seven members; a longer list is a mistake. */
const MAX_ENDPOINTS = 16;

export interface EtcdUrl {
  /** `host:port` of each member, in the order of the URL. */
  endpoints: string[];
  /** All keys begin with it. It begins and ends with a slash. */
  prefix: string;
  isTls: boolean;
}

/** Flags that belong to the URL. All but the user are paths of files. */
export interface EtcdOptions {
  user?: string | undefined;
  passwordFile?: string | undefined;
  ca?: string | undefined;
  cert?: string | undefined;
  key?: string | undefined;
}

/** Everything that a client needs to connect. */
export interface EtcdTarget extends Omit<EtcdUrl, 'isTls'> {
  /** PEM; set for TLS. Without a CA, those of the system count. */
  tls?: { ca?: Buffer; cert?: Buffer; key?: Buffer };
  credentials?: { user: string; password: string };
}

export function isEtcdUrl(text: string): boolean {
  return /^etcds?:/i.test(text);
}

/** @throws VregError USAGE naming what is wrong */
export function parseEtcdUrl(text: string): EtcdUrl {
  const [, scheme, authority = '', path = ''] = /^(etcds?):\/\/([^/]*)(\/.*)?$/i.exec(text) ?? [];
  if (scheme === undefined) throw wrongUrl(`invalid store "${text}": it must begin with etcd:// or etcds://`);
  if (authority.includes('@'))
    throw wrongUrl('the URL of etcd must not contain a user', 'use --etcd-user NAME and --etcd-password-file FILE');
  const endpoints = authority.split(',').map((endpoint) => parseEndpoint(endpoint, text));
  if (endpoints.length > MAX_ENDPOINTS)
    throw wrongUrl(`the URL names ${endpoints.length} members (limit ${MAX_ENDPOINTS})`);
  const [twice] = endpoints.filter((endpoint, index) => endpoints.indexOf(endpoint) !== index);
  if (twice !== undefined) throw wrongUrl(`the URL names ${twice} twice`, 'name each member once');
  return { endpoints, prefix: parsePrefix(path), isTls: scheme.toLowerCase() === 'etcds' };
}

function parseEndpoint(text: string, url: string): string {
  if (text === '') throw wrongUrl(`invalid store "${url}": the name of a member is missing`);
  const [, host, port = String(DEFAULT_PORT)] = /^(\[[0-9a-f:.]+\]|[\w.-]+)(?::(\d+))?$/i.exec(text) ?? [];
  if (host === undefined || host.startsWith('-'))
    throw wrongUrl(
      `invalid member "${text}" in the URL of etcd: it must be host or host:port`,
      'an IPv6 address needs brackets: [::1]:2379',
    );
  if (Number(port) < 1 || Number(port) > 65_535)
    throw wrongUrl(`invalid port in "${text}": it must be between 1 and 65535`);
  return `${host}:${Number(port)}`;
}

function parsePrefix(path: string): string {
  if (path === '' || path === '/') return DEFAULT_PREFIX;
  // ASCII, so that the end of the prefix can be computed from its last character.
  if (!/^(\/[\w.-]+)+\/?$/.test(path))
    throw wrongUrl(
      `invalid prefix "${path}" in the URL of etcd: it consists of names with letters, digits, ".", "-" and "_"`,
      `without a path, the prefix is ${DEFAULT_PREFIX}`,
    );
  return path.endsWith('/') ? path : `${path}/`;
}

/**
 * Reads the files of the options.
 * @throws VregError USAGE if an option is missing, does not fit the URL, or its file cannot be read
 */
export async function readEtcdTarget(url: string, options: EtcdOptions): Promise<EtcdTarget> {
  const { endpoints, prefix, isTls } = parseEtcdUrl(url);
  const { user, passwordFile, ca, cert, key } = options;
  if ((user === undefined) !== (passwordFile === undefined))
    throw wrongOption(
      user === undefined ? 'etcd-user' : 'etcd-password-file',
      '--etcd-user and --etcd-password-file belong together',
    );
  if ((cert === undefined) !== (key === undefined))
    throw wrongOption(cert === undefined ? 'etcd-cert' : 'etcd-key', '--etcd-cert and --etcd-key belong together');
  if (!isTls && (ca !== undefined || cert !== undefined))
    throw wrongOption('store', 'certificates for etcd require a URL that begins with etcds://');
  const target: EtcdTarget = { endpoints, prefix };
  if (isTls) {
    target.tls = {
      ...(ca === undefined ? {} : { ca: await readOption('etcd-ca', ca) }),
      ...(cert === undefined ? {} : { cert: await readOption('etcd-cert', cert) }),
      ...(key === undefined ? {} : { key: await readOption('etcd-key', key) }),
    };
  }
  if (user !== undefined && passwordFile !== undefined) {
    const password = (await readOption('etcd-password-file', passwordFile)).toString().replace(/\r?\n$/, '');
    if (password === '') throw wrongOption('etcd-password-file', `the password file ${passwordFile} is empty`);
    target.credentials = { user, password };
  }
  return target;
}

async function readOption(field: string, path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (error) {
    throw cannotRead(`--${field} ${path}`, error, { field });
  }
}

function wrongUrl(message: string, hint = 'for example: etcd://a:2379,b:2379,c:2379/vreg/v1/'): VregError {
  return new VregError('USAGE', message, { field: 'store', hint });
}

function wrongOption(field: string, message: string): VregError {
  return new VregError('USAGE', message, { field, hint: 'see: vreg daemon --help' });
}
