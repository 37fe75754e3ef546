/** The request context for pipeline steps and handlers: parameters, principal, services, and the state of the response. */
import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from 'node:http';
import type { Readable } from 'node:stream';
import type { Logger } from 'pino';
import { INCLUDE_LIVENESS } from '../../src/protocol/api.ts';
import { type ErrorCode, VregError } from '../../src/protocol/errors.ts';
import type { Restriction, Scope } from '../../src/protocol/token.ts';
import type { Role } from '../../src/protocol/vm.ts';
import type { Authenticator } from '../access/authenticator.ts';
import type { Principal } from '../access/principal.ts';
import { type Budget, type Budgets, type Scheduler, type Semaphore, type StreamLimits, UNCOUNTED } from '../limits.ts';
import type { EventLoopMonitor } from '../observability/event-loop.ts';
import type { ActivityRing } from '../registry/activity-ring.ts';
import { type Warming, warmingOf } from '../registry/explain.ts';
import { assertPermitted, permits, type WriteOptions } from '../registry/preconditions.ts';
import type { Registry } from '../registry/registry.ts';
import type { VmRecord } from '../registry/vm-record.ts';
import type { Snapshot } from '../registry/vm-snapshot.ts';
import type { MonitoredStore } from '../store/monitored-store.ts';
import type { EventFanout } from './handlers/event-fanout.ts';
import type { LongPollQueue } from './handlers/long-poll-queue.ts';
import type { OpenApi } from './openapi/document.ts';
import type { RequestCounts } from './request-counts.ts';
import { includesTag, type ListTags } from './response/list-tags.ts';
import {
  CHUNK_SIZE,
  encodeList,
  encodeSnapshot,
  listLength,
  reserveFor,
  SnapshotBody,
  snapshotLength,
} from './response/streaming.ts';

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
  /** The response concerns all VMs, so the handler refuses restricted tokens. */
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

/** Options of {@link RequestContext.entries}. */
interface ListOptions {
  /** The entries that the warming header covers, if the list omits some of them. */
  offered?: readonly VmRecord[];
  /** Names of the list in the response; by default `vms`. */
  names?: readonly string[];
  /** From {@link RequestContext.listTag}. */
  tag?: string | undefined;
  headers?: Result['headers'];
}

/** The parts of the daemon that all requests share. */
export interface Services {
  readonly registry: Registry;
  readonly store: MonitoredStore;
  readonly authenticator: Authenticator;
  readonly log: Logger;
  /** The log contains successful reads and heartbeats. */
  readonly logsReads: boolean;
  /** Version of the daemon. */
  readonly version: string;
  /** @returns a request id that is unique across requests and daemons */
  newRequestId(): string;
  /** Names of this registry besides `localhost` and its addresses, in lower case. */
  readonly names: Pick<ReadonlySet<string>, 'has'>;
  /** Origins whose pages may use the registry, as browsers write them; undefined if none was configured. */
  readonly allowedOrigins: ReadonlySet<string> | undefined;
  /** True if forwarded headers of this peer are trusted; undefined if no proxy is configured. */
  readonly isTrustedProxy: ((address: string | undefined) => boolean) | undefined;
  /** URL under which browsers reach the registry; undefined if none was configured. */
  readonly publicUrl: string | undefined;
  /** The TCP address on which the registry listens; undefined if there is none. */
  ownAddress(): { host: string; port: number; isHttps: boolean } | undefined;
  readonly activity: ActivityRing;
  /** Maximum size of a request body in bytes. */
  readonly maxBody: number;
  /** Budget for large request bodies. */
  readonly bodies: Budget;
  /** Folder in which backups are prepared; if undefined, the daemon offers no backups. */
  readonly dataDir: string | undefined;
  /** Aborted when the daemon stops, which ends long polls and streams. */
  readonly stopping: AbortSignal;
  /** Limits of each event stream. */
  readonly streams: StreamLimits;
  readonly fanout: EventFanout;
  /** Caps concurrent long polls and event streams. */
  readonly openStreams: Semaphore;
  /** Caps concurrent backups. */
  readonly backups: Semaphore;
  /** Budget for response bytes that clients have not read yet. */
  readonly responses: Budget;
  /** Budget for events that wait for slow subscribers. */
  readonly subscribers: Budget;
  readonly longPolls: LongPollQueue;
  readonly listTags: ListTags;
  /** All memory budgets, for the metrics. */
  readonly budgets: Budgets;
  readonly requests: RequestCounts;
  readonly eventLoop: EventLoopMonitor;
  readonly openApi: OpenApi;
  /** Bytes that the heap may take. */
  readonly heapLimit: number;
  /** Counts since the start of the daemon, for the metrics. */
  readonly counters: {
    /** Query parameters that the requested route does not know. */
    unknownParameters: number;
  };
  readonly scheduler: Scheduler;
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
   * Query parameters by name. An empty one counts as absent, as in the original registry (vers-agent-services).
   * @throws VregError INVALID if one is given twice
   */
  query<K extends string>(...names: readonly K[]): { [name in K]?: string | undefined } {
    return Object.fromEntries(names.map((name) => [name, this.param(name)])) as { [name in K]?: string | undefined };
  }

