/**
 * Serves the app on a free port of this process, for tests of the wire that need no daemon. The store is in memory, or in etcd
 * (`test-store.ts`).
 */
import { once } from 'node:events';
import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import { pino } from 'pino';
import { Authenticator } from '../../daemon/access/authenticator.ts';
import { Sessions } from '../../daemon/access/sessions.ts';
import { Tokens } from '../../daemon/access/tokens.ts';
import { type AppOptions, buildApp } from '../../daemon/http/app.ts';
import { listen } from '../../daemon/http/server/listen.ts';
import type { RegistryOptions } from '../../daemon/registry/options.ts';
import { Registry } from '../../daemon/registry/registry.ts';
import { MonitoredStore } from '../../daemon/store/monitored-store.ts';
import { FakeClock } from './clock.ts';
import type { MemoryStore } from './memory-store.ts';
import { openTestStore, reopen } from './test-store.ts';

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
    commit: (...change) => registry.commitTokens(...change),
    registrationOf: (id) => registry.registrationOf(id),
    now,
  });
  const sessions = new Sessions(store.contents(), { queue: registry.unsaved.records, now });
  return new Authenticator({ root, tokens, sessions, ticks: now });
}

/** Listens, and closes when the test ends, or the file if `t` is node:test itself. */
export async function serveApp(
  t: { after(end: () => unknown): void },
  {
    keptEvents,
    massLoss,
    staleAfter = 300_000,
    token,
    clock = new FakeClock(),
    store: given,
    logLevel = 'info',
    socket,
    ...options
  }: Omit<Partial<AppOptions>, 'store'> & {
    keptEvents?: number;
    massLoss?: number;
    /** The lease in milliseconds. */
    staleAfter?: number;
    token?: string;
    /** The store of an app that was served before, for a restart, or one with faults. */
    store?: MemoryStore;
    clock?: FakeClock;
    logLevel?: 'info' | 'debug';
    /** Path of a unix socket to listen on as well. */
    socket?: string;
  } = {},
): Promise<ServedApp> {
  const store = given ? await reopen(given) : await openTestStore(() => clock.wall);
  const onDeregister: RegistryOptions['onDeregister'] = (id) => authenticator.tokens.removeWithVm(id);
  const onMove: RegistryOptions['onMove'] = (id, created) => authenticator.tokens.moveWithVm(id, created);
  const onTokenRecord: RegistryOptions['onTokenRecord'] = (record) =>
    (record.kind === 'token' ? authenticator.tokens : authenticator.sessions).recordArrived(record);
  const monitored = new MonitoredStore(store, () => clock.listening());
  const registry = new Registry(
    {
      store: monitored,
      clock,
      staleAfter,
      massLoss,
      onDeregister,
      onMove,
      onTokenRecord,
      eventLog: { maxEvents: keptEvents },
    },
    store.contents(),
  );
  const authenticator: Authenticator = accessTo(registry, store, token);
  const logged: string[] = [];
  const log = pino({ level: logLevel, base: null }, { write: (line: string) => void logged.push(line) });
  const app = buildApp({
    registry,
    store: monitored,
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
    await store.close();
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
