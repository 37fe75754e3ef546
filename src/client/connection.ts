/** The conversation with one registry: requests, what its answers say of it, and every failure as a VregError. */

import {
  DEFAULT_STALE_AFTER,
  LEASE_HEADER,
  REGISTRY_HEADER,
  REVISION_HEADER,
  VERSION_HEADER,
  WARMING_HEADER,
} from '../protocol/api.ts';
import { fromAnswer, VregError } from '../protocol/errors.ts';
import { maskRegistryUrl, SecretMask } from '../protocol/redact.ts';
import { hintOfTls } from './tls-hints.ts';
import { type ClientTls, type Exchange, type Reply, Transport } from './transport.ts';

/** Milliseconds to wait for an answer when nothing else is said. */
export const DEFAULT_TIMEOUT = 10_000;

export interface ClientOptions {
  url: string;
  /** Where the URL was set, for errors: `VERS_INFRA_URL`, `flag --url`. */
  origin?: string;
  token?: string | undefined;
  /** For https. */
  tls?: ClientTls | undefined;
  /** Milliseconds for one request. */
  timeout?: number;
  /** Ends every request under way. */
  signal?: AbortSignal | undefined;
  /** Told of each exchange, without its token: for `-v`. */
  trace?: (line: string) => void;
}

/** What the last answer said of the server besides its body. */
export interface ServerFacts {
  /** Version of the vreg daemon; undefined for the original registry. */
  version?: string | undefined;
  /** Of the one entry that was answered, as the header came. */
  etag?: string | undefined;
  /** The server's lease in milliseconds; the original registry's where it says none. */
  lease: number;
  /** Which registry it is, and its revision; undefined for the original registry. */
  registryId?: string | undefined;
  revision?: number | undefined;
  /** What the answer may have wrong: seconds until it cannot any more, as its header came. */
  warming?: number | undefined;
  /** The server's clock at that answer, milliseconds since the epoch; to the second. */
  now: number;
}

export class Connection {
  readonly url: string;
  readonly #options: ClientOptions;
  #transport: Transport | undefined;
  #facts: ServerFacts | undefined;
  readonly #secrets = new SecretMask();
  /** In place of the one of the options. */
  token: string | undefined;

  constructor(options: ClientOptions) {
    this.url = options.url;
    this.#options = options;
  }

  /** What the last answer said of the server; undefined before there was one. */
  get facts(): ServerFacts | undefined {
    return this.#facts;
  }

  /** @throws VregError UNREACHABLE, BAD_ANSWER, or the error that the registry answered with */
  async request<T>(method: string, path: string, body?: unknown, headers?: Record<string, string>): Promise<T> {
    const reply = await this.raw(method, path, body === undefined ? undefined : JSON.stringify(body), headers);
    return this.#read<T>(reply, `${method} ${path}`);
  }

