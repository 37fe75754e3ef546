/**
 * The HTTP app: the list of steps that every request passes through, and the servers that run them. Creating the app does not
 * make it listen; see server/listen.ts.
 */
import { setMaxListeners } from 'node:events';
import type { Logger } from 'pino';
import type { Authenticator } from '../access/authenticator.ts';
import { type Budgets, createBudgets } from '../limits/budgets.ts';
import { heapLimit } from '../limits/heap.ts';
import { Scheduler } from '../limits/scheduler.ts';
import { Semaphore } from '../limits/semaphore.ts';
import { COUNTS, STREAM_LIMITS, type StreamLimits } from '../limits.ts';
import { EventLoopMonitor } from '../observability/event-loop.ts';
import { ActivityRing } from '../registry/activity-ring.ts';
import type { Registry } from '../registry/registry.ts';
import type { MonitoredStore } from '../store/monitored-store.ts';
import { abandon, assignRequestId, auditRefused, requestIds, startAudit } from './audit.ts';
import { assertPrincipalActive, authenticate, authorize } from './auth.ts';
import { RequestContext, type Result, type Route } from './context.ts';
import { checkHeaders, sendError } from './errors.ts';
import { EventFanout } from './handlers/event-fanout.ts';
import { LongPollQueue } from './handlers/long-poll-queue.ts';
import { OpenApi } from './openapi/document.ts';
import { checkMediaType, limitConnection, readBody, reserveBody, sendContinue } from './request/body.ts';
import { cookieName } from './request/cookies.ts';
import { answerPreflight, rejectCrossOrigin } from './request/origin.ts';
import { trustedProxies, trustForwardedHeaders } from './request/proxy.ts';
import { checkQuery } from './request/query.ts';
import { RequestCounts } from './request-counts.ts';
import { ListTags } from './response/list-tags.ts';
import { send } from './response/response.ts';
import { answerUnknownRoute, findRoute } from './router.ts';
import { ROUTES } from './routes.ts';
import { type RequestHandler, Servers } from './server/servers.ts';
import type { Tls } from './server/tls.ts';
import type { Services } from './services.ts';

/**
 * The pipeline: the steps in the order in which they run. Each is a function in its own module; none registers itself elsewhere.
 * If one throws, the client receives the error. They are calls and not a list of functions, so that V8 compiles them together.
 */
function run(ctx: RequestContext): void {
  try {
    assignRequestId(ctx);
    startAudit(ctx);
    trustForwardedHeaders(ctx);
    findRoute(ctx);
    limitConnection(ctx);
    rejectCrossOrigin(ctx);
    if (answerPreflight(ctx) === 'responded') return;
    authenticate(ctx);
    authorize(ctx);
    answerUnknownRoute(ctx);
    checkHeaders(ctx);
    checkQuery(ctx);
    checkMediaType(ctx);
    reserveBody(ctx);
    sendContinue(ctx);
    if (readBody(ctx, runAfterBody) === 'waiting') return;
  } catch (thrown) {
    fail(ctx, thrown);
    return;
  }
  runAfterBody(ctx);
}

/** The steps after the body. @param error the reason why it could not be read */
function runAfterBody(ctx: RequestContext, error?: unknown): void {
  try {
    if (error !== undefined) throw error;
    assertPrincipalActive(ctx);
    if (handle(ctx, runAfterHandler) === 'waiting') return;
    send(ctx);
  } catch (thrown) {
    fail(ctx, thrown);
  }
}

/** The steps after a handler that returned a promise. */
function runAfterHandler(ctx: RequestContext): void {
  try {
    send(ctx);
  } catch (thrown) {
    fail(ctx, thrown);
  }
}

function fail(ctx: RequestContext, thrown: unknown): void {
  try {
    sendError(ctx, thrown);
  } catch (err) {
    ctx.services.log.error({ err, requestId: ctx.requestId }, 'cannot send an error response');
    ctx.response.destroy();
  }
}

/** Step: calls the route's handler. Heartbeats and most reads return a result synchronously, without the cost of a promise. */
function handle(ctx: RequestContext, resume: typeof runAfterHandler): 'waiting' | undefined {
  const result = ctx.queryParams.minPosition === undefined ? callRoute(ctx) : callFromPosition(ctx);
  if (!(result instanceof Promise)) {
    ctx.result = result;
    return undefined;
  }
  result.then(
    (later) => {
      ctx.result = later;
      resume(ctx);
    },
    (error) => fail(ctx, error),
  );
  return 'waiting';
}

function callRoute(ctx: RequestContext): ReturnType<Route['handle']> {
  const route = ctx.route!;
  return route.isLong ? ctx.services.scheduler.run(() => handleScheduled(ctx)) : route.handle(ctx);
}

/** Calls the handler of a read when this replica has the position that the client requires. */
async function callFromPosition(ctx: RequestContext): Promise<Result | undefined> {
  const { registry } = ctx.services;
  const position = ctx.route!.query.includes('minPosition') ? ctx.param('minPosition') : undefined;
  if (position !== undefined) {
    await registry.replicas.awaitPosition(position);
    if (ctx.response.destroyed) return abandon(ctx);
    assertPrincipalActive(ctx);
    ctx.position = registry.positions.current;
  }
  return callRoute(ctx);
}

/**
 * Calls the handler of a scheduled request. While it was queued, its client may have left, or its principal may have been
 * revoked.
 */
