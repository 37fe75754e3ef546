/** The daemon's log: JSON lines for machines, one readable line an event for people. Always on stderr. */
import { type Logger, pino } from 'pino';
import type { LogFormat, LogLevel } from '../src/protocol/api.ts';

export interface LogOptions {
  level: LogLevel;
  format: LogFormat;
  /** Colour in `pretty`. */
  color?: boolean;
}

/** Written at once and in order, so that the last line before a crash is there. */
export async function createLog({ level, format, color = false }: LogOptions): Promise<Logger> {
  const options = {
    level,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    redact: ['req.headers.authorization', '*.token', 'token'],
  };
  if (format === 'json') return pino(options, pino.destination({ dest: 2, sync: true }));
  const { default: pretty } = await import('pino-pretty');
  return pino(
    options,
    pretty({
      destination: 2,
      sync: true,
      colorize: color,
      translateTime: 'SYS:HH:MM:ss',
      ignore: 'urls,dataDir',
      singleLine: true,
    }),
  );
}
