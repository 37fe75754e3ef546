import { type Context, defineCommand } from '../command.ts';
import { META_FLAG, SERVICE_FLAG } from '../fleet/flags.ts';
import { readEntries } from '../fleet/import-file.ts';
import { completeEntry, type ThisVmFlags, thisVm, vmWithId, withMetadata } from '../fleet/local-vm.ts';
import { vmsAnswer } from '../fleet/table.ts';
import { IF_EXISTS, type IfExists, registerOrUpdate } from '../fleet/upsert.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { exclusiveFlags, VregError } from '../protocol/errors.ts';
import { type Registration, STATUSES } from '../protocol/vm.ts';
import { each, throwFailed } from '../run/batch.ts';

interface Flags extends ThisVmFlags {
  file?: string;
  ifExists?: IfExists;
}

export const register = defineCommand<Flags>({
  name: 'register',
  aliases: ['reg'],
  summary: 'register this VM, another VM, or many from a file',
  description:
    'Registers a VM. Fields of this VM that no flag sets are taken from VREG_* and VERS_* variables, the config file, or this machine (for example its host name). The name of another VM defaults to its id. A file contains one entry, an array, or one entry per line (NDJSON), in the JSON format of the API; flags and defaults supply the fields that an entry lacks.',
  arguments: [{ name: 'id', about: 'id of the VM (default: VERS_VM_ID, else the host name)', optional: true }],
  settings: ['id-file', 'name', 'role', 'address', 'registered-by'],
  flags: [
    { flags: '--status <status>', about: 'initial status (default: running)', values: STATUSES },
    SERVICE_FLAG,
    META_FLAG,
    { flags: '--parent <id>', about: 'id of the VM from which the new VM was cloned or created', values: 'ids' },
    { flags: '-f, --file <file>', about: 'file with entries, or - for stdin', file: true },
    {
      flags: '--if-exists <what>',
      about: 'what to do if the id is already registered (default: fail)',
      values: IF_EXISTS,
    },
  ],
  examples: [
    { about: 'this VM, from its environment', command: 'vreg register --if-exists update' },
    {
      about: 'a lieutenant with a service',
      command:
        'vreg register abc-123-def --name billing --role lieutenant --service pi-rpc:3001 --meta task="process invoices"',
    },
    { about: 'many VMs from a file', command: 'vreg register -f fleet.ndjson --if-exists ignore' },
  ],
  exits: [2, 4, 6, 8],
  async run(context, [id], flags) {
    const { file, ifExists = 'fail', ...own } = flags;
    if (file === undefined) {
      const registration = id === undefined ? thisVm(context.config, own) : vmWithId(context.config, own, id);
      const vm = await registerOne(context, registration, ifExists);
      return context.print(vmsAnswer([vm], { single: true }));
    }
    if (id !== undefined) throw exclusiveFlags('--file', 'an id', 'put the id into the file');
    const { entries, single } = await readEntries(context, file, (entry) => completeEntry(context.config, own, entry));
    const { done, failed } = await each(context, entries, (entry) => registerOne(context, entry, ifExists));
    if (done.length > 0 || entries.length === 0)
      await context.print(vmsAnswer(done, { single, none: 'no entries in the file' }));
    throwFailed(context, entries.length, failed, (entry) => entry.id);
  },
});

async function registerOne(context: Context, vm: Registration, ifExists: IfExists): Promise<VmWithLiveness> {
  const registration = withMetadata(context.config, vm);
  if (ifExists === 'update') return registerOrUpdate(context, await withKnownFields(context, registration));
  const client = context.client();
  const { id } = registration;
  try {
    const entry = await client.register(registration);
    const isInAnswer = ['json', 'ndjson', 'yaml'].includes(context.format);
    if (entry.token !== undefined && !isInAnswer)
      context.note(
        context.io.errTty
          ? `${id} received its own token, which will not be shown again: ${entry.token}`
          : `${id} received its own token; to see it, run this again within a minute with -o json`,
      );
    return entry;
  } catch (error) {
    if (!(error instanceof VregError) || error.code !== 'CONFLICT') throw error;
    if (ifExists === 'ignore') return client.get(id);
    throw new VregError('CONFLICT', `VM "${id}" is already registered`, {
      field: 'id',
      hint: 'change it with vreg update, or pass --if-exists update',
    });
  }
}

/** Adds the fields of the registered entry that no flag sets, because the update replaces the whole entry. */
async function withKnownFields(context: Context, registration: Registration): Promise<Registration> {
  const client = context.client();
  // The original registry (vers-agent-services) does not store these fields.
  if (!(await client.isVreg())) return registration;
  try {
    const { reefConfig, parentVmId } = await client.get(registration.id);
    const isSameParent = parentVmId !== undefined && parentVmId === (registration.parentId ?? parentVmId);
    return {
      ...(reefConfig === undefined ? {} : { reefConfig }),
      ...(isSameParent ? { parentId: parentVmId, parentVmId } : {}),
      ...registration,
    };
  } catch (error) {
    if (error instanceof VregError && error.code === 'NOT_FOUND') return registration;
    throw error;
  }
}
