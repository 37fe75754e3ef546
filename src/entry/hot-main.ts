/**
 * Entry point of `dist/hot.cjs`, which contains the hot commands and sends requests through `node:http`. For help and completion it
 * also contains the declarations of all commands, without their code.
 */
import type { Command } from '../command.ts';
import { type HotCommand, hotCommand } from '../hot.ts';
import { start } from './start.ts';

/** JSON of all commands, without their `run` functions. The build inlines it. */
declare const __DECLARATIONS__: string;

const LOAD: Readonly<Record<HotCommand, () => Promise<Command<never>>>> = {
  addr: async () => (await import('../commands/addr.ts')).addr,
  discover: async () => (await import('../commands/discover.ts')).discover,
  get: async () => (await import('../commands/get.ts')).get,
  health: async () => (await import('../commands/health.ts')).health,
  heartbeat: async () => (await import('../commands/heartbeat.ts')).heartbeat,
  ls: async () => (await import('../commands/ls.ts')).ls,
  status: async () => (await import('../commands/status.ts')).status,
  url: async () => (await import('../commands/url.ts')).url,
  version: async () => (await import('../commands/version.ts')).version,
};

start(async (argv, deps) => {
  const [{ main }, { NodeHttpTransport }] = await Promise.all([
    import('../cli.ts'),
    import('../client/transport/node-http.ts'),
  ]);
  const commands = {
    load(word: string) {
      const name = hotCommand(word);
      return name && LOAD[name]();
    },
    loadAll: async () => JSON.parse(__DECLARATIONS__) as Command<never>[],
  };
  const code = await main(argv, { ...deps, commands, openTransport: (...to) => new NodeHttpTransport(...to) });
  // Node would first free its memory, and wait for the lookup of a host name that a completion has given up.
  deps.io.flush(() => process.exit(code));
  return code;
});
