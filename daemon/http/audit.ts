/**
 * The audit log: assigns an id to each request, and logs one line for each request that changed something or was refused. It
 * never logs request headers, because one of them contains the token.
 */
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { REQUEST_ID_HEADER } from '../../src/protocol/api.ts';
import type { ErrorCode } from '../../src/protocol/errors.ts';
import { maskRequestTarget, maskTokens } from '../../src/protocol/redact.ts';
import { redact } from '../process/log.ts';
import { kernelRandomHex } from '../process/random.ts';
import { ANONYMOUS } from '../registry/preconditions.ts';
import type { RequestContext } from './context.ts';
import { schemeOf } from './request/proxy.ts';
import type { Refused } from './server/raw-answer.ts';
import type { Services } from './services.ts';

/** A valid request id from a client: visible ASCII, which a header and a log can contain unchanged. */
const REQUEST_ID = /^[\x21-\x7e]{1,128}$/;
/** Maximum number of characters from a client in one log line: a request must not be larger in the log than on the wire. */
const MAX_LOGGED = 1024;
/** Number of random bytes that distinguish the request ids of one run of the daemon from those of another. */
const RUN_BYTES = 6;

/**
 * Property of a request that refers to its context, for a request whose body the server refuses. A WeakMap would make
 * heartbeats a third slower.
 */
const CONTEXT = Symbol('context');
type Audited = IncomingMessage & { [CONTEXT]?: RequestContext };

/** @returns a generator of request ids that are unique across runs of the daemon */
export function requestIds(): () => string {
  const run = kernelRandomHex(RUN_BYTES);
  let count = 0;
  return () => `${run}-${++count}`;
}

/** Step: assigns the client's request id if it is printable and not a secret, otherwise a new one. */
export function assignRequestId(ctx: RequestContext): void {
  ctx.requestId = requestIdOf(ctx.headers, ctx.services.newRequestId);
}

/** The client's request id if it is printable and not a secret, otherwise a new one. */
export function requestIdOf(headers: IncomingHttpHeaders, newRequestId: () => string): string {
  return clientRequestId(headers) ?? newRequestId();
}

function clientRequestId(headers: IncomingHttpHeaders): string | undefined {
  const id = headers[REQUEST_ID_HEADER];
  if (typeof id !== 'string') return undefined;
  return REQUEST_ID.test(id) && maskRequestTarget(id) === id ? id : undefined;
}

/** Step: makes the context of the request known to {@link auditRefused}. */
export function startAudit(ctx: RequestContext): void {
  (ctx.request as Audited)[CONTEXT] = ctx;
}

/**
 * Logs the request when its response has been sent or its client has left. Called when the outcome is known: a change may be
 * committed although its client has already left.
 */
export function auditWhenClosed(ctx: RequestContext): void {
  if (ctx.response.closed) audit(ctx);
  else if (isLogged(ctx, ctx.status!)) ctx.response.on('close', () => audit(ctx));
}

/** The parts of the daemon that refuse requests without the app. */
export type RefusalServices = Pick<Services, 'log' | 'newRequestId' | 'requests'>;

/**
 * Logs a request that was refused without the app. If the app knows the request, the line has the id that the app
 * assigned.
 */
export function auditRefused(refused: Refused, { log, newRequestId, requests }: RefusalServices): void {
  const { asked, from, error, headers = {} } = refused;
  const { status, code } = error;
  const ctx = (refused.request as Audited | undefined)?.[CONTEXT];
  if (ctx) {
    refused.requestId = ctx.requestId;
    requests.count(ctx, status, code);
    audit(ctx, { status, code });
    return;
  }
  requests.countUnparsed(status, code);
  const requestId = requestIdOf(headers, newRequestId);
  refused.requestId = requestId;
  const url = asked && shortened(maskRequestTarget(asked.url));
  log.info({ audit: true, requestId, by: ANONYMOUS, from, method: asked?.method, url, status, code }, 'refused');
}

/** Logs a request whose outcome is known. Further calls for the same request have no effect. */
export function audit(ctx: RequestContext, outcome?: { status: number; code: ErrorCode }): void {
  if (ctx.isAudited) return;
  ctx.isAudited = true;
  const { requestId, subject, params, remoteAddress: from } = ctx;
  const { log } = ctx.services;
  const { status = 0, code } = outcome ?? { status: ctx.status, code: ctx.errorCode };
  if (!isLogged(ctx, status)) return;
  const { method } = ctx;
  const url = shortened(maskRequestTarget(ctx.request.url!));
  const ms = Math.round(performance.now() - ctx.startedAt);
  if (!isChange(ctx) && status < 400) {
    log.debug({ requestId, method, url, status, ms }, 'request');
    return;
  }
  const by = ctx.authenticated?.name ?? ctx.rejectedName ?? ANONYMOUS;
  const scheme = schemeOf(ctx) === 'https' ? 'https' : undefined;
  const vm = masked(subject?.vm ?? params.id);
  const tokenName = masked(subject?.token ?? params.name);
  log.info(
    { audit: true, requestId, by, from, scheme, method, url, vm, tokenName, status, code, ms },
    status < 400 ? 'change' : 'refused',
  );
}

/**
 * True if the request is logged at the current level. Successful heartbeats and reads, which are most requests, are logged only
 * at the debug level.
 */
function isLogged(ctx: RequestContext, status: number): boolean {
  return status >= 400 || isChange(ctx) || ctx.services.logsReads;
}

function isChange({ route, subject }: RequestContext): boolean {
  return route !== undefined && route.method !== 'GET' && (!route.isHeartbeat || subject !== undefined);
}

function masked(text: string | undefined): string | undefined {
  return text && shortened(maskTokens(text));
}

/** Shortens a long text. Masks secrets first, because half a secret would not be recognized. */
function shortened(text: string): string {
  return text.length > MAX_LOGGED ? `${redact(text).slice(0, MAX_LOGGED)}…` : text;
}

/** Ends a request whose client left before there was a result. */
export function abandon(ctx: RequestContext): undefined {
  ctx.status = 0;
  ctx.services.requests.count(ctx, 0);
  audit(ctx);
}
