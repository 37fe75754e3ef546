/** One HTTP exchange with a registry, over TCP or a unix socket: the only user of undici. */
import v8 from 'node:v8';
import request from 'undici/lib/api/api-request.js';
import Client from 'undici/lib/dispatcher/client.js';

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

export class Transport {
  readonly #client: Client;
  readonly #prefix: string;

  /** @param url `http(s)://host[:port][/prefix]` or `unix:/path/to.sock` */
  constructor(url: URL) {
    // undici's HTTP parser is WebAssembly, and a short process would wait at its end for V8 to optimise it: 80 ms for
    // nothing. A budget that is never used up keeps the parser in its first tier, which is fast enough for a CLI.
    v8.setFlagsFromString('--wasm-tiering-budget=2000000000');
    const socket = url.protocol === 'unix:' ? decodeURIComponent(url.pathname) : undefined;
    this.#client = new Client(
      socket === undefined ? url.origin : 'http://localhost',
      socket === undefined ? {} : { socketPath: socket },
    );
    this.#prefix = socket === undefined ? url.pathname.replace(/\/+$/, '') : '';
  }

  /** @throws whatever undici does; an AbortError or TimeoutError when its signal or the timeout ended it */
  async send({ method, path, headers, body, timeout, signal }: Exchange): Promise<Reply> {
    const deadline = AbortSignal.timeout(timeout);
    const answer = await request.call(this.#client, {
      method: method as 'GET',
      path: this.#prefix + path,
      headers,
      body: body ?? null,
      signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
    });
    return { status: answer.statusCode, headers: answer.headers, text: await answer.body.text() };
  }

  /** Ends what is under way and closes the connection at once. */
  close(): void {
    this.#client.destroy().catch(() => {});
  }
}
