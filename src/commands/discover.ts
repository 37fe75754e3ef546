import { defineCommand } from '../command.ts';
import { HAS_SERVICE_FLAG, META_COLUMNS_FLAG, ROLE_ARGUMENT, TRUST_FLAGS, WAIT_FLAG } from '../fleet/flags.ts';
import { type LiveFlags, liveVms } from '../fleet/lookup.ts';
import { vmsAnswer } from '../fleet/table.ts';

export const discover = defineCommand<LiveFlags & { metaColumns?: string[] }>({
  name: 'discover',
  aliases: ['find'],
  summary: 'list the live VMs with the given role, oldest first',
  description:
    'Lists the live VMs (running and not stale) with the given role, oldest registration first. The exit code is 3 if there is none.',
  arguments: [ROLE_ARGUMENT],
  flags: [HAS_SERVICE_FLAG, ...TRUST_FLAGS, WAIT_FLAG, META_COLUMNS_FLAG],
  examples: [
    { about: 'the live workers', command: 'vreg discover worker' },
    { about: 'live lieutenants with the service pi-rpc', command: 'vreg discover lieutenant --service pi-rpc' },
    { about: 'wait for an infra VM', command: 'vreg discover infra --wait 30s -q' },
  ],
  exits: [2, 3, 6, 8, 10],
  async run(context, [role], { metaColumns, ...flags }) {
    const vms = await liveVms(context, role!, flags);
    await context.print(vmsAnswer(vms, { metaColumns, now: context.client().server.now }));
  },
});
