/**
 * The HTTP app: the steps that every request passes, in one list, and the servers that run them. It is built without listening;
 * see server/listen.ts.
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
import { answerPreflight, rejectCrossOrigin } from './origin.ts';
import { trustedProxies, trustForwardedHeaders } from './proxy.ts';
import { checkQuery } from './query.ts';
import { send } from './response.ts';
import { answerUnknownRoute, findRoute } from './router.ts';
import type { Refused } from './server/raw-answer.ts';
import { createHttpServer, drain } from './server/server.ts';
import type { Tls } from './server/tls.ts';

/**
 * A step returns nothing to go on with the next one, `responded` if the request is done, or `waiting` if it calls `resume`
 * later. If it throws, or resumes with an error, the client gets that error.
 */
type Step =
  | ((ctx: RequestContext) => void)
  | ((ctx: RequestContext, resume: typeof proceed) => 'responded' | 'waiting' | undefined);

/** The steps in the order in which they run. Each is a function in its own module; none registers itself elsewhere. */
const STEPS: readonly Step[] = [
  assignRequestId,
  startAudit,
  trustForwardedHeaders,
  findRoute,
  limitConnection,
  rejectCrossOrigin,
  answerPreflight,
  authenticate,
  authorize,
  answerUnknownRoute,
  checkHeaders,
  checkQuery,
  checkMediaType,
  reserveBody,
  sendContinue,
  readBody,
  assertPrincipalActive,
  handle,
  send,
];

/** Runs the steps from where the request stands. */
function proceed(ctx: RequestContext, error?: unknown): void {
  try {
    if (error !== undefined) throw error;
    while (ctx.step < STEPS.length) if (STEPS[ctx.step++]!(ctx, proceed) !== undefined) return;
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

/** Step: calls the route's handler. A heartbeat and a read return a result at once, without the cost of a promise. */
function handle(ctx: RequestContext): 'waiting' | undefined {
  const route = ctx.route!;
  const result = route.isLong ? ctx.services.scheduler.run(() => handleScheduled(ctx)) : route.handle(ctx);
  if (!(result instanceof Promise)) {
    ctx.result = result;
    return undefined;
  }
  result.then(
    (later) => {
      ctx.result = later;
      proceed(ctx);
    },
    (error) => fail(ctx, error),
  );
  return 'waiting';
}

/** Calls the handler of a request that may have waited for the scheduler: its client or its principal may be gone. */
function handleScheduled(ctx: RequestContext): ReturnType<Route['handle']> {
  if (ctx.response.destroyed) return abandon(ctx);
  assertPrincipalActive(ctx);
  return ctx.route!.handle(ctx);
}

export interface AppLimits {
  /** Bytes of one request body. */
  maxBody: number;
  /** Milliseconds for a whole request to arrive. */
  requestTimeout: number;
  /** Concurrent long polls and event streams. */
  maxOpenStreams: number;
}

/** 1 MiB is hundreds of times an ordinary entry; 30 s let slow links pass but no slowloris; 5000 is half of the default connections. */
const LIMITS: AppLimits = { maxBody: 1_048_576, requestTimeout: 30_000, maxOpenStreams: 5000 };

/** Most milliseconds that a shutdown waits for requests in progress: `vreg daemon stop` waits 35 s, and the systemd unit 45 s. */
const MAX_DRAIN = 30_000;

const NO_NAMES: ReadonlySet<string> = new Set();

export interface AppOptions {
  registry: Registry;
  version: string;
  authenticator: Authenticator;
  log: Logger;
  /** Folder in which a backup is prepared; without one, there are no backups. */
  dataDir?: string;
  /** Names of this registry besides `localhost` and its addresses, in lower case. */
  names?: Pick<ReadonlySet<string>, 'has'>;
  /** With it, the main server speaks https. */
  tls?: Tls | undefined;
  /** Comma-separated proxies whose forwarded headers are trusted. */
  trustProxy?: string | undefined;
  /** Origins whose pages may use the registry. Without any, pages of this machine may, if no token is configured. */
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
  /** Makes another server with the same routes, for a unix socket or a further address. */
  addServer(options?: { https?: boolean }): Server;
  /** Stops accepting connections, ends long polls and streams, and resolves when all other requests have their responses. */
  close(): Promise<void>;
}

export function buildApp(options: AppOptions): App {
  const { registry, authenticator, log, tls, trustProxy, corsOrigins = [] } = options;
  const { maxBody, requestTimeout, maxOpenStreams } = { ...LIMITS, ...options.limits };
  const { budgets = createBudgets() } = options;
  const stopping = new AbortController();
  // Each open response listens to it.
  setMaxListeners(0, stopping.signal);
  const scheduler = new Scheduler();
  const services: Services = {
    registry,
    authenticator,
    log,
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
      hint: 'ask without wait, or raise --max-connections: half of them may be long polls and event streams',
      retryAfter: 5,
    }),
    backups: new Semaphore('backups in progress', COUNTS.backups, { hint: 'retry when one has ended', retryAfter: 5 }),
    responses: budgets.responses,
    subscribers: budgets.subscribers,
    longPolls: new LongPollQueue(scheduler),
    counters: { unknownParameters: 0 },
    scheduler,
    streams: { ...STREAM_LIMITS, ...options.streams },
    fanout: new EventFanout(registry.events, scheduler, budgets),
  };
  const onRequest = (request: IncomingMessage, response: ServerResponse) => {
    // A write to a client that has left emits an error. The `close` that follows is what counts.
    response.on('error', ignore);
    proceed(new RequestContext(request, response, services));
  };
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

function ignore(): void {}
