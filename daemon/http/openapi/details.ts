/** Bodies, responses, parameters and errors of each operation, which the table of routes does not contain. */
import { SORTS } from '../../../src/protocol/api.ts';
import type { ErrorCode, ErrorDetails } from '../../../src/protocol/errors.ts';
import type { OperationName } from '../../../src/protocol/operations.ts';
import { ROLES, STATUSES } from '../../../src/protocol/vm.ts';
import type { Schema } from './json-schemas.ts';

/** Names of the response headers that only some operations send. */
export type HeaderName =
  | 'etag'
  | 'link'
  | 'x-vreg-position'
  | 'x-vreg-warming'
  | 'vary'
  | 'content-disposition'
  | 'content-encoding'
  | 'cross-origin-opener-policy'
  | 'cross-origin-resource-policy'
  | 'location'
  | 'retry-after'
  | 'set-cookie'
  | 'x-accel-buffering';

export interface Details {
  /** Name of the schema of the request body. */
  body?: string;
  /** Successful responses: the schema by status, or a text that is not JSON by media type. */
  answers: Readonly<Record<number, string | Readonly<Record<string, string>>>>;
  headers?: readonly HeaderName[];
  /** Headers of the request besides those of all operations. */
  requestHeaders?: Readonly<Record<string, Parameter>>;
  /** Errors besides those of all operations, and of those with the same method or parameters. */
  errors?: readonly ErrorCode[];
  /** The route is one of the original registry (vers-agent-services). */
  isCompatible?: true;
  /** The descriptions of parameters that differ from those in {@link PARAMETERS}. */
  parameters?: Readonly<Record<string, Parameter>>;
  /** More than the summary. */
  description?: string;
}

interface Parameter {
  description: string;
  schema: Schema;
}

const text: Schema = { type: 'string' };
const flag: Schema = { enum: ['true', 'false'] };
const positive: Schema = { type: 'integer', minimum: 1 };

/** Parameters of paths and queries by name. An empty query parameter counts as absent, unless its description differs. */
export const PARAMETERS: Readonly<Record<string, Parameter>> = {
  id: { description: 'Id of the VM.', schema: text },
  other: { description: 'Id of the VM to compare with.', schema: text },
  role: { description: 'Only VMs with this role.', schema: { enum: ROLES } },
  name: { description: 'Name of the token.', schema: text },
  status: { description: 'Only VMs with this status; running omits stale VMs.', schema: { enum: STATUSES } },
  parentId: { description: 'Only children of this VM. An empty value gets 400.', schema: text },
  parentVmId: { description: 'Another name of parentId.', schema: text },
  selector: { description: 'Terms for the metadata, such as task=billing,env!=prod,owner,!draft.', schema: text },
  sort: { description: 'Order; default registered, newest first.', schema: { enum: SORTS } },
  limit: { description: 'Maximum number of items.', schema: positive },
  after: { description: 'Cursor from the Link header of the previous page. An empty value gets 400.', schema: text },
  include: { description: 'Adds stale, suspect and health to each entry.', schema: { const: 'liveness' } },
  service: { description: 'Only VMs with this service; those where it is healthy come first.', schema: text },
  passing: { description: 'Only VMs whose service passes its health checks.', schema: flag },
  strict: {
    description: 'Measure silence in wall time, and omit VMs that may have died during a pause.',
    schema: flag,
  },
  wait: { description: 'Delay the response until min VMs are live, at most 55s.', schema: text },
  min: { description: 'Number of VMs for wait; default 1.', schema: { type: 'integer', minimum: 0 } },
  minPosition: { description: 'Position that the response must include, of X-Vreg-Position.', schema: text },
  since: { description: 'Position after which to continue, like Last-Event-ID.', schema: text },
  heartbeats: { description: 'Also send an event for each heartbeat.', schema: flag },
  verbose: { description: 'List the checks, unless it is false; requires a token.', schema: text },
  file: { description: 'Name of the file, which contains the hash of its content.', schema: text },
  token: { description: 'Secret of the link, which the page reads.', schema: text },
  enrolledBy: { description: 'Name of the enrol token. Required.', schema: text },
};

/**
 * Headers of every request, by name. Authorization and Cookie are security schemes, and the media types replace Accept and
 * Content-Type (OpenAPI 3.1, 4.8.12.1).
 */
