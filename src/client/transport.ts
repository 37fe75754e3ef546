/**
 * The interface of the two transports, which send HTTP requests over TCP or a unix socket. The program that starts chooses one:
 * `transport/node-http.ts` for the hot commands, `transport/undici.ts` for all others. Authentication, masking and error messages
 * are in connection.ts.
 */

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
}

export interface Reply {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  text: string;
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
  /** Aborts all requests and closes the connections immediately. */
  close(): void;
}

/** The server closed the connection before the end of the response: Node's code for this. */
export const CONNECTION_LOST = 'ECONNRESET';
/** The response is not HTTP/1. */
export const INVALID_HTTP = 'INVALID_HTTP';
/** The headers of the response are larger than `--max-http-header-size`, by default 16 KiB: the code of Node's HTTP parser. */
export const HEADERS_TOO_LARGE = 'HPE_HEADER_OVERFLOW';

/** @param url `http(s)://host[:port][/prefix]` or `unix:/path/to.sock` */
export type OpenTransport = (url: URL, tls?: ClientTls) => Transport;
