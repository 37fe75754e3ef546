/** Where the app listens: a TCP address, a unix socket, or both. */
import { lookup } from 'node:dns/promises';
import type { Server } from 'node:http';
import type { AddressInfo, ListenOptions } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { VregError } from '../../../src/protocol/errors.ts';
import { answerBrokenRequest, makeServer } from './server.ts';
import type { Tls } from './tls.ts';
import { checkClosed, checkPlace, markConnections, removeDeadSocket } from './unix-socket.ts';

export interface Endpoints {
  tcp?: { host: string; port: number } | undefined;
  /** Path of a unix socket; made with mode 0600. */
  socket?: string | undefined;
}

export interface Listening {
  /** `http://…` or `https://…`, and `unix:…`, in the order of {@link Endpoints}. */
  urls: string[];
  /** The TCP port, also when any (0) was asked for. */
  port: number | undefined;
  /** Accepts no more, answers what was accepted, then resolves. */
  close(): Promise<void>;
}

/**
 * Listens on all endpoints, or throws and listens on none of them.
 * @param maxConnections of each listener; what comes beyond is closed at once, so that the others go on
 * @param tls what the app's own server, on the TCP address, was made with
 * @throws VregError LISTEN; USAGE when others than the owner could use the socket, or put another in its place
 */
export async function listen(
  app: FastifyInstance,
  { tcp, socket }: Endpoints,
  { maxConnections, tls }: { maxConnections?: number; tls?: Tls | undefined } = {},
): Promise<Listening> {
  await app.ready();
  const urls: string[] = [];
  const extra: Server[] = [];
  let port: number | undefined;
  const close = () => drain(app, extra);
  try {
    if (tcp) {
      await app.listen(tcp).catch((cause) => fail(cause, `${tcp.host}:${tcp.port}`));
      port = (app.server.address() as AddressInfo).port;
      extra.push(...(await listenOnSiblings(app, tcp.host, port, tls)));
      urls.push(`${tls ? 'https' : 'http'}://${tcp.host.includes(':') ? `[${tcp.host}]` : tcp.host}:${port}`);
    }
    if (socket !== undefined) {
      checkPlace(socket);
      await removeDeadSocket(socket);
      // Nobody but the owner may connect, from the moment the socket exists.
      const umask = process.umask(0o177);
      try {
        // fastify's own server takes the first endpoint; a second one shares its routes.
        if (tcp) extra.push(await shareRoutes(app, { path: socket }));
        else {
          markConnections(app.server);
          await app.listen({ path: socket });
        }
      } catch (cause) {
        fail(cause as NodeJS.ErrnoException, socket);
      } finally {
        process.umask(umask);
      }
      checkClosed(socket);
      urls.push(`unix:${socket}`);
    }
    if (maxConnections !== undefined)
      for (const server of [app.server, ...extra]) server.maxConnections = maxConnections;
    return { urls, port, close };
  } catch (error) {
    await close();
    throw error;
  }
}

function fail(cause: NodeJS.ErrnoException, name: string): never {
  const hint =
    cause.code === 'EADDRINUSE'
      ? 'another program has it: choose another with --port or --socket, or see who runs: vreg daemon status'
      : 'choose an address of this machine with --host, --port or --socket';
  throw new VregError('LISTEN', `cannot listen on ${name} (${cause.code})`, { hint, cause });
}

async function shareRoutes(app: FastifyInstance, where: ListenOptions, tls?: Tls): Promise<Server> {
  const server = makeServer((request, response) => app.routing(request, response), app.server.requestTimeout, tls);
  server.on('clientError', answerBrokenRequest);
  server.on('refused', (refused) => app.server.emit('refused', refused));
  if ('path' in where) markConnections(server);
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(where, resolve));
  return server;
}

/** `localhost` is 127.0.0.1 to one client and ::1 to another: the first is listened on already, the others are here. */
async function listenOnSiblings(app: FastifyInstance, host: string, port: number, tls?: Tls): Promise<Server[]> {
  if (host !== 'localhost') return [];
  const first = (app.server.address() as AddressInfo).address;
  const others = (await lookup(host, { all: true })).filter(({ address }) => address !== first);
  // One that this machine cannot give (no IPv6, say) is not missed.
  const tried = await Promise.allSettled(others.map(({ address }) => shareRoutes(app, { host: address, port }, tls)));
  return tried.filter((attempt) => attempt.status === 'fulfilled').map(({ value }) => value);
}

/** Milliseconds between two looks for connections that have become idle while the app closes. */
const SWEEP = 50;

/** Accepts no more, answers what was accepted, and closes each connection when it has its answer. */
async function drain(app: FastifyInstance, extra: readonly Server[]): Promise<void> {
  const servers = [app.server, ...extra];
  // A connection whose last request came before the close is kept alive after its answer: nobody told its client.
  const sweep = setInterval(() => {
    for (const server of servers) server.closeIdleConnections();
  }, SWEEP);
  // A server that closes no longer looks for requests that never end, so that is done here.
  const limit = setTimeout(() => {
    for (const server of servers) server.closeAllConnections();
  }, app.server.requestTimeout);
  try {
    const closed = extra.map((server) => new Promise((resolve) => server.close(resolve)));
    await Promise.all([app.close(), ...closed]);
  } finally {
    clearInterval(sweep);
    clearTimeout(limit);
  }
}
