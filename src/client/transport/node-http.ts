/**
 * Sends requests through `node:http`, which starts faster than undici, whose parser is WebAssembly. Each request has its own
 * connection: a hot command sends one to three requests, and a connection that is never reused is never stale.
 */
import type { LookupAddress } from 'node:dns';
import type { ClientRequest, IncomingMessage, RequestOptions } from 'node:http';
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

export class NodeHttpTransport implements Transport {
  readonly #options: RequestOptions;
  readonly #request: (options: RequestOptions) => ClientRequest;
  readonly #isSecure: boolean;
  readonly #prefix: string;
  readonly #active = new Set<ClientRequest>();

  constructor(url: URL, tls: ClientTls = {}, address?: LookupAddress) {
    this.#isSecure = url.protocol === 'https:';
    const isSocket = url.protocol === 'unix:';
    this.#prefix = isSocket ? '' : url.pathname.replace(/\/+$/, '');
    this.#options = {
      agent: false,
      ...(isSocket
        ? { socketPath: decodeURIComponent(url.pathname) }
        : { host: url.hostname.replace(/^\[(.*)\]$/, '$1'), port: url.port }),
      ...(this.#isSecure ? { secureContext: createTlsContext(tls) } : {}),
      ...(address ? { lookup: lookupOf(address) } : {}),
    };
    // Loaded here, because a command without a request would start slower.
    this.#request = process.getBuiltinModule(this.#isSecure ? 'node:https' : 'node:http').request;
  }

  send(exchange: Exchange): Promise<Reply> {
    return this.#start(exchange, async (response, timer) => {
      const body = await text(response);
      clearTimeout(timer);
      return { ...head(response), text: body };
    });
  }

  open(exchange: Exchange): Promise<OpenReply> {
    return this.#start(exchange, async (response, timer) => {
      clearTimeout(timer);
      response.setTimeout(MAX_SILENCE, () => response.destroy(new Error(`no data for ${MAX_SILENCE / 1000} s`)));
      return { ...head(response), body: Object.assign(response, { text: () => text(response) }) };
    });
  }

  async retire(): Promise<void> {
    await Promise.all([...this.#active].map((request) => new Promise((resolve) => request.once('close', resolve))));
  }

  close(): void {
    for (const request of this.#active) request.destroy();
  }

  /** @param read receives the response, and the timer of the timeout */
  #start<R>(
    { method, path, headers, body, timeout, signal, onSent, onHead }: Exchange,
    read: (response: IncomingMessage, timer: NodeJS.Timeout) => Promise<R>,
  ): Promise<R> {
    if (signal?.aborted) return Promise.reject(signal.reason);
    return new Promise((resolve, reject) => {
      const request = this.#request({ ...this.#options, method, path: this.#prefix + path, headers });
      let response: IncomingMessage | undefined;
      const stop = (reason: Error) => (response ?? request).destroy(reason);
      const onAbort = () => stop(signal!.reason);
      const timer = setTimeout(() => stop(new DOMException('timed out', 'TimeoutError')), timeout);
      this.#active.add(request);
      signal?.addEventListener('abort', onAbort);
      request
        .on('response', (received) => {
          response = received;
          onHead?.(head(received));
          read(received, timer).then(resolve, reject);
        })
        .on('upgrade', (_response, socket) => {
          socket.destroy();
          reject(connectionLost('the server switched to another protocol'));
        })
        .on('error', (error: NodeJS.ErrnoException) => {
          // Bytes after a complete response do not matter.
          if (!response?.complete) reject(named(error));
        })
        .on('close', () => {
          clearTimeout(timer);
          this.#active.delete(request);
          signal?.removeEventListener('abort', onAbort);
        });
      // A request that is written before the end of the handshake hides why the handshake fails.
      request.on('socket', (socket) =>
        socket.once(this.#isSecure ? 'secureConnect' : 'connect', () => {
          onSent?.();
          request.end(body);
        }),
      );
    });
  }
}

function head({ statusCode, headers }: IncomingMessage): Omit<Reply, 'text'> {
  return { status: statusCode!, headers };
}

/**
 * Reads the body. Uses events, because Node takes a millisecond to set up an async iterator.
 * @throws connectionLost if it is not complete
 */
function text(response: IncomingMessage): Promise<string> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    // A byte order mark is no part of the text.
    const decode = () =>
      Buffer.concat(chunks)
        .toString()
        .replace(/^\ufeff/, '');
    response
      .on('data', (chunk: Buffer) => chunks.push(chunk))
      .on('end', () => resolve(decode()))
      .on('error', reject)
      // After a complete body, this has no effect.
      .on('close', () => reject(connectionLost('the response is not complete')));
  });
}

/** Replaces the codes of Node's HTTP parser. */
function named(error: NodeJS.ErrnoException): Error {
  if (!/^HPE_/.test(error.code ?? '') || error.code === HEADERS_TOO_LARGE) return error;
  return Object.assign(new Error(error.message, { cause: error }), { code: INVALID_HTTP });
}

function connectionLost(message: string): Error {
  return Object.assign(new Error(message), { code: CONNECTION_LOST });
}
