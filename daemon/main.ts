/** The process of the registry: listens, opens the store, creates the app, and finally closes everything in reverse order. */
import { existsSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import type { Logger } from 'pino';
import { ACTIVITY_INTERVAL } from '../src/protocol/api.ts';
import { VregError } from '../src/protocol/errors.ts';
import { maskTokens } from '../src/protocol/redact.ts';
import type { Registration } from '../src/protocol/vm.ts';
import { Authenticator } from './access/authenticator.ts';
import { Sessions } from './access/sessions.ts';
import { Tokens } from './access/tokens.ts';
import { ListeningClock } from './clock.ts';
import { type AppLimits, buildApp } from './http/app.ts';
import { requestIds } from './http/audit.ts';
import { removeLeftoverBackups } from './http/handlers/backup.ts';
import { whileLoading } from './http/loading.ts';
import { loadPage } from './http/page.ts';
import { isLoopback } from './http/request/loopback.ts';
import { RequestCounts } from './http/request-counts.ts';
import { ROUTES } from './http/routes.ts';
import { advertisedUrl, type Endpoints, type Listening, listen } from './http/server/listen.ts';
import { Servers } from './http/server/servers.ts';
import { Tls, type TlsFiles } from './http/server/tls.ts';
import { createBudgets } from './limits/budgets.ts';
import { entriesLimit, heapTooSmall, listCacheLimit } from './limits/heap.ts';
import { openStreamLimit, requestTimeout } from './limits.ts';
import { type EtcdSettings, type OpenedStore, openEtcdStore, openStore, unlessStopped } from './open-store.ts';
import { checkFdLimit } from './process/fd-limit.ts';
import { logMask } from './process/log.ts';
import { alreadyRunning, readOtherProcess, removeProcessInfo, writeProcessInfo } from './process/pid-file.ts';
import { assertPrivate } from './process/state-dir.ts';
import { retainTickObject } from './process/tick-object.ts';
import { ActivityRing } from './registry/activity-ring.ts';
import type { RegistryLimits } from './registry/capacity.ts';
import { summarize } from './registry/explain.ts';
import type { RegistryObserver } from './registry/options.ts';
import { Registry } from './registry/registry.ts';
import { keepSelfRegistered } from './self-registration.ts';
import { DATABASE } from './store/data-dir.ts';
import { RESTORE_PREFIX, removeAbandonedDrafts } from './store/draft-folder.ts';
import { dataDirInUse } from './store/failures.ts';
import { MonitoredStore } from './store/monitored-store.ts';

/** Milliseconds between two saves of heartbeats: half the second within which a heartbeat must be durable. */
const SAVE_INTERVAL = 500;
/** Milliseconds between two checks whether a save is due. */
const SAVE_CHECK_INTERVAL = 250;
/** Milliseconds between two sweeps for stale VMs: the maximum delay of a `stale` event. */
const SWEEP_INTERVAL = 250;
/** Milliseconds between two saves of the listening time if there are no heartbeats: a kill -9 extends leases by at most 5 s. */
const IDLE_SAVE_INTERVAL = 5000;
/**
 * Maximum share of a run's listening time that may be unsaved. A registry that is killed repeatedly, without receiving
 * heartbeats, still counts at least half of the time for which it runs.
 */
const UNSAVED_SHARE = 0.5;

/** Milliseconds after which the log mentions that the store is still being loaded. Most stores load faster. */
const LOADING_NOTICE = 2000;

export interface ServeOptions extends Endpoints {
  dataDir: string;
  /** Default: the embedded store in the data dir. */
  etcd?: EtcdSettings | undefined;
  /** Lease in milliseconds of listening time. */
  staleAfter: number;
  /** Share of the live VMs, from 0 to 1, that must fall silent together to become suspect instead of stale; 1 disables this. */
  massLoss: number;
  /** Names to accept in the Host header, besides IP addresses, `localhost`, the host name and the name in {@link Endpoints}. */
  allowHosts: readonly string[];
  limits: Pick<RegistryLimits, 'maxVms'> &
    Pick<AppLimits, 'maxBody'> & {
      maxConnections: number;
      /** The operator has set `maxVms`, so the start fails if the heap is too small for so many VMs. */
      isMaxVmsSet: boolean;
    };
  token?: string | undefined;
  /** Certificate files for https on the TCP address. The unix socket uses plain http. */
  tls?: TlsFiles | undefined;
  /** Proxies whose forwarded headers are trusted, in the syntax of proxy-addr. */
  trustProxy?: string | undefined;
  /** Origins whose web pages may call the API. */
  corsOrigins: readonly string[];
  /** URL under which browsers reach the registry, for magic links. */
  publicUrl?: string | undefined;
  version: string;
  /**
   * @returns the registration of the daemon's own VM, given the daemon's TCP port. If absent, the daemon does not register
   * itself
   */
  self?: ((port: number | undefined) => Registration) | undefined;
  /** The start waits while etcd does not respond, instead of failing. */
  waitsForStore?: boolean | undefined;
  /** Ends the start when it is aborted. When the daemon has started, {@link RunningDaemon.close} ends it. */
  signal?: AbortSignal | undefined;
}

export interface RunningDaemon {
  urls: string[];
  dataDir: string;
  /** One line for `systemctl status`, for example `12 VMs, 1 stale`. */
  status(): string;
  /**
   * Replaces the token.
   * @throws VregError USAGE if that would enable or disable authentication, which requires a restart
   */
  replaceToken(token: string | undefined): void;
  /**
   * Replaces the certificates for new connections.
   * @throws VregError USAGE as {@link Tls.replace}
   */
  replaceCertificates(files: TlsFiles | undefined): void;
  /** TCP port; undefined without a TCP listener. */
  port: number | undefined;
  /**
   * Resolves if etcd was restored from a backup. The positions, events and records in memory are those of another history, so the
   * daemon must be closed and started again.
   */
  outdated: Promise<void>;
  /** Drains requests, saves heartbeats and closes the store. */
  close(): Promise<void>;
}

/**
 * Starts the registry and resolves when it accepts requests. It listens before it loads its store, so that probes and clients
 * learn that it is loading.
 * @throws VregError as {@link openStore}, LISTEN, ADDRESS_IN_USE, USAGE (a public address without a token, unusable
 *   certificates, or a heap that is too small for the VMs); the reason of the signal, if it is aborted before
 */
export async function serve(options: ServeOptions, log: Logger): Promise<RunningDaemon> {
  retainTickObject();
  loadPage();
  if (options.token !== undefined) logMask.add(options.token);
  const { dataDir, tcp } = options;
  // A data dir without a store has no tokens. Check this before anything is created.
  if (options.token === undefined && !options.etcd && !existsSync(join(dataDir, DATABASE)))
    refusePublicListener(options);
  checkFdLimit();
  checkHeap(options.limits, log);
  const tls = tcp && options.tls && new Tls(options.tls, log);
  /** Cleanup steps in startup order; shutdown runs them in reverse. */
  const closers: (() => Promise<void> | void)[] = [];
  const close = async () => {
    for (let closer = closers.pop(); closer; closer = closers.pop()) await closer();
  };
  assertPrivate(dataDir, 'data-dir');
  let isOutdated = false;
  let reportOutdated = () => {};
  const outdated = new Promise<void>((resolve) => {
    reportOutdated = () => {
      isOutdated = true;
      resolve();
    };
  });
  // A registry that starts again in this process keeps the file, so that `vreg daemon status` and `stop` find it meanwhile.
  closers.push(() => {
    if (!isOutdated) removeProcessInfo(dataDir, 'serve');
  });
  try {
    const budgets = createBudgets();
    const { maxVms, maxBody, maxConnections } = options.limits;
    const requests = new RequestCounts(ROUTES);
    const stopping = new AbortController();
    const loading = whileLoading({
      log,
      newRequestId: requestIds(),
      requests,
      version: options.version,
      maxBody,
      stopping: stopping.signal,
    });
    const serverOptions = { requestTimeout: requestTimeout(maxBody), pipelined: budgets.pipelined, tls };
    const servers = new Servers(serverOptions, loading);
    closers.push(() => {
      stopping.abort();
      return servers.close();
    });
    // Tokens in the store may allow a public address.
    const isAllowed = options.token !== undefined || publicListenerProblem(options) === undefined;
    let listening = isAllowed ? await listenFor(servers, options) : undefined;
    const urls = listening?.urls ?? [];
    const meanwhile = listening
      ? 'requests get 503 until it is loaded'
      : 'not listening until the tokens are loaded, because they may allow a public address';
    const notice = setTimeout(() => log.info({ urls }, `loading the store; ${meanwhile}`), LOADING_NOTICE);
    const opening: Promise<OpenedStore> = options.etcd
      ? openEtcdStore({ ...options, etcd: options.etcd }, reportOutdated, log)
      : openStore(dataDir, budgets.changes, log);
    writeLoadingPidFile(dataDir, urls);
    const opened = await unlessStopped(opening, options.signal).finally(() => clearTimeout(notice));
    const { contents, silences } = opened;
    const store = new MonitoredStore(opened.store);
    closers.push(() => store.close());
    removeLeftoverBackups(dataDir);
    removeAbandonedDrafts(join(dataDir, RESTORE_PREFIX));
    const clock = new ListeningClock(contents.listened, undefined, undefined, silences);
    clock.start();
    closers.push(() => clock.stop());

    const registry = new Registry(
      {
        store,
        clock,
        staleAfter: options.staleAfter,
        massLoss: options.massLoss,
        // A client must be able to send any entry that it has read, so no entry may be larger than a request body.
        limits: { maxVms, maxEntry: maxBody, maxTotal: entriesLimit() },
        eventLog: { maxSize: budgets.events.limit },
        observer: createObserver(log),
        onDeregister: (id) => tokens.removeWithVm(id),
        onMove: (id, created) => tokens.moveWithVm(id, created),
        onTokenRecord: (record) => (record.kind === 'token' ? tokens : sessions).recordArrived(record),
      },
      contents,
    );
    warnOfFaultyEntries(registry, log);
    const tokens: Tokens = new Tokens(contents, {
      queue: registry.unsaved.records,
      revocations: registry.unsaved.revocations,
      commit: (...change) => registry.commitTokens(...change),
      registrationOf: (id) => registry.registrationOf(id),
      now: () => clock.now(),
      closed: () => authenticator.close(),
    });
    const sessions = new Sessions(contents, { queue: registry.unsaved.records, now: () => clock.now() });
    const authenticator: Authenticator = new Authenticator({
      root: options.token,
      tokens,
      sessions,
      ticks: () => performance.now(),
    });
    closers.push(saveHeartbeats(registry, log));
    const maxListCache = listCacheLimit();
    const sweeper = setInterval(() => {
      registry.sweep();
      registry.limitListCache(maxListCache);
      tokens.expire();
      sessions.expire();
    }, SWEEP_INTERVAL).unref();
    closers.push(() => clearInterval(sweeper));

    const activity = new ActivityRing(registry);
    activity.sample();
    const sampler = setInterval(() => activity.sample(), ACTIVITY_INTERVAL).unref();
    closers.push(() => clearInterval(sampler));

    if (authenticator.isOpen) refusePublicListener(options);
    const app = buildApp({
      registry,
      store,
      version: options.version,
      authenticator,
      log,
      dataDir,
      names: acceptedHosts(options, tls),
      tls,
      trustProxy: options.trustProxy,
      corsOrigins: options.corsOrigins,
      publicUrl: options.publicUrl,
      activity,
      limits: { maxBody, requestTimeout: requestTimeout(maxBody), maxOpenStreams: openStreamLimit(maxConnections) },
      budgets,
      servers,
      requests,
    });
    closers.push(() => app.close());
    listening ??= await listenFor(servers, options);
    const url = options.publicUrl ?? advertisedUrl(listening.urls[0]);
    if (url !== undefined) store.replication?.publishUrl(url);
    if (options.self) closers.push(await keepSelfRegistered(registry, options.self(listening.port), log));
    writePidFile(dataDir, listening.urls, log);
    return {
      urls: listening.urls,
      dataDir,
      status: () => summarize(registry),
      replaceToken: (token) => replaceToken(authenticator, token),
      replaceCertificates: (files) => tls?.replace(files),
      port: listening.port,
      outdated,
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

/** @throws VregError USAGE as {@link heapTooSmall}, if the operator has set the number of VMs */
function checkHeap({ maxVms, isMaxVmsSet }: ServeOptions['limits'], log: Logger): void {
  const shortage = heapTooSmall(maxVms);
  if (shortage && isMaxVmsSet) throw shortage;
  if (shortage) log.warn(`${shortage.message}; ${shortage.hint}`);
}

/** @throws VregError USAGE if that would enable or disable authentication */
function replaceToken(authenticator: Authenticator, token: string | undefined): void {
  if ((token !== undefined) !== authenticator.hasRoot) {
    const change = authenticator.hasRoot ? 'removed' : 'added';
    throw new VregError('USAGE', `the token cannot be ${change} while the registry is running`, {
      hint: 'restart the daemon',
    });
  }
  if (token === undefined) return;
  logMask.add(token);
  authenticator.replaceRoot(token);
}

/**
 * Listens on the endpoints.
 * @throws VregError as {@link listen}; ALREADY_RUNNING if another daemon with the same data dir listens there
 */
async function listenFor(servers: Servers, { tcp, socket, dataDir, limits }: ServeOptions): Promise<Listening> {
  try {
    const { maxConnections } = limits;
    return await listen(servers, { tcp, socket }, { maxConnections });
  } catch (error) {
    const other = error instanceof VregError && error.code === 'ADDRESS_IN_USE' && readOtherProcess(dataDir, 'serve');
    throw other ? alreadyRunning(dataDirInUse(dataDir), other) : error;
  }
}

/** @throws VregError USAGE as {@link publicListenerProblem} */
function refusePublicListener(options: ServeOptions): void {
  const problem = publicListenerProblem(options);
  if (problem) throw problem;
}

/**
 * Without a token, a public address requires client certificates (`--tls-client-ca`), because a server certificate does not
 * authenticate clients. A proxy is refused, because it presents its own certificate for every client.
 * @returns the reason why a daemon without a token may not listen
 */
function publicListenerProblem({ tcp, socket, tls, trustProxy }: ServeOptions): VregError | undefined {
  if (tcp && !isLoopback(tcp.host) && !tls?.clientCa) {
    return new VregError(
      'USAGE',
      `refusing to listen on ${tcp.host} without a token: anyone could change the registry`,
      {
        field: 'host',
        hint: 'set VERS_AUTH_TOKEN or --token-file, or listen on 127.0.0.1 or a --socket',
      },
    );
  }
  if (trustProxy === undefined) return undefined;
  return new VregError(
    'USAGE',
    `refusing to listen on ${tcp?.host ?? socket} behind a proxy without a token: every client of the proxy could change the registry`,
    { field: 'trust-proxy', hint: 'set VERS_AUTH_TOKEN or --token-file, or omit --trust-proxy' },
  );
}

function acceptedHosts({ tcp, allowHosts }: ServeOptions, tls?: Tls): Pick<ReadonlySet<string>, 'has'> {
  const names = new Set([hostname(), ...(tcp ? [tcp.host] : []), ...allowHosts].map((name) => name.toLowerCase()));
  return { has: (name) => names.has(name) || tls?.covers(name) === true };
}

/** Maximum number of ids in a warning. */
const MAX_LISTED = 10;

/** Logs which stored entries `discover` omits because they violate rules that were introduced after they were stored. */
function warnOfFaultyEntries(registry: Registry, log: Logger): void {
  const faulty = registry.list({}).filter(({ fault }) => fault !== undefined);
  if (faulty.length === 0) return;
  const ids = faulty.slice(0, MAX_LISTED).map(({ id }) => id);
  log.warn(
    { count: faulty.length, ids },
    `${faulty.length} stored ${faulty.length === 1 ? 'entry violates' : 'entries violate'} the rules for ids and addresses, so discover omits ${faulty.length === 1 ? 'it' : 'them'}: see vreg why ID`,
  );
}

/** Logs what the registry detects: mass losses, identity conflicts and rollbacks. */
function createObserver(log: Logger): RegistryObserver {
  return {
    massLoss: (suspects) => {
      const ids = suspects.map(({ id }) => maskTokens(id));
      log.warn(
        { ids, suspect: ids.length },
        `mass loss: ${ids.length} VMs went silent together; discover returns them for one more lease period. Is the network up?`,
      );
    },
    conflict: ({ id: rawId, state, holder, other }) => {
      const id = maskTokens(rawId);
      const event =
        state === 'open' ? `two incarnations claim to be VM ${id}` : `another incarnation took over VM ${id}`;
      log.warn({ conflict: id, state, holder, other }, `identity conflict: ${event}; see vreg conflicts`);
    },
    rollback: (vms) => {
      const agents = vms === 1 ? 'the agent of 1 VM has' : `the agents of ${vms} VMs have`;
      log.warn(
        { rollback_detected: true, vms },
        `rollback_detected: ${agents} seen another history, so this registry was restored from a backup, rewound or copied; agents report their VMs again`,
      );
    },
    otherRegistry: ({ position, otherPosition, vms }) => {
      log.warn(
        { other_registry: true, position, otherPosition, vms },
        'an agent reports that another registry answers at the URL of this one; see vreg conflicts',
      );
    },
  };
}

/**
 * Lets `vreg daemon status` and `stop` find a daemon that is loading. Ignores a failure, because either the store fails too or
 * {@link writePidFile} reports it. Keeps the file of another daemon that is using the data dir: the store refuses to open then.
 */
function writeLoadingPidFile(dataDir: string, urls: string[]): void {
  if (!existsSync(dataDir) || readOtherProcess(dataDir, 'serve')) return;
  try {
    writeProcessInfo(dataDir, { kind: 'serve', urls, state: 'loading' });
  } catch {}
}

/**
 * Logs a failure instead of throwing, because a daemon without a pid file, for example on a full disk, can still serve reads.
 */
function writePidFile(dataDir: string, urls: string[], log: Logger): void {
  try {
    writeProcessInfo(dataDir, { kind: 'serve', urls });
  } catch (error) {
    log.warn({ err: error }, 'cannot write daemon.json: vreg daemon status and stop will not find this daemon');
  }
}

/** Saves heartbeats periodically. @returns a function that stops this and saves a last time */
function saveHeartbeats(registry: Registry, log: Logger): () => Promise<void> {
  const { clock } = registry;
  let saving: Promise<void> | undefined;
  const started = clock.listening();
  let saved = started;
  let failing = false;
  const save = async () => {
    saved = clock.listening();
    try {
      await registry.saveHeartbeats();
      if (failing) log.info('heartbeats are durable again');
      failing = false;
    } catch (error) {
      if (!failing) log.error({ err: error }, 'heartbeats cannot be saved; retaining them in memory and retrying');
      failing = true;
    }
  };
  const timer = setInterval(() => {
    const now = clock.listening();
    const due = registry.unsaved.isEmpty
      ? Math.min(IDLE_SAVE_INTERVAL, UNSAVED_SHARE * (now - started))
      : SAVE_INTERVAL;
    if (now - saved < due || saving) return;
    saving = save().finally(() => (saving = undefined));
  }, SAVE_CHECK_INTERVAL).unref();
  return async () => {
    clearInterval(timer);
    await saving;
    await save();
  };
}
