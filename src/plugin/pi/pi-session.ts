/** One session of pi, which the parts of the extension share: the settings of vreg, clients, and an order of requests. */
import { NodeHttpTransport } from '../../client/transport/node-http.ts';
import type { RegistryClient } from '../../client.ts';
import type { Context } from '../../command.ts';
import { Config } from '../../config.ts';
import type { Io } from '../../io.ts';
import { Standing } from '../../mcp/standing.ts';
import { Session } from '../../session.ts';
import { VERSION } from '../../version.ts';

/** The streams of the process belong to pi. */
const SILENT: Io = {
  out: () => {},
  err: () => {},
  flush: (then) => then(),
  tty: false,
  errTty: false,
  canAsk: false,
  stdinTty: false,
  color: false,
  errColor: false,
  width: 80,
  height: 24,
  readStdin: async () => '',
  ask: async () => undefined,
  openScreen: () => {
    throw new Error('there is no terminal');
  },
};

export class PiSession {
  readonly context: Context;
  readonly standing = new Standing();
  readonly #ended = new AbortController();
  #last: Promise<unknown> = Promise.resolve();

  /** @param env variables with the settings of vreg, including the token */
  constructor(env: NodeJS.ProcessEnv) {
    this.context = new Session(
      [],
      {
        io: SILENT,
        commands: { load: () => undefined, loadAll: async () => [] },
        openTransport: (url, tls) => new NodeHttpTransport(url, tls),
        env,
        version: VERSION,
        now: Date.now,
        signal: this.#ended.signal,
      },
      new Config(env),
    );
  }

  /**
   * Calls `work` with a client of its own, which ends with `signal` and with the session. Its idle connections do not keep the process
   * running.
   * @throws the client's errors, and VregError USAGE for invalid settings
   */
  async withClient<T>(
    signal: AbortSignal | undefined,
    work: (call: { client: RegistryClient; signal: AbortSignal }) => Promise<T>,
  ): Promise<T> {
    const { context } = this;
    const either = signal ? AbortSignal.any([signal, context.signal]) : context.signal;
    // An agent may have stored another token since the last call, and a user may have edited the config file.
    context.config.reload();
    const client = context.freshClient({ signal: either });
    try {
      return await work({ client, signal: either });
    } finally {
      client.close();
    }
  }

  /** Runs pieces of work one after another, so that a VM that was destroyed is not registered afterwards. */
  inOrder<T>(work: () => Promise<T>): Promise<T> {
    const result = this.#last.then(work);
    this.#last = result.catch(() => {});
    return result;
  }

  /** Ends all requests of the session. */
  end(): void {
    this.#ended.abort(new Error('the session has ended'));
  }
}
