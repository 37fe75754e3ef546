/** The terminal: what a command reads and writes, and what it may assume of it. */
import { writeSync } from 'node:fs';
import { createInterface } from 'node:readline/promises';
import { text } from 'node:stream/consumers';

export interface Io {
  /** The answer. Nothing else goes here. */
  out(text: string): void;
  /** Everything else: notes, warnings, errors, prompts. */
  err(text: string): void;
  /** True when stdout is a terminal: tables, relative times. */
  readonly tty: boolean;
  /** True when stderr is a terminal: progress. */
  readonly errTty: boolean;
  /** True when questions can be asked: stdin and stderr are terminals. */
  readonly canAsk: boolean;
  /** True when stdin is a terminal, so that reading it would wait for typing. */
  readonly stdinTty: boolean;
  readonly color: boolean;
  readonly errColor: boolean;
  /** Columns of the terminal; 80 where there is none. */
  readonly width: number;
  readonly height: number;
  readStdin(): Promise<string>;
  /** Asks on stderr, so that stdout stays clean. Resolves with the line. */
  ask(question: string): Promise<string>;
}

export function systemIo(env: NodeJS.ProcessEnv): Io {
  const { stdin, stdout, stderr } = process;
  // `vreg ls | head -1` closes the pipe early, which is no error: there is nobody left to write for.
  const quietly = ({ code, message }: NodeJS.ErrnoException) => {
    if (code === 'EPIPE') process.exit(0);
    writeSync(2, `vreg: cannot write the answer (${code ?? message})\nhint: is the disk full?\n`);
    process.exit(1);
  };
  stdout.on('error', quietly);
  stderr.on('error', quietly);
  return {
    out: (chunk) => void stdout.write(chunk),
    err: (chunk) => void stderr.write(chunk),
    tty: stdout.isTTY === true,
    errTty: stderr.isTTY === true,
    canAsk: stdin.isTTY === true && stderr.isTTY === true,
    stdinTty: stdin.isTTY === true,
    color: wantsColor(env, stdout.isTTY === true),
    errColor: wantsColor(env, stderr.isTTY === true),
    width: stdout.columns ?? 80,
    height: stdout.rows ?? 24,
    readStdin: () => text(stdin),
    ask: async (question) => {
      const lines = createInterface({ input: stdin, output: stderr });
      try {
        return await lines.question(question);
      } finally {
        lines.close();
      }
    },
  };
}

/** The order of no-color.org, force-color.org and bixense.com/clicolors; a terminal has colour unless it is dumb. */
export function wantsColor(env: NodeJS.ProcessEnv, tty: boolean): boolean {
  if (env.NO_COLOR) return false;
  if (env.FORCE_COLOR) return env.FORCE_COLOR !== '0';
  if (env.CLICOLOR_FORCE && env.CLICOLOR_FORCE !== '0') return true;
  if (env.CLICOLOR === '0' || env.TERM === 'dumb') return false;
  return tty;
}
