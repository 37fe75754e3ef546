/** The grammar of addresses. Shells, proxies and URLs use addresses, so any other text is rejected. */
import { isIPv4, isIPv6 } from 'node:net';

/** An IPv6 address has at least two colons. Only such a text is passed to isIPv6, because compiling its expression takes 2 ms. */
const TWO_COLONS = /:.*:/s;

export function isIPv6Address(text: string): boolean {
  return TWO_COLONS.test(text) && isIPv6(text);
}

/** The letters, digits and marks of host names, including `_`, which some name services use. */
const HOST_NAME = /^[a-z0-9_][a-z0-9._-]*$/i;
/** Four numbers separated by dots are an IPv4 address or a mistake, never a host name. */
const FOUR_NUMBERS = /^\d+(\.\d+){3}$/;

/**
 * Normalizes an address: a host name, an IPv4 or an IPv6 address (bracketed or not), each optionally with `:port`. A URL
 * `http(s)://host[:port][/]` becomes `host[:port]`.
 * @returns undefined if the text is not an address
 */
export function normalizeAddress(text: string): string | undefined {
  // Most addresses are host names. A daemon that starts checks the addresses of its entire fleet.
  if (HOST_NAME.test(text)) return isHost(text) ? text : undefined;
  const [, inUrl] = /^https?:\/\/([^/]*)\/?$/i.exec(text) ?? [];
  const address = inUrl ?? text;
  return isAddress(address) ? address : undefined;
}

function isAddress(text: string): boolean {
  // A zone id (`fe80::1%eth0`) has a meaning on one machine only, and isIPv6 accepts it.
  const isGlobalIPv6 = (host: string) => isIPv6Address(host) && !host.includes('%');
  if (isGlobalIPv6(text)) return true;
  const { host, port } = splitAddress(text);
  if (port !== undefined && !(/^[1-9]\d*$/.test(port) && isPort(Number(port)))) return false;
  const [, bracketed] = /^\[(.*)\]$/s.exec(host) ?? [];
  if (bracketed !== undefined) return isGlobalIPv6(bracketed);
  return isHost(host);
}

/** True for a host name or an IPv4 address. */
function isHost(text: string): boolean {
  return HOST_NAME.test(text) && (isIPv4(text) || !FOUR_NUMBERS.test(text));
}

/** True for a TCP port: a whole number from 1 to 65535. */
export function isPort(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 1 && (value as number) <= 65_535;
}

/**
 * Splits an address.
 * @returns the host as in a URL, that is, with brackets around an IPv6 address; the port is undefined if the address has none
 */
export function splitAddress(address: string): { host: string; port: string | undefined } {
  // An IPv6 address without brackets contains several colons.
  if (/^[^[\]]*:[^[\]]*:/.test(address)) return { host: `[${address}]`, port: undefined };
  const [, host = '', port] = /^(.*?)(?::(\d*))?$/s.exec(address)!;
  return { host, port };
}

/** Joins a host and a port. An IPv6 address gets brackets. */
export function joinHostPort(host: string, port: number | string): string {
  return `${isIPv6Address(host) ? `[${host}]` : host}:${port}`;
}

/**
 * Writes a value between two texts. An IPv6 address gets brackets in a URL and before a port. An address before a port is
 * written without its own port.
 * @param isAddress the value is the address of an entry, so it may have a port
 */
export function hostBetween(before: string, value: string, after: string, isAddress: boolean): string {
  const precedesPort = /^:(?!\s)/.test(after);
  if (precedesPort && isAddress && normalizeAddress(value) === value) return splitAddress(value).host;
  const isInUrl = /\/\/(?:[^\s/@]*@)?$/.test(before);
  return (precedesPort || isInUrl) && isIPv6Address(value) ? `[${value}]` : value;
}
