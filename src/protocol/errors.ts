/**
 * The table of all expected errors: code, HTTP status and exit code. The daemon and the CLI share it, so an error means the
 * same in both.
 */

/** Exit codes of the `vreg` program. Codes 0 to 7 are those of the vers CLI, so scripts can treat both alike. */
export const EXIT = {
  ok: 0,
  error: 1,
  notAllowed: 2,
  notFound: 3,
  conflict: 4,
  usage: 5,
  timeout: 6,
  refused: 7,
  unreachable: 8,
  identity: 9,
  warming: 10,
} as const;

/** The meaning of each exit code, for the README and the help. */
export const EXIT_MEANING: Readonly<Record<number, string>> = {
  0: 'ok',
  1: 'unexpected error, or the registry failed or is full (500, 507)',
  2: 'not allowed (401, 403)',
  3: 'not found, or no live match',
  4: 'conflict (409, 412), or the port or data dir is in use',
  5: 'bad usage, input or config (400)',
  6: 'timed out, or the outcome is unknown',
  7: 'confirmation declined, or no TTY to ask on',
  8: 'registry unreachable or busy (429, 503): try again',
  9: 'identity conflict: this VM is a clone, or restored from a snapshot',
  10: 'answer too old, or the registry is warming and may return dead VMs',
};

interface ErrorKind {
  /** HTTP status; 0 for errors that occur only in a client. */
  readonly status: number;
  readonly exit: number;
}

export const ERRORS = {
  INVALID: { status: 400, exit: EXIT.usage },
  UNAUTHORIZED: { status: 401, exit: EXIT.notAllowed },
  FORBIDDEN: { status: 403, exit: EXIT.notAllowed },
  NOT_FOUND: { status: 404, exit: EXIT.notFound },
  METHOD_NOT_ALLOWED: { status: 405, exit: EXIT.usage },
  REQUEST_TIMEOUT: { status: 408, exit: EXIT.timeout },
  CONFLICT: { status: 409, exit: EXIT.conflict },
  IDENTITY_CONFLICT: { status: 409, exit: EXIT.identity },
  PRECONDITION_FAILED: { status: 412, exit: EXIT.conflict },
  TOO_LARGE: { status: 413, exit: EXIT.usage },
  URI_TOO_LONG: { status: 414, exit: EXIT.usage },
  UNSUPPORTED_MEDIA_TYPE: { status: 415, exit: EXIT.usage },
  TOO_MANY_REQUESTS: { status: 429, exit: EXIT.unreachable },
  HEADERS_TOO_LARGE: { status: 431, exit: EXIT.usage },
  INTERNAL: { status: 500, exit: EXIT.error },
  BUSY: { status: 503, exit: EXIT.unreachable },
  STORE_FAILED: { status: 503, exit: EXIT.unreachable },
  OUTCOME_UNKNOWN: { status: 503, exit: EXIT.timeout },
  STORE_FULL: { status: 507, exit: EXIT.error },
  NO_LIVE: { status: 0, exit: EXIT.notFound },
  USAGE: { status: 0, exit: EXIT.usage },
  WARMING: { status: 0, exit: EXIT.warming },
  TOO_OLD: { status: 0, exit: EXIT.warming },
  TIMEOUT: { status: 0, exit: EXIT.timeout },
  REFUSED: { status: 0, exit: EXIT.refused },
  UNREACHABLE: { status: 0, exit: EXIT.unreachable },
  UNSUPPORTED: { status: 0, exit: EXIT.error },
  BAD_ANSWER: { status: 0, exit: EXIT.error },
  ALREADY_RUNNING: { status: 0, exit: EXIT.conflict },
  STORE_DAMAGED: { status: 0, exit: EXIT.error },
  STORE_OLDER: { status: 0, exit: EXIT.error },
  STORE_NEWER: { status: 0, exit: EXIT.error },
  STORE_UNUSABLE: { status: 0, exit: EXIT.error },
  LISTEN: { status: 0, exit: EXIT.error },
  ADDRESS_IN_USE: { status: 0, exit: EXIT.conflict },
} as const satisfies Record<string, ErrorKind>;

export type ErrorCode = keyof typeof ERRORS;

export interface ErrorDetails {
  /** The invalid field of the input, e.g. `services[0].port`. */
  field?: string;
  /** The next step: a command to run, or what to change. */
  hint?: string;
  /** Seconds after which a retry makes sense; sent as `Retry-After`. */
  retryAfter?: number;
  /** The failures of a batch. */
  failures?: readonly Failure[];
  cause?: unknown;
}

export interface Failure {
  name: string;
  code: ErrorCode;
  message: string;
}