export const REQUEST_HEADERS: Readonly<Record<string, Parameter>> = {
  'x-request-id': { description: 'Id of the request for the log, at most 128 visible ASCII characters.', schema: text },
  'x-vreg-client': { description: 'Asks for the headers with facts about the registry.', schema: { const: '1' } },
};

/** Conditions of a change. */
const CONDITIONS: Details['requestHeaders'] = {
  'if-match': { description: 'ETags of the entry, one of which must be current, or *.', schema: text },
  'if-none-match': { description: 'The entry must not exist.', schema: { const: '*' } },
};
/** Condition of a read. */
const UNLESS_KNOWN: Details['requestHeaders'] = {
  'if-none-match': { description: 'ETags of known answers; the answer is 304 if one is current.', schema: text },
};
const ENCODINGS: Details['requestHeaders'] = {
  'accept-encoding': { description: 'May contain br and gzip.', schema: text },
};

const PAGE = { 'text/html': '' };
const PAGE_HEADERS: readonly HeaderName[] = [
  'vary',
  'content-encoding',
  'cross-origin-opener-policy',
  'cross-origin-resource-policy',
];
const PLAIN = { 'text/plain': 'ok' };
const CHANGE: readonly ErrorCode[] = ['BUSY', 'STORE_FAILED', 'OUTCOME_UNKNOWN', 'STORE_FULL'];
const ENTRY: readonly HeaderName[] = ['etag', 'x-vreg-position'];
const LIST: readonly HeaderName[] = ['etag', 'x-vreg-position', 'x-vreg-warming'];
const POSITION: readonly HeaderName[] = ['x-vreg-position'];
const LINEAGE: readonly HeaderName[] = ['x-vreg-position', 'x-vreg-warming'];
/** Errors of a probe with ?verbose. */
const PROBE: readonly ErrorCode[] = ['UNAUTHORIZED', 'TOO_MANY_REQUESTS'];
/** The position is for ?verbose. */
const PROBE_HEADERS: readonly HeaderName[] = ['x-vreg-position', 'retry-after'];
const MISSING: readonly ErrorCode[] = ['NOT_FOUND'];

