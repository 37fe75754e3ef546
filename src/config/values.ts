/** The value types of settings and flags: durations, sizes, counts and lists. Their errors quote the invalid value. */
import { isIP } from 'node:net';
import { normalizeAddress } from '../protocol/address.ts';
import { durationOf, formatDuration, MAX_DAYS } from '../protocol/duration.ts';
import { VregError } from '../protocol/errors.ts';
import { maskValue, registryUrlFault, registryUrls } from '../protocol/redact.ts';

export type SettingGroup = 'client' | 'vm' | 'daemon' | 'agent';

export interface Setting {
  group: SettingGroup;
  /** Help text, without a trailing dot. */
  about: string;
  /** Placeholder for the value in help; a switch has none. */
  value?: string;
  /**
   * Value of the flag if it is given without one, or as `true` in a variable or the config file. If absent, the flag requires a
   * value.
   */
  bare?: string;
  /** The value is a path; shells complete file names. */
  file?: true;
  /** Variables that other programs read too, highest precedence first. All have a lower one than `VREG_<KEY>`. */
  sharedVariables?: readonly string[];
  default?: string;
  /** Description of a default that is computed at run time. */
  defaultIs?: string;
  /** Accepted values. */
  choices?: readonly string[];
  /** Values that shells complete. Other values are also accepted. */
  offers?: readonly string[];
  /** Accepts values that are not in `choices`. */
  accepts?: (text: string) => boolean;
  /** Description of the values that `accepts` accepts. */
  acceptsToo?: string;
  /** @throws VregError USAGE naming the setting; `where` is ` (from ORIGIN)` or empty */
  check?: (text: string, name: string, where: string) => void;
}

/** `invalid port "x" (from VREG_PORT)`. @param where ` (from ORIGIN)` or empty */
function invalidValue(name: string, text: string, hint: string, where = ''): VregError {
  return new VregError('USAGE', `invalid ${name} "${maskValue(text)}"${where}`, { field: fieldOf(name), hint });
}

/** Converts `--wait` to the field name `wait`. */
function fieldOf(name: string): string {
  return name.replace(/^--/, '');
}

/** Checks one URL, or several that are separated by commas. */
export function checkUrl(text: string, _name: string, where: string): void {
  const urls = text.includes(',') ? registryUrls(text) : [text];
  // A password may contain a comma, so no part of a text with a password is certainly free of it.
  const isSecret = text.includes('@') && urls.some((url) => registryUrlFault(url) === 'secret');
  for (const [index, url] of urls.entries()) {
    const fault = registryUrlFault(url);
    if (fault === undefined || (isSecret && fault === 'form')) continue;
    const place = urls.length > 1 ? ` ${index + 1} of ${urls.length}` : '';
    const [message, hint] = {
      // The message does not repeat the URL, because it contains a secret.
      secret: [
        `invalid url${place}${where}: it contains a user name or password`,
        'put the token into a file with mode 0600 and pass --token-file',
      ],
      query: [`invalid url${place}${where}: it contains a query or fragment`, 'remove everything from the ? or # on'],
      form: [`invalid url${place} "${url}"${where}`, 'use http://HOST:PORT, https://HOST:PORT or unix:/path/to.sock'],
    }[fault] as [string, string];
    throw new VregError('USAGE', message, { field: 'url', hint });
  }
}

/**
 * Parses a duration, see {@link durationOf}.
 * @param name the flag or setting, for the error message
 * @param where ` (from ORIGIN)`, for the error
 * @returns milliseconds: a whole number greater than 0
 * @throws VregError USAGE
 */
export function parseDuration(text: string, name: string, where = ''): number {
  const value = durationOf(text.trim());
  if (value !== undefined && value > 0) return value;
  const hint = `use a duration such as 90s, 5m, 1h30m, 30d or 90 for seconds (greater than 0, at most ${MAX_DAYS} days)`;
  throw invalidValue(name, text, hint, where);
}

export function checkDuration(text: string, name: string, where: string): void {
  parseDuration(text, name, where);
}

/** Adds the unit to a duration in plain seconds, for messages. */
export function withUnit(duration: string): string {
  return /^[\d.]+$/.test(duration.trim()) ? `${duration.trim()}s` : duration;
}

/**
 * Formats an age in milliseconds, for example `3m ago`. It may be negative, because clocks differ: then the result is `just
 * now`.
 */
export function formatAge(ms: number): string {
  return ms < 1000 ? 'just now' : `${formatDuration(ms)} ago`;
}

