import { defineCommand } from '../command.ts';
import { ChildEnded } from '../exit.ts';
import {
  HAS_SERVICE_FLAG,
  PICK_FLAG,
  type Pick,
  ROLE_ARGUMENT,
  SCHEME_FLAG,
  TRUST_FLAGS,
  WAIT_FLAG,
} from '../fleet/flags.ts';
import { type LiveFlags, liveVms, pickOne } from '../fleet/lookup.ts';
import { type UrlParts, urlOrFault } from '../fleet/vm-url.ts';
import { VregError } from '../protocol/errors.ts';
import { printable } from '../protocol/redact.ts';
import { runChild, splitCommand } from '../run/child-process.ts';

export const exec = defineCommand<LiveFlags & UrlParts & { pick?: Pick }>({
  name: 'exec',
  summary: 'run a command with the address of a live VM',
  description:
    'Runs a command and exits with its exit code. The variables VREG_VM_ID, VREG_VM_NAME, VREG_VM_ROLE, VREG_VM_ADDRESS and VREG_VM_URL in its environment describe a live VM with the given role. VREG_VM_URL is built as in vreg url; without --service, it is not set, with a warning, if the VM has several ports or none. If there is no live VM, the command does not run and the exit code is 3.',
  arguments: [
    ROLE_ARGUMENT,
    { name: 'command', about: 'after --: the command and its arguments', variadic: true, values: 'program' },
  ],
  flags: [HAS_SERVICE_FLAG, SCHEME_FLAG, PICK_FLAG, ...TRUST_FLAGS, WAIT_FLAG],
  examples: [
    { about: 'query the infra VM', command: `vreg exec infra -- sh -c 'curl "$VREG_VM_URL/health"'` },
    {
      about: 'log in to the newest worker',
      command: `vreg exec worker --pick newest -- sh -c 'ssh "$VREG_VM_ADDRESS"'`,
    },
    { about: 'print the variables', command: 'vreg exec infra -- env' },
  ],
  exits: [2, 3, 6, 8, 10],
  async run(context, args, flags) {
    const { role, command } = splitCommand(context, args, 'exec');
    if (role === undefined || command.length === 0) {
      throw new VregError('USAGE', 'no command given', {
        field: 'command',
        hint: 'put it after --, for example: vreg exec infra -- env',
      });
    }
    const vm = pickOne(await liveVms(context, role, flags), flags);
    const { service, scheme } = flags;
    const { url, fault } = urlOrFault(vm, context.client().urls, { service, scheme });
    if (fault && service !== undefined) throw fault;
    if (fault) context.note(`VREG_VM_URL is not set: ${fault.message}`);
    const env = {
      VREG_VM_ID: vm.id,
      // Another registry may send control characters, and a NUL would prevent the start of the command.
      VREG_VM_NAME: printable(String(vm.name)),
      VREG_VM_ROLE: printable(String(vm.role)),
      VREG_VM_ADDRESS: vm.address,
      // Undefined also removes the variable of an outer `vreg exec`.
      VREG_VM_URL: url,
    };
    const { code } = await runChild(context, command, { env, inPlace: true });
    if (code !== 0) throw new ChildEnded(code);
  },
});
