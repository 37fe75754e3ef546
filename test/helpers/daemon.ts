/** Runs the real program in a temporary folder, for end-to-end tests. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import type { TestContext } from 'node:test';
import { TEST_ETCD, testStoreUrl } from './test-store.ts';

export const BIN = join(import.meta.dirname, '../../bin/vreg.js');
/** The command that runs vreg: the built program, or the single executable that the variable VREG_BIN names. */
export const VREG: readonly [program: string, ...entry: string[]] = process.env.VREG_BIN
  ? [resolve(process.env.VREG_BIN)]
  : [process.execPath, BIN];
export const [PROGRAM, ...ENTRY] = VREG;
/** One folder for the library of the single executable, because the small disks of some tests have no space for it. */
const NATIVE: NodeJS.ProcessEnv = process.env.VREG_BIN
  ? { VREG_NATIVE_DIR: mkdtempSync(join(tmpdir(), 'vreg-test-')) }
  : {};
if (NATIVE.VREG_NATIVE_DIR) process.once('exit', () => rmSync(NATIVE.VREG_NATIVE_DIR!, { recursive: true }));

/** Makes a folder that is removed when the test ends. */
export function tempDir(t: TestContext): string {
  const dir = mkdtempSync(join(tmpdir(), 'vreg-test-'));
  t.after(async () => {
    // First end the programs that write to it, even those that were started later.
    await Promise.all((ends.get(t) ?? []).map((end) => end()));
    rmSync(dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  });
  return dir;
}

const ends = new WeakMap<TestContext, (() => Promise<unknown>)[]>();

/** Ends a program when the test ends, before its folders are removed. @param end may be called twice */
export function endAfter(t: TestContext, end: () => Promise<unknown>): void {
  ends.set(t, [...(ends.get(t) ?? []), end]);
  t.after(end);
}

/** Kills a background process when the test ends, before its folders are removed. */
export function killAfter(t: TestContext, pid: number): void {
  endAfter(t, async () => {
    try {
      process.kill(pid, 'SIGKILL');
    } catch {
      // It has exited already.
    }
  });
}

/** An environment without the configuration of this machine. */
export function cleanEnv(home: string, more: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv {
  return {
    PATH: process.env.PATH,
    HOME: home,
    XDG_CONFIG_HOME: join(home, 'config'),
    XDG_STATE_HOME: join(home, 'state'),
    LANG: 'C.UTF-8',
    ...NATIVE,
    ...more,
  };
}

export interface Ran {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** Runs a command until it exits. */
export async function run(
  command: string,
  args: readonly string[],
  { env, input, cwd }: { env: NodeJS.ProcessEnv; input?: string; cwd?: string },
): Promise<Ran> {
  const child = spawn(command, args, { env, cwd, stdio: ['pipe', 'pipe', 'pipe'] });
  child.stdin.on('error', () => {});
  child.stdin.end(input ?? '');
  const [stdout, stderr, [code, signal]] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    new Promise<[number | null, NodeJS.Signals | null]>((resolve) => child.once('close', (...end) => resolve(end))),
  ]);
  return { code, signal, stdout, stderr };
}

/**
 * Runs a command of vreg in this process, which takes less time than a process of its own. If VREG_BIN names a build, that one
 * runs. Commands that start processes, or that a signal shall end, need {@link run}.
 */
export async function runInProcess(
  args: readonly string[],
  { env, input = '' }: { env: NodeJS.ProcessEnv; input?: string | undefined },
): Promise<Ran> {
  if (process.env.VREG_BIN) return run(PROGRAM, [...ENTRY, ...args], { env, input });
  const { vreg } = await import('./cli.ts');
  const ran = await vreg(args, { env: { VERS_INFRA_URL: undefined, ...env }, stdin: input, now: Date.now });
  return { ...ran, signal: null };
}

export interface Daemon {
  url: string;
  /** The token in its environment. */
  token: string | undefined;
  dataDir: string;
  home: string;
  child: ChildProcess;
  /** Its stderr so far. */
  said(): string;
  /** Runs `vreg` against it. */
  vreg(args: readonly string[], more?: { env?: NodeJS.ProcessEnv; input?: string }): Promise<Ran>;
  /** Runs a command against it with {@link runInProcess}. */
  command(args: readonly string[], more?: { env?: NodeJS.ProcessEnv; input?: string }): Promise<Ran>;
  /** Sends the signal and waits until it exits. */
  end(signal?: NodeJS.Signals): Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

export interface DaemonOptions {
  /** Arguments of `vreg daemon` besides `--port 0` and a new data dir. */
  args?: readonly string[];
  env?: NodeJS.ProcessEnv;
  /** Home of an earlier daemon, to use its data dir. */
  home?: string;
  /** A command that starts the daemon, such as `prlimit`, and its arguments. */
  through?: readonly string[];
  /** Called with the process as soon as it is spawned. */
  onSpawn?: (child: ChildProcess) => void;
}

/**
 * Starts the real daemon on a free port and waits until it serves requests. It is killed when the test ends. Its registry is in
 * the data dir, or in etcd (`test-store.ts`).
 */
export async function startDaemon(
  t: TestContext,
  { args = [], env = {}, home, through = [], onSpawn }: DaemonOptions = {},
): Promise<Daemon> {
  const root = home ?? tempDir(t);
  const dataDir = join(root, 'data');
  const environment = cleanEnv(root, env);
  const store = TEST_ETCD === undefined || args.includes('--store') ? [] : ['--store', testStoreUrl(basename(root))];
  const [program, ...words] = [
    ...through,
    ...VREG,
    'daemon',
    '--port',
    '0',
    '--data-dir',
    dataDir,
    '--log-format',
    'json',
    ...store,
    ...args,
  ];
  const child = spawn(program!, words, { env: environment, stdio: ['ignore', 'ignore', 'pipe'] });
  onSpawn?.(child);
  let stderr = '';
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.once('close', (code, signal) => resolve({ code, signal }));
  });
  const url = await new Promise<string>((resolve, reject) => {
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      stderr += chunk;
      const [, found] = /listening on (https?:\/\/[\w.:[\]]+\d)/.exec(stderr) ?? [];
      if (found) resolve(found);
    });
    void ended.then(({ code, signal }) => reject(new Error(`the daemon ended with ${signal ?? code}: ${stderr}`)));
  });
  const end = (signal: NodeJS.Signals = 'SIGTERM') => {
    child.kill(signal);
    return ended;
  };
  endAfter(t, () => end('SIGKILL'));
  return {
    url,
    token: env.VERS_AUTH_TOKEN,
    dataDir,
    home: root,
    child,
    said: () => stderr,
    vreg: (words, more = {}) =>
      run(PROGRAM, [...ENTRY, ...words], {
        env: { ...environment, VERS_INFRA_URL: url, ...more.env },
        ...(more.input === undefined ? {} : { input: more.input }),
      }),
    command: (words, { env = {}, input } = {}) =>
      runInProcess(words, { env: { ...environment, VERS_INFRA_URL: url, ...env }, input }),
    end,
  };
}
