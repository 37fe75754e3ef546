/** Failures of etcd: classifies them by what they say about the request, and converts them to errors for the user. */
import { VregError } from '../../../src/protocol/errors.ts';

/**
 * - `unavailable`: no member answered in time, and the request changed nothing
 * - `unknown`: the outcome of a write is unknown; it may still be executed later
 * - `no-space`: the database has reached its quota; reads and deletes still work
 * - `unauthenticated`: the token is missing or expired
 * - `denied`: the user, its password or its role does not permit the request
 * - `compacted`: the revision was compacted
 * - `future`: the cluster has not reached the revision, so it was restored from a backup or it is another one
 * - `busy`: the cluster has too many requests
 * - `too-large`: the request is larger than the cluster accepts
 * - `unsupported`: the server is not etcd, or too old
 * - `not-found`: the lease does not exist
 * - `refused`: any other answer that means that nothing was changed
 */
export type EtcdErrorKind =
  | 'unavailable'
  | 'unknown'
  | 'no-space'
  | 'unauthenticated'
  | 'denied'
  | 'compacted'
  | 'future'
  | 'busy'
  | 'too-large'
  | 'unsupported'
  | 'not-found'
  | 'refused';

export interface EtcdErrorDetails {
  /** Status code of gRPC; 2 (unknown) if the failure is not from gRPC. */
  grpcCode?: number;
  /** `host:port` of the member. */
  endpoint?: string | undefined;
  /** True if the member did not answer before the deadline. */
  isTimeout?: boolean;
  cause?: unknown;
}

export class EtcdError extends Error {
  readonly kind: EtcdErrorKind;
  readonly grpcCode: number;
  readonly endpoint: string | undefined;
  readonly isTimeout: boolean;

  constructor(
    kind: EtcdErrorKind,
    message: string,
    { grpcCode = 2, endpoint, isTimeout, cause }: EtcdErrorDetails = {},
  ) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'EtcdError';
    this.kind = kind;
    this.grpcCode = grpcCode;
    this.endpoint = endpoint;
    this.isTimeout = isTimeout ?? false;
  }
}

/** The status codes of gRPC that matter here; see grpc.github.io/grpc/core/md_doc_statuscodes.html */
const GRPC = {
  invalidArgument: 3,
  deadlineExceeded: 4,
  notFound: 5,
  permissionDenied: 7,
  resourceExhausted: 8,
  failedPrecondition: 9,
  outOfRange: 11,
  unimplemented: 12,
  unauthenticated: 16,
} as const;

/** Codes after which a write may have been executed: cancelled, unknown, deadline exceeded, internal, unavailable. */
const AMBIGUOUS: readonly number[] = [1, 2, 4, 13, 14];

/** grpc-js uses these texts for a request that it has not handed to any connection. */
const NOT_SENT = /No connection established|Waiting for LB pick|Name resolution failed|Resolution not complete/;

/**
 * Classifies a status of gRPC.
 * @param isWrite true if the request changes data
 */
export function classify(code: number, text: string, isWrite: boolean): EtcdErrorKind {
  // kine, which translates a part of the API to SQL, answers with one of these texts, and with different codes.
  if (/unsupported (operations in txn|transaction)/.test(text)) return 'unsupported';
  switch (code) {
    case GRPC.resourceExhausted:
      if (/database space exceeded/.test(text)) return 'no-space';
      return /larger than max/.test(text) ? 'too-large' : 'busy';
    case GRPC.invalidArgument:
      if (/too large|too many operations/.test(text)) return 'too-large';
      if (/auth(entication)? store is old|revision of auth/.test(text)) return 'unauthenticated';
      return /authentication failed|user name is empty/.test(text) ? 'denied' : 'refused';
    case GRPC.failedPrecondition:
      return /auth|permission/.test(text) && !/not enabled/.test(text) ? 'denied' : 'refused';
    case GRPC.outOfRange:
      return /compacted/.test(text) ? 'compacted' : 'future';
    case GRPC.notFound:
      return 'not-found';
    case GRPC.permissionDenied:
      return 'denied';
    case GRPC.unauthenticated:
      return 'unauthenticated';
    case GRPC.unimplemented:
      return 'unsupported';
    default:
      if (!AMBIGUOUS.includes(code)) return 'refused';
      return isWrite && !NOT_SENT.test(text) ? 'unknown' : 'unavailable';
  }
}

