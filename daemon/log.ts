/** The daemon's log: JSON lines for machines, one readable line an event for people. Always on stderr. */
import { type Logger, pino } from 'pino';
import type { LogFormat, LogLevel } from '../src/protocol/api.ts';
import { LogSink } from './log-sink.ts';
import { redact } from './redaction.ts';

export interface LogOptions {
  level: LogLevel;
  format: LogFormat;
  /** Colour in `pretty`. */
  color?: boolean;
}

const STDERR = 2;

/** Without the secrets that {@link redact} knows. */
export async function createLog({ level, format, color = false }: LogOptions): Promise<Logger> {
  const options = {
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: ['req.headers.authorization', '*.token', 'token'],
  };
  const asItIs = (line: string) => line;
  const write = format === 'json' ? asItIs : await prettifier(color);
  const sink = new LogSink({ fd: STDERR, notice: (lost) => write(noticeOf(lost)) });
  return pino(options, { write: (line) => sink.write(write(redact(line))) });
}

async function prettifier(colorize: boolean): Promise<(line: string) => string> {
  const { prettyFactory } = await import('pino-pretty');
  return prettyFactory({ colorize, translateTime: 'SYS:HH:MM:ss', ignore: 'urls,dataDir', singleLine: true });
}

function noticeOf(lost: number): string {
  const line = { level: pino.levels.values.warn, time: new Date().toISOString(), lost };
  return `${JSON.stringify({ ...line, msg: `${lost} lines of the log could not be written` })}\n`;
}