export const DETAILS: Readonly<Record<OperationName, Details>> = {
  'GET /health': { answers: { 200: 'Health' }, isCompatible: true },
  'GET /livez': {
    answers: { 200: PLAIN, 503: PLAIN },
    headers: PROBE_HEADERS,
    errors: PROBE,
    description: 'Answers 503 only if the store is dead.',
  },
  'GET /readyz': {
    answers: { 200: PLAIN, 503: PLAIN },
    headers: PROBE_HEADERS,
    errors: PROBE,
    description: 'ok, warming, degraded or copied with 200; loading, draining or unreadable with 503.',
  },
  'POST /registry/vms': {
    requestHeaders: CONDITIONS,
    body: 'Registration',
    answers: { 201: 'EnrolledVm' },
    headers: ENTRY,
    errors: ['CONFLICT', 'IDENTITY_CONFLICT', ...CHANGE],
    isCompatible: true,
  },
  'GET /registry/vms': {
    requestHeaders: UNLESS_KNOWN,
    answers: { 200: 'VmList', 304: '' },
    headers: [...LIST, 'link'],
    isCompatible: true,
    description: 'lastSeen may be up to a second old if the answer has more than one VM.',
  },
  'GET /registry/vms/:id': {
    answers: { 200: 'Vm' },
    headers: [...ENTRY, 'x-vreg-warming'],
    errors: MISSING,
    isCompatible: true,
  },
  'PUT /registry/vms/:id': {
    requestHeaders: CONDITIONS,
    body: 'Replacement',
    answers: { 200: 'Vm', 201: 'Vm' },
    headers: ENTRY,
    errors: ['PRECONDITION_FAILED', ...CHANGE],
  },
  'PATCH /registry/vms/:id': {
    requestHeaders: CONDITIONS,
    body: 'Update',
    answers: { 200: 'Vm' },
    headers: ENTRY,
    errors: [...MISSING, 'PRECONDITION_FAILED', ...CHANGE],
    isCompatible: true,
  },
  'DELETE /registry/vms/:id': {
    requestHeaders: CONDITIONS,
    answers: { 200: 'Deleted' },
    headers: POSITION,
    errors: [...MISSING, 'PRECONDITION_FAILED', ...CHANGE],
    isCompatible: true,
  },
  'POST /registry/vms/:id/heartbeat': {
    body: 'AgentHeartbeat',
    answers: { 200: 'Heartbeat' },
    headers: POSITION,
    errors: [...MISSING, 'IDENTITY_CONFLICT'],
    isCompatible: true,
    description: 'The body is optional. The response to a plain heartbeat has no position.',
  },
  'POST /registry/heartbeats': {
    body: 'HeartbeatIds',
    answers: { 200: 'Heartbeats' },
  },
  'POST /registry/import': { body: 'Import', answers: { 200: 'Imported' }, headers: POSITION, errors: CHANGE },
  'GET /registry/vms/:id/history': {
    answers: { 200: 'History' },
    headers: POSITION,
    errors: [...MISSING, 'STORE_FAILED'],
  },
  'GET /registry/vms/:id/why': { answers: { 200: 'Why' }, headers: POSITION, errors: MISSING },
  'GET /registry/vms/:id/children': { answers: { 200: 'Children' }, headers: LINEAGE, errors: MISSING },
  'GET /registry/vms/:id/ancestors': { answers: { 200: 'Ancestors' }, headers: LINEAGE, errors: MISSING },
  'GET /registry/vms/:id/subtree': { answers: { 200: 'Subtree' }, headers: LINEAGE, errors: MISSING },
  'GET /registry/vms/:id/diff/:other': { answers: { 200: 'ReefDiff' }, headers: POSITION, errors: MISSING },
  'GET /registry/conflicts': { answers: { 200: 'Conflicts' }, headers: POSITION },
  'DELETE /registry/conflicts': {
    answers: { 200: 'Cleared' },
    headers: POSITION,
    errors: ['STORE_FAILED', 'OUTCOME_UNKNOWN', 'STORE_FULL'],
    parameters: { id: { description: 'Only the conflicts of this VM. An empty value gets 400.', schema: text } },
  },
  'GET /registry/discover/:role': {
    requestHeaders: UNLESS_KNOWN,
    answers: { 200: 'VmList', 304: '' },
    headers: LIST,
    isCompatible: true,
  },
  'GET /registry/events': {
    requestHeaders: {
      'last-event-id': { description: 'Position after which to continue, as browsers send it.', schema: text },
    },
    answers: { 200: { 'text/event-stream': 'event: synced' } },
    headers: [...POSITION, 'x-accel-buffering'],
    parameters: { id: { description: 'Only events of this VM.', schema: text } },
  },
  'GET /registry/recent': {
    answers: { 200: 'RecentEvents' },
    headers: POSITION,
    parameters: { id: { description: 'Only events of this VM.', schema: text } },
  },
  'GET /registry/activity': { answers: { 200: 'Activity' }, headers: POSITION },
  'GET /registry/replicas': { answers: { 200: 'ReplicaList' }, headers: POSITION },
  'GET /registry/backup': {
    answers: { 200: { 'application/vnd.sqlite3': '' } },
    headers: [...POSITION, 'content-disposition'],
    errors: ['BUSY', 'STORE_FAILED', 'OUTCOME_UNKNOWN', 'STORE_FULL'],
  },
  'GET /metrics': {
    answers: { 200: { 'text/plain': '', 'application/openmetrics-text': '' } },
    headers: [...POSITION, 'vary'],
  },
  'GET /openapi.json': {
    requestHeaders: UNLESS_KNOWN,
    answers: { 200: { 'application/json': '' }, 304: '' },
    headers: ENTRY,
    description: 'Contains only the routes that the token may use.',
  },
  'POST /auth/magic-link': { answers: { 200: 'MagicLink' }, headers: POSITION, isCompatible: true },
  'GET /': {
    requestHeaders: ENCODINGS,
    answers: { 200: PAGE },
    headers: PAGE_HEADERS,
    errors: [...MISSING, 'UNAUTHORIZED', 'TOO_MANY_REQUESTS'],
    description: 'Exists for clients whose Accept prefers text/html. Others get 404, or 401 without a token.',
  },
  'GET /ui': { answers: { 308: '' }, headers: ['location'] },
  'GET /ui/': { requestHeaders: ENCODINGS, answers: { 200: PAGE }, headers: PAGE_HEADERS },
  'GET /ui/login': {
    requestHeaders: ENCODINGS,
    answers: { 200: PAGE },
    headers: PAGE_HEADERS,
    description: 'Shows a button. Opening the link does not use it up.',
  },
  'GET /ui/:file': {
    requestHeaders: ENCODINGS,
    answers: { 200: { 'text/html': '', 'text/css': '', 'text/javascript': '', 'image/svg+xml': '' } },
    headers: PAGE_HEADERS,
    errors: MISSING,
  },
  'POST /ui/login': {
    body: 'LogIn',
    answers: { 200: 'Session' },
    headers: ['set-cookie'],
    errors: ['UNAUTHORIZED', 'TOO_MANY_REQUESTS'],
  },
  'GET /ui/session': { answers: { 200: 'Session' }, errors: ['TOO_MANY_REQUESTS'] },
  'DELETE /ui/session': { answers: { 200: 'Session' }, headers: ['set-cookie'], errors: ['TOO_MANY_REQUESTS'] },
  'GET /registry/whoami': { answers: { 200: 'Whoami' }, headers: POSITION },
  'GET /registry/tokens': { answers: { 200: 'Tokens' }, headers: POSITION },
  'POST /registry/tokens': {
    body: 'TokenRequest',
    answers: { 201: 'NewToken' },
    headers: POSITION,
    errors: ['CONFLICT', ...CHANGE],
  },
  'DELETE /registry/tokens': {
    answers: { 200: 'Revoked' },
    headers: POSITION,
    errors: ['STORE_FAILED', 'OUTCOME_UNKNOWN', 'STORE_FULL'],
  },
  'DELETE /registry/tokens/:name': {
    answers: { 200: 'Revoked' },
    headers: POSITION,
    errors: [...MISSING, 'STORE_FAILED', 'OUTCOME_UNKNOWN', 'STORE_FULL'],
  },
};

