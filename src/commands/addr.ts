import { defineCommand } from '../command.ts';
import { HAS_SERVICE_FLAG, PICK_FLAG, type Pick, pickOne, ROLE_ARGUMENT, TRUST_FLAGS, WAIT_FLAG } from '../endpoint.ts';
import { printable } from '../io.ts';
import { type LiveFlags, liveVms } from '../live.ts';

export const addr = defineCommand<LiveFlags & { pick?: Pick }>({
  name: 'addr',
  summary: 'print the address of one live VM of a role',
  description: 'Prints the bare address of one live VM of a role, for scripts: one line, or nothing and exit code 3.',
  arguments: [ROLE_ARGUMENT],
  flags: [HAS_SERVICE_FLAG, PICK_FLAG, ...TRUST_FLAGS, WAIT_FLAG],
  examples: [
    { about: 'the infra VM, or stop', command: 'INFRA=$(vreg addr infra) || exit' },
    { about: 'any worker', command: 'vreg addr worker --pick random' },
    { about: 'wait for the first lieutenant', command: 'vreg addr lieutenant --wait 30s' },
  ],
  exits: [2, 3, 6, 8, 10],
  async run(context, [role], flags) {
    const { id, address } = pickOne(await liveVms(context, role!, flags), flags);
    await context.print({ kind: 'value', text: printable(address), data: { id, address } });
  },
});
