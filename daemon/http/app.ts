/** The HTTP app, built without listening: limits, auth, the route table, and one shape for every error. */

import { setMaxListeners } from 'node:events';
import type { OutgoingHttpHeaders } from 'node:http';
import Fastify, {
  type FastifyBaseLogger,
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  LogController,
} from 'fastify';
import type { Logger } from 'pino';
import {
  LEASE_HEADER,
  REGISTRY_HEADER,
  REQUEST_ID_HEADER,
  REVISION_HEADER,
  VERSION_HEADER,
  WARMING_HEADER,
} from '../../src/protocol/api.ts';
import { type ErrorCode, toErrorBody, VregError } from '../../src/protocol/errors.ts';
import { maskRequestTarget } from '../../src/protocol/redact.ts';
import { type Authenticator, assertActive } from '../access/authenticator.ts';
import {
  type Budgets,
  COUNTS,
  createBudgets,
  Scheduler,
  Semaphore,
  STREAM_LIMITS,
  type StreamLimits,
} from '../limits.ts';
import type { Warming } from '../registry/explain.ts';
import type { Registry } from '../registry/registry.ts';
import { auditIfLate, auditRefused, auditWhenOver, requestIds } from './audit.ts';
import { Door } from './auth.ts';
import { mayBeEndless, readJsonBodies } from './body.ts';
import { RequestContext, type Result, type Services } from './context.ts';
import type { Cors } from './cors.ts';
import { flawOf, refuseRoute } from './errors.ts';
import { LongPollQueue } from './handlers/discover.ts';
import { EventFanout } from './handlers/event-fanout.ts';
import { cleanForwardedFor, trustOf } from './proxy.ts';
import { ROUTES, type Route } from './routes.ts';
import { answerBrokenRequest, makeServer, type Refused } from './server/server.ts';
import type { Tls } from './server/tls.ts';
import { reserveText } from './streaming.ts';

export interface AppLimits {
  /** Bytes of one request body. */
  maxBody: number;
  /** Milliseconds for a whole request to arrive. */
  requestTimeout: number;
  /** Answers that are held at once: waits, and streams of events. */
  maxHeld: number;
}

/**
 * Fastify's own limit of a body, hundreds of times a real entry; long for a slow link, short for one that trickles; half
 * of the usual number of connections, so that the others are served.
 */
const LIMITS: AppLimits = { maxBody: 1_048_576, requestTimeout: 30_000, maxHeld: 5000 };
/** A path parameter is bounded by Node's 16 KiB for all headers; the router's own 100 would turn long ids into 404s. */
const MAX_PARAM = 16_384;

/**
 * What keeps a browser that opens an answer from running, embedding, leaking or keeping anything of it. It can open what is
 * read only; on each heartbeat they would cost the registry a tenth of its speed.
 */
const FOR_BROWSERS = {
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
  'referrer-policy': 'no-referrer',
  'cache-control': 'no-store',
};

const NO_NAMES: ReadonlySet<string> = new Set();

const JSON_TYPE = 'application/json; charset=utf-8';

export interface AppOptions {
  registry: Registry;
  version: string;
  authenticator: Authenticator;
  log: Logger;
  /** Where a backup is made before it is sent; without one there are no backups. */
  dataDir?: string;
  /** Names of this registry besides `localhost` and its addresses, in lower case. */
  names?: Pick<ReadonlySet<string>, 'has'>;
  /** What it speaks https with; without it, it speaks plain HTTP. */
  tls?: Tls | undefined;
  /** Proxies whose word on where a request came from holds: addresses with commas, as fastify's `trustProxy`. */
  trustProxy?: string | undefined;
  /** Pages of other origins that may use the registry; without it, those of this machine may where no token is asked for. */
  cors?: Cors | undefined;
  /** Limits of a request that are other than usual. */
  limits?: Partial<AppLimits>;
  /** Memory budgets; by default, shares of the heap. */
  budgets?: Budgets;
  /** Limits of the streams of events that are other than usual. */
  streams?: Partial<StreamLimits>;
}