  /** A query parameter, as in {@link query}. @throws VregError INVALID if it is given twice */
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

  /**
   * Principal, restriction and expected ETags (`If-Match`, `If-None-Match`) of a change.
   * @throws VregError INVALID, PRECONDITION_FAILED, TOO_MANY_REQUESTS
   */
  write(): WriteOptions {
    // Before anything is changed, reject a request whose response could not be encoded or buffered.
    this.#encoder();
    const size = this.#entrySize();
    if (this.method !== 'DELETE' && size > UNCOUNTED.response) this.services.responses.assertFits(size);
    const { 'if-match': match, 'if-none-match': noneMatch } = this.headers;
    const { name: by, restriction } = this.principal;
    // An entry cannot both exist and not exist (RFC 9110, 13.2.2).
    if (noneMatch === '*' && match !== undefined) {
      throw new VregError('PRECONDITION_FAILED', 'If-Match cannot be combined with If-None-Match: *', {
        field: 'if-none-match',
        hint: 'send only one of them',
      });
    }
    if (noneMatch === '*') return { by, restriction, expect: 'none' };
    if (noneMatch !== undefined) {
      throw new VregError(
        'INVALID',
        `unsupported If-None-Match ${noneMatch}: only * is allowed when changing an entry`,
        {
          field: 'if-none-match',
          hint: 'send * to create an entry only if it does not exist, or send the ETag as If-Match',
        },
      );
    }
    if (match === undefined) return { by, restriction };
    if (match === '*') return { by, restriction, expect: 'any' };
    return { by, restriction, expect: parseEntityTags(match) };
  }

  /** Runs the change of a large entry through the scheduler. Even a short request may rewrite a large entry. */
  runScheduled<T>(work: () => Promise<T>): Promise<T> {
    return this.#entrySize() > UNCOUNTED.response ? Promise.resolve(this.services.scheduler.run(work)) : work();
  }

