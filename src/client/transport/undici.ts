/** Sends requests through undici. No other module uses it. */
import type { LookupAddress } from 'node:dns';
import type { Socket } from 'node:net';
import v8 from 'node:v8';
import type { Dispatcher } from 'undici';
import request from 'undici/lib/api/api-request.js';
import buildConnector from 'undici/lib/core/connect.js';
import Pool from 'undici/lib/dispatcher/pool.js';
import {
  type ClientTls,
  CONNECTION_LOST,
  type Exchange,
  HEADERS_TOO_LARGE,
  INVALID_HTTP,
  lookupOf,
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
  HTTPParserError: INVALID_HTTP,
  UND_ERR_HEADERS_OVERFLOW: HEADERS_TOO_LARGE,
};

/** Before a body is read, the parser has rejected the lengths in the head: two of them, or one besides chunks. */
const CODES_OF_HEAD: typeof CODES = { ...CODES, UND_ERR_RES_CONTENT_LENGTH_MISMATCH: INVALID_HTTP };

/** The reason in the message of an HTTPParserError, which has no code, if the connection ends within a head or a chunked body. */
const ENDS_EARLY = '(Invalid EOF state)';

export class UndiciTransport implements Transport {
  readonly #pool: Pool;
  readonly #prefix: string;
  /** Sockets whose connection is not established yet: undici cannot close them. */
  readonly #connecting = new Set<Socket>();
  /** The number of requests without a response. */
  #waiting = 0;

  constructor(url: URL, tls: ClientTls = {}, address?: LookupAddress) {
    // undici's HTTP parser is WebAssembly. V8 would compile it again with optimisations, for which a short-lived process waits 80
    // ms at exit, and an agent uses 40 MB after 350 heartbeats. V8's first tier is fast enough. V8 rejects a code cache that was
    // written with other flags, so the build writes it without these.
    if (!process.env.VREG_WRITE_CODE_CACHE) v8.setFlagsFromString('--no-wasm-tier-up --no-wasm-dynamic-tiering');
    const socketPath = url.protocol === 'unix:' ? decodeURIComponent(url.pathname) : null;
    const connect = buildConnector({
      // The timeout of the request includes the connection.
      timeout: 0,
      ...(socketPath === null ? {} : { socketPath }),
      ...(url.protocol === 'https:' ? { secureContext: createTlsContext(tls) } : {}),
      ...(address ? { lookup: lookupOf(address) } : {}),
    });
    this.#pool = new Pool(socketPath === null ? url.origin : 'http://localhost', {
      connections: CONNECTIONS,
      connect: (options, callback) => {
        const socket = connect(options, (...result) => {
          this.#connecting.delete(socket);
          callback(...result);
        });
        this.#connecting.add(socket);
      },
    });
    this.#prefix = socketPath === null ? url.pathname.replace(/\/+$/, '') : '';
  }

  async send(exchange: Exchange): Promise<Reply> {
    const { status, headers, body } = await this.#start(exchange, AbortSignal.timeout(exchange.timeout), 0);
    return { status, headers, text: await body.text().catch((error: NodeJS.ErrnoException) => rethrow(error)) };
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
    { method, path, headers, body, signal, onSent, onHead }: Exchange,
    deadline: AbortSignal,
    bodyTimeout: number,
  ): Promise<OpenReply> {
    const end = signal ? AbortSignal.any([signal, deadline]) : deadline;
    end.throwIfAborted();
    const options: Dispatcher.RequestOptions = {
      method: method as 'GET',
      path: this.#prefix + path,
      headers,
      body: body ?? null,
      bodyTimeout,
      headersTimeout: 0,
      signal: end,
    };
    // The handler is notified of its connection just before the request is written.
    const dispatch: Dispatcher['dispatch'] = (options, handler) => {
      const onConnect = handler.onConnect!.bind(handler);
      handler.onConnect = (abort) => {
        if (!end.aborted) onSent?.();
        onConnect(abort);
      };
      return this.#pool.dispatch(options, handler);
    };
    this.#waiting++;
    try {
      const answer = await unlessAborted(end, request.call({ dispatch } as Dispatcher, options));
      onHead?.({ status: answer.statusCode, headers: answer.headers });
      return { status: answer.statusCode, headers: answer.headers, body: answer.body };
    } catch (error) {
      return rethrow(error as NodeJS.ErrnoException, CODES_OF_HEAD);
    } finally {
      // No request needs these connections now, and they would keep the process running.
      if (--this.#waiting === 0) this.#stopConnecting();
    }
  }

  async retire(): Promise<void> {
    // It rejects if the pool is destroyed meanwhile.
    await this.#pool.close().catch(() => {});
  }

  close(): void {
    this.#pool.destroy().catch(() => {});
    this.#stopConnecting();
  }

  #stopConnecting(): void {
    for (const socket of this.#connecting) socket.destroy(new Error('no request waits for this connection'));
  }
}

/** Settles like `work`, or rejects as soon as the signal is aborted: undici notices it only after it has connected. */
function unlessAborted<T>(signal: AbortSignal, work: Promise<T>): Promise<T> {
  return new Promise<T>((resolve, reject) => {
    const onAbort = () => reject(signal.reason);
    signal.addEventListener('abort', onAbort);
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}

function rethrow(error: NodeJS.ErrnoException, codes = CODES): never {
  const isCut = error.name === 'HTTPParserError' && error.message.endsWith(ENDS_EARLY);
  const code = isCut ? CONNECTION_LOST : codes[error.code ?? error.name];
  throw code === undefined ? error : Object.assign(new Error(error.message, { cause: error }), { code });
}
