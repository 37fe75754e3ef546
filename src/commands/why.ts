import { defineCommand } from '../command.ts';
import { naming } from '../run/batch.ts';

export const why = defineCommand({
  name: 'why',
  summary: 'say why discover offers a VM, or does not',
  description:
    'Says in one line whether discover offers a VM, and why or why not. JSON has each reason with a code: paused, stopped, stale.',
  arguments: [{ name: 'id', about: 'id of the VM', values: 'ids' }],
  examples: [
    { about: 'why is it not there?', command: 'vreg why abc-123-def' },
    { about: 'for a program', command: 'vreg why abc-123-def -o json' },
    { about: 'the codes alone', command: "vreg why abc-123-def -o jsonpath='$.reasons[*].code'" },
  ],
  exits: [2, 3, 8],
  async run(context, [id]) {
    const answer = await naming(id!, context.client().why(id!));
    await context.print({ kind: 'value', text: answer.summary, data: answer });
  },
});
