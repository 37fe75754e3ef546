/**
 * A full screen on a terminal: the alternate screen with a hidden cursor, and single keys instead of lines. The terminal is
 * restored when the screen is closed, when the process exits or a signal ends it, and while it is suspended.
 */
import type { Key } from 'node:readline';

export interface ScreenEvents {
  /** @param name as in `Key.name` of node:readline, with the prefix `ctrl-` or `shift-` */
  key(name: string): void;
  /** The terminal has another size, or its content was lost. */
  redraw(): void;
}

export interface Screen {
  readonly width: number;
  readonly height: number;
  /** Replaces the content. @param lines must fit the screen and contain no control characters except colours */
  show(lines: readonly string[]): void;
  /** Restores the terminal. */
  close(): void;
}

/** Control sequences of xterm, which today's terminals share: alternate screen, hidden cursor, and no line wrap. */
const ENTER = '\u001b[?1049h\u001b[?25l\u001b[?7l';
const LEAVE = '\u001b[?7h\u001b[?25h\u001b[?1049l';
const CLEAR = '\u001b[2J';

/**
 * Signals that end a process that does not handle them (signal(7)), except those that the program handles itself, those that
 * Node ignores or reserves (SIGPIPE, SIGPROF), and faults, after which no JavaScript can run.
 */
const FATAL = /^SIG(QUIT|TRAP|ABRT|USR2|ALRM|STKFLT|XCPU|XFSZ|VTALRM|IO|PWR|SYS)$/;

/** Opens the screen. Keys are available only if stdin is a terminal. */
export function openScreen(stdin: NodeJS.ReadStream, stdout: NodeJS.WriteStream, events: ScreenEvents): Screen {
  // Loaded here, because most commands open no screen.
  const { signals } = process.getBuiltinModule('node:os').constants;
  const fatal = Object.keys(signals).filter((name): name is NodeJS.Signals => FATAL.test(name));
  let isOpen = true;
  let isActive = false;
  /** The lines on the screen; empty if its content is unknown. */
  let shown: readonly string[] = [];

  const setRawMode = (raw: boolean) => {
    if (stdin.isTTY) stdin.setRawMode(raw);
  };
  const enter = () => {
    if (isActive) return;
    isActive = true;
    shown = [];
    setRawMode(true);
    stdout.write(ENTER);
  };
  const leave = () => {
    if (!isActive) return;
    isActive = false;
    stdout.write(LEAVE);
    setRawMode(false);
  };
  const redraw = () => {
    shown = [];
    events.redraw();
  };
  const start = () => {
    process.once('SIGTSTP', suspend).on('SIGCONT', onContinue);
    for (const signal of fatal) process.once(signal, end);
    enter();
  };
  const stop = () => {
    process.off('SIGTSTP', suspend).off('SIGCONT', onContinue);
    for (const signal of fatal) process.off(signal, end);
    leave();
  };
  const end = (signal: NodeJS.Signals) => {
    stop();
    // Without a listener, the signal ends the process.
    process.kill(process.pid, signal);
  };
  const suspend = () => {
    stop();
    // Without a listener, the signal stops the process.
    process.kill(process.pid, 'SIGTSTP');
    // Runs when the process continues, or at once if no shell could continue it, in which case the kernel ignores the signal.
    setImmediate(() => {
      if (!isOpen) return;
      start();
      redraw();
    });
  };
  const onKeypress = (text: string | undefined, { name = text ?? '', ctrl, shift }: Key) => {
    // In raw mode, the terminal sends no signal. Suspend the whole job, which may include a wrapper such as npx.
    if (ctrl && name === 'z') process.kill(0, 'SIGTSTP');
    else if (ctrl && name === 'l') redraw();
    else events.key(`${ctrl ? 'ctrl-' : shift ? 'shift-' : ''}${name}`);
  };
  const onContinue = () => {
    // The process was stopped by SIGSTOP, and the shell may have changed the terminal since then.
    leave();
    enter();
    redraw();
  };

  if (stdin.isTTY) {
    // A terminal that is gone cannot be reset.
    stdin.on('error', () => {});
    // Loaded here, because it would slow down the start of every command.
    process.getBuiltinModule('node:readline').emitKeypressEvents(stdin);
    stdin.on('keypress', onKeypress).resume();
  }
  stdout.on('resize', redraw);
  process.on('exit', leave);
  start();
  return {
    get width() {
      return stdout.columns || 80;
    },
    get height() {
      return stdout.rows || 24;
    },
    show(lines) {
      if (!isActive) return;
      const changed = lines.map((line, index) =>
        line === shown[index] ? '' : `\u001b[${index + 1};1H\u001b[2K${line}`,
      );
      const text = `${shown.length === 0 ? CLEAR : ''}${changed.join('')}`;
      if (text !== '') stdout.write(text);
      shown = [...lines];
    },
    close() {
      isOpen = false;
      stop();
      process.off('exit', leave);
      stdout.off('resize', redraw);
      stdin.off('keypress', onKeypress).pause();
    },
  };
}
