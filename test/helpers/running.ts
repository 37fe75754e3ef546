/** Runs the real program against a registry of the test, either until it exits or in the background. */
import { type ChildProcess, spawn } from 'node:child_process';
import type { TestContext } from 'node:test';
import { cleanEnv, ENTRY, endAfter, PROGRAM, type Ran, run, VREG } from './daemon.ts';

export interface RunOptions {
  url?: string;
  home?: string;
  env?: NodeJS.ProcessEnv;
  input?: string;
  cwd?: string;
}

function environment({ url = 'http://127.0.0.1:1', home = '/nonexistent', env = {} }: RunOptions): NodeJS.ProcessEnv {
  return cleanEnv(home, { VERS_INFRA_URL: url, ...env });
}

/** Runs `vreg` until it exits. */
export function runVreg(args: readonly string[], options: RunOptions = {}): Promise<Ran> {
  const { input, cwd } = options;
  return run(PROGRAM, [...ENTRY, ...args], {
    env: environment(options),
    ...(input === undefined ? {} : { input }),
    ...(cwd === undefined ? {} : { cwd }),
  });
}

/**
 * Runs a script that calls `vreg` by its name.
 * @param shell with flags against start-up files, which bash reads if its stdin is a socket
 */
export function runScript(shell: readonly string[], script: string, options: RunOptions = {}): Promise<Ran> {
  const [command, ...flags] = shell;
  const vreg = `vreg() { ${VREG.map((word) => `"${word}"`).join(' ')} "$@"; }\n`;
  const { cwd } = options;
  return run(command!, [...flags, '-c', vreg + script], {
    env: environment(options),
    ...(cwd === undefined ? {} : { cwd }),
  });
}

export interface Running {
  child: ChildProcess;
  stdout(): string;
  stderr(): string;
  ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  /** Sends the signal and waits until it exits. */
  end(signal?: NodeJS.Signals): Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

/** Starts `vreg` in the background. It is killed when the test ends. */
export function startVreg(t: TestContext, args: readonly string[], options: RunOptions = {}): Running {
  const { cwd } = options;
  const child = spawn(PROGRAM, [...ENTRY, ...args], {
    env: environment(options),
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(cwd === undefined ? {} : { cwd }),
  });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (stdout += chunk));
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk));
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.once('close', (code, signal) => resolve({ code, signal }));
  });
  const end = (signal: NodeJS.Signals = 'SIGTERM') => {
    child.kill(signal);
    return ended;
  };
  endAfter(t, () => end('SIGKILL'));
  return { child, stdout: () => stdout, stderr: () => stderr, ended, end };
}