export function buildApp(options: AppOptions): FastifyInstance {
  const { registry, version, authenticator, log, dataDir, names = NO_NAMES, streams, tls, trustProxy, cors } = options;
  const { maxBody, requestTimeout, maxHeld } = { ...LIMITS, ...options.limits };
  const { budgets = createBudgets() } = options;
  const sendError = errorSender(log, maxBody);
  const lease = String(registry.staleAfter);
  /** What every answer says of the registry, and of the request. */
  const introduce = (request: FastifyRequest, reply: FastifyReply) => {
    if (trustProxy !== undefined) cleanForwardedFor(request.raw.headers);
    reply.header(VERSION_HEADER, version).header(LEASE_HEADER, lease);
    reply.header(REGISTRY_HEADER, registry.id).header(REVISION_HEADER, registry.revision);
    reply.header(REQUEST_ID_HEADER, request.id).header('x-content-type-options', 'nosniff');
    if (request.method === 'GET' || request.method === 'HEAD') reply.headers(FOR_BROWSERS);
    cors?.introduce(request, reply);
    // What may have no end is not read to its end, only to be able to keep the connection.
    if (mayBeEndless(request, maxBody)) reply.header('connection', 'close');
  };
  const door = new Door({ authenticator, names, cors, trustProxy });
  const newRequestId = requestIds();
  const app = Fastify({
    // What fastify remarks below a warning is nothing to an operator; the requests are logged below, in our words.
    loggerInstance: quietly(log),
    logController: new LogController({ disableRequestLogging: true }),
    // Nothing is logged through a request's own logger, so none is made.
    childLoggerFactory: (logger) => logger,
    genReqId: newRequestId,
    bodyLimit: maxBody,
    serverFactory: (handler) => makeServer(handler, requestTimeout, tls),
    routerOptions: { maxParamLength: MAX_PARAM },
    trustProxy: trustOf(trustProxy),
    // On the way down, what was accepted is still answered; idle connections are closed.
    return503OnClosing: false,
    forceCloseConnections: 'idle',
    // A URL that cannot be decoded gets here before any hook.
    frameworkErrors: (error, request, reply) => {
      introduce(request, reply);
      auditWhenOver(log, request, reply);
      try {
        door.refuseForeigners(request);
        door.admit(request);
      } catch (unauthorized) {
        return sendError(request, reply, unauthorized);
      }
      return sendError(request, reply, error);
    },
    clientErrorHandler: answerBrokenRequest,
  });
  app.server.on('refused', (refused: Refused) => auditRefused(log, refused, newRequestId));

  app.decorateRequest('principal', undefined);
  app.decorateRequest('context', undefined);
  app.decorateRequest('rejectedName', undefined);
  app.decorateReply('refusal', undefined);
  app.decorateReply('isLate', false);
  app.decorateReply('isTold', false);
  // One hook without promises: it runs before each heartbeat.
  app.addHook('onRequest', (request, reply, done) => {
    auditWhenOver(log, request, reply);
    introduce(request, reply);
    door.refuseForeigners(request);
    // A browser shows no token yet when it asks whether it may.
    if (cors?.answersPreflight(request, reply)) return;
    door.admit(request);
    const flaw = flawOf(request);
    if (flaw) throw flaw;
    // Before the body is read: nobody wants to hear that the body of a request to nowhere is wrong.
    if (request.is404) {
      const { error, allow } = refuseRoute(request.method, request.url);
      if (allow) reply.header('allow', allow);
      throw error;
    }
    done();
  });
  const scheduler = new Scheduler();
  readJsonBodies(app, maxBody, scheduler);

  app.setErrorHandler((error, request, reply) => sendError(request, reply, error));

  const stopping = new AbortController();
  // Each answer that is held listens to it.
  setMaxListeners(0, stopping.signal);
  app.addHook('preClose', async () => stopping.abort());
  const services: Services = {
    registry,
    authenticator,
    dataDir,
    stopping: stopping.signal,
    openStreams: new Semaphore('open streams', maxHeld, {
      hint: 'ask without wait, or raise --max-connections: half of them may be long polls and event streams',
      retryAfter: 5,
    }),
    backups: new Semaphore('backups in progress', COUNTS.backups, { hint: 'retry when one has ended', retryAfter: 5 }),
    responses: budgets.responses,
    subscribers: budgets.subscribers,
    longPolls: new LongPollQueue(scheduler),
    scheduler,
    streams: { ...STREAM_LIMITS, ...streams },
    fanout: new EventFanout(registry.events, scheduler, budgets),
  };
  for (const route of ROUTES) {
    app.route({
      method: route.method,
      url: route.path,
      config: { route },
      handler: (request, reply) => {
        const send = (answer: Result | undefined): FastifyReply => {
          if (!answer) return reply;
          if (typeof answer.body === 'string')
            reserveText(reply.raw, services.responses, answer.body, route.method !== 'GET');
          if (answer.etag !== undefined) reply.header('etag', `"${answer.etag}"`);
          if (answer.length !== undefined) reply.header('content-length', answer.length);
          // As of now: a change that is answered is part of it, and so is what came while the answer was held.
          reply.header(REVISION_HEADER, registry.revision);
          if (answer.headers) reply.headers(answer.headers);
          if (answer.warming) reply.header(WARMING_HEADER, formatWarming(answer.warming));
          reply
            .code(answer.status)
            .type(answer.type ?? JSON_TYPE)
            .send(answer.body);
          auditIfLate(log, request, reply);
          return reply;
        };
        const handle = () => {
          // A body may have taken its time, and so may those whose turn came first.
          if (request.principal) assertActive(request.principal);
          request.context = contextOf(request, reply, services);
          return route.handle(request.context);
        };
        // For nobody, where who asked has gone meanwhile.
        const handleIfWanted = () => (reply.raw.destroyed ? undefined : handle());
        const answer = route.isLong ? scheduler.run(handleIfWanted) : handle();
        if (answer instanceof Promise) return answer.then(send);
        // A read and a heartbeat are answered at once: promises would cost them a few percent.
        send(answer);
      },
    });
  }
  return app;
}