/** Every expected failure is a VregError; anything else that is thrown is a bug. */
export class VregError extends Error {
  readonly code: ErrorCode;
  readonly field: string | undefined;
  readonly hint: string | undefined;
  readonly retryAfter: number | undefined;
  readonly failures: readonly Failure[] | undefined;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = 'VregError';
    this.code = code;
    this.field = details.field;
    this.hint = details.hint;
    this.retryAfter = details.retryAfter;
    this.failures = details.failures;
  }

  /** HTTP status of this error; 500 for errors that occur only in a client. */
  get status(): number {
    return ERRORS[this.code].status || 500;
  }

  /** Exit code of a command that fails with this error. */
  get exit(): number {
    return ERRORS[this.code].exit;
  }
}

/** The same error with another message. */
export function withMessage(error: VregError, message: string): VregError {
  const { code, field, hint, retryAfter, failures, cause } = error;
  return new VregError(code, message, {
    ...(field === undefined ? {} : { field }),
    ...(hint === undefined ? {} : { hint }),
    ...(retryAfter === undefined ? {} : { retryAfter }),
    ...(failures === undefined ? {} : { failures }),
    cause,
  });
}

/** An invalid field of the input. */
export function invalid(field: string, message: string): VregError {
  return new VregError('INVALID', message, { field });
}

/** Formats a number of bytes with at most one decimal: `512 MiB`, `1.4 KiB`. */
export function formatBytes(bytes: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB'];
  const power = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log2(bytes) / 10)));
  return `${Number((bytes / 1024 ** power).toFixed(1))} ${units[power]}`;
}

/** A required flag is missing. */
export function missingFlag(flag: string, hint: string): VregError {
  return new VregError('USAGE', `${flag} is required`, { field: fieldOf(flag), hint });
}

/** Two flags exclude each other. The field of the error is the first one. */
export function exclusiveFlags(first: string, second: string, hint = 'omit one of them'): VregError {
  return new VregError('USAGE', `${first} cannot be combined with ${second}`, { field: fieldOf(first), hint });
}

/** Returns the field name of a flag, for example `max-stale` for `--max-stale 1h`. */
function fieldOf(flag: string): string {
  return flag.replace(/^--/, '').replace(/ .*/, '');
}

/** @param what in the plural, such as `open streams` */
export function limitReached(what: string, limit: number, details: ErrorDetails): VregError {
  return new VregError('TOO_MANY_REQUESTS', `too many ${what} (limit ${limit})`, details);
}

/** A local file cannot be read. @param what the file, with its path; @param cause from node:fs */
export function cannotRead(what: string, cause: unknown, details: ErrorDetails): VregError {
  return new VregError('USAGE', `cannot read ${what} (${codeOf(cause)})`, { ...details, cause });
}

/** A local file cannot be written. */
export function cannotWrite(path: string, cause: unknown, details: ErrorDetails): VregError {
  return new VregError('USAGE', `cannot write ${path} (${codeOf(cause)})`, { ...details, cause });
}

/** `ENOENT`, or the message of an error that has no code. */
function codeOf(cause: unknown): string {
  const { code, message } = cause as NodeJS.ErrnoException;
  return code ?? message;
}

/**
 * The body of every error response. `error` is the field of the original registry (vers-agent-services); the others are
 * additions.
 */
export interface ErrorBody {
  error: string;
  code: ErrorCode;
  field?: string;
  hint?: string;
  /** Repeats `Retry-After`, in case a proxy removes that header. */
  retryAfter?: number;
}

export function toErrorBody(error: VregError): ErrorBody {
  return {
    error: error.message,
    code: error.code,
    ...(error.field === undefined ? {} : { field: error.field }),
    ...(error.hint === undefined ? {} : { hint: error.hint }),
    ...(error.retryAfter === undefined ? {} : { retryAfter: error.retryAfter }),
  };
}

/**
 * Rebuilds the error from a server's response. The original registry sends no codes, so its errors are mapped by status.
 * @param retryAfter seconds, from `Retry-After`
 */
export function fromAnswer(status: number, body: unknown, fallback: string, retryAfter?: number): VregError {
  const fields = typeof body === 'object' && body !== null ? (body as Partial<Record<keyof ErrorBody, unknown>>) : {};
  const message = typeof fields.error === 'string' && fields.error !== '' ? fields.error : fallback;
  const details: ErrorDetails = {};
  const seconds = retryAfter ?? fields.retryAfter;
  if (typeof seconds === 'number' && seconds >= 0) details.retryAfter = seconds;
  if (typeof fields.field === 'string') details.field = fields.field;
  if (typeof fields.hint === 'string') details.hint = fields.hint;
  return new VregError(isErrorCode(fields.code) ? fields.code : codeOfStatus(status), message, details);
}

function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(ERRORS, value);
}

function codeOfStatus(status: number): ErrorCode {
  for (const [code, kind] of Object.entries(ERRORS)) {
    if (kind.status === status) return code as ErrorCode;
  }
  if (status === 502 || status === 504) return 'BUSY';
  return status >= 400 && status < 500 ? 'INVALID' : 'INTERNAL';
}

/** The text of an error or warning about a value that scripts must not get. */
export function unsafeInScripts(subject: string, reason: string): string {
  return `${subject} is not safe to use in scripts: ${reason}`;
}
