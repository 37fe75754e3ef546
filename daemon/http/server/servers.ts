/**
 * The servers of the daemon, one for each address. They listen before the store is loaded, so the handler of their requests can be
 * replaced: see loading.ts.
 */
import type { RequestListener, Server } from 'node:http';
import type { Refused } from './raw-answer.ts';
import { createHttpServer, drain, type HttpServerOptions } from './server.ts';

/**
 * Milliseconds that servers which are just starting wait for open connections when they close. They answer every request at once,
 * so these clients have not sent a complete request.
 */
const START_DRAIN = 500;

/** Answers the requests of all servers. */
export interface RequestHandler {
  onRequest: RequestListener;
  /** Called when the server itself has refused a request, before the response is sent. */
  onRefused(refused: Refused): void;
}

export class Servers {
  /** The main server, which does not listen yet. */
  readonly server: Server;
  /** If true, the main server uses https. */
  readonly isHttps: boolean;
  /** The main server and those of {@link addServer}. */
  readonly servers: Server[] = [];
  readonly #options: HttpServerOptions;
  #handler: RequestHandler;
  #closing: Promise<void> | undefined;

  constructor(options: HttpServerOptions, handler: RequestHandler) {
    this.#options = options;
    this.#handler = handler;
    this.isHttps = options.tls !== undefined;
    this.server = this.addServer({ https: this.isHttps });
  }

  /** Answers all further requests with another handler, also on open connections. */
  use(handler: RequestHandler): void {
    this.#handler = handler;
  }

  /** Creates another server with the same handler, for a unix socket or an additional address. */
  addServer({ https = false } = {}): Server {
    const { tls, ...options } = this.#options;
    const server = createHttpServer((request, response) => this.#handler.onRequest(request, response), {
      ...options,
      tls: https ? tls : undefined,
    });
    server.on('refused', (refused: Refused) => this.#handler.onRefused(refused));
    this.servers.push(server);
    return server;
  }

  /**
   * Stops accepting connections and resolves when all accepted requests have been answered.
   * @param deadline milliseconds after which the remaining connections are cut
   */
  close(deadline = START_DRAIN): Promise<void> {
    this.#closing ??= drain(this.servers, deadline);
    return this.#closing;
  }
}
