/** The standard streams and the terminal. Tests replace this interface with buffers. */
import { writeSync } from 'node:fs';
import { createInterface } from 'node:readline/promises';
import { text } from 'node:stream/consumers';

export interface Io {
  /** Writes the answer to stdout. Nothing else goes there. */
  out(text: string): void;
  /** Writes notes, warnings, errors and prompts to stderr. */
  err(text: string): void;
  /** True if stdout is a terminal: then answers are tables with relative times. */
  readonly tty: boolean;
  /** True if stderr is a terminal: then progress is shown. */
  readonly errTty: boolean;
  /** True if prompts are possible: stdin and stderr are terminals. */
  readonly canAsk: boolean;
  /** True if stdin is a terminal, in which case a read blocks until the user types. */
  readonly stdinTty: boolean;
  readonly color: boolean;
  readonly errColor: boolean;
  /** Columns of the terminal; 80 if there is none, or if it does not know its size. */
  readonly width: number;
  readonly height: number;
  readStdin(): Promise<string>;
  /** Prints the question on stderr and resolves to the line that the user types. */
  ask(question: string): Promise<string>;
}

export function systemIo(env: NodeJS.ProcessEnv): Io {
  const { stdin, stdout, stderr } = process;
  // A reader that closes the pipe early, as in `vreg ls | head -1`, is not an error.
  const onError = ({ code, message }: NodeJS.ErrnoException) => {
    if (code === 'EPIPE') process.exit(0);
    writeSync(2, `vreg: cannot write the answer (${code ?? message})\nhint: is the disk full?\n`);
    process.exit(1);
  };
  stdout.on('error', onError);
  stderr.on('error', onError);
  return {
    out: (chunk) => void stdout.write(chunk),
    err: (chunk) => void stderr.write(chunk),
    tty: stdout.isTTY === true,
    errTty: stderr.isTTY === true,
    canAsk: stdin.isTTY === true && stderr.isTTY === true,
    stdinTty: stdin.isTTY === true,
    color: wantsColor(env, stdout.isTTY === true),
    errColor: wantsColor(env, stderr.isTTY === true),
    width: stdout.columns || 80,
    height: stdout.rows || 24,
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

/** Follows no-color.org, force-color.org and bixense.com/clicolors, in this order. A terminal has colour unless TERM is dumb. */
export function wantsColor(env: NodeJS.ProcessEnv, tty: boolean): boolean {
  if (env.NO_COLOR) return false;
  if (env.FORCE_COLOR) return env.FORCE_COLOR !== '0';
  if (env.CLICOLOR_FORCE && env.CLICOLOR_FORCE !== '0') return true;
  if (env.CLICOLOR === '0' || env.TERM === 'dumb') return false;
  return tty;
}
