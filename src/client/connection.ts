/** Sends requests to one registry, records facts from its response headers, and converts every failure to a VregError. */

import {
  CLIENT_HEADER,
  DEFAULT_STALE_AFTER,
  LEASE_HEADER,
  POSITION_HEADER,
  REGISTRY_HEADER,
  VERSION_HEADER,
  WARMING_HEADER,
} from '../protocol/api.ts';
import { timerDelay } from '../protocol/duration.ts';
import { fromAnswer, VregError, withMessage } from '../protocol/errors.ts';
import { MAX_DEPTH } from '../protocol/json.ts';
import { maskRegistryUrl, registryUrls, SecretMask } from '../protocol/redact.ts';
import type { EndpointMemory } from './failover/endpoint.ts';
import type { EndpointsOptions } from './failover.ts';
import { isUnknownToProxy, isWrite, outcomeHint } from './outcome.ts';
import { isCertificateRefused, tlsHint } from './tls-hints.ts';
import {
  type Attempt,
  type ClientTls,
  type Exchange,
  INVALID_HTTP,
  mayHaveAddresses,
  type OpenTransport,
  type Reply,
  type Transport,
  type TransportError,
} from './transport.ts';

/** Milliseconds to wait for a response. */
export const DEFAULT_TIMEOUT = 10_000;

export interface ClientOptions {
  /** URL of the registry, or several URLs of one registry, separated by commas, the preferred one first. */
  url: string;
  openTransport: OpenTransport;
  /** Origin of the URL for error messages, for example `VERS_INFRA_URL` or `flag --url`. */
  origin?: string;
  token?: string | undefined;
  /** Origin of the token, like `origin`. */
  tokenOrigin?: string | undefined;
  /** Certificates for https. */
  tls?: ClientTls | undefined;
  /** Milliseconds per request. */
  timeout?: number;
  /** Aborts every request in progress. */
  signal?: AbortSignal | undefined;
  /** Called for `-v` with one line per request, which does not contain the token. */
  trace?: (line: string) => void;
  /** Called with a warning if several URLs lead to different registries. */
  warn?: ((line: string) => void) | undefined;
  /** Shares with other clients of this process which URLs respond. */
  memory?: EndpointMemory | undefined;
}

/** Facts about the server from the headers of its last response. */
export interface ServerFacts {
  /** Version of the vreg daemon; undefined for the original registry (vers-agent-services). */
  version?: string | undefined;
  /** ETag of the entry in the response, unchanged. */
  etag?: string | undefined;
  /** The server's lease in milliseconds. Without the header, the lease of the original registry. */
  lease: number;
  /** Registry id and position; undefined for the original registry. */
  registryId?: string | undefined;
  position?: string | undefined;
  /** Seconds for which answers may still include dead VMs; undefined if they are reliable. */
  warming?: number | undefined;
  /** Cursor of the next page of a list; undefined if there is none. */
  nextPage?: string | undefined;
  /** The server's clock at the time of the response, in milliseconds since the epoch, with a resolution of one second. */
  now: number;
}

export class Connection {
  /** The configured URLs, the preferred one first. */
  readonly urls: readonly string[];
  readonly #options: ClientOptions;
  #transport: Transport | undefined;
  /** The URL that responded last. */
  #answered: string | undefined;
  #facts: ServerFacts | undefined;
  readonly #secrets = new SecretMask();
  /** Overrides the token in the options. */
  token: string | undefined;
  /** Limits the timeout in the options, in milliseconds per request. */
  maxTimeout = Number.POSITIVE_INFINITY;

  constructor(options: ClientOptions) {
    this.urls = registryUrls(options.url);
    this.#options = options;
  }

  /** The URL that responded last; before the first response, the preferred one. */
  get url(): string {
    return this.#answered ?? this.urls[0]!;
  }

  /** Facts from the last response, or from all responses of a list; undefined before the first one. */
  get facts(): ServerFacts | undefined {
    return this.#facts;
  }

  set facts(facts: ServerFacts) {
    this.#facts = facts;
  }

