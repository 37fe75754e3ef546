/** The HTTP app, built without listening: limits, auth, the route table, and one shape for every error. */
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
  REVISION_HEADER,
  VERSION_HEADER,
  WARMING_HEADER,
} from '../../src/protocol/api.ts';
import { type ErrorCode, toErrorBody, VregError } from '../../src/protocol/errors.ts';
import type { Doubt } from '../registry/doubt.ts';
import type { Registry } from '../registry/registry.ts';
import { type BearerAuth, refuseForeignPage } from './auth.ts';
import { readJsonBodies } from './body.ts';
import { type Answer, Call } from './call.ts';
import { STREAM_LIMITS, type StreamLimits } from './event-stream.ts';
import { flawOf, refuseRoute } from './refusal.ts';
import { ROUTES } from './routes.ts';
import { answerBrokenRequest, makeServer } from './server.ts';

/** Bytes of one request body: fastify's own default, hundreds of times a real entry. */
const MAX_BODY = 1_048_576;
/** Milliseconds for a whole request to arrive; long for a slow link, short for one that trickles on purpose. */
const REQUEST_TIMEOUT = 30_000;
/** A path parameter is bounded by Node's 16 KiB for all headers; the router's own 100 would turn long ids into 404s. */
const MAX_PARAM = 16_384;

/** How the history names those who came with the one token. */
const THE_TOKEN = 'VERS_AUTH_TOKEN';

const JSON_TYPE = 'application/json; charset=utf-8';

export interface AppOptions {
  registry: Registry;
  version: string;
  /** Without one, every caller that can connect may do everything. */
  auth?: BearerAuth | undefined;
  log: Logger;
  /** Where a backup is made before it is sent; without one there are no backups. */
  dataDir?: string;
  /** Milliseconds for a whole request to arrive; 30 s when nothing is said. */
  requestTimeout?: number | undefined;
  /** Limits of the streams of events that are other than usual. */
  streams?: Partial<StreamLimits>;
}

export function buildApp(options: AppOptions): FastifyInstance {
  const { registry, version, auth, log, dataDir, requestTimeout = REQUEST_TIMEOUT, streams } = options;
  const sendError = errorSender(log);
  const app = Fastify({
    // What fastify remarks below a warning is nothing to an operator; the requests are logged below, in our words.
    loggerInstance: quietly(log),
    logController: new LogController({ disableRequestLogging: true }),
    // Nothing is logged through a request's own logger, so none is made.
    childLoggerFactory: (logger) => logger,
    bodyLimit: MAX_BODY,
    serverFactory: (handler) => makeServer(handler, requestTimeout),
    routerOptions: { maxParamLength: MAX_PARAM },
    // On the way down, what was accepted is still answered; idle connections are closed.
    return503OnClosing: false,
    forceCloseConnections: 'idle',
    // A URL that cannot be decoded gets here before any hook.
    frameworkErrors: (error, request, reply) => {
      try {
        auth?.check(request.headers.authorization);
      } catch (unauthorized) {
        return sendError(request, reply, unauthorized);
      }
      return sendError(request, reply, error);
    },
    clientErrorHandler: answerBrokenRequest,
  });

  const lease = String(registry.staleAfter);
  app.decorateRequest('by', undefined);
  // One hook without promises: it runs before each heartbeat.
  app.addHook('onRequest', (request, reply, done) => {
    reply.header(VERSION_HEADER, version).header(LEASE_HEADER, lease);
    reply.header(REGISTRY_HEADER, registry.id).header(REVISION_HEADER, registry.revision);
    if (!auth) refuseForeignPage(request.headers.origin);
    if (auth && !request.routeOptions.config.open) {
      auth.check(request.headers.authorization);
      request.by = THE_TOKEN;
    }
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
  readJsonBodies(app);

  app.setErrorHandler((error, request, reply) => sendError(request, reply, error));

  const stopping = new AbortController();
  app.addHook('preClose', async () => stopping.abort());
  const shared = { registry, dataDir, stopping: stopping.signal, streams: { ...STREAM_LIMITS, ...streams } };
  for (const route of ROUTES) {
    const logAt = route.logAt ?? (route.method === 'GET' ? 'debug' : 'info');
    app.route({
      method: route.method,
      url: route.path,
      config: { open: route.open ?? false },
      onResponse: async (request, reply) => {
        const { method, url } = request;
        log[logAt]({ method, url, status: reply.statusCode, ms: Math.round(reply.elapsedTime) }, 'request');
      },
      handler: (request, reply) => {
        const send = (answer: Answer | undefined): FastifyReply => {
          if (!answer) return reply;
          if (answer.etag !== undefined) reply.header('etag', `"${answer.etag}"`);
          // As of now: a change that is answered is part of it.
          if (route.method !== 'GET') reply.header(REVISION_HEADER, registry.revision);
          if (answer.doubt) reply.header(WARMING_HEADER, warmingOf(answer.doubt));
          return reply
            .code(answer.status)
            .type(answer.type ?? JSON_TYPE)
            .send(answer.body);
        };
        const answer = route.handle(new Call(request, reply, shared));
        if (answer instanceof Promise) return answer.then(send);
        // A read and a heartbeat are answered at once: promises would cost them a few percent.
        send(answer);
      },
    });
  }
  return app;
}

function warmingOf({ seconds, suspects }: Doubt): string {
  return suspects > 0 ? `${seconds}; suspect=${suspects}` : String(seconds);
}

function quietly(log: Logger): FastifyBaseLogger {
  return log.child({}, { level: log.isLevelEnabled('warn') ? 'warn' : log.level });
}

declare module 'fastify' {
  interface FastifyContextConfig {
    open?: boolean;
  }
}

/** fastify's own refusals, in our words. */
const FASTIFY_ERRORS: Readonly<Record<string, { code: ErrorCode; field: string; message: string }>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: {
    code: 'TOO_LARGE',
    field: 'body',
    message: `body is too large: at most ${MAX_BODY} bytes`,
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

function toVregError(error: Error): VregError {
  if (error instanceof VregError) return error;
  const { code, statusCode } = error as FastifyError;
  const known = FASTIFY_ERRORS[code];
  if (known) return new VregError(known.code, known.message, { field: known.field, cause: error });
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500)
    return new VregError('INVALID', error.message, { cause: error });
  return new VregError('INTERNAL', 'the registry failed to answer', { hint: "see the daemon's log", cause: error });
}

function errorSender(log: Logger) {
  return ({ method, url }: FastifyRequest, reply: FastifyReply, thrown: unknown): FastifyReply => {
    const error = toVregError(thrown as Error);
    // Busy is an answer like any other: only what nobody expected needs its stack.
    if (error.code === 'BUSY') log.warn({ method, url }, error.message);
    else if (error.status >= 500) log.error({ err: error, method, url }, error.message);
    if (error.retryAfter !== undefined) reply.header('retry-after', error.retryAfter);
    if (error.code === 'UNAUTHORIZED') reply.header('www-authenticate', 'Bearer');
    return reply
      .code(error.status)
      .type(JSON_TYPE)
      .send(JSON.stringify(toErrorBody(error)));
  };
}
