/** `vreg daemon status` and `vreg daemon stop`: the processes that run with a data dir. */
import { defineCommand } from '../../command.ts';
import { VregError } from '../../protocol/errors.ts';
import { findRunning, processesAnswer } from './process.ts';

export const status = defineCommand({
  name: 'status',
  summary: 'say which daemon and agent run here',
  description: 'Says which registry and which agent run with this data dir. None is exit code 3.',
  settings: ['data-dir'],
  examples: [
    { about: 'what runs here?', command: 'vreg daemon status' },
    {
      about: 'the pid of the registry',
      command: 'vreg daemon status -o json | jq \'.[] | select(.kind == "serve").pid\'',
    },
    { about: 'with another data dir', command: 'vreg daemon status --data-dir /var/lib/vreg' },
  ],
  exits: [3],
  async run(context) {
    const running = await findRunning(context, ['serve', 'agent']);
    await context.print(processesAnswer(running));
  },
});

export const stop = defineCommand({
  name: 'stop',
  summary: 'stop the daemon or the agent that runs here',
  description: 'Asks the registry, the agent, or both to stop, and waits until they have.',
  arguments: [{ name: 'which', about: 'serve or agent (default: both)', optional: true, values: ['serve', 'agent'] }],
  settings: ['data-dir'],
  examples: [
    { about: 'all that runs here', command: 'vreg daemon stop' },
    { about: 'the agent alone', command: 'vreg daemon stop agent' },
    { about: 'with another data dir', command: 'vreg daemon stop serve --data-dir /var/lib/vreg' },
  ],
  exits: [2, 3, 6],
  async run(context, [which]) {
    if (which !== undefined && which !== 'serve' && which !== 'agent') {
      throw new VregError('USAGE', `cannot stop "${which}"`, { field: 'which', hint: 'one of: serve, agent' });
    }
    const running = await findRunning(context, which === undefined ? ['agent', 'serve'] : [which]);
    const { stopProcesses } = await import('../../../daemon/process/pid-file.ts');
    const sleep = (ms: number) => context.sleep(ms);
    // An agent's last word is for the registry, which goes after it.
    for (const each of ['agent', 'serve'])
      await stopProcesses(
        running.filter(({ kind }) => kind === each),
        sleep,
      );
    await context.print(processesAnswer(running));
  },
});