  /** Sends a request and parses the response. @throws VregError UNREACHABLE, OUTCOME_UNKNOWN, BAD_ANSWER, or the registry's error */
  async request<T>(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<T> {
    const reply = await this.raw(method, path, body === undefined ? undefined : encodeBody(body), headers);
    return this.#read<T>(reply, `${method} ${path}`);
  }

  /**
   * Returns the response, whatever its status, except that of a proxy that does not know the outcome of a write. Masks secrets in
   * error responses.
   * @throws VregError UNREACHABLE, OUTCOME_UNKNOWN
   */
  async raw(method: string, path: string, body?: string, headers?: Record<string, string>): Promise<Reply> {
    const reply = await this.#exchange(method, path, body, headers, (transport, exchange) => transport.send(exchange));
    if (reply.status < 400) return reply;
    const masked = { ...reply, text: this.#secrets.mask(reply.text) };
    if (!isUnknownToProxy(method, path, reply.status)) return masked;
    throw outcomeUnknown(this.#refused(masked, `${method} ${path}`).message, path, body);
  }

  /**
   * Opens a streamed response.
   * @param timeout milliseconds until the response begins, instead of the timeout in the options
   * @throws VregError UNREACHABLE, or the registry's error
   */
  async open(
    method: string,
    path: string,
    headers?: Record<string, string>,
    timeout = this.#timeout,
  ): Promise<AsyncIterable<Uint8Array>> {
    const reply = await this.#exchange(method, path, undefined, headers, (transport, exchange) =>
      transport.open({ ...exchange, timeout: timerDelay(timeout) }),
    );
    if (reply.status !== 200) return this.#read({ ...reply, text: await reply.body.text() }, `${method} ${path}`);
    return reply.body;
  }

  async #exchange<R extends Omit<Reply, 'text'>>(
    method: string,
    path: string,
    body: string | undefined,
    more: Record<string, string> | undefined,
    send: (transport: Transport, exchange: Exchange) => Promise<R>,
  ): Promise<R> {
    const { signal, trace } = this.#options;
    const token = this.token ?? this.#options.token;
    const headers: Record<string, string> = { accept: 'application/json', [CLIENT_HEADER]: '1', ...more };
    if (body !== undefined) headers['content-type'] = 'application/json';
    if (token !== undefined) {
      headers.authorization = `Bearer ${token}`;
      this.#secrets.add(token);
    }
    const started = Date.now();
    let reply: R;
    let isSent = false;
    try {
      reply = await send(this.#transport ?? this.#openSingle() ?? (await this.#openSeveral()), {
        method,
        path,
        headers,
        body,
        timeout: this.#timeout,
        signal,
        onSent: () => {
          isSent = true;
        },
      });
      reply = { ...reply, headers: this.#secrets.maskFields(reply.headers) };
    } catch (error) {
      if (signal?.aborted) throw signal.reason;
      if (error instanceof VregError) throw error;
      throw this.#noResponse({ method, path, body, isSent }, error as NodeJS.ErrnoException);
    }
    this.#answered = reply.url;
    trace?.(`${method} ${this.url}${path} ${reply.status} ${Date.now() - started} ms`);
    this.#note(reply);
    return reply;
  }

  /** Milliseconds per request. */
  get #timeout(): number {
    return timerDelay(Math.min(this.#options.timeout ?? DEFAULT_TIMEOUT, this.maxTimeout));
  }

  /** Closes the connection; a later request opens a new one. */
  close(): void {
    this.#transport?.close();
    this.#transport = undefined;
  }

  /**
   * Opens the only endpoint, synchronously: a second request, which finds the transport open, must not overtake the first one.
   * @returns undefined if there can be several endpoints
   */
  #openSingle(): Transport | undefined {
    const { openTransport, tls } = this.#options;
    const [first, ...others] = this.urls.map((url) => this.#parsed(url));
    if (others.length === 0 && !mayHaveAddresses(first!)) this.#transport = openTransport(first!, tls);
    return this.#transport;
  }

  /** Loads the module for several endpoints. */
  async #openSeveral(): Promise<Transport> {
    const { openTransport, tls, trace, warn, memory } = this.#options;
    const { Endpoints } = await import('./failover.ts');
    const open: EndpointsOptions['open'] = (url, address) => openTransport(new URL(url), tls, address);
    // Another request may have done the same meanwhile.
    this.#transport ??= new Endpoints({ urls: this.urls, open, trace, warn, memory });
    return this.#transport;
  }

  #parsed(text: string): URL {
    const url = URL.canParse(text) ? new URL(text) : undefined;
    if (!url || !['http:', 'https:', 'unix:'].includes(url.protocol)) {
      throw new VregError('USAGE', `"${maskRegistryUrl(text)}" is not the URL of a registry${this.#from()}`, {
        field: 'url',
        hint: 'write it as http://HOST:PORT, https://HOST:PORT or unix:/path/to.sock',
      });
    }
    return url;
  }

