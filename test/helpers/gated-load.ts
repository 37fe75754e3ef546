/** Holds the load of a real daemon's store until the test lets it go. */
import { spawn } from 'node:child_process';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { cleanEnv, ENTRY, endAfter, PROGRAM, tempDir } from './daemon.ts';
import { until } from './until.ts';

/** Runs in all processes of the daemon, and blocks the one that reads the database. */
const HOOK = `
const { existsSync, writeFileSync } = require('node:fs');
const gate = process.env.TEST_GATE;
if (process.argv[2] === 'load') {
  writeFileSync(gate + '.reached', '');
  const parent = process.ppid;
  const cell = new Int32Array(new SharedArrayBuffer(4));
  while (!existsSync(gate) && process.ppid === parent) Atomics.wait(cell, 0, 0, 10);
}
`;

export interface Gate {
  /** Environment of the daemon. */
  env: NodeJS.ProcessEnv;
  /** True when the process that reads the database has started. */
  isReached(): boolean;
  open(): void;
}

/** The gate opens when the test ends. It needs a program that is no single executable, which reads no NODE_OPTIONS. */
export function makeGate(t: TestContext): Gate {
  const dir = tempDir(t);
  const [gate, hook] = [join(dir, 'gate'), join(dir, 'hook.cjs')];
  writeFileSync(hook, HOOK);
  return {
    env: { TEST_GATE: gate, NODE_OPTIONS: `--require ${hook}` },
    isReached: () => existsSync(`${gate}.reached`),
    open: () => writeFileSync(gate, ''),
  };
}

export interface LoadingDaemon {
  /** The addresses on which it listens. */
  urls: string[];
  /** Its stderr so far. */
  said(): string;
  /** Waits until it is ready. */
  ready(): Promise<unknown>;
  /** Resolves when it has ended. */
  ended: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
  kill(signal: NodeJS.Signals): void;
}

/** Starts a daemon, and waits until its log says that it is loading. */
export async function startLoading(
  t: TestContext,
  { home, args = [], env }: { home: string; args?: readonly string[]; env: NodeJS.ProcessEnv },
): Promise<LoadingDaemon> {
  const words = [...ENTRY, 'daemon', '--port', '0', '--data-dir', join(home, 'data'), '--log-format', 'json', ...args];
  const child = spawn(PROGRAM, words, { env: cleanEnv(home, env), stdio: ['ignore', 'ignore', 'pipe'] });
  let text = '';
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  const ended: LoadingDaemon['ended'] = new Promise((resolve) => {
    child.once('close', (code, signal) => resolve({ code, signal }));
  });
  endAfter(t, () => {
    child.kill('SIGKILL');
    return ended;
  });
  const line = (what: RegExp) =>
    until(`${what} in ${text}`, () => {
      const found = text.split('\n').find((each) => what.test(each));
      if (!found && child.exitCode !== null) throw new Error(`the daemon ended with ${child.exitCode}: ${text}`);
      return found;
    });
  const { urls } = JSON.parse(await line(/loading the store/)) as { urls: string[] };
  return {
    urls,
    said: () => text,
    ready: () => line(/listening on/),
    ended,
    kill: (signal) => void child.kill(signal),
  };
}
