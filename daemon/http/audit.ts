/**
 * Who did what: a name for each request, and one line in the log for each that changed something or was refused. Heads of
 * requests are never logged, since one of them holds the token.
 */

import type { IncomingMessage } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Logger } from 'pino';
import { REQUEST_ID_HEADER } from '../../src/protocol/api.ts';
import type { ErrorCode } from '../../src/protocol/errors.ts';
import { maskRequestTarget, maskTokens } from '../../src/protocol/redact.ts';
import { kernelRandomHex } from '../process/random.ts';
import { ANONYMOUS } from '../registry/preconditions.ts';
import type { RequestContext } from './context.ts';
import { shortened } from './secrets.ts';
import type { Refused } from './server/server.ts';

/** What a client may call its request: what fits into a log and a header as it is. */
const REQUEST_ID = /^[\w.:/+=@-]{1,128}$/;
/** Bytes that tell the requests of one run of the daemon from those of another. */
const RUN_BYTES = 6;

/** Makes names of requests: the client's own where it is one, else one that no other request has. */
export function requestIds(): (request: Pick<IncomingMessage, 'headers'>) => string {
  const run = kernelRandomHex(RUN_BYTES);
  let count = 0;
  return ({ headers }) => {
    const given = headers[REQUEST_ID_HEADER];
    const isName = typeof given === 'string' && REQUEST_ID.test(given) && maskRequestTarget(given) === given;
    return isName ? given : `${run}-${++count}`;
  };
}

/**
 * Of a request whose body may still be to come: what is wrong with it is found by the server below the app. A property,
 * since a WeakMap would cost each heartbeat a third of its time.
 */
const KNOWN = Symbol('known');
type Known = IncomingMessage & { [KNOWN]?: { request: FastifyRequest; reply: FastifyReply } };

/**
 * Logs the request when it is over: when its answer is sent, or its client is gone. What was not decided by then is logged
 * by {@link auditIfLate}, since it may still be done.
 */
export function auditWhenOver(log: Logger, request: FastifyRequest, reply: FastifyReply): void {
  (request.raw as Known)[KNOWN] = { request, reply };
  reply.raw.once('close', () => {
    if (reply.sent) audit(log, request, reply);
    else reply.isLate = true;
  });
}

/** Logs a request that was decided when nobody waited for the answer any more. */
export function auditIfLate(log: Logger, request: FastifyRequest, reply: FastifyReply): void {
  if (reply.isLate) audit(log, request, reply);
}

/** Logs what the server refused below the app, and names it as the app does if it has heard of it. */
export function auditRefused(log: Logger, refused: Refused, newRequestId: ReturnType<typeof requestIds>): void {
  const { asked, from, error, headers = {} } = refused;
  const { status, code } = error;
  const known = (refused.request as Known | undefined)?.[KNOWN];
  const requestId = known?.request.id ?? newRequestId({ headers });
  refused.requestId = requestId;
  if (known) {
    audit(log, known.request, known.reply, { status, code });
    known.reply.isTold = true;
    return;
  }
  const url = asked && shortened(maskRequestTarget(asked.url));
  log.info({ audit: true, requestId, by: ANONYMOUS, from, method: asked?.method, url, status, code }, 'refused');
}

function audit(log: Logger, request: FastifyRequest, reply: FastifyReply, outcome = outcomeOf(reply)): void {
  // With the answer that was sent.
  if (reply.isTold) return;
  const { method, id: requestId, principal, ip: from } = request;
  const by = principal?.name ?? request.rejectedName ?? ANONYMOUS;
  const url = shortened(maskRequestTarget(request.url));
  const { status, code } = outcome;
  const ms = Math.round(reply.elapsedTime);
  // What a proxy says of it is believed as its word on the address is, and may be any text.
  const scheme = request.protocol === 'https' ? 'https' : undefined;
  // A URL that cannot be read has led to no route.
  const route = request.routeOptions?.config?.route;
  const changes = route && route.method !== 'GET' && (!route.isBeat || request.context?.subject);
  if (!changes && status < 400) {
    log.debug({ requestId, method, url, status, ms }, 'request');
    return;
  }
  const { id, name } = (request.params ?? {}) as { id?: string; name?: string };
  const { vm = id, token: tokenName = name } = request.context?.subject ?? {};
  const shown = (text: string | undefined) => text && shortened(maskTokens(text));
  const about = { vm: shown(vm), tokenName: shown(tokenName) };
  log.info(
    { audit: true, requestId, by, from, scheme, method, url, ...about, status, code, ms },
    status < 400 ? 'change' : 'refused',
  );
}

function outcomeOf({ statusCode, refusal }: FastifyReply): { status: number; code: ErrorCode | undefined } {
  return { status: statusCode, code: refusal };
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Undefined until its handler is called. */
    context?: RequestContext | undefined;
    /** Name of the token of somebody who was not let in. */
    rejectedName?: string | undefined;
  }
  interface FastifyReply {
    /** Why the request was refused. */
    refusal?: ErrorCode | undefined;
    /** Its client had gone before it was decided. */
    isLate: boolean;
    /** It was logged as refused by the server, before the app had an answer. */
    isTold: boolean;
  }
}
