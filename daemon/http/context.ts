/** The request context for pipeline steps and handlers: parameters, principal, services, and the state of the response. */
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http';
import type { Readable } from 'node:stream';
import { type ErrorCode, VregError } from '../../src/protocol/errors.ts';
import type { Restriction, Scope } from '../../src/protocol/token.ts';
import type { Role } from '../../src/protocol/vm.ts';
import type { Principal } from '../access/principal.ts';
import type { Warming } from '../registry/explain.ts';
import { assertPermitted } from '../registry/preconditions.ts';
import type { SnapshotBody } from './response/streaming.ts';
import type { Services } from './services.ts';

export interface Route {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  path: string;
  /** Names of the query parameters that the route knows. */
  query: readonly string[];
  /** The minimum scope for the route; `any` requires a token with any scope, `open` requires no token. */
  access: Scope | 'any' | 'open';
  /** An open route needs a token for some requests. */
  needsToken?: (ctx: RequestContext) => boolean;
  /** Also open to `enrol` tokens. */
  enrols?: true;
  /**
   * Selects the bodies that the route reads. It ignores all others, and any body that is not JSON. If absent, the route reads
   * every body, except that DELETE ignores all.
   */
  readsBody?: (body: unknown) => boolean;
  /** Maximum size of the body in bytes, of a route that reads bodies of clients without a token. */
  maxBody?: number;
  /** The route reads a larger body, up to this size in bytes. Its handler gets the bytes, and parses them with `splitList`. */
  listBody?: number;
  /** Receives heartbeats, which are not changes and therefore not audited. */
  isHeartbeat?: true;
  /** The route concerns all VMs, so the handler refuses tokens whose restriction applies. */
  isFleetWide?: true;
  /** The route exists only for clients that prefer HTML, such as browsers. */
  prefersHtml?: true;
  /** The handler scans or returns all VMs. This can take a long time, so it runs through the scheduler. */
  isLong?: true;
  /** @returns undefined if it writes the response itself */
  handle(ctx: RequestContext): Result | undefined | Promise<Result | undefined>;
}

/** The response that a handler returns. */
export interface Result {
  status: number;
  /** JSON, unless {@link type} names another media type. */
  body: string | Buffer | Readable | SnapshotBody;
  /** Length of the body in bytes, if known in advance. */
  length?: number | undefined;
  type?: string;
  headers?: Readonly<Record<string, string>> | undefined;
  /** Names and values, alternating, that replace the headers for browsers. */
  browserHeaders?: readonly string[];
  /** ETag of the single entry in the body: the position of its last change. */
  etag?: string;
  /** Why the body may contain dead VMs. */
  warming?: Warming | undefined;
}

const NO_PARAMS = Object.freeze({});

export class RequestContext {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly services: Services;
  /** Time of arrival, from `performance.now()`. */
  readonly startedAt = performance.now();
  requestId = '';
  /** Address of the client, as forwarded by a trusted proxy if there is one. Undefined on a unix socket. */
  remoteAddress: string | undefined;
  /** Connected through the unix socket, perhaps by a proxy. */
  isOnUnixSocket = false;
  /** Undefined if no route matches. */
  route: Route | undefined;
  params: Readonly<Record<string, string | undefined>> = NO_PARAMS;
  queryParams: Readonly<Record<string, string | readonly string[] | undefined>> = NO_PARAMS;
  /** The path has a percent-encoding that cannot be decoded. */
  isUrlBroken = false;
  /**
   * Position of the registry before the handler has read any content, or of the change that the response acknowledges.
   * Undefined if the client is not authorized, for a plain heartbeat, and on routes that do not authenticate.
   */
  position: string | undefined;
  /** Undefined until authentication, and on routes that do not authenticate. */
  authenticated: Principal | undefined;
  /** Name of the token of a client that was rejected. */
  rejectedName: string | undefined;
  /** The request has a body that may be read. */
  hasBody = false;
  /** The parsed JSON body; undefined if the request has none that its route reads. */
  body: unknown;
  /** For the audit log: the VM or token that the request concerns, if it is not in the URL. */
  subject: { vm?: string; token?: string } | undefined;
  /** The result of the handler. */
  result: Result | undefined;
  /** Status of the response; undefined until it is decided. */
  status: number | undefined;
  /** Why the request was refused. */
  errorCode: ErrorCode | undefined;
  isAudited = false;
  isCounted = false;
  /** The connection cannot serve another request after this one. */
  mustClose = false;
  /** Header names and values, alternating, added by {@link setHeader}. */
  extraHeaders: string[] | undefined;

