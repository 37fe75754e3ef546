/** `pause`, `resume` and `stop`: commands that set the declared status of VMs. */
import { type Command, defineCommand } from '../command.ts';
import { vmsAnswer } from '../fleet/table.ts';
import type { Status } from '../protocol/vm.ts';
import { printEach } from '../run/batch.ts';

function statusCommand(name: string, status: Status, effect: string, example: string): Command<never> {
  return defineCommand({
    name,
    summary: `set the status of VMs to ${status}`,
    description: `Sets the status of VMs to ${status}. Same as vreg update ID... --status ${status}. ${effect}`,
    arguments: [{ name: 'id', about: 'id of a VM', variadic: true, values: 'ids' }],
    examples: [
      { about: example, command: `vreg ${name} abc-123-def` },
      { about: 'several VMs', command: `vreg ${name} worker-1 worker-2` },
      { about: 'all workers', command: `vreg ls --role worker -q | xargs vreg ${name}` },
    ],
    exits: [2, 3, 8],
    async run(context, ids) {
      await printEach(
        context,
        ids,
        (id) => context.client().update(id, { status }),
        (vms) => vmsAnswer(vms, { single: ids.length === 1 }),
      );
    },
  });
}

export const pause = statusCommand(
  'pause',
  'paused',
  'vreg discover no longer returns them, and they do not become stale.',
  'exclude a VM from discover for a while',
);
export const resume = statusCommand(
  'resume',
  'running',
  'This counts as a heartbeat, so vreg discover returns them immediately.',
  'include a VM in discover again',
);
export const stop = statusCommand(
  'stop',
  'stopped',
  'vreg discover no longer returns them; their entries remain.',
  'a VM that was shut down',
);
