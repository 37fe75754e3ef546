/** The HTTP app, built without listening: limits, auth, the route table, and one shape for every error. */
import type { Socket } from 'node:net';
import Fastify, {
  type FastifyBaseLogger,
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  LogController,
} from 'fastify';
import type { Logger } from 'pino';
import { LEASE_HEADER, VERSION_HEADER } from '../../src/protocol/api.ts';
import { type ErrorCode, toErrorBody, VregError } from '../../src/protocol/errors.ts';
import type { Registry } from '../registry/registry.ts';
import { bearerAuth } from './auth.ts';
import { readJsonBodies } from './body.ts';
import { Call } from './call.ts';
import { methodsOf, ROUTES } from './routes.ts';

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
  token?: string | undefined;
  log: Logger;
  /** Where a backup is made before it is sent; without one there are no backups. */
  dataDir?: string;
}

export function buildApp({ registry, version, token, log, dataDir }: AppOptions): FastifyInstance {
  const sendError = errorSender(log);
  const app = Fastify({
    // What fastify remarks below a warning is nothing to an operator; the requests are logged below, in our words.
    loggerInstance: quietly(log),
    logController: new LogController({ disableRequestLogging: true }),
    bodyLimit: MAX_BODY,
    requestTimeout: REQUEST_TIMEOUT,
    routerOptions: { maxParamLength: MAX_PARAM },
    // On the way down, what was accepted is still answered; idle connections are closed.
    return503OnClosing: false,
    forceCloseConnections: 'idle',
    frameworkErrors: (error, request, reply) => sendError(request, reply, error),
    clientErrorHandler: answerBrokenRequest,
  });

  const lease = String(registry.staleAfter);
  app.decorateRequest('by', undefined);
  app.addHook('onRequest', async (_request, reply) => {
    reply.header(VERSION_HEADER, version).header(LEASE_HEADER, lease);
  });
  if (token !== undefined) {
    const authorize = bearerAuth(token);
    app.addHook('onRequest', async (request) => {
      if (request.routeOptions.config.open) return;
      authorize(request.headers.authorization);
      request.by = THE_TOKEN;
    });
  }
  readJsonBodies(app);

  app.setErrorHandler((error, request, reply) => sendError(request, reply, error));
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?', 1)[0]!;
    const allow = methodsOf(path).join(', ');
    if (allow) {
      reply.header('allow', allow);
      throw new VregError('METHOD_NOT_ALLOWED', `${request.method} is not possible on ${path}`, {
        hint: `use one of: ${allow}`,
      });
    }
    throw new VregError('NOT_FOUND', `no such route: ${request.method} ${path}`, {
      hint: 'the routes are /health and those under /registry',
    });
  });

  const stopping = new AbortController();
  app.addHook('preClose', async () => stopping.abort());
  const shared = { registry, dataDir, stopping: stopping.signal };
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
      handler: async (request, reply) => {
        const answer = await route.handle(new Call(request, reply, shared));
        if (!answer) return reply;
        if (answer.etag !== undefined) reply.header('etag', `"${answer.etag}"`);
        return reply.code(answer.status).type(JSON_TYPE).send(answer.body);
      },
    });
  }
  return app;
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
const FASTIFY_ERRORS: Readonly<Record<string, { code: ErrorCode; message: string }>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: { code: 'TOO_LARGE', message: `body is too large: at most ${MAX_BODY} bytes` },
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: { code: 'INVALID', message: 'content-length does not match the body' },
  FST_ERR_CTP_INVALID_MEDIA_TYPE: {
    code: 'UNSUPPORTED_MEDIA_TYPE',
    message: 'content-type is not supported: send application/json',
  },
  FST_ERR_BAD_URL: { code: 'INVALID', message: 'the URL has a broken percent-encoding' },
};

function toVregError(error: Error): VregError {
  if (error instanceof VregError) return error;
  const { code, statusCode } = error as FastifyError;
  const known = FASTIFY_ERRORS[code];
  if (known) return new VregError(known.code, known.message, { cause: error });
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500)
    return new VregError('INVALID', error.message, { cause: error });
  return new VregError('INTERNAL', 'the registry failed to answer', { hint: "see the daemon's log", cause: error });
}

function errorSender(log: Logger) {
  return ({ method, url }: FastifyRequest, reply: FastifyReply, thrown: unknown): FastifyReply => {
    const error = toVregError(thrown as Error);
    if (error.status >= 500) log.error({ err: error, method, url }, error.message);
    if (error.retryAfter !== undefined) reply.header('retry-after', error.retryAfter);
    if (error.code === 'UNAUTHORIZED') reply.header('www-authenticate', 'Bearer');
    return reply
      .code(error.status)
      .type(JSON_TYPE)
      .send(JSON.stringify(toErrorBody(error)));
  };
}

/** Node's parser refused the request before there was one. */
function answerBrokenRequest(error: Error & { code?: string }, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const refusal = BROKEN_REQUESTS[error.code ?? ''] ?? new VregError('INVALID', 'the request is not well-formed HTTP');
  const body = JSON.stringify(toErrorBody(refusal));
  const head = `HTTP/1.1 ${refusal.status} Refused\r\ncontent-type: ${JSON_TYPE}\r\ncontent-length: ${Buffer.byteLength(body)}\r\nconnection: close`;
  socket.end(`${head}\r\n\r\n${body}`);
}

const BROKEN_REQUESTS: Readonly<Record<string, VregError>> = {
  HPE_HEADER_OVERFLOW: new VregError('HEADERS_TOO_LARGE', 'URL and headers are too large: at most 16 KiB together'),
  ERR_HTTP_REQUEST_TIMEOUT: new VregError(
    'REQUEST_TIMEOUT',
    `the request did not arrive within ${REQUEST_TIMEOUT / 1000} s`,
  ),
};