/** The cause of each error that the registry sends. */
export const CAUSES: Readonly<Partial<Record<ErrorCode, string>>> = {
  INVALID: 'a field, a query parameter or a header is not valid',
  UNAUTHORIZED: 'the token is missing, wrong or expired',
  FORBIDDEN: 'the token lacks the scope, or the request comes from a foreign origin or host',
  NOT_FOUND: 'no such VM, token or route',
  METHOD_NOT_ALLOWED: 'the route exists with the methods in Allow',
  REQUEST_TIMEOUT: 'the request did not arrive in time',
  CONFLICT: 'the id or the name is taken',
  IDENTITY_CONFLICT: 'another incarnation of this VM holds its identity',
  PRECONDITION_FAILED: 'the condition in If-Match or If-None-Match is false',
  TOO_LARGE: 'the body or the entry is larger than --max-body',
  URI_TOO_LONG: 'a path parameter is too long',
  UNSUPPORTED_MEDIA_TYPE: 'the body is compressed, or its type is not one of JSON',
  TOO_MANY_REQUESTS: 'a limit is reached; see Retry-After',
  HEADERS_TOO_LARGE: 'URL and headers exceed 16 KiB',
  INTERNAL: 'a bug in vreg',
  BUSY: 'the daemon cannot serve the request now; see Retry-After',
  STORE_FAILED: 'the disk or etcd fails; nothing has changed',
  OUTCOME_UNKNOWN: 'etcd has not confirmed the change, which may have been made; read before you repeat it',
  STORE_FULL: 'the disk is full; nothing has changed',
};

/** An error of each kind, as the registry sends it. */
export const ERROR_EXAMPLES: Readonly<Partial<Record<ErrorCode, ErrorDetails & { message: string }>>> = {
  INVALID: { message: 'invalid role: "wroker" (did you mean worker?)', field: 'role' },
  UNAUTHORIZED: { message: 'the token is not valid', hint: 'check VERS_AUTH_TOKEN' },
  FORBIDDEN: { message: 'this needs a token with the scope write', field: 'scope' },
  NOT_FOUND: { message: 'no VM with the id "vm-7" is registered' },
  METHOD_NOT_ALLOWED: { message: 'PUT is not allowed on /health', hint: 'use one of: HEAD, GET' },
  REQUEST_TIMEOUT: { message: 'the request was not received completely in time (limit 30000 ms)' },
  CONFLICT: { message: 'VM vm-7 already registered', field: 'id' },
  IDENTITY_CONFLICT: { message: 'another incarnation of vm-7 is alive', field: 'id', retryAfter: 100 },
  PRECONDITION_FAILED: { message: 'vm-7 has changed since the ETag in If-Match', field: 'if-match' },
  TOO_LARGE: { message: 'the body is too large (limit 1 MiB)', field: 'body' },
  URI_TOO_LONG: { message: 'a parameter in the path is too long' },
  UNSUPPORTED_MEDIA_TYPE: {
    message: 'content-type text/xml is not supported: send application/json',
    field: 'content-type',
  },
  TOO_MANY_REQUESTS: { message: 'too many open streams (limit 5000)', retryAfter: 5 },
  HEADERS_TOO_LARGE: { message: 'URL and headers are too large (limit 16 KiB and 200 headers)', field: 'headers' },
  INTERNAL: { message: 'the registry failed to handle the request', hint: "see the daemon's log" },
  BUSY: { message: 'the registry is loading its store', retryAfter: 1 },
  STORE_FAILED: { message: 'the registry could not write to its disk: disk I/O error', retryAfter: 5 },
  OUTCOME_UNKNOWN: {
    message: 'the outcome is unknown: etcd does not answer',
    hint: 'read the VM before you repeat the change',
  },
  STORE_FULL: { message: 'the disk of the registry is full: nothing was changed', retryAfter: 5 },
};

