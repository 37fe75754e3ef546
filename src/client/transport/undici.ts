/** Sends requests through undici. No other module uses it. */
import v8 from 'node:v8';
import request from 'undici/lib/api/api-request.js';
import Pool from 'undici/lib/dispatcher/pool.js';
import {
  type ClientTls,
  CONNECTION_LOST,
  type Exchange,
  HEADERS_TOO_LARGE,
  INVALID_HTTP,
  MAX_SILENCE,
  type OpenReply,
  type Reply,
  type Transport,
} from '../transport.ts';
import { createTlsContext } from './tls-context.ts';

/** Maximum number of connections: batches send requests concurrently, and an event stream occupies one connection. */
const CONNECTIONS = 8;

/** The codes of undici, and names of its errors without a code, for which the interface has a code. */
const CODES: Readonly<Record<string, string>> = {
  UND_ERR_SOCKET: CONNECTION_LOST,
  UND_ERR_DESTROYED: CONNECTION_LOST,
  UND_ERR_RES_CONTENT_LENGTH_MISMATCH: CONNECTION_LOST,
  // A chunked body ends without its last chunk.
  HPE_INVALID_EOF_STATE: CONNECTION_LOST,
  HTTPParserError: INVALID_HTTP,
  UND_ERR_HEADERS_OVERFLOW: HEADERS_TOO_LARGE,
};

export class UndiciTransport implements Transport {
  readonly #pool: Pool;
  readonly #prefix: string;

  constructor(url: URL, tls: ClientTls = {}) {
    // undici's HTTP parser is WebAssembly. V8 would compile it again with optimisations, for which a short-lived process waits 80
    // ms at exit, and an agent uses 40 MB after 350 heartbeats. V8's first tier is fast enough. V8 rejects a code cache that was
    // written with other flags, so the build writes it without these.
    if (!process.env.VREG_WRITE_CODE_CACHE) v8.setFlagsFromString('--no-wasm-tier-up --no-wasm-dynamic-tiering');
    const socket = url.protocol === 'unix:' ? decodeURIComponent(url.pathname) : undefined;
    const connect = url.protocol === 'https:' ? { connect: { secureContext: createTlsContext(tls), timeout: 0 } } : {};
    this.#pool = new Pool(socket === undefined ? url.origin : 'http://localhost', {
      connections: CONNECTIONS,
      // The timeout of the request includes the connection.
      connectTimeout: 0,
      ...(socket === undefined ? connect : { socketPath: socket }),
    });
    this.#prefix = socket === undefined ? url.pathname.replace(/\/+$/, '') : '';
  }

  async send(exchange: Exchange): Promise<Reply> {
    const { status, headers, body } = await this.#start(exchange, AbortSignal.timeout(exchange.timeout), 0);
    return { status, headers, text: await body.text().catch(rethrow) };
  }

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
    const answer = await request
      .call(this.#pool, {
        method: method as 'GET',
        path: this.#prefix + path,
        headers,
        body: body ?? null,
        bodyTimeout,
        headersTimeout: 0,
        signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
      })
      .catch(rethrow);
    return { status: answer.statusCode, headers: answer.headers, body: answer.body };
  }

  close(): void {
    this.#pool.destroy().catch(() => {});
  }
}

function rethrow(error: NodeJS.ErrnoException): never {
  const code = CODES[error.code ?? error.name];
  throw code === undefined ? error : Object.assign(new Error(error.message, { cause: error }), { code });
}