function contextOf(request: FastifyRequest, reply: FastifyReply, services: Services): RequestContext {
  return new RequestContext({
    request: request.raw,
    response: reply.raw,
    services,
    principal: request.principal,
    params: request.params as Record<string, string>,
    query: request.query as Record<string, string>,
    body: request.body,
    remoteAddress: request.ip,
    hijack: () => {
      reply.hijack();
      return reply.getHeaders() as OutgoingHttpHeaders;
    },
  });
}

function formatWarming({ seconds, suspects }: Warming): string {
  return suspects > 0 ? `${seconds}; suspect=${suspects}` : String(seconds);
}

function quietly(log: Logger): FastifyBaseLogger {
  return log.child({}, { level: log.isLevelEnabled('warn') ? 'warn' : log.level });
}

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Absent where nothing answers. */
    route?: Route;
  }
}

/** fastify's own refusals, in our words. */
const FASTIFY_ERRORS: Readonly<Record<string, { code: ErrorCode; field: string; message: string }>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: {
    code: 'TOO_LARGE',
    field: 'body',
    message: 'body is too large',
  },
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: {
    code: 'INVALID',
    field: 'content-length',
    message: 'content-length does not match the body',
  },
  FST_ERR_CTP_INVALID_MEDIA_TYPE: {
    code: 'UNSUPPORTED_MEDIA_TYPE',
    field: 'content-type',
    message: 'content-type is not supported: send application/json',
  },
  FST_ERR_BAD_URL: { code: 'INVALID', field: 'url', message: 'the URL has a broken percent-encoding' },
};

function toVregError(error: Error, maxBody: number): VregError {
  if (error instanceof VregError) return error;
  const { code, statusCode } = error as FastifyError;
  const known = FASTIFY_ERRORS[code];
  if (known?.code === 'TOO_LARGE')
    return new VregError(known.code, `${known.message}: at most ${maxBody} bytes`, {
      field: known.field,
      cause: error,
    });
  if (known) return new VregError(known.code, known.message, { field: known.field, cause: error });
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500)
    return new VregError('INVALID', error.message, { cause: error });
  return new VregError('INTERNAL', 'the registry failed to answer', { hint: "see the daemon's log", cause: error });
}

function errorSender(log: Logger, maxBody: number) {
  return (request: FastifyRequest, reply: FastifyReply, thrown: unknown): FastifyReply => {
    const { method, url } = request;
    const error = toVregError(thrown as Error, maxBody);
    // Busy is an answer like any other: only what nobody expected needs its stack.
    if (error.code === 'BUSY') log.warn({ method, url: maskRequestTarget(url) }, error.message);
    else if (error.status >= 500) log.error({ err: error, method, url: maskRequestTarget(url) }, error.message);
    reply.refusal = error.code;
    if (error.retryAfter !== undefined) reply.header('retry-after', error.retryAfter);
    // RFC 6750, 3.
    if (error.code === 'UNAUTHORIZED') reply.header('www-authenticate', 'Bearer');
    else if (error.code === 'FORBIDDEN' && error.field === 'scope')
      reply.header('www-authenticate', 'Bearer error="insufficient_scope"');
    reply
      .code(error.status)
      .type(JSON_TYPE)
      .send(JSON.stringify(toErrorBody(error)));
    auditIfLate(log, request, reply);
    return reply;
  };
}
