/** `pause`, `resume` and `stop`: a status declared by a word of its own, for one VM or many. */
import { type Command, defineCommand } from '../command.ts';
import { vmsAnswer } from '../fleet/table.ts';
import type { Status } from '../protocol/vm.ts';
import { each, throwFailed } from '../run/batch.ts';

function declare(name: string, status: Status, what: string, why: string): Command<never> {
  return defineCommand({
    name,
    summary: `declare VMs ${status}`,
    description: `Declares VMs ${status}, as vreg update ID --status ${status} does for one: ${what}`,
    arguments: [{ name: 'id', about: 'id of a VM', variadic: true, values: 'ids' }],
    examples: [
      { about: why, command: `vreg ${name} abc-123-def` },
      { about: 'several at once', command: `vreg ${name} worker-1 worker-2` },
      { about: 'all workers', command: `vreg ls --role worker -q | xargs vreg ${name}` },
    ],
    exits: [2, 3, 8],
    async run(context, ids) {
      const { done, failed } = await each(context, ids, (id) => context.client().update(id, { status }));
      if (done.length > 0) await context.print(vmsAnswer(done, { single: ids.length === 1 }));
      throwFailed(context, ids.length, failed, (id) => id);
    },
  });
}

export const pause = declare(
  'pause',
  'paused',
  'discover no longer offers them, and they do not go stale.',
  'take it out of discover for a while',
);
export const resume = declare(
  'resume',
  'running',
  'it counts as a sign of life, so discover offers them at once.',
  'put it back',
);
export const stop = declare(
  'stop',
  'stopped',
  'discover no longer offers them; their entries stay.',
  'it is shut down',
);
