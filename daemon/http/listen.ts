/** Where the app listens: a TCP address, a unix socket, or both. */
import { existsSync, unlinkSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import type { FastifyInstance } from 'fastify';
import { VregError } from '../../src/protocol/errors.ts';

export interface Endpoints {
  tcp?: { host: string; port: number } | undefined;
  /** Path of a unix socket; made with mode 0600. */
  socket?: string | undefined;
}

export interface Listening {
  /** `http://…` and `unix:…`, in the order of {@link Endpoints}. */
  urls: string[];
  /** The TCP port, also when any (0) was asked for. */
  port: number | undefined;
  /** Accepts no more, answers what was accepted, then resolves. */
  close(): Promise<void>;
}

/**
 * Listens on all endpoints, or throws and listens on none of them.
 * @throws VregError LISTEN
 */
export async function listen(app: FastifyInstance, { tcp, socket }: Endpoints): Promise<Listening> {
  await app.ready();
  const urls: string[] = [];
  const extra: Server[] = [];
  let port: number | undefined;
  const close = async () => {
    const closed = extra.map((server) => new Promise((resolve) => server.close(resolve)));
    for (const server of extra) server.closeIdleConnections();
    await Promise.all([app.close(), ...closed]);
  };
  try {
    if (tcp) {
      await app.listen(tcp).catch((cause) => fail(cause, `${tcp.host}:${tcp.port}`));
      port = (app.server.address() as AddressInfo).port;
      urls.push(`http://${tcp.host.includes(':') ? `[${tcp.host}]` : tcp.host}:${port}`);
    }
    if (socket !== undefined) {
      await removeDeadSocket(socket);
      // Nobody but the owner may connect, from the moment the socket exists.
      const umask = process.umask(0o177);
      try {
        // fastify's own server takes the first endpoint; a second one shares its routes.
        if (tcp) extra.push(await shareRoutes(app, socket));
        else await app.listen({ path: socket });
      } catch (cause) {
        fail(cause as NodeJS.ErrnoException, socket);
      } finally {
        process.umask(umask);
      }
      urls.push(`unix:${socket}`);
    }
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

async function shareRoutes(app: FastifyInstance, path: string): Promise<Server> {
  const server = createServer({ requestTimeout: app.server.requestTimeout }, (request, response) =>
    app.routing(request, response),
  );
  for (const listener of app.server.listeners('clientError')) server.on('clientError', listener as () => void);
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(path, resolve));
  return server;
}

/** A socket file that a killed daemon left behind would keep a new one from listening. */
async function removeDeadSocket(path: string): Promise<void> {
  if (!existsSync(path)) return;
  const alive = await new Promise<boolean>((resolve) => {
    const probe = connect(path);
    probe.once('error', () => resolve(false));
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
  });
  if (alive) {
    throw new VregError('LISTEN', `cannot listen on ${path}: a process listens there already`, {
      hint: 'choose another with --socket, or see who runs: vreg daemon status',
    });
  }
  unlinkSync(path);
}
