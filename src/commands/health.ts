import { defineCommand } from '../command.ts';

export const health = defineCommand({
  name: 'health',
  summary: 'check the health of the registry',
  description:
    'Sends GET /health, which never requires a token, and prints the status. JSON output also contains the uptime in seconds.',
  examples: [
    { about: 'print ok, or exit with code 8', command: 'vreg health' },
    { about: 'another registry', command: 'vreg health --url http://10.0.0.5:3000' },
    { about: 'the uptime in seconds', command: 'vreg health -o json | jq .uptime' },
  ],
  exits: [8],
  async run(context) {
    const data = await context.client().health();
    await context.print({ kind: 'value', text: data.status, data });
  },
});
