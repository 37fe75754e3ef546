/** One HTTP exchange with a registry, over TCP or a unix socket: the only user of undici. */
import type { SecureContext } from 'node:tls';
import v8 from 'node:v8';
import request from 'undici/lib/api/api-request.js';
import Pool from 'undici/lib/dispatcher/pool.js';

/** Milliseconds of silence after which an answer that is read as it comes has broken: three of a stream's comment lines. */
const MAX_SILENCE = 45_000;
/** Connections at once: what is done to many is done side by side, and a stream of events keeps one for itself. */
const CONNECTIONS = 8;

/** Texts in PEM. */
export interface ClientTls {
  /** Certificates to trust besides the system's. */
  ca?: string | undefined;
  /** What to show to a server that asks who we are. */
  cert?: string | undefined;
  key?: string | undefined;
}

export interface Exchange {
  method: string;
  path: string;
  headers: Record<string, string>;
  body?: string | undefined;
  /** Milliseconds for the whole exchange. */
  timeout: number;
  signal?: AbortSignal | undefined;
}

export interface Reply {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  text: string;
}

/** An answer whose body is still to come. */
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
    // undici's HTTP parser is WebAssembly, and a short process would wait at its end for V8 to optimise it: 80 ms for
    // nothing. A budget that is never used up keeps the parser in its first tier, which is fast enough for a CLI.
    v8.setFlagsFromString('--wasm-tiering-budget=2000000000');
    const socket = url.protocol === 'unix:' ? decodeURIComponent(url.pathname) : undefined;
    const connect = url.protocol === 'https:' ? { connect: { secureContext: secureContextOf(tls) } } : {};
    this.#pool = new Pool(socket === undefined ? url.origin : 'http://localhost', {
      connections: CONNECTIONS,
      ...(socket === undefined ? connect : { socketPath: socket }),
    });
    this.#prefix = socket === undefined ? url.pathname.replace(/\/+$/, '') : '';
  }

  /** @throws whatever undici does; an AbortError or TimeoutError when its signal or the timeout ended it */
  async send(exchange: Exchange): Promise<Reply> {
    const { status, headers, body } = await this.#start(exchange, AbortSignal.timeout(exchange.timeout), 0);
    return { status, headers, text: await body.text() };
  }

  /** As {@link send}, but the caller reads the body as it comes, and the timeout covers only the wait for its start. */
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

  /** Ends what is under way and closes the connection at once. */
  close(): void {
    this.#pool.destroy().catch(() => {});
  }
}

/** Made once for all connections: reading the system's certificates takes longer than a request. */
function secureContextOf({ ca, cert, key }: ClientTls): SecureContext {
  // Loaded for https alone, since it would cost every other command its start.
  const { createSecureContext, rootCertificates } = process.getBuiltinModule('node:tls');
  return createSecureContext({
    minVersion: 'TLSv1.2',
    ...(ca === undefined ? {} : { ca: [...rootCertificates, ca] }),
    ...(cert === undefined || key === undefined ? {} : { cert, key }),
  });
}
