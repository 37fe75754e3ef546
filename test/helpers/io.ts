/** The twin of a terminal: text in, text out, and everything about it can be set. */
import { type Io, wantsColor } from '../../src/io.ts';

export interface TestIoOptions {
  /** Stdout is a terminal. */
  tty?: boolean;
  /** Stderr is a terminal; without it, it is none. */
  errTty?: boolean;
  width?: number;
  /** Variables that decide on colour. */
  env?: NodeJS.ProcessEnv;
  /** What stdin holds; without it stdin is a terminal where nobody types. */
  stdin?: string;
  /** Answers to questions, in their order; without any there is nobody to ask. */
  answers?: readonly string[];
}

export interface TestIo extends Io {
  stdout(): string;
  stderr(): string;
}

export function testIo({
  tty = false,
  errTty = false,
  width = 80,
  env = {},
  stdin,
  answers,
}: TestIoOptions = {}): TestIo {
  let out = '';
  let err = '';
  const left = [...(answers ?? [])];
  const io = {
    stdout: () => out,
    stderr: () => err,
    out: (text: string) => {
      out += text;
    },
    err: (text: string) => {
      err += text;
    },
    tty,
    errTty,
    canAsk: answers !== undefined,
    stdinTty: stdin === undefined,
    color: wantsColor(env, tty),
    errColor: false,
    width,
    height: 24,
    readStdin: async () => stdin ?? '',
    ask: async (question: string) => {
      err += question;
      const answer = left.shift();
      if (answer === undefined) throw new Error(`no answer was prepared for: ${question}`);
      err += `${answer}\n`;
      return answer;
    },
  };
  return io;
}
