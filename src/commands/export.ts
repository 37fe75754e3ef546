import { defineCommand } from '../command.ts';
import { vmsAnswer } from '../fleet/table.ts';
import { usableVms } from '../fleet/usable.ts';
import { escapeControls } from '../protocol/redact.ts';

export const exportVms = defineCommand({
  name: 'export',
  summary: 'print all entries for vreg import',
  description:
    'Prints all entries, oldest registration first: one per line (NDJSON), or an array with -o json. Omits entries that vreg import would reject, and prints a warning.',
  examples: [
    { about: 'write a file', command: 'vreg export > fleet.ndjson' },
    { about: 'write a JSON array', command: 'vreg export -o json > fleet.json' },
    {
      about: 'copy the fleet to another registry',
      command: 'vreg export | vreg import --yes -f - -u http://10.0.0.6:3000',
    },
  ],
  exits: [2, 8],
  async run(context) {
    const answer = vmsAnswer(usableVms(context, (await context.client().listAtOnce()).reverse()));
    if (context.format !== 'table' && context.format !== 'tsv') return context.print(answer);
    context.io.out(answer.rows.map((row) => `${escapeControls(JSON.stringify(answer.data?.(row)))}\n`).join(''));
  },
});
