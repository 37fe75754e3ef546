/** Where a request really comes from, if a trusted proxy has forwarded it. */
import type { IncomingHttpHeaders } from 'node:http';
import { BlockList, isIP } from 'node:net';
import { TLSSocket } from 'node:tls';
import proxyAddr from '@fastify/proxy-addr';
import type { RequestContext } from './context.ts';
import { isLocal } from './server/unix-socket.ts';

/** Named address ranges, as in `proxy-addr`. */
const RANGES: Readonly<Record<string, readonly string[]>> = {
  loopback: ['127.0.0.0/8', '::1'],
  linklocal: ['169.254.0.0/16', 'fe80::/10'],
  uniquelocal: ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', 'fc00::/7'],
};

/** Headers that a direct client sends. Any other header may have been added by a proxy, which anybody can use. */
const DIRECT_HEADER =
  /^(host|user-agent|accept.*|content-.*|connection|expect|if-.*|last-event-id|range|x-request-id|x-vreg-.*)$/i;

/** Characters of a header's name in an error. */
const MAX_NAME = 60;

/**
 * Whose forwarded headers to believe: those of the proxies, and those of peers on the daemon's unix socket, which have no
 * address. Otherwise everything that a proxy forwards over the socket would share one address, and one attacker would lock
 * out all clients.
 * @param proxies comma-separated addresses, ranges and names of ranges
 */
export function trustedProxies(proxies: string): (address: string | undefined) => boolean {
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

/** Step: finds the client's address, and drops forwarded headers that cannot be believed. */
export function trustForwardedHeaders(ctx: RequestContext): void {
  const { request, services } = ctx;
  const { socket, headers } = request;
  // Node remembers the address once it is read: the audit log needs it when the connection is gone.
  ctx.remoteAddress = socket.remoteAddress;
  if (!services.isTrustedProxy) return;
  if (ctx.remoteAddress === undefined && !isLocal(socket)) {
    // A closed TCP socket has no address either. Only on the unix socket is a peer without an address trusted.
    delete headers['x-forwarded-for'];
    delete headers['x-forwarded-proto'];
  }
  cleanForwardedFor(headers);
  ctx.remoteAddress = proxyAddr(request, services.isTrustedProxy);
}

/** `https` if the client speaks it with the daemon or with a trusted proxy. */
export function schemeOf({ request, services }: RequestContext): string {
  const { socket, headers } = request;
  const forwarded = headers['x-forwarded-proto'];
  // The nearest proxy appends its value.
  if (forwarded && services.isTrustedProxy?.(socket.remoteAddress)) return String(forwarded).split(',').at(-1)!.trim();
  return socket instanceof TLSSocket ? 'https' : 'http';
}

interface SocketClient {
  /** The request comes straight from the owner of the unix socket, not through a proxy. */
  isOwner: boolean;
  /** Name of a header that a proxy may have added to a request on the socket. */
  proxyHeader?: string | undefined;
}

const NOT_OWNER: SocketClient = { isOwner: false };
const OWNER: SocketClient = { isOwner: true };

/** Decides whether a request has the rights of the owner of the unix socket. */
export function socketClient({ request: { socket, rawHeaders }, services }: RequestContext): SocketClient {
  if (services.isTrustedProxy || !isLocal(socket)) return NOT_OWNER;
  // `headers` would hide a header named `__proto__`.
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]!;
    if (!DIRECT_HEADER.test(name)) return { isOwner: false, proxyHeader: name.toLowerCase().slice(0, MAX_NAME) };
  }
  return OWNER;
}

/**
 * Reduces `X-Forwarded-For` to the addresses after the last entry that is no address. The nearest proxy has written the last
 * entry; everything before an invalid one is unreliable.
 */
export function cleanForwardedFor(headers: IncomingHttpHeaders): void {
  const given = headers['x-forwarded-for'];
  if (given === undefined) return;
  const entries = String(given)
    .split(',')
    .map((entry) => entry.trim())
    .filter((entry) => entry !== '')
    .map(parseAddress);
  const known = entries.slice(entries.lastIndexOf(undefined) + 1);
  if (known.length > 0) headers['x-forwarded-for'] = known.join(', ');
  else delete headers['x-forwarded-for'];
}

/** The address of an entry without the port and the brackets that some proxies add; undefined if there is none. */
function parseAddress(entry: string): string | undefined {
  const [, bracketed, plain] = /^(?:\[([^\]]*)\](?::\d+)?|([^[\]:]+):\d+)$/.exec(entry) ?? [];
  const address = bracketed ?? plain ?? entry;
  return isIP(address) === 0 ? undefined : address;
}
