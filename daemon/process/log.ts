/** The daemon's log: JSON lines for machines, one readable line an event for people. Always on stderr. */

import { type Logger, pino } from 'pino';
import type { LogFormat, LogLevel } from '../../src/protocol/api.ts';
import { escapeControls, maskTokens, printable, SecretMask } from '../../src/protocol/redact.ts';
import { LogSink } from './log-sink.ts';

export interface LogOptions {
  level: LogLevel;
  format: LogFormat;
  /** Colour in `pretty`. */
  color?: boolean;
}

const STDERR = 2;

/** Secrets of this process that no log line may contain. Add one before the first line that could contain it. */
export const logMask = new SecretMask();

/** Masks vreg's tokens and the secrets in {@link logMask}. */
export function redact(line: string): string {
  return logMask.mask(maskTokens(line));
}

/** Every line passes through {@link redact}. */
export async function createLog({ level, format, color = false }: LogOptions): Promise<Logger> {
  const options = {
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: ['req.headers.authorization', '*.token', 'token'],
  };
  const write = await lineWriter(format, color);
  const sink = new LogSink({ fd: STDERR, notice: (lost) => write(noticeOf(lost)) });
  return pino(options, { write: (line) => sink.write(write(redact(line))) });
}

/** Makes of pino's lines what is written: nothing that came from outside moves a cursor, or begins another line. */
export async function lineWriter(format: LogFormat, colorize: boolean): Promise<(line: string) => string> {
  if (format === 'json') return escapeControls;
  const { prettyFactory } = await import('pino-pretty');
  const pretty = prettyFactory({ colorize, translateTime: 'SYS:HH:MM:ss', ignore: 'urls,dataDir', singleLine: true });
  return (line) => {
    let event: unknown;
    try {
      event = JSON.parse(line, shown);
    } catch {
      // A number in it was a secret.
      return `${printable(line.trimEnd())}\n`;
    }
    return pretty(JSON.stringify(event));
  };
}

function shown(key: string, value: unknown): unknown {
  if (typeof value !== 'string') return value;
  // Its lines are indented, so that none of them looks like another event.
  return key === 'stack' ? value.split('\n').map(printable).join('\n') : printable(value);
}

function noticeOf(lost: number): string {
  const line = { level: pino.levels.values.warn, time: new Date().toISOString(), lost };
  return `${JSON.stringify({ ...line, msg: `${lost} lines of the log could not be written` })}\n`;
}
