/** The registry's process: its wiring, and its life from opening the store to closing it. */

import { existsSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import type { Logger } from 'pino';
import { VregError } from '../src/protocol/errors.ts';
import { maskTokens } from '../src/protocol/redact.ts';
import type { Registration } from '../src/protocol/vm.ts';
import { Authenticator } from './access/authenticator.ts';
import { Tokens } from './access/tokens.ts';
import { ListeningClock } from './clock.ts';
import { type AppLimits, buildApp } from './http/app.ts';
import { Cors } from './http/cors.ts';
import { removeLeftoverBackups } from './http/handlers/backup.ts';
import { isLoopback } from './http/origin.ts';
import { type Endpoints, listen } from './http/server/listen.ts';
import { Tls, type TlsFiles } from './http/server/tls.ts';
import { createBudgets, entriesLimit, openStreamLimit, requestTimeout } from './limits.ts';
import { checkFdLimit } from './process/fd-limit.ts';
import { logMask } from './process/log.ts';
import { type ProcessInfo, readProcessInfo, removeProcessInfo, writeProcessInfo } from './process/pid-file.ts';
import { warnOfOpenFolder } from './process/state-dir.ts';
import type { RegistryLimits } from './registry/capacity.ts';
import { summarize } from './registry/explain.ts';
import type { RegistryObserver } from './registry/options.ts';
import { Registry } from './registry/registry.ts';
import { keepSelfRegistered } from './self-registration.ts';
import { DATABASE } from './store/data-dir.ts';
import { SqliteStore } from './store/sqlite-store.ts';

/** Milliseconds between two saves of beats: half of the second within which a beat shall be durable. */
const SAVE_INTERVAL = 500;
/** Milliseconds between two looks for VMs that went stale: how late a watcher may hear of it. */
const SWEEP_INTERVAL = 250;
/** Saves without a beat after which the listening clock is saved all the same: how much of a lease a kill -9 can give back. */
const IDLE_SAVES = 10;

/** Looks at a busy data dir before it is given up, and milliseconds between them: longer than a check of a small database. */
const BUSY_TRIES = 6;
const BUSY_DELAY = 250;

export interface ServeOptions extends Endpoints {
  dataDir: string;
  /** Milliseconds. */
  staleAfter: number;
  /** Share of the live VMs, 0 to 1, that must fall silent together to be suspect instead of stale; 1 turns it off. */
  massLoss: number;
  /** Names by which the registry may be asked, besides its addresses, `localhost`, the host name and that of {@link Endpoints}. */
  allowHosts: readonly string[];
  limits: Pick<RegistryLimits, 'maxVms'> & Pick<AppLimits, 'maxBody'> & { maxConnections: number };
  token?: string | undefined;
  /** What the TCP address speaks https with; the socket stays plain. */
  tls?: TlsFiles | undefined;
  /** Proxies whose word on where a request came from holds, as fastify's `trustProxy`. */
  trustProxy?: string | undefined;
  /** Origins whose pages may use the registry. */
  corsOrigins: readonly string[];
  version: string;
  /** Makes the daemon's own VM an entry, given the port it listens on; absent: it does not. */
  self?: ((port: number | undefined) => Registration) | undefined;
}

export interface RunningDaemon {
  urls: string[];
  dataDir: string;
  /** One line on how it goes: `12 VMs, 1 stale`. */
  status(): string;
  /**
   * Takes another token.
   * @throws VregError USAGE when there was none, or would be none: who may come in is decided at the start
   */
  reload(settings: Pick<ServeOptions, 'token'>): void;
  /**
   * Takes other certificates, for new connections.
   * @throws VregError USAGE as {@link Tls.replace}
   */
  reloadCertificates(files: TlsFiles | undefined): void;
  /** Drains, saves and closes, in the reverse order of the start. */
  close(): Promise<void>;
}

/**
 * Starts the registry and returns when it can serve.
 * @throws VregError ALREADY_RUNNING, STORE_DAMAGED, STORE_UNUSABLE, LISTEN, USAGE (an open address without a token, or
 *   certificates that cannot be used)
 */
export async function serve(options: ServeOptions, log: Logger): Promise<RunningDaemon> {
  const { dataDir, staleAfter, massLoss, version, tcp, socket, trustProxy, corsOrigins } = options;
  // Where there is no store yet, there are no tokens in it, and nothing need be made to find that out.
  if (options.token === undefined && !existsSync(join(dataDir, DATABASE))) refusePublicListener(options);
  checkFdLimit();
  if (options.token !== undefined) logMask.add(options.token);
  const tls = tcp && options.tls && new Tls(options.tls, log);
  const { store, contents } = await openStore(dataDir, log);
  warnOfOpenFolder(dataDir, log);
  // Now, so that a second daemon can name this one even while it starts; with its URLs when it has them.
  writePidFile(dataDir, [], log);
  removeLeftoverBackups(dataDir);
  const clock = new ListeningClock(contents.listened);
  clock.start();
  const { maxVms, maxBody, maxConnections } = options.limits;
  // A client must be able to send back any entry that it has read, so no entry is larger than a request body.
  const limits = { maxVms, maxEntry: maxBody, maxTotal: entriesLimit() };
  const registry = new Registry(
    {
      store,
      clock,
      staleAfter,
      massLoss,
      limits,
      observer: observerOf(log),
      onDeregister: (id) => tokens.removeWithVm(id),
    },
    contents,
  );
  const tokens: Tokens = new Tokens(contents, {
    queue: registry.unsaved.records,
    commit: (records) => store.commitRecords(records),
    now: () => clock.now(),
  });
  const authenticator = new Authenticator({
    root: options.token,
    tokens,
    ticks: () => performance.now(),
  });
  const saver = saveHeartbeats(registry, log);
  const sweeper = setInterval(() => {
    registry.sweep();
    tokens.expire();
  }, SWEEP_INTERVAL).unref();

  const cors = corsOrigins.length > 0 ? new Cors(corsOrigins) : undefined;
  const names = acceptedHosts(options, tls);
  const appLimits = { maxBody, requestTimeout: requestTimeout(maxBody), maxHeld: openStreamLimit(maxConnections) };
  const app = buildApp({
    registry,
    version,
    authenticator,
    log,
    dataDir,
    names,
    tls,
    trustProxy,
    cors,
    limits: appLimits,
  });
  const closeStore = async () => {
    removeProcessInfo(dataDir, 'serve');
    clearInterval(sweeper);
    await saver.stop();
    clock.stop();
    await store.close();
  };
  const startListening = async () => {
    if (authenticator.isOpen) refusePublicListener(options);
    return listen(app, { tcp, socket }, { maxConnections, tls });
  };
  const listening = await startListening().catch(async (error) => {
    await closeStore();
    throw error;
  });
  let self: { stop(): void } | undefined;
  const close = async () => {
    self?.stop();
    await listening.close();
    await closeStore();
  };
  try {
    if (options.self) self = await keepSelfRegistered(registry, options.self(listening.port), log);
  } catch (error) {
    await close();
    throw error;
  }
  writePidFile(dataDir, listening.urls, log);
  const reload = ({ token: next }: Pick<ServeOptions, 'token'>) => {
    if ((next !== undefined) !== authenticator.hasRoot) {
      const change = authenticator.hasRoot ? 'taken away' : 'added';
      throw new VregError('USAGE', `a token cannot be ${change} while the registry runs`, { hint: 'restart it' });
    }
    if (next === undefined) return;
    logMask.add(next);
    authenticator.replaceRoot(next);
  };
  const reloadCertificates = (files: TlsFiles | undefined) => tls?.replace(files);
  return { urls: listening.urls, dataDir, status: () => summarize(registry), reload, reloadCertificates, close };
}

/**
 * Without a token, an address that strangers can reach needs what keeps them out: a CA that has signed the certificates of
 * those who belong. A certificate of the registry's own keeps nobody out.
 * @throws VregError USAGE
 */
function refusePublicListener({ tcp, socket, tls, trustProxy }: ServeOptions): void {
  if (tcp && !isLoopback(tcp.host) && !tls?.clientCa) {
    throw new VregError(
      'USAGE',
      `refusing to listen on ${tcp.host} without a token: anyone could change the registry`,
      {
        field: 'host',
        hint: 'set VERS_AUTH_TOKEN or --token-file, or listen on 127.0.0.1 or a --socket',
      },
    );
  }
  // A proxy shows its own certificate, whoever comes through it.
  if (trustProxy === undefined) return;
  throw new VregError(
    'USAGE',
    `refusing to listen on ${tcp?.host ?? socket} behind a proxy without a token: anyone whom the proxy lets in could change the registry`,
    { field: 'trust-proxy', hint: 'set VERS_AUTH_TOKEN or --token-file, or leave --trust-proxy out' },
  );
}

function acceptedHosts({ tcp, allowHosts }: ServeOptions, tls?: Tls): Pick<ReadonlySet<string>, 'has'> {
  const names = new Set([hostname(), ...(tcp ? [tcp.host] : []), ...allowHosts].map((name) => name.toLowerCase()));
  return { has: (name) => names.has(name) || tls?.covers(name) === true };
}

/** What the registry finds out, as lines of the log. */
function observerOf(log: Logger): RegistryObserver {
  return {
    massLoss: (suspects) => {
      const ids = suspects.map(({ vm }) => maskTokens(vm.id));
      const advice = 'they stay offered for one more lease; is the network up?';
      log.warn({ ids, suspect: ids.length }, `mass loss: ${ids.length} VMs fell silent with many others; ${advice}`);
    },
    conflict: ({ id: given, state, holder, other }) => {
      const id = maskTokens(given);
      const what = state === 'open' ? 'two incarnations say that they are' : 'another incarnation has replaced';
      log.warn({ conflict: id, state, holder, other }, `identity conflict: ${what} VM ${id}; see vreg conflicts`);
    },
    rollback: (given, known) => {
      const id = maskTokens(given);
      const advice = 'it was restored from an older copy; its agents tell it anew what they know';
      log.warn(
        { rollback_detected: true, vm: id, known },
        `rollback_detected: VM ${id} knows more than this registry: ${advice}`,
      );
    },
  };
}

/** Without its process file the daemon is only harder to find: a full disk shall not keep it from serving reads. */
function writePidFile(dataDir: string, urls: string[], log: Logger): void {
  try {
    writeProcessInfo(dataDir, { kind: 'serve', urls });
  } catch (error) {
    log.warn({ err: error }, 'cannot write daemon.json: vreg daemon status and stop will not find this daemon');
  }
}

async function openStore(dataDir: string, log: Logger): ReturnType<typeof SqliteStore.open> {
  const onDeath = (error: Error) => {
    log.fatal({ err: error }, 'the store ended; what was acknowledged is on the disk');
    process.exit(1);
  };
  for (let tries = 1; ; tries++) {
    try {
      return await SqliteStore.open({ dataDir, budget: createBudgets().changes, onDeath });
    } catch (error) {
      if (!(error instanceof VregError) || error.code !== 'ALREADY_RUNNING') throw error;
      const other = readProcessInfo(dataDir, 'serve');
      if (other) throw describeOther(error, other);
      // Somebody just starts, or looks at the database: who it is will be known in a moment.
      if (tries === BUSY_TRIES) throw error;
      await setTimeout(BUSY_DELAY);
    }
  }
}

/** A busy store is another daemon's: say which. */
function describeOther({ code, message, hint }: VregError, { pid, urls, since }: ProcessInfo): VregError {
  const doing = urls.length > 0 ? `serving ${urls.join(' and ')}` : 'starting';
  return new VregError(code, `${message}: the vreg daemon with pid ${pid}, ${doing} since ${since}`, { hint: hint! });
}

function saveHeartbeats(registry: Registry, log: Logger): { stop(): Promise<void> } {
  let saving: Promise<void> | undefined;
  let idle = 0;
  let failing = false;
  const save = async () => {
    try {
      await registry.saveHeartbeats();
      if (failing) log.info('heartbeats are durable again');
      failing = false;
    } catch (error) {
      if (!failing) log.error({ err: error }, 'heartbeats cannot be saved; they are kept in memory and tried again');
      failing = true;
    }
  };
  const timer = setInterval(() => {
    idle = registry.unsaved.isEmpty ? idle + 1 : IDLE_SAVES;
    if (idle < IDLE_SAVES || saving) return;
    idle = 0;
    saving = save().finally(() => (saving = undefined));
  }, SAVE_INTERVAL).unref();
  return {
    stop: async () => {
      clearInterval(timer);
      await saving;
      await save();
    },
  };
}
