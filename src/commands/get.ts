import { defineCommand } from '../command.ts';
import { META_COLUMNS_FLAG } from '../fleet/flags.ts';
import { vmsAnswer } from '../fleet/table.ts';
import { printEach } from '../run/batch.ts';

interface Flags {
  metaColumns?: string[];
}

export const get = defineCommand<Flags>({
  name: 'get',
  aliases: ['show'],
  summary: 'show VMs by id',
  description: 'Shows VMs by id. JSON and YAML output is the entry itself for one id, and an array for several.',
  arguments: [{ name: 'id', about: 'id of a VM', variadic: true, values: 'ids' }],
  flags: [META_COLUMNS_FLAG],
  examples: [
    { about: 'one VM with its services and metadata', command: 'vreg get abc-123-def -o wide' },
    { about: 'one field', command: 'vreg get abc-123-def -o json | jq -r .metadata.task' },
    { about: 'check whether a VM is registered', command: 'vreg get abc-123-def -q >/dev/null || echo gone' },
  ],
  exits: [2, 3, 8],
  async run(context, ids, { metaColumns }) {
    await printEach(
      context,
      ids,
      (id) => context.client().get(id),
      (vms) => {
        const showHealth = vms.some(({ health }) => health !== undefined);
        const { now } = context.client().server;
        return vmsAnswer(vms, { single: ids.length === 1, showHealth, metaColumns, now });
      },
    );
  },
});