/**
 * Errors of every operation: a broken query is refused, a registry without a token refuses foreign pages and hosts, and one that
 * is loading refuses all requests.
 */
export const OPEN_ERRORS: readonly ErrorCode[] = [
  'INVALID',
  'FORBIDDEN',
  'REQUEST_TIMEOUT',
  'HEADERS_TOO_LARGE',
  'INTERNAL',
  'BUSY',
];
/** Errors of every operation that requires a token. */
export const COMMON_ERRORS: readonly ErrorCode[] = [...OPEN_ERRORS, 'UNAUTHORIZED', 'TOO_MANY_REQUESTS'];

/** Headers of every response; those of vreg are sent to clients that send X-Vreg-Client: 1. */
export const COMMON_HEADERS = ['x-request-id', 'x-vreg-version', 'x-vreg-registry-id', 'x-vreg-lease-ms'] as const;
/** Headers of every response to GET. */
export const GET_HEADERS = [
  'cache-control',
  'content-security-policy',
  'referrer-policy',
  'x-content-type-options',
  'x-vreg-age',
] as const;
/** Headers of error responses. */
export const ERROR_HEADERS = ['x-vreg-position', 'retry-after', 'allow', 'www-authenticate'] as const;

export const HEADERS: Readonly<
  Record<
    HeaderName | (typeof COMMON_HEADERS)[number] | (typeof GET_HEADERS)[number] | (typeof ERROR_HEADERS)[number],
    string
  >
> = {
  etag: 'Position of the last change of the entry, for If-Match; weak on lists, for If-None-Match.',
  link: 'URL of the next page, with rel="next".',
  'x-vreg-position': 'Position of the registry. Equal positions mean equal histories.',
  'x-vreg-warming':
    'Seconds for which the answer may include dead VMs; "; suspect=N" follows if N of them are suspect.',
  vary: 'Headers of the request on which the body depends.',
  'content-disposition': 'Name for the downloaded file.',
  'content-encoding': 'br or gzip, if the client accepts it.',
  'cross-origin-opener-policy': 'same-origin.',
  'cross-origin-resource-policy': 'same-origin.',
  location: 'Where the page is.',
  'set-cookie': 'Stores the secret of the session, or deletes it.',
  'x-accel-buffering': 'no: proxies must not buffer the stream.',
  'cache-control': 'no-store, except for the files of the page, whose names contain a hash of their content.',
  'content-security-policy': 'Restricts what a browser that opens the response may load: nothing, except for the page.',
  'referrer-policy': 'no-referrer.',
  'x-content-type-options': 'nosniff.',
  'x-vreg-age': 'Seconds since etcd has last responded, if it does not.',
  'x-request-id': "Id of the request in the log; the client's own id if it sent one.",
  'x-vreg-version': 'Version of the daemon, for clients that send X-Vreg-Client: 1.',
  'x-vreg-registry-id': 'Id of the registry, for clients that send X-Vreg-Client: 1.',
  'x-vreg-lease-ms': 'The lease in milliseconds, for clients that send X-Vreg-Client: 1.',
  'retry-after': 'Seconds after which to retry.',
  allow: 'Methods of the route; only with 405.',
  'www-authenticate': 'The scheme Bearer; with 401, and with 403 if the scope is missing.',
};
