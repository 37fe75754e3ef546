/** `pause`, `resume` and `stop`: commands that set the declared status of VMs. */
import { type Command, defineCommand } from '../command.ts';
import { changeSelected, SELECTION_ARGUMENT, SELECTION_FLAGS, type SelectionFlags } from '../fleet/selection.ts';
import { vmsAnswer } from '../fleet/table.ts';
import type { Status } from '../protocol/vm.ts';

function statusCommand(name: string, status: Status, effect: string, example: string): Command<never> {
  return defineCommand<SelectionFlags>({
    name,
    summary: `set the status of VMs to ${status}`,
    description: `Sets the status of VMs to ${status}. Same as vreg update ID... --status ${status}. ${effect} Asks for confirmation if flags select the VMs.`,
    arguments: [SELECTION_ARGUMENT],
    flags: SELECTION_FLAGS,
    examples: [
      { about: example, command: `vreg ${name} abc-123-def` },
      { about: 'several VMs', command: `vreg ${name} worker-1 worker-2` },
      { about: 'all workers', command: `vreg ${name} --role worker` },
      { about: 'in a script: the VMs of a task', command: `vreg ${name} -l task=billing --yes` },
    ],
    exits: [2, 3, 6, 7, 8],
    async run(context, ids, flags) {
      await changeSelected(context, ids, flags, {
        question: (vms) => `Set the status of ${vms} to ${status}?`,
        change: (id) => context.client().update(id, { status }),
        answerOf: vmsAnswer,
      });
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