  /** Maximum size of the entry in bytes before and after this request. A chunked body of unknown length counts as large. */
  #entrySize(): number {
    const { id = '' } = this.params;
    const { registry } = this.services;
    const { 'content-length': length = 0, 'transfer-encoding': coding } = this.headers;
    const added = coding === undefined ? Number(length) : UNCOUNTED.response + 1;
    return Math.max(added, registry.has(id) ? registry.get(id).size : 0);
  }

  /** The entry that a change has written. */
  entry(entry: VmRecord, status = 200): Result {
    const { position } = this;
    if (position !== undefined && entry.version.revision > revisionOf(position)) this.position = entry.position;
    return { status, body: this.#encoder()(entry), etag: entry.position };
  }

  /** A result with one entry, and the warming header if its liveness is uncertain. */
  read(entry: VmRecord): Result {
    const body = this.#encoder()(entry);
    const length = this.isPlain ? entry.size : undefined;
    return { status: 200, body, length, etag: entry.position, warming: this.#warmingOf([entry]) };
  }

  /** A result with a list of entries. */
  entries(entries: readonly VmRecord[], { offered = entries, names, tag, headers }: ListOptions = {}): Result {
    const { readFilter } = this;
    const seen = (all: readonly VmRecord[]) => (readFilter ? all.filter((entry) => permits(readFilter, entry)) : all);
    const encode = this.#encoder();
    const warming = this.#warmingOf(seen(offered));
    return this.#unlessKnown(tag, { warming, headers }, () => {
      const { scheduler, responses } = this.services;
      const reserve = (bytes: number) => reserveFor(this.response, responses, bytes);
      const listed = seen(entries);
      const body = encodeList(listed, encode, scheduler, reserve, names);
      if (typeof body !== 'string') this.destroyWhenRevoked();
      return { body, length: this.isPlain ? listLength(listed, names) : undefined };
    });
  }

  /** A result with a list that all its readers share. */
  snapshot(snapshot: Snapshot): Result {
    const { registry, scheduler, responses, listTags } = this.services;
    const tag = listTags.ofSnapshot(snapshot, () => this.#tagOf(snapshot.stamp));
    return this.#unlessKnown(tag, { warming: this.#warmingOf(snapshot) }, () => {
      const now = () => registry.clock.listening();
      const length = snapshotLength(snapshot);
      if (length <= CHUNK_SIZE) return { body: encodeSnapshot(snapshot, now()), length };
      const reserve = (bytes: number) => reserveFor(this.response, responses, bytes);
      const body = new SnapshotBody(snapshot, now, scheduler, reserve);
      this.destroyWhenRevoked();
      return { body, length };
    });
  }

  /**
   * The weak ETag of the list that the request asks for. Compute it before the list: a newer list with this tag is only sent
   * again, but an older list with a newer tag would hide the change from later requests.
   * @param role if the list contains only VMs with a role
   */
  listTag(role: string | undefined): string {
    return this.#tagOf(this.services.registry.stamp(role));
  }

  /** @param stamp of the listed VMs */
  #tagOf(stamp: string): string {
    // A long poll returns the same list as a request that does not wait.
    const { wait: _wait, min: _min, minPosition: _position, ...query } = this.queryParams;
    return this.services.listTags.of(stamp, [this.route!.path, this.params, query, this.readFilter]);
  }

  /** A result with a tag, or 304 if the client has the list already. @param encode creates the body */
  #unlessKnown(
    tag: string | undefined,
    { warming, headers }: Pick<Result, 'warming' | 'headers'>,
    encode: () => Pick<Result, 'body' | 'length'>,
  ): Result {
    if (tag === undefined) return { status: 200, ...encode(), headers, warming };
    const known = this.headers['if-none-match'];
    const all = { ...headers, etag: tag };
    if (known !== undefined && includesTag(known, tag)) return { status: 304, body: '', headers: all, warming };
    return { status: 200, ...encode(), headers: all, warming };
  }

  #warmingOf(entries: Iterable<VmRecord> | Snapshot): Warming | undefined {
    const { registry } = this.services;
    return warmingOf(entries, registry.clock, registry.staleAfter);
  }

  /** True if entries are encoded without added fields, so their length is already known. */
  get isPlain(): boolean {
    return this.param('include') === undefined;
  }

  /** Returns the encoder for entries: plain, or with the fields that `include` requests. */
  #encoder(): (entry: VmRecord) => string {
    const { registry } = this.services;
    const include = this.param('include');
    if (include === undefined) return encodePlain;
    if (include !== INCLUDE_LIVENESS.include) {
      throw invalidQuery('include', `include: "${include}" is not known (one of ${INCLUDE_LIVENESS.include})`);
    }
    return (entry) => {
      const { id, role } = entry;
      // The VM may have left the reader's role since the list was made. The health of its services is as of now.
      const isInRole = registry.has(id) && registry.get(id).role === role;
      const health = isInRole ? registry.health.of(entry) : undefined;
      return entry.jsonWith({
        stale: registry.isStale(entry),
        ...(entry.isSuspect ? { suspect: true } : {}),
        ...(health ? { health } : {}),
      });
    };
  }
}

/** An entity tag in a list, and the comma behind it (RFC 9110, 8.8.3). Elements of a list may be empty (5.6.1). */
const ENTITY_TAG = /[ \t]*(?:(W\/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*)?(?:,|$)/y;

/**
 * Parses the list of `If-Match`.
 * @returns the strong tags without their quotes. A weak one never matches (RFC 9110, 13.1.1)
 * @throws VregError INVALID
 */
function parseEntityTags(header: string): string[] {
  const strong: string[] = [];
  let count = 0;
  for (let at = 0; at < header.length; at = ENTITY_TAG.lastIndex) {
    ENTITY_TAG.lastIndex = at;
    const found = ENTITY_TAG.exec(header);
    if (!found) break;
    const [, weak, tag] = found;
    if (tag !== undefined) count++;
    if (tag !== undefined && weak === undefined) strong.push(tag);
  }
  if (count > 0 && ENTITY_TAG.lastIndex === header.length) return strong;
  throw new VregError('INVALID', `invalid if-match ${header}: not a list of ETags in double quotes`, {
    field: 'if-match',
    hint: 'send the ETag of the entry unchanged, with its quotes',
  });
}

/** The revision of a position. */
function revisionOf(position: string): number {
  return Number.parseInt(position, 10);
}

function encodePlain({ json }: VmRecord): string {
  return json;
}

function whenAborted(signals: readonly AbortSignal[], act: () => void): () => void {
  for (const signal of signals) signal.addEventListener('abort', act, { once: true });
  if (signals.some(({ aborted }) => aborted)) queueMicrotask(act);
  return () => {
    for (const signal of signals) signal.removeEventListener('abort', act);
  };
}

/** A response with a JSON body. */
export function jsonResult(value: unknown, status = 200): Result {
  return { status, body: JSON.stringify(value) };
}

export function invalidQuery(field: string, message: string): VregError {
  return new VregError('INVALID', message, { field });
}
