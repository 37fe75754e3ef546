/** Starts the program in place of pi with an extension. */
import { fork } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import type { TestContext } from 'node:test';
import { buildSync } from 'esbuild';
import { cleanEnv, endAfter, type Ran, tempDir } from '../daemon.ts';
import type { PiMessage, PiRequest } from './pi-program.ts';

/** The program and the original extension as JavaScript, because tsx would take most of the time of each start. */
const BUILT = mkdtempSync(join(tmpdir(), 'vreg-test-'));
process.once('exit', () => rmSync(BUILT, { recursive: true }));
buildSync({
  entryPoints: ['pi-program', 'original-extension'].map((name) => join(import.meta.dirname, `${name}.ts`)),
  outdir: BUILT,
  outExtension: { '.js': '.mjs' },
  format: 'esm',
  target: 'node20.19',
});
const PI_PROGRAM = join(BUILT, 'pi-program.mjs');

export const EXTENSIONS = {
  /** The file that the package contains. */
  vreg: join(import.meta.dirname, '../../../dist/pi/registry.js'),
  original: join(BUILT, 'original-extension.mjs'),
} as const;

export interface PiOptions {
  home?: string;
  env?: NodeJS.ProcessEnv;
  /** Path of an extension; by default that of vreg. */
  extension?: string;
}

export interface RunningPi {
  home: string;
  pid: number;
  /** Runs the handlers of an event of the session, and waits for them as pi does. */
  fire(event: 'session_start' | 'agent_start' | 'agent_end' | 'session_shutdown'): Promise<void>;
  /** Sends an event of another extension. */
  emit(channel: string, data: unknown): Promise<void>;
  /** Calls a tool. @returns the details of its result @throws the error that the model reads */
  call(tool: string, params?: object): Promise<Record<string, unknown>>;
  tools(): Promise<{ name: string; parameters: { properties: object } }[]>;
  /** The last line in the footer; undefined if there is none. */
  status(): string | undefined;
  /** Waits until the program ends by itself. */
  leave(): Promise<Ran>;
}

/** Starts the program on the VM `vm-1`, with its own home; it is killed when the test ends. */
export function startPi(
  t: TestContext,
  url: string,
  { home = tempDir(t), env = {}, extension = EXTENSIONS.vreg }: PiOptions = {},
): RunningPi {
  const vm = { VERS_INFRA_URL: url, VERS_VM_ID: 'vm-1', VERS_AGENT_NAME: 'one', VREG_INTERVAL: '100ms' };
  const child = fork(PI_PROGRAM, [extension], {
    execArgv: [],
    env: cleanEnv(home, { ...vm, ...env }),
    silent: true,
  });
  const ended = Promise.all([
    text(child.stdout!),
    text(child.stderr!),
    new Promise<[number | null, NodeJS.Signals | null]>((resolve) => child.once('close', (...end) => resolve(end))),
  ]).then(([stdout, stderr, [code, signal]]) => ({ code, signal, stdout, stderr }));
  endAfter(t, async () => {
    child.kill('SIGKILL');
    await ended;
  });
  const pending = new Map<number, (message: PiMessage) => void>();
  let status: string | undefined;
  child.on('message', (message: PiMessage) => {
    if ('status' in message) status = message.status ?? undefined;
    else pending.get(message.id)?.(message);
  });
  let last = 0;
  const ask = async <T>(request: PiRequest): Promise<T> => {
    const id = ++last;
    const answered = new Promise<PiMessage>((resolve) => pending.set(id, resolve));
    child.send({ id, ...request });
    const gone = ended.then(({ stderr }): PiMessage => ({ id, error: `the program has ended: ${stderr}` }));
    const message = await Promise.race([answered, gone]);
    if ('error' in message) throw new Error(message.error);
    return (message as { result: T }).result;
  };
  return {
    home,
    pid: child.pid!,
    fire: (event) => ask({ kind: 'fire', event }),
    emit: (channel, data) => ask({ kind: 'emit', channel, data }),
    call: async (tool, params = {}) =>
      (await ask<{ details: Record<string, unknown> }>({ kind: 'call', tool, params })).details,
    tools: () => ask({ kind: 'tools' }),
    status: () => status,
    leave() {
      child.send({ id: ++last, kind: 'leave' });
      return ended;
    },
  };
}
