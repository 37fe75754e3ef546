/** Entry point of `dist/vreg.cjs`, which contains all commands and sends requests through undici. */
import { start } from './start.ts';

start(async (argv, deps) => {
  const [{ main }, commands, { UndiciTransport }] = await Promise.all([
    import('../cli.ts'),
    import('../commands.ts'),
    import('../client/transport/undici.ts'),
  ]);
  return main(argv, {
    ...deps,
    commands: { load: commands.loadCommand, loadAll: commands.loadAllCommands },
    openTransport: (...to) => new UndiciTransport(...to),
  });
});
