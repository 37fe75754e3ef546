/** The app over a store in memory, on a free port of this process: for tests of the wire that need no daemon. */
import type { Server } from 'node:http';
import type { TestContext } from 'node:test';
import { pino } from 'pino';
import { Authenticator } from '../../daemon/access/authenticator.ts';
import { Tokens } from '../../daemon/access/tokens.ts';
import { type AppOptions, buildApp } from '../../daemon/http/app.ts';
import { listen } from '../../daemon/http/server/listen.ts';
import type { RegistryObserver } from '../../daemon/registry/options.ts';
import { Registry } from '../../daemon/registry/registry.ts';
import type { Contents } from '../../daemon/store/store.ts';
import { FakeClock } from './clock.ts';
import { MemoryStore } from './memory-store.ts';

export interface ServedApp {
  registry: Registry;
  server: Server;
  url: string;
  /** Where to connect to, for bytes. */
  at: { host: string; port: number };
  clock: FakeClock;
  store: MemoryStore;
  authenticator: Authenticator;
  /** Lines that the app has logged, as JSON. */
  logged: string[];
  /** Accepts no more, answers what was accepted, then resolves. May be called more than once. */
  close(): Promise<void>;
}

/** The door of a registry as it was when its store was read. @param root the one token that may do everything */
export function accessTo(registry: Registry, contents: Contents, root?: string): Authenticator {
  const { pending, clock } = registry;
  const now = () => clock.now();
  const tokens = new Tokens(contents, { pending, flush: () => registry.saveBeats(), now });
  return new Authenticator({ root, tokens, ticks: now });
}

/** Listens, and closes when the test ends. */
export async function serveApp(
  t: Pick<TestContext, 'after'>,
  {
    keptEvents,
    massLoss,
    token,
    store = new MemoryStore(),
    logLevel = 'info',
    socket,
    ...options
  }: Partial<AppOptions> & {
    keptEvents?: number;
    massLoss?: number;
    token?: string;
    store?: MemoryStore;
    logLevel?: 'info' | 'debug';
    /** Path of a unix socket to listen on as well. */
    socket?: string;
  } = {},
): Promise<ServedApp> {
  const clock = new FakeClock();
  const kept = keptEvents === undefined ? {} : { keptEvents };
  const contents = store.contents();
  const observer: RegistryObserver = { removed: (id) => authenticator.tokens.forgetVm(id) };
  const registry = new Registry({ store, clock, staleAfter: 300_000, massLoss, observer, ...kept }, contents);
  const authenticator: Authenticator = accessTo(registry, contents, token);
  const logged: string[] = [];
  const log = pino({ level: logLevel, base: null }, { write: (line: string) => void logged.push(line) });
  const app = buildApp({
    registry,
    version: '0.0.0',
    log,
    authenticator,
    ...options,
  });
  const host = '127.0.0.1';
  const listening = await listen(app, { tcp: { host, port: 0 }, socket }, { tls: options.tls });
  const port = listening.port!;
  let closed: Promise<void> | undefined;
  const close = () => {
    closed ??= listening.close();
    return closed;
  };
  t.after(() => {
    app.server.closeAllConnections();
    return close();
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
