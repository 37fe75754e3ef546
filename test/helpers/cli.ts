/** Command lines in this process: what `main` is asked, and what it answers. */
import { main } from '../../src/cli.ts';
import type { Registration } from '../../src/protocol/vm.ts';
import { call } from './http.ts';
import { type TestIoOptions, testIo } from './io.ts';

/** Three minutes after the moment at which test clocks stand. */
export const NOW = Date.parse('2026-01-01T00:03:00.000Z');

export interface VregOptions extends Omit<TestIoOptions, 'env'> {
  /** The registry; none is an address where nothing listens. */
  url?: string;
  env?: NodeJS.ProcessEnv;
  /** A home folder with a config file; none is a folder that is not there. */
  home?: string;
  /** The clock; without it, it stands at {@link NOW}. */
  now?: () => number;
  signal?: AbortSignal;
}

export interface Told {
  code: number;
  stdout: string;
  stderr: string;
}

export interface Telling {
  told: Promise<Told>;
  stdout(): string;
  stderr(): string;
}

/** Starts a command line that goes on, so that its words can be followed. */
export function start(argv: readonly string[], options: VregOptions = {}): Telling {
  const { url = 'http://127.0.0.1:1', env = {}, home = '/nonexistent', signal, now = () => NOW, ...terminal } = options;
  const environment: NodeJS.ProcessEnv = { PATH: process.env.PATH, HOME: home, VERS_INFRA_URL: url, ...env };
  const io = testIo({ ...terminal, env: environment });
  const deps = { io, env: environment, version: '0.0.0', now, signal: signal ?? new AbortController().signal };
  const told = main(argv, deps).then((code) => ({ code, stdout: io.stdout(), stderr: io.stderr() }));
  return { told, stdout: io.stdout, stderr: io.stderr };
}

/** Runs a command line to its end. */
export function vreg(argv: readonly string[], options: VregOptions = {}): Promise<Told> {
  return start(argv, options).told;
}

/** Registers entries one after the other, past the command line. */
export async function seed(url: string, vms: readonly Registration[]): Promise<void> {
  for (const body of vms) {
    const { status } = await call(url, 'POST', '/registry/vms', { body });
    if (status !== 201) throw new Error(`${body.id} was not registered: ${status}`);
  }
}
