/**
 * The interface of the two transports, which send HTTP requests over TCP or a unix socket. The program that starts chooses one:
 * `transport/node-http.ts` for the hot commands, `transport/undici.ts` for all others. Authentication, masking and error messages
 * are in connection.ts. Between the two, `Endpoints` in failover.ts implements the interface for a registry with several URLs.
 */
import type { LookupAddress } from 'node:dns';
import { isIP, type LookupFunction } from 'node:net';

/**
 * Milliseconds without data after which a stream counts as broken: three times the interval at which the event stream sends
 * comment lines.
 */
export const MAX_SILENCE = 45_000;

export interface ClientTls {
  /** Reads the CA certificates to trust besides Node's own, as PEM texts. Absent: Node's default. */
  ca?: (() => readonly string[]) | undefined;
  /** Client certificate and key as PEM texts. */
  cert?: string | undefined;
  key?: string | undefined;
}

export interface Exchange {
  method: string;
  path: string;
  headers: Record<string, string>;
  body?: string | undefined;
  /** Milliseconds, for the request and the response together. */
  timeout: number;
  signal?: AbortSignal | undefined;
  /** Called when the request is written to an established connection. From then on the server may have received it. */
  onSent?: (() => void) | undefined;
  /** Called when the head of the response has arrived. */
  onHead?: ((head: Pick<Reply, 'status' | 'headers'>) => void) | undefined;
}

export interface Reply {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  text: string;
  /** The URL that has responded, if the registry has several. */
  url?: string;
}

/** A response whose body has not been read yet. */
export interface OpenReply extends Omit<Reply, 'text'> {
  body: AsyncIterable<Uint8Array> & { text(): Promise<string> };
}

/**
 * Follows no redirect. Errors have the same `code` in each transport: that of the system (`ECONNREFUSED`), of OpenSSL, or one of
 * {@link CONNECTION_LOST}, {@link INVALID_HTTP} and {@link HEADERS_TOO_LARGE}.
 */
export interface Transport {
  /** @throws the abort reason of the signal, or an error with the name `TimeoutError` after the timeout */
  send(exchange: Exchange): Promise<Reply>;
  /** As {@link send}, but streams the body; the timeout covers only the time until it starts. */
  open(exchange: Exchange): Promise<OpenReply>;
  /** Sends no further request, and closes each connection when its request has ended. Resolves when all are closed. */
  retire(): Promise<void>;
  /** Aborts all requests and closes the connections immediately. */
  close(): void;
}

/** The server closed the connection before the end of the response: Node's code for this. */
export const CONNECTION_LOST = 'ECONNRESET';
/** The response is not HTTP/1. */
export const INVALID_HTTP = 'INVALID_HTTP';
/** The headers of the response are larger than `--max-http-header-size`, by default 16 KiB: the code of Node's HTTP parser. */
export const HEADERS_TOO_LARGE = 'HPE_HEADER_OVERFLOW';

/**
 * True for the error of a request to a server that may be frozen. One that is draining refuses connections, and still responds on
 * those that it has.
 */
export function isSilence({ name, code }: NodeJS.ErrnoException): boolean {
  return name === 'TimeoutError' || code === 'EHOSTUNREACH';
}

/** A request to one of several endpoints that has failed. */
export interface Attempt {
  url: string;
  /** The address of the host name, if the endpoint is only this one. */
  address?: string | undefined;
  cause: NodeJS.ErrnoException;
  /** Milliseconds for which this attempt has waited at most. */
  timeout: number;
}

/** The error of a transport. With several endpoints, it is that of the last attempt. */
export type TransportError = NodeJS.ErrnoException & {
  /** All attempts in the order of their starts; absent if there is a single endpoint. */
  attempts?: readonly Attempt[];
};

/**
 * @param url `http(s)://host[:port][/prefix]` or `unix:/path/to.sock`
 * @param address to connect to instead of all addresses of the host name
 */
export type OpenTransport = (url: URL, tls?: ClientTls, address?: LookupAddress) => Transport;

/** A replacement of `dns.lookup()` that finds one address, for the options of a socket. */
export function lookupOf({ address, family }: LookupAddress): LookupFunction {
  return (_name, { all }, done) => (all ? done(null, [{ address, family }]) : done(null, address, family));
}

/** True if the host of the URL is a name whose addresses may belong to several machines. */
export function mayHaveAddresses({ protocol, hostname }: URL): boolean {
  return protocol !== 'unix:' && hostname !== 'localhost' && isIP(hostname.replace(/^\[|\]$/g, '')) === 0;
}
