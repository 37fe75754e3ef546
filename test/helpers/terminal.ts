/** A pseudo-terminal, opened by python3 because Node cannot. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Readable } from 'node:stream';
import type { TestContext } from 'node:test';
import { cleanEnv, ENTRY, endAfter, PROGRAM } from './daemon.ts';
import { PYTHON } from './tools.ts';
import { until } from './until.ts';

/** Runs a program as the leader of a session on a new terminal; reports its pid and its exit status on descriptor 3. */
const RELAY = `
import fcntl, os, pty, select, struct, sys, termios
rows, columns = int(sys.argv[1]), int(sys.argv[2])
os.set_inheritable(3, False)
pid, terminal = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))
    os.execvpe(sys.argv[3], sys.argv[3:], os.environ)
os.write(3, b'pid %d\\n' % pid)
inputs = [0, terminal]
while terminal in inputs:
    for ready in select.select(inputs, [], [])[0]:
        try:
            data = os.read(ready, 65536)
        except OSError:
            data = b''
        if not data:
            inputs.remove(ready)
            if ready == 0:
                inputs.remove(terminal)
                os.close(terminal)
                break
        elif ready == 0:
            os.write(terminal, data)
        else:
            os.write(1, data)
status = os.waitpid(pid, 0)[1]
os.write(3, b'exit %d\\n' % (os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)))
`;

export interface TerminalOptions {
  url?: string;
  home?: string;
  env?: NodeJS.ProcessEnv;
  columns?: number;
  rows?: number;
  cwd?: string;
}

export interface Terminal {
  /** Pid of the program. */
  pid: number;
  /** Everything that it has printed, with the echo of what was typed. */
  text(): string;
  /** Types text, for example `y\\r`, or `\\u0003` for Ctrl-C and `\\u0004` for Ctrl-D. */
  type(text: string): void;
  /** Waits until the output contains the text, or matches the expression. */
  shows(what: string | RegExp): Promise<void>;
  /** Closes the terminal, as if its window was closed. */
  hangUp(): void;
  /** The exit code: 128+n if signal n ended the program. */
  ended: Promise<number>;
}

/** Starts a program on a terminal. It is killed when the test ends. */
export async function startInTerminal(
  t: TestContext,
  command: readonly string[],
  { url = 'http://127.0.0.1:1', home = '/nonexistent', env = {}, columns = 80, rows = 24, cwd }: TerminalOptions = {},
): Promise<Terminal> {
  const child: ChildProcess = spawn(PYTHON, ['-c', RELAY, String(rows), String(columns), ...command], {
    env: cleanEnv(home, { VERS_INFRA_URL: url, TERM: 'xterm', ...env }),
    stdio: ['pipe', 'pipe', 'inherit', 'pipe'],
    ...(cwd === undefined ? {} : { cwd }),
  });
  let text = '';
  child.stdout!.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  let report = '';
  (child.stdio[3] as Readable).setEncoding('utf8').on('data', (chunk: string) => (report += chunk));
  const closed = once(child, 'close');
  const numberOf = (what: string) => new RegExp(`^${what} (\\d+)$`, 'm').exec(report)?.[1];
  const pid = Number(await until('the pid', () => numberOf('pid')));
  endAfter(t, async () => {
    try {
      if (numberOf('exit') === undefined) process.kill(pid, 'SIGKILL');
    } catch {
      // It has exited.
    }
    await closed;
  });
  return {
    pid,
    text: () => text,
    type: (typed) => void child.stdin!.write(typed),
    shows: async (what) => {
      await until(`the terminal to show ${what}`, () =>
        typeof what === 'string' ? text.includes(what) : what.test(text),
      ).catch((error: Error) => {
        throw new Error(`${error.message}; it shows ${JSON.stringify(text)}`);
      });
    },
    hangUp: () => void child.stdin!.end(),
    ended: closed.then(() => Number(numberOf('exit'))),
  };
}

/** Starts `vreg` on a terminal. */
export function vregInTerminal(t: TestContext, args: readonly string[], options?: TerminalOptions): Promise<Terminal> {
  return startInTerminal(t, [PROGRAM, ...ENTRY, ...args], options);
}
