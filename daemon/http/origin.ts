/** Whom a registry that asks nobody for a token refuses all the same: browsers that a page from elsewhere sent. */
import { BlockList, isIP } from 'node:net';
import { VregError } from '../../src/protocol/errors.ts';

/**
 * Refuses a browser that asks on behalf of a page from elsewhere: without a token, whoever can make this machine's
 * browser open a page could register VMs here. Other clients send no `Origin`.
 * @throws VregError FORBIDDEN
 */
export function refuseForeignPage(origin: string | undefined): void {
  if (origin === undefined) return;
  const host = URL.canParse(origin) ? new URL(origin).hostname.replace(/^\[|\]$/g, '') : '';
  if (isLoopback(host)) return;
  throw new VregError('FORBIDDEN', `a page of ${origin} may not use a registry that asks for no token`, {
    field: 'origin',
    hint: 'start the daemon with a token (VERS_AUTH_TOKEN or --token-file), and name the origin with --cors-origin',
  });
}

/**
 * Refuses a request for a name that is not this registry's: the page of a domain that was pointed at this machine (DNS
 * rebinding) asks for its own name. An address, or a name without a dot, is nobody's domain, and clients without browsers
 * may send no name.
 * @param names with a dot that are this registry's
 * @throws VregError FORBIDDEN
 */
export function refuseForeignHost(header: string | undefined, names: Pick<ReadonlySet<string>, 'has'>): void {
  if (header === undefined) return;
  const host = header
    .replace(/:\d*$/, '')
    .replace(/^\[|\]$/g, '')
    .toLowerCase();
  if (isIP(host) !== 0 || !host.includes('.') || host.endsWith('.localhost') || names.has(host)) return;
  throw new VregError('FORBIDDEN', 'a registry that asks for no token answers to its own names only', {
    field: 'host',
    hint: 'ask for it by its address, start the daemon with --allow-host NAME, or give it a token',
  });
}

/** True of an address that only this machine can reach. A name is not looked up: only `localhost` is known to be one. */
export function isLoopback(host: string): boolean {
  const family = isIP(host);
  return family === 0 ? host === 'localhost' : LOOPBACK.check(host, family === 6 ? 'ipv6' : 'ipv4');
}

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4');
LOOPBACK.addAddress('::1', 'ipv6');
