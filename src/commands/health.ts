import { defineCommand } from '../command.ts';

export const health = defineCommand({
  name: 'health',
  summary: 'check the health of the registry',
  description:
    'Sends GET /health and, to a vreg daemon, GET /readyz, which never require a token, and prints the state in one word: ok; warming, if answers may include dead VMs; degraded, if the last write to the disk failed; copied, if the registry was restored or copied. Exits with 8 if the registry is not ready. JSON output also contains the uptime in seconds.',
  examples: [
    { about: 'print ok, or exit with code 8', command: 'vreg health' },
    { about: 'another registry', command: 'vreg health --url http://10.0.0.5:3000' },
    { about: 'the uptime in seconds', command: 'vreg health -o json | jq .uptime' },
  ],
  exits: [8],
  async run(context) {
    const client = context.client();
    const health = await client.health();
    const status = (client.server.version === undefined ? undefined : await client.readiness()) ?? health.status;
    const data = { ...health, status };
    await context.print({ kind: 'value', text: status, data });
  },
});
