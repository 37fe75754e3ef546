/**
 * The log of the daemon and the agent on stderr, with one line per event: JSON for machines, or readable text.
 */
import { type Logger, pino } from 'pino';
import type { LogFormat, LogLevel } from '../../src/protocol/api.ts';
import { escapeControls, maskTokens, printable, SecretMask } from '../../src/protocol/redact.ts';
import { createBudgets } from '../limits/budgets.ts';
import { ANONYMOUS } from '../registry/preconditions.ts';
import { LogDestination } from './log-destination.ts';

export interface LogOptions {
  level: LogLevel;
  format: LogFormat;
  /** Colours the `pretty` format. */
  color?: boolean;
}

export interface Log {
  log: Logger;
  /** Continues in a new file with this path. @throws VregError STORE_UNUSABLE */
  reopen(path: string): void;
}

const STDERR = 2;

/** Secrets of this process that no log line may contain. Add a secret before the first line that could contain it. */
export const logMask = new SecretMask();

/** Masks vreg's tokens and the secrets in {@link logMask}. */
export function redact(line: string): string {
  return logMask.mask(maskTokens(line));
}

/** Creates the log. Every line passes through {@link redact}. */
export async function createLog({ level, format, color = false }: LogOptions): Promise<Log> {
  const options = {
    level,
    base: null,
    formatters: { level: (level: string) => ({ level }) },
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: ['req.headers.authorization', '*.token', 'token'],
  };
  const formatLine = await lineFormatter(format, color);
  const destination = new LogDestination({
    fd: STDERR,
    maxBuffered: createBudgets().log.limit,
    droppedNotice: (dropped) => formatLine(droppedNotice(dropped)),
  });
  return {
    log: pino(options, { write: (line) => destination.write(formatLine(redact(line))) }),
    reopen: (path) => destination.reopen(path),
  };
}

/**
 * Creates the function that converts pino's JSON lines to log lines. Untrusted text can neither move the cursor of a terminal
 * nor begin a new line.
 */
export async function lineFormatter(format: LogFormat, colorize: boolean): Promise<(line: string) => string> {
  if (format === 'json') return escapeControls;
  const { prettyFactory } = await import('pino-pretty');
  const pretty = prettyFactory({ colorize, translateTime: 'SYS:HH:MM:ss', ignore: 'urls,dataDir', singleLine: true });
  return (line) => {
    let event: unknown;
    try {
      event = JSON.parse(line, printableValue);
    } catch {
      // Masking a secret that consists of digits may have made the JSON invalid.
      return `${printable(line.trimEnd())}\n`;
    }
    return pretty(JSON.stringify(isRequest(event) ? describeRequest(event) : event));
  };
}

/** The fields of a line that the audit log writes for a request. */
interface RequestLine {
  level: unknown;
  time: unknown;
  /** Missing if the HTTP parser has refused the request. */
  method?: string;
  url?: string;
  status: number;
  ms?: number;
  code?: string;
  vm?: string;
  by?: string;
  from?: string;
}

function isRequest(event: unknown): event is RequestLine {
  const { requestId, status } = event as Record<string, unknown>;
  return requestId !== undefined && status !== undefined;
}

/** Characters of each text from a client in a readable line, so that most lines fit on a terminal. */
const MAX_TEXT = 40;

function shortened(text: string): string {
  return text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT - 20)}…${text.slice(-19)}` : text;
}

/** Reduces the line of a request to a short message, such as `GET /registry/vms/x 404 NOT_FOUND 2ms by root from 10.0.0.1`. */
function describeRequest({ level, time, method, url, status, ms, code, vm, by, from }: RequestLine): object {
  const parts = [
    ...(method === undefined || url === undefined ? ['invalid request'] : [method, shortened(url)]),
    status === 0 ? 'disconnected' : status,
    code,
    vm === undefined || url?.includes(encodeURIComponent(vm)) ? undefined : shortened(vm),
    ms === undefined ? undefined : `${ms}ms`,
    by === undefined || by === ANONYMOUS ? undefined : `by ${shortened(by)}`,
    from === undefined ? undefined : `from ${from}`,
  ];
  return { level, time, msg: parts.filter((part) => part !== undefined).join(' ') };
}

function printableValue(key: string, value: unknown): unknown {
  if (typeof value !== 'string') return value;
  // The lines of a stack trace are indented, so none of them can be mistaken for another event.
  return key === 'stack' ? value.split('\n').map(printable).join('\n') : printable(value);
}

function droppedNotice(lost: number): string {
  const line = { level: 'warn', time: new Date().toISOString(), lost };
  return `${JSON.stringify({ ...line, msg: `dropped ${lost} log lines because the log could not be written` })}\n`;
}