  constructor(request: IncomingMessage, response: ServerResponse, services: Services) {
    this.request = request;
    this.response = response;
    this.services = services;
  }

  get method(): string {
    return this.request.method!;
  }

  get headers(): IncomingHttpHeaders {
    return this.request.headers;
  }

  /** True for GET and HEAD: such a request has no side effects, and its body is ignored. */
  get isRead(): boolean {
    const { method } = this.request;
    return method === 'GET' || method === 'HEAD';
  }

  /** Adds a header to the response, including error responses. */
  setHeader(name: string, value: string): void {
    this.extraHeaders ??= [];
    this.extraHeaders.push(name, value);
  }

  /** The authenticated client. Must not be read on routes that do not authenticate. */
  get principal(): Principal {
    return this.authenticated!;
  }

  /**
   * The VMs that this request may read; undefined means all. Only `read` tokens are restricted in reads; the restriction of
   * other tokens applies to writes.
   */
  get readFilter(): Restriction | undefined {
    const { scope, restriction } = this.principal;
    return scope === 'read' ? restriction : undefined;
  }

  /** @throws VregError FORBIDDEN, NOT_FOUND if the principal may not read this VM, whether or not the VM exists */
  assertReadable(id: string): void {
    const { vm, role } = this.readFilter ?? {};
    if (vm !== undefined) assertPermitted({ vm }, { id, role: '' as Role });
    if (role === undefined || this.services.registry.get(id).role === role) return;
    // The error does not name the role of the VM, which this client must not learn.
    throw new VregError('FORBIDDEN', `this token is restricted to VMs with the role ${role}`, {
      field: 'role',
      hint: 'use a token without --role, or ask the operator for one',
    });
  }

  /**
   * Calls `act` when the daemon stops or the principal is revoked, so that long polls and event streams end.
   * @returns a function that unsubscribes
   */
  onAbort(act: () => void): () => void {
    return whenAborted([this.services.stopping, this.principal.revoked], act);
  }

  /**
   * Cuts off a streamed response when the principal is revoked or expires. When the daemon stops, it waits for the response to
   * end.
   */
  destroyWhenRevoked(): void {
    const { response } = this;
    // A destroyed response has already emitted "close", which would end the subscription.
    if (response.destroyed) return;
    response.once(
      'close',
      whenAborted([this.principal.revoked], () => response.destroy()),
    );
  }

  /** The `:id` in the path. */
  get id(): string {
    return this.params.id!;
  }

  /**
   * A query parameter. An empty one counts as absent, as in the original registry (vers-agent-services).
   * @throws VregError INVALID if it is given twice
   */
  param(name: string): string | undefined {
    const value = this.queryParams[name];
    if (value === undefined || typeof value === 'string') return value || undefined;
    throw invalidQuery(name, `${name} is given ${value.length} times; send it once`);
  }

  /**
   * A query parameter that requires a value if it is given, because an empty $ID in a script must not mean all VMs.
   * @throws VregError INVALID
   */
  nonEmpty(name: string): string | undefined {
    if (this.queryParams[name] === '') throw invalidQuery(name, `${name} is empty: give a value, or omit ${name}`);
    return this.param(name);
  }

  /** A query parameter that is `true` or `false`. @throws VregError INVALID */
  flag(name: string): boolean {
    const text = this.param(name);
    if (text === undefined || text === 'false') return false;
    if (text === 'true') return true;
    throw invalidQuery(name, `${name}: "${text}" is not true or false`);
  }

  /** A whole number from a query parameter. @throws VregError INVALID naming the bounds */
  number(name: string, min: number, max: number): number | undefined {
    const text = this.param(name);
    if (text === undefined) return undefined;
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= min && value <= max) return value;
    throw invalidQuery(name, `${name}: "${text}" is not a whole number from ${min} to ${max}`);
  }

  /** True if entries are encoded without added fields, so their length is already known. */
  get isPlain(): boolean {
    return this.param('include') === undefined;
  }
}

function whenAborted(signals: readonly AbortSignal[], act: () => void): () => void {
  for (const signal of signals) signal.addEventListener('abort', act, { once: true });
  if (signals.some(({ aborted }) => aborted)) queueMicrotask(act);
  return () => {
    for (const signal of signals) signal.removeEventListener('abort', act);
  };
}

export function invalidQuery(field: string, message: string): VregError {
  return new VregError('INVALID', message, { field });
}
