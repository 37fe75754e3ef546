/** HTTP requests over TCP or a unix socket. No other module uses undici. */
import type { SecureContext } from 'node:tls';
import v8 from 'node:v8';
import request from 'undici/lib/api/api-request.js';
import Pool from 'undici/lib/dispatcher/pool.js';

/**
 * Milliseconds without data after which a stream counts as broken: three times the interval at which the event stream sends
 * comment lines.
 */
const MAX_SILENCE = 45_000;
/** Maximum number of connections: batches send requests concurrently, and an event stream occupies one connection. */
const CONNECTIONS = 8;

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

export class Transport {
  readonly #pool: Pool;
  readonly #prefix: string;

  /**
   * @param url `http(s)://host[:port][/prefix]` or `unix:/path/to.sock`
   */
  constructor(url: URL, tls: ClientTls = {}) {
    // undici's HTTP parser is WebAssembly. A short-lived process would spend 80 ms at exit waiting for V8 to optimise it. A
    // budget that is never used up keeps the parser in V8's first tier, which is fast enough for a CLI. V8 rejects a code cache
    // that was written with another flag, so the build writes it without this one.
    if (!process.env.VREG_WRITE_CODE_CACHE) v8.setFlagsFromString('--wasm-tiering-budget=2000000000');
    const socket = url.protocol === 'unix:' ? decodeURIComponent(url.pathname) : undefined;
    const connect = url.protocol === 'https:' ? { connect: { secureContext: createTlsContext(tls) } } : {};
    this.#pool = new Pool(socket === undefined ? url.origin : 'http://localhost', {
      connections: CONNECTIONS,
      ...(socket === undefined ? connect : { socketPath: socket }),
    });
    this.#prefix = socket === undefined ? url.pathname.replace(/\/+$/, '') : '';
  }

  /** @throws undici's errors; AbortError if the signal was aborted, TimeoutError after the timeout */
  async send(exchange: Exchange): Promise<Reply> {
    const { status, headers, body } = await this.#start(exchange, AbortSignal.timeout(exchange.timeout), 0);
    return { status, headers, text: await body.text() };
  }

  /** As {@link send}, but streams the body; the timeout covers only the time until it starts. */
  async open(exchange: Exchange): Promise<OpenReply> {
    const deadline = new AbortController();
    const timer = setTimeout(() => deadline.abort(new DOMException('timed out', 'TimeoutError')), exchange.timeout);
    try {
      return await this.#start(exchange, deadline.signal, MAX_SILENCE);
    } finally {
      clearTimeout(timer);
    }
  }

  async #start(
    { method, path, headers, body, signal }: Exchange,
    deadline: AbortSignal,
    bodyTimeout: number,
  ): Promise<OpenReply> {
    const answer = await request.call(this.#pool, {
      method: method as 'GET',
      path: this.#prefix + path,
      headers,
      body: body ?? null,
      bodyTimeout,
      headersTimeout: 0,
      signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
    });
    return { status: answer.statusCode, headers: answer.headers, body: answer.body };
  }

  /** Aborts all requests and closes the connections immediately. */
  close(): void {
    this.#pool.destroy().catch(() => {});
  }
}

/** Creates the TLS context for all connections, because creating one takes longer than a request. */
function createTlsContext({ ca, cert, key }: ClientTls): SecureContext {
  // Loaded for https only, because it would slow down the start of every other command.
  const { createSecureContext, rootCertificates } = process.getBuiltinModule('node:tls');
  return createSecureContext({
    minVersion: 'TLSv1.2',
    ...(ca === undefined ? {} : { ca: distinct([...rootCertificates, ...ca()]) }),
    ...(cert === undefined || key === undefined ? {} : { cert, key }),
  });
}

/** Removes duplicates: most certificates of the system are also Node's own, and parsing one takes about half a millisecond. */
function distinct(certificates: readonly string[]): string[] {
  return [...new Map(certificates.map((pem) => [pem.replaceAll(/\s/g, ''), pem])).values()];
}
