/** The real agent, in the foreground and in the background, and the entry of its VM. */
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, rmSync } from 'node:fs';
import type { TestContext } from 'node:test';
import { PATHS } from '../../../src/protocol/api.ts';
import type { Vm } from '../../../src/protocol/vm.ts';
import {
  cleanEnv,
  type Daemon,
  type DaemonOptions,
  ENTRY,
  endAfter,
  killAfter,
  PROGRAM,
  type Ran,
  run,
  runInProcess,
  startDaemon,
  tempDir,
} from '../daemon.ts';
import { call } from '../http.ts';
import { until } from '../until.ts';

export interface RunningAgent {
  child: ChildProcess;
  said(): string;
  /** Waits until the process has exited by itself, and all of its output has been read. @returns the exit code */
  exited(): Promise<number | null>;
  /** Sends the signal and waits for the process to exit. */
  end(signal?: NodeJS.Signals): Promise<{ code: number | null; signal: NodeJS.Signals | null; ms: number }>;
}

/** Starts an agent of the VM `vm-1` in the foreground, with its own home; it is killed when the test ends. */
export function startLong(
  t: TestContext,
  url: string,
  args: readonly string[],
  { home = tempDir(t), env = {} }: { home?: string; env?: NodeJS.ProcessEnv } = {},
): RunningAgent {
  const child = spawn(PROGRAM, [...ENTRY, ...args], {
    env: cleanEnv(home, { VERS_INFRA_URL: url, VERS_VM_ID: 'vm-1', VERS_AGENT_NAME: 'one', ...env }),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      said += chunk;
    });
  let isClosed = false;
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.once('close', (code, signal) => {
      isClosed = true;
      resolve({ code, signal });
    });
  });
  const exited = async () => {
    await until(`vreg ${args.join(' ')} to exit`, () => isClosed);
    return child.exitCode;
  };
  const end = async (signal: NodeJS.Signals = 'SIGTERM') => {
    const started = performance.now();
    child.kill(signal);
    return { ...(await ended), ms: performance.now() - started };
  };
  endAfter(t, () => end('SIGKILL'));
  return { child, said: () => said, exited, end };
}

export function startAgent(
  t: TestContext,
  url: string,
  args: readonly string[] = [],
  more: { home?: string; env?: NodeJS.ProcessEnv } = {},
): RunningAgent {
  return startLong(t, url, ['daemon', 'agent', '--interval', '100ms', '--log-format', 'json', ...args], more);
}

/**
 * Copies the files of a running agent. Repeats that if a temporary file disappears meanwhile. The copy is a clone only after the next
 * heartbeat of the agent: until then, the one that sends first is accepted, so wait with {@link heardTwice} before the copy starts.
 */
export function copyState(from: string, to: string): void {
  for (;;) {
    try {
      cpSync(from, to, { recursive: true });
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
  }
}

/** A daemon, or a registry in this process. */
type Registry = Pick<Daemon, 'url' | 'token'>;

/** @returns the entry of a VM; undefined if there is none, or if the daemon does not respond */
export async function find({ url, token }: Registry, id = 'vm-1'): Promise<Vm | undefined> {
  const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  const found = await call(url, 'GET', PATHS.vm(id), { headers }).catch((error: unknown) => {
    if (error instanceof TypeError) return undefined;
    throw error;
  });
  return found?.status === 200 ? (found.body as Vm) : undefined;
}

/** Waits for a sign of life after `lastSeen`. @returns the entry */
export async function heardAfter(registry: Registry, lastSeen: string, id = 'vm-1'): Promise<Vm> {
  return until(`a sign of life of ${id}`, async () => {
    const vm = await find(registry, id);
    return vm && vm.lastSeen > lastSeen ? vm : undefined;
  });
}

/**
 * Waits for the registration and two heartbeats. An agent stores the response to a heartbeat before it sends the next one, so its
 * state then says that the registry has accepted its proof.
 */
export async function heardTwice(registry: Registry, id = 'vm-1'): Promise<void> {
  const first = await until(`the entry of ${id}`, () => find(registry, id));
  await heardAfter(registry, (await heardAfter(registry, first.lastSeen, id)).lastSeen, id);
}

/** Starts a daemon with the home and the port of one that has ended. */
export function restart(
  t: TestContext,
  { home, url }: Daemon,
  { args = [], ...more }: DaemonOptions = {},
): Promise<Daemon> {
  return startDaemon(t, { ...more, home, args: ['--port', new URL(url).port, ...args] });
}

/** Copies the data dir of a stopped daemon. @returns a function that puts the copy in place */
export function backUp(t: TestContext, { dataDir }: Daemon): () => void {
  const copy = tempDir(t);
  cpSync(dataDir, copy, { recursive: true });
  return () => {
    rmSync(dataDir, { recursive: true });
    cpSync(copy, dataDir, { recursive: true });
  };
}

/** Whether a command line starts a daemon or an agent. */
function startsProcess([command, subcommand]: readonly string[]): boolean {
  if (command === 'hook') return true;
  return command === 'daemon' && !['status', 'stop', 'logs'].includes(subcommand!);
}

/**
 * Runs `vreg` in a home, in this process unless it starts one. Its background processes are killed when the test ends.
 */
export async function inHome(
  t: TestContext,
  home: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<Ran> {
  const environment = cleanEnv(home, { VERS_VM_ID: 'vm-1', ...env });
  const ran = startsProcess(args)
    ? await run(PROGRAM, [...ENTRY, ...args], { env: environment })
    : await runInProcess(args, { env: environment });
  if (args.includes('--detach') && ran.code === 0) killAfter(t, processes(ran)[0]!.pid);
  return ran;
}

export interface Process {
  kind: string;
  pid: number;
  urls: string[];
  vm?: string;
}

export function processes({ stdout }: Ran): Process[] {
  return JSON.parse(stdout) as Process[];
}
