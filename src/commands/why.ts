import { defineCommand } from '../command.ts';
import { naming } from '../run/batch.ts';

export const why = defineCommand({
  name: 'why',
  summary: 'explain why discover includes or omits a VM',
  description:
    'Explains in one line whether vreg discover returns a VM, and why. JSON output contains each reason with a code: paused, stopped, stale, invalid.',
  arguments: [{ name: 'id', about: 'id of the VM', values: 'ids' }],
  examples: [
    { about: 'explain in one line', command: 'vreg why abc-123-def' },
    { about: 'as JSON', command: 'vreg why abc-123-def -o json' },
    { about: 'only the codes', command: "vreg why abc-123-def -o jsonpath='$.reasons[*].code'" },
  ],
  exits: [2, 3, 8],
  async run(context, [id]) {
    const answer = await naming(id!, context.client().why(id!));
    await context.print({ kind: 'value', text: answer.summary, data: { ...answer, id } });
  },
});
