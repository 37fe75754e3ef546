import { defineCommand } from '../../command.ts';
import { findRunning, processesAnswer } from './process.ts';

export const status = defineCommand({
  name: 'status',
  summary: 'show the running daemon and agents',
  description:
    'Shows the registry and the agents that use this data dir. A registry that is loading its store has the state loading. Exits with 3 if none is running.',
  settings: ['data-dir'],
  examples: [
    { about: 'the running processes', command: 'vreg daemon status' },
    {
      about: 'the pid of the registry',
      command: 'vreg daemon status -o json | jq \'.[] | select(.kind == "serve").pid\'',
    },
    { about: 'processes that use another data dir', command: 'vreg daemon status --data-dir /var/lib/vreg' },
  ],
  exits: [3],
  async run(context) {
    const running = await findRunning(context, ['serve', 'agent']);
    await context.print(processesAnswer(running));
  },
});