/** Bytes per unit. */
const SIZE_UNITS: Readonly<Record<string, number>> = { '': 1, KiB: 1024, MiB: 1024 ** 2, GiB: 1024 ** 3 };
/** 1 GiB: several larger bodies or entries would not fit into the heap. */
const MAX_SIZE = SIZE_UNITS.GiB!;

/**
 * Parses a size such as `1048576`, `512KiB` or `1MiB`.
 * @returns bytes, greater than 0
 * @throws VregError USAGE
 */
export function parseBytes(text: string, name: string, where = ''): number {
  const [, amount, unit] = /^(\d{1,10})(|KiB|MiB|GiB)$/.exec(text.trim()) ?? [];
  const bytes = amount === undefined ? 0 : Number(amount) * SIZE_UNITS[unit!]!;
  if (bytes > 0 && bytes <= MAX_SIZE) return bytes;
  throw invalidValue(name, text, 'use a size such as 65536, 512KiB or 1MiB (greater than 0, at most 1GiB)', where);
}

export function checkBytes(text: string, name: string, where: string): void {
  parseBytes(text, name, where);
}

/** Nine digits, so that sums of counts stay exact. */
const MAX_COUNT = 999_999_999;

/**
 * Parses a whole number from 1 to `max`.
 * @throws VregError USAGE
 */
export function parseCount(text: string, name: string, max = MAX_COUNT, where = ''): number {
  if (/^[1-9]\d{0,8}$/.test(text) && Number(text) <= max) return Number(text);
  throw invalidValue(name, text, `use a whole number from 1 to ${max}`, where);
}

export function checkCount(text: string, name: string, where: string): void {
  parseCount(text, name, undefined, where);
}

export function checkPort(text: string, name: string, where: string): void {
  if (/^\d{1,5}$/.test(text) && Number(text) <= 65_535) return;
  throw invalidValue(name, text, 'use a number from 0 (any free port) to 65535', where);
}

export function checkAddress(text: string, name: string, where: string): void {
  if (normalizeAddress(text.trim()) !== undefined) return;
  throw invalidValue(name, text, 'use a host name, an IPv4 or an IPv6 address, each optionally with :port', where);
}

export function checkShare(text: string, name: string, where: string): void {
  if (text === 'off' || (/^\d{1,3}%$/.test(text) && Number.parseInt(text, 10) <= 100)) return;
  throw invalidValue(name, text, 'use a percentage such as 50%, or off', where);
}

/** Named address ranges of @fastify/proxy-addr. */
export const PROXY_RANGES = ['loopback', 'linklocal', 'uniquelocal'] as const;

export function checkProxies(text: string, name: string, where: string): void {
  for (const proxy of text.split(',').map((part) => part.trim())) {
    if ((PROXY_RANGES as readonly string[]).includes(proxy) || isSubnet(proxy)) continue;
    const hint = `use comma-separated addresses such as 10.0.0.5,10.1.0.0/16, or one of: ${PROXY_RANGES.join(', ')}`;
    throw invalidValue(name, proxy, hint, where);
  }
}

/** True for `10.0.0.5` and `10.0.0.0/8`. False for the range of all addresses (`/0`), which would trust every client. */
function isSubnet(text: string): boolean {
  const [, address = '', bits] = /^([^/]+)(?:\/(\d{1,3}))?$/.exec(text) ?? [];
  const family = isIP(address);
  if (family === 0 || bits === undefined) return family !== 0;
  return Number(bits) > 0 && Number(bits) <= (family === 6 ? 128 : 32);
}

export function checkOrigins(text: string, name: string, where: string): void {
  for (const origin of text.split(',')) {
    // Browsers send an origin in lower case, without a path or a default port.
    if (/^https?:\/\//.test(origin) && URL.canParse(origin) && new URL(origin).origin === origin) continue;
    const hint = 'use scheme, host and port as a browser sends them, for example https://dash.example';
    throw invalidValue(name, origin, hint, where);
  }
}

/** Checks a URL for browsers. */
export function checkPageUrl(text: string, name: string, where: string): void {
  const isWeb = URL.canParse(text) && /^https?:$/.test(new URL(text).protocol);
  if (isWeb && registryUrlFault(text) === undefined) return;
  throw invalidValue(name, text, 'use http(s)://HOST[:PORT][/PATH] without a user or query', where);
}

/** Splits a comma-separated list. An empty list has one empty element, which is invalid everywhere. */
export function splitList(text: string): string[] {
  return text.split(',').map((part) => part.trim());
}

/** Lists the first `max` names and the number of the others: `a, b and 3 more`. */
export function formatNames(names: readonly string[], max: number): string {
  const first = names.slice(0, max).join(', ');
  return names.length > max ? `${first} and ${names.length - max} more` : first;
}
