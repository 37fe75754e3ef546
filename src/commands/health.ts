import { defineCommand } from '../command.ts';

export const health = defineCommand({
  name: 'health',
  summary: 'ask the registry whether it is well',
  description: 'Asks GET /health, which never needs a token. Prints the status; JSON has the uptime in seconds, too.',
  examples: [
    { about: 'ok, or exit code 8', command: 'vreg health' },
    { about: 'another registry', command: 'vreg health --url http://10.0.0.5:3000' },
    { about: 'how long is it up?', command: 'vreg health -o json | jq .uptime' },
  ],
  exits: [8],
  async run(context) {
    const data = await context.client().health();
    await context.print({ kind: 'value', text: data.status, data });
  },
});
