/** What there is to say of a setting, and the checks of its value: each names the setting, and says what is accepted. */

import { isIP } from 'node:net';
import { VregError } from '../protocol/errors.ts';
import { maskValue, registryUrlFault } from '../protocol/redact.ts';
import { parseDuration } from './duration.ts';

export type SettingGroup = 'client' | 'vm' | 'daemon' | 'agent';

export interface Setting {
  group: SettingGroup;
  about: string;
  /** How its value is called in help; none for a switch. */
  value?: string;
  /** What the flag means without a value; absent: it needs one. `true` in a variable or the config file is that, too. */
  bare?: string;
  /** Its value is a path, which completion offers. */
  file?: true;
  /** Names besides `VREG_<KEY>`, which comes first. */
  vers?: string;
  default?: string;
  /** The default in words, where it is found out at run time. */
  defaultIs?: string;
  choices?: readonly string[];
  /** What completion offers where more than that is accepted. */
  offers?: readonly string[];
  /** What is accepted besides the choices. */
  accepts?: (text: string) => boolean;
  /** The same in words. */
  acceptsToo?: string;
  /** @throws VregError USAGE naming the setting */
  check?: (text: string, name: string) => void;
}

/** Names of ranges of addresses, as proxy-addr has them, which fastify reads the setting with. */
export const PROXY_RANGES = ['loopback', 'linklocal', 'uniquelocal'] as const;

export function checkUrl(text: string, name: string): void {
  const fault = registryUrlFault(text);
  if (fault === undefined) return;
  const [message, hint] = {
    // Without its value: it holds a secret.
    secret: [
      'a URL with a user or a password in it is not possible',
      'put the token into a file of mode 0600, and name that with --token-file',
    ],
    query: ['a URL with a query or a fragment is not possible', 'leave out what stands from the ? or the # on'],
    form: [
      `"${text}" is not the URL of a registry`,
      'write it as http://HOST:PORT, https://HOST:PORT or unix:/path/to.sock',
    ],
  }[fault] as [string, string];
  throw new VregError('USAGE', `${name}: ${message}`, { field: 'url', hint });
}

export function checkDuration(text: string, name: string): void {
  parseDuration(text, name);
}

export function checkPort(text: string, name: string): void {
  if (/^\d{1,5}$/.test(text) && Number(text) <= 65_535) return;
  throw new VregError('USAGE', `${name}: "${maskValue(text)}" is not a port`, {
    field: 'port',
    hint: 'a number from 0 (any) to 65535',
  });
}

export function checkShare(text: string, name: string): void {
  if (text === 'off' || (/^\d{1,3}%$/.test(text) && Number.parseInt(text, 10) <= 100)) return;
  throw new VregError('USAGE', `${name}: "${maskValue(text)}" is not a share`, {
    field: 'mass-loss',
    hint: 'write 50%, or off',
  });
}

export function checkCount(text: string, name: string): void {
  if (/^[1-9]\d{0,8}$/.test(text)) return;
  throw new VregError('USAGE', `${name}: "${maskValue(text)}" is not a number`, {
    field: name.split(' ')[0]!,
    hint: 'a whole number from 1 to 999999999',
  });
}

export function checkProxies(text: string, name: string): void {
  for (const proxy of text.split(',').map((word) => word.trim())) {
    if ((PROXY_RANGES as readonly string[]).includes(proxy) || isSubnet(proxy)) continue;
    throw new VregError('USAGE', `${name}: "${maskValue(proxy)}" is no address`, {
      field: 'trust-proxy',
      hint: `addresses of proxies with commas, for example 10.0.0.5,10.1.0.0/16, or one of: ${PROXY_RANGES.join(', ')}`,
    });
  }
}

/** `10.0.0.5`, `10.0.0.0/8`. A range of all addresses would trust everybody. */
function isSubnet(text: string): boolean {
  const [, address = '', bits] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(text) ?? [];
  const family = isIP(address);
  if (family === 0 || bits === undefined) return family !== 0;
  return Number(bits) > 0 && Number(bits) <= (family === 6 ? 128 : 32);
}

export function checkOrigins(text: string, name: string): void {
  for (const origin of text.split(',')) {
    // As a browser writes it: no path, no default port, in lower case.
    if (/^https?:\/\//.test(origin) && URL.canParse(origin) && new URL(origin).origin === origin) continue;
    throw new VregError('USAGE', `${name}: "${maskValue(origin)}" is not an origin`, {
      field: 'cors-origin',
      hint: 'write it as a browser sends it: scheme, host and port, for example https://dash.example',
    });
  }
}
