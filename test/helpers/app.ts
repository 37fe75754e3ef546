/** The app over a store in memory, on a free port of this process: for tests of the wire that need no daemon. */
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { TestContext } from 'node:test';
import { pino } from 'pino';
import { type AppOptions, buildApp } from '../../daemon/http/app.ts';
import { BearerAuth } from '../../daemon/http/auth.ts';
import { Registry } from '../../daemon/registry/registry.ts';
import { MemoryStore } from '../../daemon/store/memory.ts';
import { FakeClock } from './clock.ts';

export interface ServedApp {
  registry: Registry;
  server: Server;
  url: string;
  /** Where to connect to, for bytes. */
  at: { host: string; port: number };
  clock: FakeClock;
  store: MemoryStore;
  /** Lines that the app has logged, as JSON. */
  logged: string[];
}

/** Listens, and closes when the test ends. */
export async function serveApp(
  t: Pick<TestContext, 'after'>,
  {
    keptEvents,
    massLoss,
    token,
    ...options
  }: Partial<AppOptions> & { keptEvents?: number; massLoss?: number; token?: string } = {},
): Promise<ServedApp> {
  const clock = new FakeClock();
  const store = new MemoryStore();
  const kept = keptEvents === undefined ? {} : { keptEvents };
  const registry = new Registry({ store, clock, staleAfter: 300_000, massLoss, ...kept }, store.contents());
  const logged: string[] = [];
  const log = pino({ level: 'info', base: null }, { write: (line: string) => void logged.push(line) });
  const app = buildApp({
    registry,
    version: '0.0.0',
    log,
    ...(token === undefined ? {} : { auth: new BearerAuth(token) }),
    ...options,
  });
  const host = '127.0.0.1';
  await app.listen({ host, port: 0 });
  t.after(() => {
    app.server.closeAllConnections();
    return app.close();
  });
  const { port } = app.server.address() as AddressInfo;
  return { registry, server: app.server, url: `http://${host}:${port}`, at: { host, port }, clock, store, logged };
}
