import { defineCommand } from '../command.ts';
import { vmsAnswer } from '../fleet/table.ts';
import { each, throwFailed } from '../run/batch.ts';

export const get = defineCommand({
  name: 'get',
  aliases: ['show', 'describe'],
  summary: 'show VMs by id',
  description: 'Shows VMs by id. In JSON and YAML, one id gives the entry itself and several give an array of entries.',
  arguments: [{ name: 'id', about: 'id of a VM', variadic: true, values: 'ids' }],
  examples: [
    { about: 'one VM, with its services', command: 'vreg get abc-123-def -o wide' },
    { about: 'one field of it', command: 'vreg get abc-123-def -o json | jq -r .metadata.task' },
    { about: 'is it registered?', command: 'vreg get abc-123-def -q >/dev/null || echo gone' },
  ],
  exits: [2, 3, 8],
  async run(context, ids) {
    const { done, failed } = await each(context, ids, (id) => context.client().get(id));
    const showHealth = done.some(({ health }) => health !== undefined);
    if (done.length > 0) await context.print(vmsAnswer(done, { single: ids.length === 1, showHealth }));
    throwFailed(context, ids.length, failed, (id) => id);
  },
});