  #note({ headers }: Omit<Reply, 'text'>): void {
    const lease = Number(headers[LEASE_HEADER]);
    const now = Date.parse(String(headers.date));
    this.#facts = {
      version: headers[VERSION_HEADER] as string | undefined,
      lease: lease > 0 ? lease : DEFAULT_STALE_AFTER,
      now: Number.isNaN(now) ? Date.now() : now,
      etag: headers.etag as string | undefined,
      registryId: headers[REGISTRY_HEADER] as string | undefined,
      position: headers[POSITION_HEADER] as string | undefined,
      warming: parseNumber(headers[WARMING_HEADER]),
      nextPage: parseNextPage(headers.link),
    };
  }

  #read<T>(reply: Reply, what: string): T {
    const { status, text } = reply;
    const body = parse(text);
    if (status >= 400 && isForeign(status, body)) throw this.badAnswer(`${what} with ${status}`);
    if (status >= 400) throw this.#refused(reply, what);
    if (status < 200 || status > 299 || typeof body !== 'object' || body === null) {
      throw this.badAnswer(`${what} with ${status}`);
    }
    return body as T;
  }

  #refused(reply: Reply, what: string): VregError {
    return this.refusal(reply, `${what} was answered with ${reply.status}${this.#firstLine(reply.text)}`);
  }

  /** Converts an error response. @param otherwise the message if the response has none */
  refusal({ status, text, headers }: Reply, otherwise: string): VregError {
    const error = fromAnswer(status, this.#maskBody(parse(text)), otherwise, parseRetryAfter(headers['retry-after']));
    const { tokenOrigin } = this.#options;
    // Another token, such as that of an enrolled VM, does not come from the settings.
    if (error.code !== 'UNAUTHORIZED' || tokenOrigin === undefined || this.token !== undefined) return error;
    return withMessage(error, `${error.message} (from ${tokenOrigin})`);
  }

  /** Masks the top-level fields of an error body. Deeper values are never printed. */
  #maskBody(body: unknown): unknown {
    return typeof body === 'object' && body !== null ? this.#secrets.maskFields({ ...body }) : body;
  }

  /** Creates the error for a response that does not come from a registry. @param what request and status */
  badAnswer(what: string, fault = 'the response is not JSON from a registry'): VregError {
    return new VregError('BAD_ANSWER', `${this.url} answered ${what}, but ${fault}`, {
      hint: `is this the registry's URL${this.#from()}?`,
    });
  }

  #noResponse({ method, path, body, isSent }: Unanswered, cause: TransportError): VregError {
    const { attempts = [{ url: this.url, cause, timeout: this.#timeout }] } = cause;
    const last = attempts.at(-1)!;
    if (isSent && isWrite(method, path) && !isCertificateRefused(String(cause.code))) {
      const event = `no response to ${method} from the registry at ${this.#places([last])}`;
      // A server that uses TLS answers plain HTTP with an alert; other answers that are not HTTP look the same.
      const hint = cause.code === INVALID_HTTP ? this.#tlsHint(last) : undefined;
      return outcomeUnknown(event, path, body, { hint, cause });
    }
    const hint = attempts.map((attempt) => this.#hint(attempt)).find((each) => each !== undefined) ?? ASK_THE_DOCTOR;
    return new VregError('UNREACHABLE', `cannot reach the registry at ${this.#places(attempts)}`, { hint, cause });
  }

  /** `http://10.0.0.5:3000 (ECONNREFUSED, from VERS_INFRA_URL)`; several of them are separated by commas. */
  #places(attempts: readonly Attempt[]): string {
    const { origin } = this.#options;
    const from = origin ? `, from ${origin}` : '';
    const places = attempts.map(({ url, address, cause, timeout }) => {
      const reason =
        cause.name === 'TimeoutError'
          ? `no response within ${Number((timeout / 1000).toFixed(1))} s`
          : this.#secrets.mask(cause.code ?? cause.message);
      return `${url} (${address === undefined ? '' : `${address}: `}${reason}`;
    });
    return `${places.join('), ')}${from})`;
  }

  #hint({ url, cause, timeout }: Attempt): string | undefined {
    const hint = this.#tlsHint({ url, cause, timeout });
    if (hint !== undefined) return hint;
    const isUnknownHost = cause.code === 'ENOTFOUND' || cause.code === 'EAI_AGAIN';
    return isUnknownHost ? 'check the host name in the URL and /etc/resolv.conf' : undefined;
  }

  #tlsHint({ url, cause }: Attempt): string | undefined {
    const { tls } = this.#options;
    return tlsHint(cause, { isHttps: url.startsWith('https:'), sendsCertificate: tls?.cert !== undefined });
  }

  #firstLine(text: string): string {
    const line = this.#secrets.mask(text.trim().split('\n', 1)[0]!).slice(0, 120);
    return line && !line.startsWith('<') ? `: ${line}` : '';
  }

  #from(): string {
    return this.#options.origin ? ` (from ${this.#options.origin})` : '';
  }
}

