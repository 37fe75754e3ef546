/**
 * Entry point of `dist/mcp.cjs`, which contains `vreg mcp` and the library of the protocol. For help it also contains the declarations
 * of all commands, without their code.
 */
import type { Command } from '../command.ts';
import { start } from './start.ts';

/** JSON of all commands, without their `run` functions. The build inlines it. */
declare const __DECLARATIONS__: string;

start(async (argv, deps) => {
  const [{ main }, { UndiciTransport }] = await Promise.all([
    import('../cli.ts'),
    import('../client/transport/undici.ts'),
  ]);
  const commands = {
    load: async () => (await import('../commands/mcp.ts')).mcp,
    loadAll: async () => JSON.parse(__DECLARATIONS__) as Command<never>[],
  };
  return main(argv, { ...deps, commands, openTransport: (url, tls) => new UndiciTransport(url, tls) });
});
