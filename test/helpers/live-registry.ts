/** A registry in this process, for tests of real agents and commands: it starts faster than a daemon and needs less of the CPU. */
import type { TestContext } from 'node:test';
import { serveApp } from './app.ts';
import { RealClock } from './clock.ts';
import { cleanEnv, type Daemon, runInProcess, tempDir } from './daemon.ts';

export interface LiveRegistry extends Pick<Daemon, 'url' | 'token' | 'command'> {
  /** Closes it, so that nothing listens at its URL any more. */
  close(): Promise<void>;
}

export interface LiveOptions {
  /** The root token. */
  token?: string;
  /** The lease in milliseconds. */
  staleAfter?: number;
}

/** Serves a registry whose leases and times are real, until the test ends. */
export async function serveLive(t: TestContext, { token, ...options }: LiveOptions = {}): Promise<LiveRegistry> {
  const { url, close } = await serveApp(t, {
    clock: new RealClock(),
    ...options,
    ...(token === undefined ? {} : { token }),
  });
  const home = tempDir(t);
  return {
    url,
    token,
    close,
    command: (args, { env = {}, input } = {}) =>
      runInProcess(args, { env: cleanEnv(home, { VERS_INFRA_URL: url, VERS_AUTH_TOKEN: token, ...env }), input }),
  };
}
