import { type Context, defineCommand } from '../command.ts';
import { META_FLAG, SERVICE_FLAG } from '../fleet/flags.ts';
import { readEntries } from '../fleet/import-file.ts';
import { type ThisVmFlags, thisVm } from '../fleet/local-vm.ts';
import { vmsAnswer } from '../fleet/table.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { type Registration, STATUSES } from '../protocol/vm.ts';
import { each, throwFailed } from '../run/batch.ts';

const IF_EXISTS = ['fail', 'update', 'ignore'] as const;

interface Flags extends ThisVmFlags {
  file?: string;
  ifExists?: (typeof IF_EXISTS)[number];
}

export const register = defineCommand<Flags>({
  name: 'register',
  aliases: ['reg'],
  summary: 'register this VM, another one, or many from a file',
  description:
    'Registers a VM. What no flag says comes from VREG_* and VERS_* variables, the config file, and this machine. A file holds one entry, an array, or one entry a line (NDJSON), in the JSON of the API.',
  arguments: [{ name: 'id', about: 'id of the VM (default: VERS_VM_ID, else the host name)', optional: true }],
  settings: ['name', 'role', 'address', 'registered-by'],
  flags: [
    { flags: '--status <status>', about: 'status to begin with (default: running)', values: STATUSES },
    SERVICE_FLAG,
    META_FLAG,
    { flags: '--parent <id>', about: 'the VM that it was cloned from, or made by', values: 'ids' },
    { flags: '-f, --file <file>', about: 'read entries from a file, or - for stdin', file: true },
    { flags: '--if-exists <what>', about: 'what to do when the id is taken (default: fail)', values: IF_EXISTS },
  ],
  examples: [
    { about: 'this VM, by its environment', command: 'vreg register --if-exists update' },
    {
      about: 'a lieutenant with a service',
      command:
        'vreg register abc-123-def --name billing --role lieutenant --service pi-rpc:3001 --meta task="process invoices"',
    },
    { about: 'a whole fleet', command: 'vreg register -f fleet.ndjson --if-exists ignore' },
  ],
  exits: [2, 4, 8],
  async run(context, [id], flags) {
    const { file, ifExists = 'fail', ...own } = flags;
    if (file === undefined) {
      const vm = await registerOne(context, thisVm(context.config, own, id), ifExists);
      return context.print(vmsAnswer([vm], { single: true }));
    }
    if (id !== undefined)
      throw new VregError('USAGE', 'an ID and --file exclude each other', {
        field: 'file',
        hint: 'put the id into the file',
      });
    const { entries, single } = await readEntries(context, file);
    const { done, failed } = await each(context, entries, (entry) => registerOne(context, entry, ifExists));
    if (done.length > 0 || entries.length === 0)
      await context.print(vmsAnswer(done, { single, none: 'no entries in the file' }));
    throwFailed(context, entries.length, failed, (entry) => entry.id);
  },
});

async function registerOne(
  context: Context,
  registration: Registration,
  ifExists: NonNullable<Flags['ifExists']>,
): Promise<VmWithLiveness> {
  const client = context.client();
  const { id, role } = registration;
  if (ifExists === 'update') {
    const vm = await client.registerOrUpdate(registration);
    if (vm.role !== role) context.note(`${id} keeps its role ${vm.role}: this registry gives a role once`);
    return vm;
  }
  try {
    const vm = await client.register(registration);
    const isInAnswer = ['json', 'ndjson', 'yaml'].includes(context.format);
    if (vm.token !== undefined && !isInAnswer)
      context.note(
        context.io.errTty
          ? `${id} has a token of its own from now on, shown this once: ${vm.token}`
          : `${id} has a token of its own from now on; ask again within a minute with -o json to see it`,
      );
    return vm;
  } catch (error) {
    if (!(error instanceof VregError) || error.code !== 'CONFLICT') throw error;
    if (ifExists === 'ignore') return client.get(id);
    throw new VregError('CONFLICT', `VM "${id}" is already registered`, {
      field: 'id',
      hint: 'change it with vreg update, or pass --if-exists update',
    });
  }
}