function handleScheduled(ctx: RequestContext): ReturnType<Route['handle']> {
  if (ctx.response.destroyed) return abandon(ctx);
  assertPrincipalActive(ctx);
  return ctx.route!.handle(ctx);
}

export interface AppLimits {
  /** Maximum size of a request body in bytes. */
  maxBody: number;
  /** Milliseconds within which a complete request must arrive. */
  requestTimeout: number;
  /** Maximum number of concurrent long polls and event streams. */
  maxOpenStreams: number;
}

/**
 * 1 MiB is hundreds of times the size of a usual entry. 30 s is enough for slow links and stops slowloris attacks. 5000 is half
 * of the default connection limit.
 */
const LIMITS: AppLimits = { maxBody: 1_048_576, requestTimeout: 30_000, maxOpenStreams: 5000 };

/** Most milliseconds that a shutdown waits for requests in progress: `vreg daemon stop` waits 35 s, and the systemd unit 45 s. */
const MAX_DRAIN = 30_000;

const NO_NAMES: ReadonlySet<string> = new Set();

export interface AppOptions {
  registry: Registry;
  /** The store of the registry. */
  store: MonitoredStore;
  version: string;
  authenticator: Authenticator;
  log: Logger;
  /** Folder in which backups are prepared; if absent, the registry offers no backups. */
  dataDir?: string;
  /** Names of this registry besides `localhost` and its addresses, in lower case. */
  names?: Pick<ReadonlySet<string>, 'has'>;
  /** If set, the main server uses https. */
  tls?: Tls | undefined;
  /** Comma-separated addresses of proxies whose forwarded headers are trusted. */
  trustProxy?: string | undefined;
  /** Origins whose pages may use the registry. If absent and no token is configured, pages from this machine may. */
  corsOrigins?: readonly string[];
  /** URL under which browsers reach the registry, for magic links. */
  publicUrl?: string | undefined;
  /** The last hour of the fleet; by default, an empty one that nobody samples. */
  activity?: ActivityRing;
  limits?: Partial<AppLimits>;
  /** Memory budgets; by default, shares of the heap. */
  budgets?: Budgets;
  /** Servers that may listen already; by default, new ones. */
  servers?: Servers;
  /** Counts of requests; by default, none has been counted. */
  requests?: RequestCounts;
  streams?: Partial<StreamLimits>;
}

export interface App extends Pick<Servers, 'server' | 'isHttps' | 'servers'> {
  addServer: Servers['addServer'];
  /** Stops accepting connections, ends long polls and streams, and resolves when all other requests have been answered. */
  close(): Promise<void>;
}

export function buildApp(options: AppOptions): App {
  const { registry, authenticator, log, tls, trustProxy, corsOrigins = [] } = options;
  const { maxBody, requestTimeout, maxOpenStreams } = { ...LIMITS, ...options.limits };
  const { budgets = createBudgets() } = options;
  const stopping = new AbortController();
  // Every open response adds a listener.
  setMaxListeners(0, stopping.signal);
  const scheduler = new Scheduler();
  const services: Services = {
    registry,
    store: options.store,
    authenticator,
    log,
    logsReads: log.isLevelEnabled('debug'),
    version: options.version,
    newRequestId: requestIds(),
    names: options.names ?? NO_NAMES,
    allowedOrigins: corsOrigins.length > 0 ? new Set(corsOrigins) : undefined,
    isTrustedProxy: trustProxy === undefined ? undefined : trustedProxies(trustProxy),
    publicUrl: options.publicUrl,
    ownAddress: () => {
      const address = servers.server.address();
      if (address === null || typeof address === 'string') return undefined;
      return { host: address.address, port: address.port, isHttps: servers.isHttps };
    },
    activity: options.activity ?? new ActivityRing(registry),
    maxBody,
    bodies: budgets.bodies,
    dataDir: options.dataDir,
    stopping: stopping.signal,
    openStreams: new Semaphore('open streams', maxOpenStreams, {
      hint: 'omit wait, or raise --max-connections: half of the connections may be long polls and event streams',
      retryAfter: 5,
    }),
    backups: new Semaphore('backups in progress', COUNTS.backups, {
      hint: 'retry when another backup is complete',
      retryAfter: 5,
    }),
    responses: budgets.responses,
    subscribers: budgets.subscribers,
    longPolls: new LongPollQueue(scheduler),
    listTags: new ListTags(),
    counters: { unknownParameters: 0 },
    budgets,
    requests: options.requests ?? new RequestCounts(ROUTES),
    eventLoop: new EventLoopMonitor(),
    openApi: new OpenApi(ROUTES, options.version, cookieName(registry)),
    heapLimit: heapLimit(),
    scheduler,
    streams: { ...STREAM_LIMITS, ...options.streams },
    fanout: new EventFanout(registry.events, scheduler, budgets),
  };
  const handler: RequestHandler = {
    onRequest: (request, response) => run(new RequestContext(request, response, services)),
    onRefused: (refused) => auditRefused(refused, services),
  };
  const servers = options.servers ?? new Servers({ requestTimeout, pipelined: budgets.pipelined, tls }, handler);
  servers.use(handler);
  const close = () => {
    stopping.abort();
    services.eventLoop.stop();
    return servers.close(Math.min(requestTimeout, MAX_DRAIN));
  };
  const { server, isHttps, servers: all } = servers;
  return { server, isHttps, servers: all, addServer: (options) => servers.addServer(options), close };
}
