/**
 * The HTTP app: the list of steps that every request passes through, and the servers that run them. Creating the app does not
 * make it listen; see server/listen.ts.
 */
import { setMaxListeners } from 'node:events';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Logger } from 'pino';
import type { Authenticator } from '../access/authenticator.ts';
import {
  type Budgets,
  COUNTS,
  createBudgets,
  Scheduler,
  Semaphore,
  STREAM_LIMITS,
  type StreamLimits,
} from '../limits.ts';
import type { Registry } from '../registry/registry.ts';
import { abandon, assignRequestId, auditRefused, requestIds, startAudit } from './audit.ts';
import { assertPrincipalActive, authenticate, authorize } from './auth.ts';
import { checkMediaType, limitConnection, readBody, reserveBody, sendContinue } from './body.ts';
import { RequestContext, type Route, type Services } from './context.ts';
import { checkHeaders, sendError } from './errors.ts';
import { EventFanout } from './handlers/event-fanout.ts';
import { LongPollQueue } from './handlers/long-poll-queue.ts';
import { ListTags } from './list-tags.ts';
import { answerPreflight, rejectCrossOrigin } from './origin.ts';
import { trustedProxies, trustForwardedHeaders } from './proxy.ts';
import { checkQuery } from './query.ts';
import { send } from './response.ts';
import { answerUnknownRoute, findRoute } from './router.ts';
import type { Refused } from './server/raw-answer.ts';
import { createHttpServer, drain } from './server/server.ts';
import type { Tls } from './server/tls.ts';

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
  const route = ctx.route!;
  const result = route.isLong ? ctx.services.scheduler.run(() => handleScheduled(ctx)) : route.handle(ctx);
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
  limits?: Partial<AppLimits>;
  /** Memory budgets; by default, shares of the heap. */
  budgets?: Budgets;
  streams?: Partial<StreamLimits>;
}

export interface App {
  /** The main server, which does not listen yet. */
  readonly server: Server;
  readonly isHttps: boolean;
  /** The main server and those of {@link addServer}. */
  readonly servers: readonly Server[];
  /** Creates another server with the same routes, for a unix socket or an additional address. */
  addServer(options?: { https?: boolean }): Server;
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
    authenticator,
    log,
    logsReads: log.isLevelEnabled('debug'),
    version: options.version,
    newRequestId: requestIds(),
    names: options.names ?? NO_NAMES,
    allowedOrigins: corsOrigins.length > 0 ? new Set(corsOrigins) : undefined,
    isTrustedProxy: trustProxy === undefined ? undefined : trustedProxies(trustProxy),
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
    scheduler,
    streams: { ...STREAM_LIMITS, ...options.streams },
    fanout: new EventFanout(registry.events, scheduler, budgets),
  };
  const onRequest = (request: IncomingMessage, response: ServerResponse) =>
    run(new RequestContext(request, response, services));
  const servers: Server[] = [];
  const addServer = ({ https = false } = {}) => {
    const server = createHttpServer(onRequest, {
      requestTimeout,
      pipelined: budgets.pipelined,
      tls: https ? tls : undefined,
    });
    server.on('refused', (refused: Refused) => auditRefused(refused, log, services.newRequestId));
    servers.push(server);
    return server;
  };
  const isHttps = tls !== undefined;
  const server = addServer({ https: isHttps });
  let closing: Promise<void> | undefined;
  const close = () => {
    stopping.abort();
    closing ??= drain(servers, Math.min(requestTimeout, MAX_DRAIN));
    return closing;
  };
  return { server, isHttps, servers, addServer, close };
}