/** A request without a valid response. */
interface Unanswered {
  method: string;
  path: string;
  body: string | undefined;
  /** The server may have received it. */
  isSent: boolean;
}

/** @param known the cause, and another hint about it */
function outcomeUnknown(
  event: string,
  path: string,
  body: string | undefined,
  known: { hint?: string | undefined; cause?: unknown } = {},
): VregError {
  const hint = [outcomeHint(path, body), known.hint].filter((each) => each !== undefined).join('; ');
  return new VregError('OUTCOME_UNKNOWN', `${event}; the change may have been made`, { hint, cause: known.cause });
}

/** Error statuses that a proxy in front of the registry may send with its own body. */
const PROXY_STATUSES: readonly number[] = [401, 403, 408, 413, 429, 431];

/** True if an error response comes from neither a registry, whose error bodies have the field `error`, nor a proxy. */
function isForeign(status: number, body: unknown): boolean {
  return (
    status < 500 && !PROXY_STATUSES.includes(status) && typeof (body as { error?: unknown } | null)?.error !== 'string'
  );
}

/** The hint for network errors without a more specific one. */
export const ASK_THE_DOCTOR = 'is it running? try: vreg doctor';

/** The whole number at the start of a header, before any parameters; undefined if there is none. */
function parseNumber(header: string | string[] | undefined): number | undefined {
  const [, digits] = /^(\d{1,15})(?:;|$)/.exec(String(header ?? '')) ?? [];
  return digits === undefined ? undefined : Number(digits);
}

/** The parameter `after` of the URL with rel="next". The rest is as requested, except for the prefix of a proxy. */
function parseNextPage(header: string | string[] | undefined): string | undefined {
  const [, search] = /<[^>?]*\?([^>]*)>; rel="next"/.exec(String(header ?? '')) ?? [];
  return new URLSearchParams(search).get('after') ?? undefined;
}

/** Seconds of `Retry-After`, which may also be a date (RFC 9110, 10.2.3). */
function parseRetryAfter(header: string | string[] | undefined): number | undefined {
  if (typeof header !== 'string') return undefined;
  const seconds = /^\d+$/.test(header) ? Number(header) : Math.ceil((Date.parse(header) - Date.now()) / 1000);
  return Number.isFinite(seconds) ? Math.max(0, seconds) : undefined;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** @throws VregError INVALID if the value is nested so deeply that serializing it overflows the stack */
function encodeBody(body: unknown): string {
  try {
    return JSON.stringify(body);
  } catch (cause) {
    if (!(cause instanceof RangeError)) throw cause;
    throw new VregError('INVALID', `body is nested more than ${MAX_DEPTH} levels deep`, { field: 'body', cause });
  }
}