/** Converts the error of a call. @param error a ServiceError of grpc-js */
export function toEtcdError(error: unknown, endpoint: string, isWrite: boolean): EtcdError {
  const { code = 2, details, message } = error as { code?: number; details?: string; message: string };
  const text = details ?? message;
  const grpcCode = typeof code === 'number' ? code : 2;
  return new EtcdError(classify(grpcCode, text, isWrite), `${endpoint}: ${shorten(text)}`, {
    grpcCode,
    endpoint,
    isTimeout: grpcCode === GRPC.deadlineExceeded,
    cause: error,
  });
}

/** Removes the internal state that grpc-js appends, and newlines. */
function shorten(text: string): string {
  return text
    .replace(/^No connection established\. Last error: (Error: )?/, '')
    .replace(
      /[,.]?\s*(LB pick|metadata filters|name resolution:|time to current attempt|Waiting for|remote_addr|Resolution note).*$/s,
      '',
    )
    .replace(/\s+/g, ' ')
    .slice(0, 300);
}

/** Seconds after which a client may try again: members elect a new leader within 1 to 2 seconds. */
const RETRY_AFTER = 2;

/**
 * Converts a failure during a request to an error.
 * @param action completes "the registry could not", for example `store the change`
 */
export function toEtcdRuntimeError(action: string, error: EtcdError): VregError {
  const message = `the registry could not ${action}: ${describe(error)}`;
  switch (error.kind) {
    case 'no-space':
      return new VregError('STORE_FULL', 'etcd has no space left: nothing was changed', {
        hint: 'compact and defragment etcd, then disarm its alarm (etcdctl alarm disarm), or delete VMs; reads and deletes still work',
        retryAfter: 5,
        cause: error,
      });
    case 'unknown':
      // Without `Retry-After`, with which clients send a write to the next replica.
      return new VregError('OUTCOME_UNKNOWN', `the outcome is unknown: ${describe(error)}`, {
        hint: 'etcd did not confirm the change: read the VM (vreg get ID) before you repeat it',
        cause: error,
      });
    case 'too-large':
      return new VregError('TOO_LARGE', `the change is larger than etcd accepts: ${error.message}`, {
        hint: 'send less metadata, or raise --max-request-bytes of etcd',
        cause: error,
      });
    case 'denied':
    case 'unauthenticated':
      return new VregError('STORE_FAILED', message, {
        hint: 'check the user of the registry in etcd, its password and its role (etcdctl role get)',
        retryAfter: 5,
        cause: error,
      });
    case 'unavailable':
    case 'busy':
      return new VregError('STORE_FAILED', message, {
        hint: 'check etcd (etcdctl endpoint health); reads and heartbeats still work',
        retryAfter: RETRY_AFTER,
        cause: error,
      });
    default:
      return new VregError('INTERNAL', message, { hint: "see the daemon's log", cause: error });
  }
}

/** Converts a failure at start to an error. */
export function toEtcdOpenError(error: EtcdError): VregError {
  const message = `cannot use the store in etcd: ${describe(error)}`;
  switch (error.kind) {
    case 'unsupported':
      return new VregError('STORE_UNUSABLE', message, { hint: 'vreg requires etcd 3.4 or newer', cause: error });
    case 'denied':
    case 'unauthenticated':
      return new VregError('STORE_UNUSABLE', message, {
        hint: 'check --etcd-user, --etcd-password-file and --etcd-cert, and that its role may read and write the prefix',
        cause: error,
      });
    case 'no-space':
      return new VregError('STORE_UNUSABLE', message, {
        hint: 'compact and defragment etcd, then disarm its alarm (etcdctl alarm disarm)',
        cause: error,
      });
    default:
      return new VregError('STORE_UNUSABLE', message, {
        hint: 'check the URL, the certificates and the health of etcd (etcdctl endpoint health)',
        cause: error,
      });
  }
}

/** True for an error of {@link toEtcdOpenError} that may pass by itself: no majority of the members responds. */
export function isAway(error: unknown): boolean {
  const { cause } = error as Error;
  return cause instanceof EtcdError && ['unavailable', 'unknown', 'busy'].includes(cause.kind);
}

function describe({ kind, message }: EtcdError): string {
  return kind === 'unavailable' ? `etcd does not answer (${message})` : `etcd answers: ${message}`;
}
