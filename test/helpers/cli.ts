/** Runs command lines in this process: `main` with text buffers instead of a terminal. */
import { main } from '../../src/cli.ts';
import { loadAllCommands, loadCommand } from '../../src/commands.ts';
import { isHot } from '../../src/hot.ts';
import type { Registration } from '../../src/protocol/vm.ts';
import type { Deps } from '../../src/session.ts';
import { call } from './http.ts';
import { type TestIoOptions, type TestScreen, testIo } from './io.ts';
import { openNodeHttp, openUndici } from './transports.ts';

/** Three minutes after the start time of the fake clock. */
export const NOW = Date.parse('2026-01-01T00:03:00.000Z');

export interface VregOptions extends Omit<TestIoOptions, 'env'> {
  /** URL of the registry. Default: a port on which nothing listens. */
  url?: string;
  env?: NodeJS.ProcessEnv;
  /** Home folder. Default: a folder that does not exist. */
  home?: string;
  /** Milliseconds since the epoch. Default: always {@link NOW}. */
  now?: () => number;
  signal?: AbortSignal;
  /** Default: the transport of the bundle that contains the command. */
  openTransport?: Deps['openTransport'];
  /** Milliseconds since the start of the process. Default: those of a busy machine, which waits longer for completion. */
  elapsed?: number;
}

export interface Result {
  code: number;
  stdout: string;
  stderr: string;
}

export interface RunningCommand {
  result: Promise<Result>;
  stdout(): string;
  stderr(): string;
  /** The full screen; undefined while none is open. */
  screen(): TestScreen | undefined;
}

/** Starts a command that keeps running, so that a test can follow its output. */
export function start(argv: readonly string[], options: VregOptions = {}): RunningCommand {
  const {
    url = 'http://127.0.0.1:1',
    env = {},
    home = '/nonexistent',
    signal,
    now = () => NOW,
    elapsed = 1200,
    openTransport = isHot(argv) ? openNodeHttp : openUndici,
    ...terminal
  } = options;
  const environment: NodeJS.ProcessEnv = { PATH: process.env.PATH, HOME: home, VERS_INFRA_URL: url, ...env };
  const io = testIo({ ...terminal, env: environment });
  const deps: Deps = {
    io,
    commands: { load: loadCommand, loadAll: loadAllCommands },
    openTransport,
    env: environment,
    version: '0.0.0',
    now,
    signal: signal ?? new AbortController().signal,
    elapsed: () => elapsed,
  };
  const result = main(argv, deps).then((code) => ({ code, stdout: io.stdout(), stderr: io.stderr() }));
  return { result, stdout: io.stdout, stderr: io.stderr, screen: io.screen };
}

/** Runs a command to its end. */
export function vreg(argv: readonly string[], options: VregOptions = {}): Promise<Result> {
  return start(argv, options).result;
}

/** Registers entries over HTTP, in order. */
export async function seed(url: string, vms: readonly Registration[]): Promise<void> {
  for (const body of vms) {
    const { status } = await call(url, 'POST', '/registry/vms', { body });
    if (status !== 201) throw new Error(`${body.id} was not registered: ${status}`);
  }
}
