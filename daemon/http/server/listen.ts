/** Makes the app listen on a TCP address, a unix socket, or both. */
import { lookup } from 'node:dns/promises';
import type { Server } from 'node:http';
import type { AddressInfo, ListenOptions } from 'node:net';
import { hostname } from 'node:os';
import { joinHostPort } from '../../../src/protocol/address.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import type { TcpAddress } from '../../process/listener.ts';
import { addressInUse } from './address-in-use.ts';
import type { Servers } from './servers.ts';
import { checkClosed, checkPlace, markConnections, removeDeadSocket } from './unix-socket.ts';

export interface Endpoints {
  tcp?: { host: string; port: number } | undefined;
  /** Path of a unix socket; created with mode 0600. */
  socket?: string | undefined;
}

/** The app, or its servers before there is one. */
export type Listener = Pick<Servers, 'server' | 'isHttps' | 'servers' | 'addServer' | 'close'>;

export interface Listening {
  /** `http://…` or `https://…`, and `unix:…`, in the order of {@link Endpoints}. */
  urls: string[];
  /** The actual TCP port, even if 0 (any free port) was requested. */
  port: number | undefined;
  /** Stops accepting connections, answers accepted requests, then resolves. */
  close(): Promise<void>;
}

/**
 * Listens on all endpoints, or throws and listens on none of them.
 * @param maxConnections per listener; further connections are closed immediately
 * @throws VregError LISTEN; ADDRESS_IN_USE naming the other process if it can be known; USAGE if users other than the owner could use or replace the unix socket
 */
export async function listen(
  app: Listener,
  { tcp, socket }: Endpoints,
  { maxConnections }: { maxConnections?: number } = {},
): Promise<Listening> {
  const urls: string[] = [];
  let port: number | undefined;
  try {
    if (tcp) {
      port = await listenOnTcp(app, tcp);
      urls.push(`${app.isHttps ? 'https' : 'http'}://${joinHostPort(tcp.host, port)}`);
    }
    if (socket !== undefined) {
      await listenOnSocket(tcp ? app.addServer() : app.server, socket);
      urls.push(`unix:${socket}`);
    }
    if (maxConnections !== undefined) for (const server of app.servers) server.maxConnections = maxConnections;
    return { urls, port, close: () => app.close() };
  } catch (error) {
    await app.close();
    throw error;
  }
}

/**
 * The URL under which other machines may reach a listener: for one on all addresses, that of the host name.
 * @param url from {@link Listening.urls}
 */
export function advertisedUrl(url: string | undefined): string | undefined {
  return url?.replace(/^(https?:\/\/)(0\.0\.0\.0|\[::\])(?=:)/, `$1${hostname()}`);
}

async function listenOnTcp(app: Listener, { host, port }: { host: string; port: number }): Promise<number> {
  await listening(app.server, { host, port }).catch((cause) =>
    fail(cause, joinHostPort(host, port), { address: cause.address ?? host, port }),
  );
  const first = app.server.address() as AddressInfo;
  // `localhost` is 127.0.0.1 for some clients and ::1 for others.
  if (host === 'localhost') {
    const all = await lookup(host, { all: true });
    const others = all.filter(({ address }) => address !== first.address);
    // Skip addresses that this machine does not have, for example ::1 on a machine without IPv6.
    await Promise.allSettled(
      others.map(({ address }) =>
        listening(app.addServer({ https: app.isHttps }), { host: address, port: first.port }),
      ),
    );
  }
  return first.port;
}

async function listenOnSocket(server: Server, path: string): Promise<void> {
  checkPlace(path);
  await removeDeadSocket(path);
  markConnections(server);
  // Ensure that only the owner may connect from the moment the socket exists.
  const umask = process.umask(0o177);
  try {
    await listening(server, { path });
  } catch (cause) {
    fail(cause as NodeJS.ErrnoException, path, path);
  } finally {
    process.umask(umask);
  }
  checkClosed(path);
}

/**
 * Maximum number of connections that wait to be accepted: Linux's own limit since 5.4 (net.core.somaxconn). With Node's default
 * of 511, some agents of a fleet that reconnects at once would wait for seconds, until TCP repeats their first packet.
 */
const BACKLOG = 4096;

function listening(server: Server, where: ListenOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject).listen({ ...where, backlog: BACKLOG }, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

/** @param at a TCP address, or the path of a unix socket */
function fail(cause: NodeJS.ErrnoException, name: string, at: TcpAddress | string): never {
  if (cause.code === 'EADDRINUSE') throw addressInUse(name, at, cause);
  throw new VregError('LISTEN', `cannot listen on ${name} (${cause.code})`, {
    ...(typeof at === 'string' ? { field: 'socket' } : {}),
    hint: 'choose an address of this machine with --host, --port or --socket',
    cause,
  });
}
