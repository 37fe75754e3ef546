import { defineCommand } from '../command.ts';
import { vmsAnswer } from '../fleet/table.ts';
import { printEach } from '../run/batch.ts';

export const get = defineCommand({
  name: 'get',
  aliases: ['show'],
  summary: 'show VMs by id',
  description: 'Shows VMs by id. JSON and YAML output is the entry itself for one id, and an array for several.',
  arguments: [{ name: 'id', about: 'id of a VM', variadic: true, values: 'ids' }],
  examples: [
    { about: 'one VM with its services', command: 'vreg get abc-123-def -o wide' },
    { about: 'one field', command: 'vreg get abc-123-def -o json | jq -r .metadata.task' },
    { about: 'check whether a VM is registered', command: 'vreg get abc-123-def -q >/dev/null || echo gone' },
  ],
  exits: [2, 3, 8],
  async run(context, ids) {
    await printEach(
      context,
      ids,
      (id) => context.client().get(id),
      (vms) => {
        const showHealth = vms.some(({ health }) => health !== undefined);
        return vmsAnswer(vms, { single: ids.length === 1, showHealth, now: context.client().server.now });
      },
    );
  },
});
