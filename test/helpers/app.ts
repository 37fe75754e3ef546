/** Serves the app over a store in memory on a free port of this process, for tests of the wire that need no daemon. */
import { once } from 'node:events';
import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import { pino } from 'pino';
import { Authenticator } from '../../daemon/access/authenticator.ts';
import { Tokens } from '../../daemon/access/tokens.ts';
import { type AppOptions, buildApp } from '../../daemon/http/app.ts';
import { listen } from '../../daemon/http/server/listen.ts';
import type { RegistryOptions } from '../../daemon/registry/options.ts';
import { Registry } from '../../daemon/registry/registry.ts';
import { FakeClock } from './clock.ts';
import { MemoryStore } from './memory-store.ts';

export interface ServedApp {
  registry: Registry;
  server: Server;
  url: string;
  /** Address for raw connections. */
  at: { host: string; port: number };
  clock: FakeClock;
  store: MemoryStore;
  authenticator: Authenticator;
  /** Log lines of the app, as JSON. */
  logged: string[];
  /** Stops accepting requests and resolves when all accepted ones are answered. It may be called more than once. */
  close(): Promise<void>;
}

/** An authenticator with the tokens of the store. @param root the root token */
export function accessTo(registry: Registry, store: MemoryStore, root?: string): Authenticator {
  const now = () => registry.clock.now();
  const tokens = new Tokens(store.contents(), {
    queue: registry.unsaved.records,
    revocations: registry.unsaved.revocations,
    commit: (records, by) => registry.commitTokens(records, by),
    registrationOf: (id) => registry.registrationOf(id),
    now,
  });
  return new Authenticator({ root, tokens, ticks: now });
}

/** Listens, and closes when the test ends, or the file if `t` is node:test itself. */
export async function serveApp(
  t: { after(end: () => unknown): void },
  {
    keptEvents,
    massLoss,
    token,
    store = new MemoryStore(),
    clock = new FakeClock(),
    logLevel = 'info',
    socket,
    ...options
  }: Partial<AppOptions> & {
    keptEvents?: number;
    massLoss?: number;
    token?: string;
    store?: MemoryStore;
    clock?: FakeClock;
    logLevel?: 'info' | 'debug';
    /** Path of a unix socket to listen on as well. */
    socket?: string;
  } = {},
): Promise<ServedApp> {
  const onDeregister: RegistryOptions['onDeregister'] = (id) => authenticator.tokens.removeWithVm(id);
  const onMove: RegistryOptions['onMove'] = (id, created) => authenticator.tokens.moveWithVm(id, created);
  const registry = new Registry(
    { store, clock, staleAfter: 300_000, massLoss, onDeregister, onMove, eventLog: { maxEvents: keptEvents } },
    store.contents(),
  );
  const authenticator: Authenticator = accessTo(registry, store, token);
  const logged: string[] = [];
  const log = pino({ level: logLevel, base: null }, { write: (line: string) => void logged.push(line) });
  const app = buildApp({
    registry,
    version: '0.0.0',
    log,
    authenticator,
    ...options,
  });
  const connections = new Set<Socket>();
  app.server.on('connection', (socket: Socket) => {
    connections.add(socket);
    socket.once('close', () => connections.delete(socket));
  });
  const host = '127.0.0.1';
  const listening = await listen(app, { tcp: { host, port: 0 }, socket });
  const port = listening.port!;
  let closed: Promise<void> | undefined;
  const close = () => {
    closed ??= listening.close();
    return closed;
  };
  t.after(async () => {
    app.server.closeAllConnections();
    // Node 26 emits the `close` of a connection after that of its server. The next test may mock the timers that it clears.
    await Promise.all([close(), ...[...connections].map((socket) => once(socket, 'close'))]);
  });
  return {
    registry,
    server: app.server,
    url: `${options.tls ? 'https' : 'http'}://${host}:${port}`,
    at: { host, port },
    clock,
    store,
    authenticator,
    logged,
    close,
  };
}
