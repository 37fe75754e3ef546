/** Determines the client of a request that a trusted proxy has forwarded. */
import type { IncomingHttpHeaders } from 'node:http';
import { BlockList, isIP } from 'node:net';
import { TLSSocket } from 'node:tls';
import proxyAddr from '@fastify/proxy-addr';
import type { RequestContext } from '../context.ts';
import { isLocal } from '../server/unix-socket.ts';

/** Named address ranges, as in `proxy-addr`. */
const RANGES: Readonly<Record<string, readonly string[]>> = {
  loopback: ['127.0.0.0/8', '::1'],
  linklocal: ['169.254.0.0/16', 'fe80::/10'],
  uniquelocal: ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', 'fc00::/7'],
};

/** Headers that a direct client sends. Any other header may have been added by a proxy that anyone can use. */
const DIRECT_HEADER =
  /^(host|user-agent|accept.*|content-.*|connection|expect|if-.*|last-event-id|range|x-request-id|x-vreg-.*)$/i;

/** Maximum number of characters of a header name in an error. */
const MAX_NAME = 60;

/**
 * Determines whose forwarded headers to trust: those from the proxies, and those from peers on the daemon's unix socket, which
 * have no address. Otherwise all clients of a proxy on the socket would share one address, and one attacker could lock out all
 * of them.
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

/** Step: determines the client's address, and removes untrusted forwarded headers. */
export function trustForwardedHeaders(ctx: RequestContext): void {
  const { request, services } = ctx;
  const { socket } = request;
  // Node caches the address on the first read, and the audit log needs it after the connection is closed.
  ctx.remoteAddress = socket.remoteAddress;
  ctx.isOnUnixSocket = ctx.remoteAddress === undefined && isLocal(socket);
  if (!services.isTrustedProxy) return;
  if (ctx.remoteAddress === undefined && !ctx.isOnUnixSocket) {
    // A closed TCP socket has no address either. A peer without an address is trusted only on the unix socket.
    delete request.headers['x-forwarded-for'];
    delete request.headers['x-forwarded-proto'];
  }
  cleanForwardedFor(request.headers);
  ctx.remoteAddress = proxyAddr(request, services.isTrustedProxy);
}

/** `https` if the client uses it to connect to the daemon or to a trusted proxy. */
export function schemeOf({ request, services }: RequestContext): string {
  const { socket, headers } = request;
  const forwarded = headers['x-forwarded-proto'];
  // The nearest proxy appends its value.
  if (forwarded && services.isTrustedProxy?.(socket.remoteAddress)) return String(forwarded).split(',').at(-1)!.trim();
  return socket instanceof TLSSocket ? 'https' : 'http';
}

interface SocketClient {
  /** The request comes directly from the owner of the unix socket, not through a proxy. */
  isOwner: boolean;
  /** Name of a header that a proxy may have added to a request on the socket. */
  proxyHeader?: string | undefined;
}

const NOT_OWNER: SocketClient = { isOwner: false };
const OWNER: SocketClient = { isOwner: true };

/** Decides whether a request has the rights of the owner of the unix socket. */
export function socketClient({ request: { rawHeaders }, services, isOnUnixSocket }: RequestContext): SocketClient {
  if (services.isTrustedProxy || !isOnUnixSocket) return NOT_OWNER;
  // `headers` would hide a header named `__proto__`.
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i]!;
    if (!DIRECT_HEADER.test(name)) return { isOwner: false, proxyHeader: name.toLowerCase().slice(0, MAX_NAME) };
  }
  return OWNER;
}

/**
 * Reduces `X-Forwarded-For` to the addresses after the last invalid entry. The nearest proxy has appended the last entry;
 * everything before an invalid entry is unreliable.
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

/** The address in an entry, without the port and brackets that some proxies add; undefined if there is none. */
function parseAddress(entry: string): string | undefined {
  const [, bracketed, plain] = /^(?:\[([^\]]*)\](?::\d+)?|([^[\]:]+):\d+)$/.exec(entry) ?? [];
  const address = bracketed ?? plain ?? entry;
  return isIP(address) === 0 ? undefined : address;
}
