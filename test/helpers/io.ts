/** A fake terminal: its output is text, and all its properties can be set. */
import type { Screen, ScreenEvents } from '../../src/io/screen.ts';
import { type Io, wantsColor } from '../../src/io.ts';

export interface TestIoOptions {
  /** Whether stdout is a terminal. */
  tty?: boolean;
  /** Whether stderr is a terminal. */
  errTty?: boolean;
  width?: number;
  /** Variables that decide about colour. */
  env?: NodeJS.ProcessEnv;
  /** Contents of stdin; without it stdin is a terminal. */
  stdin?: string;
  /** Answers to prompts, in order, undefined for Ctrl-D; without them no prompt is possible. */
  answers?: readonly (string | undefined)[];
}

export interface TestIo extends Io {
  /** The full screen; undefined while none is open. */
  screen(): TestScreen | undefined;
  stdout(): string;
  stderr(): string;
}

export interface TestScreen {
  lines: readonly string[];
  /** Number of times that it was drawn. */
  draws: number;
  press(key: string): void;
  resize(width: number, height: number): void;
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
  let screen: TestScreen | undefined;
  const io = {
    screen: () => screen,
    stdout: () => out,
    stderr: () => err,
    out: (text: string) => {
      out += text;
    },
    flush: (then: () => void) => then(),
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
      if (left.length === 0) throw new Error(`no answer was prepared for: ${question}`);
      const answer = left.shift();
      err += `${answer ?? ''}\n`;
      return answer;
    },
    openScreen: ({ key, redraw }: ScreenEvents): Screen => {
      const size = { width, height: 24 };
      const opened: TestScreen = {
        lines: [],
        draws: 0,
        press: key,
        resize: (newWidth, newHeight) => {
          Object.assign(size, { width: newWidth, height: newHeight });
          redraw();
        },
      };
      screen = opened;
      return Object.assign(size, {
        show: (lines: readonly string[]) => {
          opened.lines = lines;
          opened.draws++;
        },
        close: () => {
          screen = undefined;
        },
      });
    },
  };
  return io;
}