  /** The answer as it came, whatever its status, but for secrets in a refusal. @throws VregError UNREACHABLE */
  async raw(method: string, path: string, body?: string, headers?: Record<string, string>): Promise<Reply> {
    const reply = await this.#exchange(method, path, body, headers, (transport, exchange) => transport.send(exchange));
    return reply.status < 400 ? reply : { ...reply, text: this.#secrets.mask(reply.text) };
  }

  /** An answer that is read as it comes. @throws VregError UNREACHABLE, or the error that the registry answered with */
  async open(method: string, path: string, headers?: Record<string, string>): Promise<AsyncIterable<Uint8Array>> {
    const reply = await this.#exchange(method, path, undefined, headers, (transport, exchange) =>
      transport.open(exchange),
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
    const { tls, timeout = DEFAULT_TIMEOUT, signal, trace } = this.#options;
    const token = this.token ?? this.#options.token;
    const headers: Record<string, string> = { accept: 'application/json', ...more };
    if (body !== undefined) headers['content-type'] = 'application/json';
    if (token !== undefined) {
      headers.authorization = `Bearer ${token}`;
      this.#secrets.add(token);
    }
    const started = performance.now();
    let reply: R;
    try {
      this.#transport ??= new Transport(this.#parsedUrl(), tls);
      reply = await send(this.#transport, { method, path, headers, body, timeout, signal });
      reply = { ...reply, headers: this.#secrets.maskFields(reply.headers) };
    } catch (error) {
      throw signal?.aborted ? signal.reason : this.#unreachable(error as NodeJS.ErrnoException);
    }
    trace?.(`${method} ${this.url}${path} ${reply.status} ${Math.round(performance.now() - started)} ms`);
    this.#note(reply);
    return reply;
  }

  /** Closes the connection; a later request opens a new one. */
  close(): void {
    this.#transport?.close();
    this.#transport = undefined;
  }

  #parsedUrl(): URL {
    const url = URL.canParse(this.url) ? new URL(this.url) : undefined;
    if (!url || !['http:', 'https:', 'unix:'].includes(url.protocol)) {
      throw new VregError('USAGE', `"${maskRegistryUrl(this.url)}" is not the URL of a registry${this.#from()}`, {
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
      revision: wholeOf(headers[REVISION_HEADER]),
      warming: wholeOf(headers[WARMING_HEADER]),
    };
  }

  #read<T>(reply: Reply, what: string): T {
    const { status, text } = reply;
    const body = parse(text);
    if (status >= 400 && isForeign(status, body)) throw this.badAnswer(`${what} with ${status}`);
    if (status >= 400) throw this.refusal(reply, `${what} was answered with ${status}${this.#firstLine(text)}`);
    if (status < 200 || status > 299 || typeof body !== 'object' || body === null) {
      throw this.badAnswer(`${what} with ${status}`);
    }
    return body as T;
  }

  /** What to throw when a registry answered with an error. @param otherwise what to say where it does not say it */
  refusal({ status, text, headers }: Reply, otherwise: string): VregError {
    return fromAnswer(status, this.#maskBody(parse(text)), otherwise, secondsOf(headers['retry-after']));
  }

  /** Masks the fields of an error's body that a message could contain. Deeper values are never printed. */
  #maskBody(body: unknown): unknown {
    return typeof body === 'object' && body !== null ? this.#secrets.maskFields({ ...body }) : body;
  }

  /** What to throw when an answer is no registry's. */
  badAnswer(what: string): VregError {
    return new VregError('BAD_ANSWER', `${this.url} answered ${what}, but not with a registry's JSON`, {
      hint: `is this the registry's URL${this.#from()}?`,
    });
  }

  #unreachable(cause: NodeJS.ErrnoException): Error {
    if (cause instanceof VregError) return cause;
    const { timeout = DEFAULT_TIMEOUT, origin } = this.#options;
    const reason =
      cause.name === 'TimeoutError'
        ? `no answer within ${timeout / 1000} s`
        : this.#secrets.mask(cause.code ?? cause.message);
    return new VregError(
      'UNREACHABLE',
      `cannot reach the registry at ${this.url} (${reason}${origin ? `, from ${origin}` : ''})`,
      {
        hint: this.#hintOf(cause),
        cause,
      },
    );
  }

  #hintOf(cause: NodeJS.ErrnoException): string {
    const { tls } = this.#options;
    const hint = hintOfTls(cause, {
      isHttps: this.url.startsWith('https:'),
      showsCertificate: tls?.cert !== undefined,
    });
    if (hint !== undefined) return hint;
    if (cause.code === 'ENOTFOUND' || cause.code === 'EAI_AGAIN')
      return 'check the host name in the URL, and /etc/resolv.conf';
    return ASK_THE_DOCTOR;
  }

  #firstLine(text: string): string {
    const line = this.#secrets.mask(text.trim().split('\n', 1)[0]!).slice(0, 120);
    return line && !line.startsWith('<') ? `: ${line}` : '';
  }

  #from(): string {
    return this.#options.origin ? ` (from ${this.#options.origin})` : '';
  }
}

/** Refusals that a proxy before the registry may make, in words of its own. */
const OF_PROXIES: readonly number[] = [401, 403, 408, 413, 429, 431];

/** True of a refusal that no registry wrote: theirs say why in `error`. Some other server answers at that URL. */
function isForeign(status: number, body: unknown): boolean {
  return (
    status < 500 && !OF_PROXIES.includes(status) && typeof (body as { error?: unknown } | null)?.error !== 'string'
  );
}

/** The next step where the network says no more than that nobody answers. */
export const ASK_THE_DOCTOR = 'is it running? try: vreg doctor';

/** The whole number that a header begins with, before any parameters; undefined where there is none. */
function wholeOf(header: string | string[] | undefined): number | undefined {
  const [, digits] = /^(\d{1,15})(?:;|$)/.exec(String(header ?? '')) ?? [];
  return digits === undefined ? undefined : Number(digits);
}

/** `Retry-After` in seconds; a date, which the standard allows as well, too (RFC 9110, 10.2.3). */
function secondsOf(header: string | string[] | undefined): number | undefined {
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
