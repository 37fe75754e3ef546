/** The standard streams and the terminal. Tests replace this interface with buffers. */
import { writeSync } from 'node:fs';
import { isatty } from 'node:tty';
import { openScreen, type Screen, type ScreenEvents } from './io/screen.ts';

export interface Io {
  /** Writes the answer to stdout. Nothing else goes there. */
  out(text: string): void;
  /** Writes notes, warnings, errors and prompts to stderr. */
  err(text: string): void;
  /** Calls `then` when everything has been written: a pipe whose reader is slow takes text later. */
  flush(then: () => void): void;
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
  /**
   * Reads stdin until it ends. Rejects when `signal` is aborted, with its abort reason.
   * @param limit number of bytes, after which the rest is discarded
   */
  readStdin(signal: AbortSignal, limit?: number): Promise<string>;
  /**
   * Prints the question on stderr and reads one line. Rejects when `signal` is aborted, with its abort reason.
   * @returns undefined if the input ends before the end of the line (Ctrl-D)
   */
  ask(question: string, signal: AbortSignal): Promise<string | undefined>;
  /** Opens a full screen on stdout, which must be a terminal. Text for stderr is printed after the screen is closed. */
  openScreen(events: ScreenEvents): Screen;
}

export function systemIo(env: NodeJS.ProcessEnv): Io {
  const { stdout } = process;
  const [stdinTty, errTty] = [isatty(0), isatty(2)];
  // A reader that closes the pipe early, as in `vreg ls | head -1`, is not an error.
  const onError = ({ code, message }: NodeJS.ErrnoException) => {
    if (code === 'EPIPE') process.exit(0);
    writeSync(2, `vreg: cannot write the answer (${code ?? message})\nhint: is the disk full?\n`);
    process.exit(1);
  };
  stdout.on('error', onError);
  // Node creates stdin and stderr on first use, which takes a millisecond each.
  let stderrIsOpen = false;
  const writeError = (text: string) => {
    if (!stderrIsOpen) process.stderr.on('error', onError);
    stderrIsOpen = true;
    process.stderr.write(text);
  };
  /** Text for stderr while a full screen is open; undefined otherwise. */
  let held: string[] | undefined;
  const printHeld = () => {
    const text = held?.join('') ?? '';
    held = undefined;
    if (text !== '') writeError(text);
  };
  return {
    out: (chunk) => void stdout.write(chunk),
    err: (chunk) => void (held?.push(chunk) ?? writeError(chunk)),
    flush: (then) => {
      // After an error, onError ends the process.
      const ifWritten = (next: () => void) => (error?: Error | null) => error || next();
      const afterStdout = () => (stderrIsOpen ? process.stderr.write('', ifWritten(then)) : then());
      stdout.write('', ifWritten(afterStdout));
    },
    tty: stdout.isTTY === true,
    errTty,
    canAsk: stdinTty && errTty,
    stdinTty,
    color: wantsColor(env, stdout.isTTY === true),
    errColor: wantsColor(env, errTty),
    width: stdout.columns || 80,
    height: stdout.rows || 24,
    readStdin: async (signal, limit) => (await read(process.stdin, signal, undefined, limit)).text,
    ask: async (question, signal) => {
      writeError(question);
      try {
        const { text, isComplete } = await read(process.stdin, signal, NEWLINE);
        if (isComplete) return text.split('\n', 1)[0];
        writeError('\n');
        return undefined;
      } catch (error) {
        // The shell prints its prompt on a new line.
        writeError('\n');
        throw error;
      }
    },
    openScreen: (events) => {
      const screen = openScreen(process.stdin, stdout, events);
      if (errTty) held = [];
      process.once('exit', printHeld);
      const { close } = screen;
      return Object.assign(screen, {
        close: () => {
          close();
          process.off('exit', printHeld);
          printHeld();
        },
      });
    },
  };
}

const NEWLINE = 0x0a;

/**
 * Reads a stream until it ends or, if `last` is given, until it contains this byte. The terminal stays in its line mode: it
 * echoes the input, sends SIGINT on Ctrl-C, and ends the input on Ctrl-D.
 * @returns `isComplete`: false if the stream ended without the byte
 */
function read(
  stream: NodeJS.ReadStream,
  signal: AbortSignal,
  last?: number,
  limit = Number.POSITIVE_INFINITY,
): Promise<{ text: string; isComplete: boolean }> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let length = 0;
    const stop = () => {
      stream.off('data', onData).off('end', onEnd).off('error', onError).pause();
      signal.removeEventListener('abort', onAbort);
    };
    const finish = (isComplete: boolean) => {
      stop();
      resolve({ text: new TextDecoder().decode(Buffer.concat(chunks)), isComplete });
    };
    const onData = (chunk: Buffer) => {
      if (length < limit) chunks.push(chunk);
      length += chunk.length;
      if (last !== undefined && chunk.includes(last)) finish(true);
    };
    const onEnd = () => finish(false);
    const onError = (error: Error) => {
      stop();
      reject(error);
    };
    const onAbort = () => onError(signal.reason);
    if (signal.aborted) return reject(signal.reason);
    // An earlier read may have reached the end, after which no event follows.
    if (stream.readableEnded) return finish(false);
    signal.addEventListener('abort', onAbort, { once: true });
    stream.on('data', onData).on('end', onEnd).on('error', onError).resume();
  });
}

/** Follows no-color.org, force-color.org and bixense.com/clicolors, in this order. A terminal has colour unless TERM is dumb. */
export function wantsColor(env: NodeJS.ProcessEnv, tty: boolean): boolean {
  if (env.NO_COLOR) return false;
  if (env.FORCE_COLOR) return env.FORCE_COLOR !== '0';
  if (env.CLICOLOR_FORCE && env.CLICOLOR_FORCE !== '0') return true;
  if (env.CLICOLOR === '0' || env.TERM === 'dumb') return false;
  return tty;
}
