/** What a proxy says of where a request came from; whether it is believed is fastify's `trustProxy` to decide. */
import type { IncomingHttpHeaders } from 'node:http';
import { BlockList, isIP } from 'node:net';

/** Ranges that have a name, as fastify knows them. */
const RANGES: Readonly<Record<string, readonly string[]>> = {
  loopback: ['127.0.0.0/8', '::1'],
  linklocal: ['169.254.0.0/16', 'fe80::/10'],
  uniquelocal: ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', 'fc00::/7'],
};

/**
 * Whose word holds, for fastify: that of the proxies, and of whoever comes by the daemon's own socket, which has no address.
 * Without it all that a proxy passes on over the socket would come from one place, and one stranger would lock out all.
 * @param proxies addresses, ranges and their names, with commas
 */
export function trustOf(proxies: string | undefined): false | ((address: string | undefined) => boolean) {
  if (proxies === undefined) return false;
  const known = new BlockList();
  const given = proxies.split(',').map((word) => word.trim());
  for (const range of given.flatMap((word) => RANGES[word] ?? [word])) {
    const [address = '', bits] = range.split('/');
    if (bits === undefined) known.addAddress(address, familyOf(address));
    else known.addSubnet(address, Number(bits), familyOf(address));
  }
  return (address) => address === undefined || known.check(address, familyOf(address));
}

function familyOf(address: string): 'ipv4' | 'ipv6' {
  return isIP(address) === 6 ? 'ipv6' : 'ipv4';
}

/**
 * Leaves in `X-Forwarded-For` what can be read as addresses, counted from the last, which the nearest proxy has written.
 * What stands before something else is nobody's word: the address of a request is always an address.
 */
export function cleanForwardedFor(headers: IncomingHttpHeaders): void {
  const given = headers['x-forwarded-for'];
  if (given === undefined) return;
  const entries = String(given)
    .split(',')
    .map((entry) => entry.trim())
    .filter((entry) => entry !== '')
    .map(addressOf);
  const known = entries.slice(entries.lastIndexOf(undefined) + 1);
  if (known.length > 0) headers['x-forwarded-for'] = known.join(', ');
  else delete headers['x-forwarded-for'];
}

/** Some proxies add the port, and brackets around an IPv6 address. */
function addressOf(entry: string): string | undefined {
  const [, bracketed, plain] = /^(?:\[([^\]]*)\](?::\d+)?|([^[\]:]+):\d+)$/.exec(entry) ?? [];
  const address = bracketed ?? plain ?? entry;
  return isIP(address) === 0 ? undefined : address;
}
