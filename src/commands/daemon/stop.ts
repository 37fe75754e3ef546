import { defineCommand } from '../../command.ts';
import { dataDirOf, findRunning, parseKinds, processesAnswer, WHICH_ARGUMENT } from './process.ts';

export const stop = defineCommand({
  name: 'stop',
  summary: 'stop the running daemon or agents',
  description:
    'Stops the registry, the agents, or both, and waits until they have exited. Agents are stopped first, so that they can still set the status of their VMs to stopped.',
  arguments: [WHICH_ARGUMENT],
  settings: ['data-dir'],
  examples: [
    { about: 'everything that uses this data dir', command: 'vreg daemon stop' },
    { about: 'only the agents', command: 'vreg daemon stop agent' },
    { about: 'the registry in another data dir', command: 'vreg daemon stop serve --data-dir /var/lib/vreg' },
  ],
  exits: [2, 3, 6],
  async run(context, [which]) {
    const running = await findRunning(context, parseKinds(which));
    const { stopProcesses } = await import('../../../daemon/process/pid-file.ts');
    const sleep = (ms: number) => context.sleep(ms);
    // A stopping agent updates its entry, so the registry is stopped last.
    for (const each of ['agent', 'serve'])
      await stopProcesses(
        dataDirOf(context),
        running.filter(({ kind }) => kind === each),
        sleep,
      );
    await context.print(processesAnswer(running));
  },
});
