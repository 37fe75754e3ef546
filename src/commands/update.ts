import type { RegistryClient } from '../client.ts';
import { defineCommand } from '../command.ts';
import { META_FLAG, parseMetaFlags, parseServiceFlag, SERVICE_FLAG } from '../fleet/flags.ts';
import { changeSelected, SELECTION_ARGUMENT, SELECTION_FLAGS, type SelectionFlags } from '../fleet/selection.ts';
import { vmsAnswer } from '../fleet/table.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { exclusiveFlags, VregError } from '../protocol/errors.ts';
import { parseUpdate, STATUSES, type VmUpdate } from '../protocol/vm.ts';

/**
 * Maximum number of attempts to merge metadata. Each failed attempt means that another client changed the VM in the meantime.
 */
const MERGE_ATTEMPTS = 5;

interface Flags extends SelectionFlags {
  name?: string;
  status?: string;
  address?: string;
  service?: string[];
  meta?: string[];
  unsetMeta?: string[];
}

export const update = defineCommand<Flags>({
  name: 'update',
  aliases: ['set', 'patch'],
  summary: 'change fields of VMs',
  description:
    'Changes fields of VMs. --service replaces the entire list of services. --meta sets individual metadata keys and --unset-meta removes them; other keys remain. The role cannot be changed: --role selects VMs. Asks for confirmation if flags select the VMs.',
  arguments: [SELECTION_ARGUMENT],
  flags: [
    { flags: '--name <name>', about: 'new name' },
    { flags: '--status <status>', about: 'new status', values: STATUSES },
    { flags: '--address <address>', about: 'new address' },
    SERVICE_FLAG,
    META_FLAG,
    { flags: '--unset-meta <key>', about: 'metadata key to remove', repeat: true, values: 'metadata-keys' },
    ...SELECTION_FLAGS,
  ],
  examples: [
    {
      about: 'pause a VM and record the reason',
      command: 'vreg update abc-123-def --status paused --meta reason="saving resources"',
    },
    { about: 'change the address', command: 'vreg update abc-123-def --address 10.0.0.9' },
    { about: 'remove a metadata key', command: 'vreg update abc-123-def --unset-meta reason' },
    { about: 'all workers of a task', command: 'vreg update --role worker -l task=billing --meta tier=gold' },
  ],
  exits: [2, 3, 6, 7, 8],
  async run(context, ids, { name, status, address, service, meta = [], unsetMeta = [], ...selection }) {
    if (ids.length > 0 && selection.role !== undefined)
      throw exclusiveFlags('--role', 'ids', '--role selects VMs; the role of a registered VM cannot be changed');
    const set = parseMetaFlags(meta);
    const change = parseUpdate({ name, status, address, services: service?.map(parseServiceFlag) });
    const changesMetadata = meta.length > 0 || unsetMeta.length > 0;
    if (Object.keys(change).length === 0 && !changesMetadata) {
      throw new VregError('USAGE', 'nothing to change', {
        hint: 'pass --name, --status, --address, --service, --meta or --unset-meta',
      });
    }
    const client = context.client();
    await changeSelected(context, ids, selection, {
      question: (vms) => `Update ${vms}?`,
      change: (id) => (changesMetadata ? mergeMetadata(client, id, change, set, unsetMeta) : client.update(id, change)),
      answerOf: vmsAnswer,
    });
  },
});

/**
 * PATCH replaces metadata completely, so individual keys are merged here. The merge is retried if another client changed the VM
 * in between.
 */
async function mergeMetadata(
  client: RegistryClient,
  id: string,
  change: VmUpdate,
  set: Record<string, unknown>,
  unset: readonly string[],
): Promise<VmWithLiveness> {
  for (let attempt = 1; ; attempt++) {
    const { vm, etag } = await client.getWithEtag(id);
    const metadata = { ...vm.metadata, ...set };
    for (const key of unset) delete metadata[key];
    try {
      return await client.update(id, { ...change, metadata }, etag);
    } catch (error) {
      if (!(error instanceof VregError) || error.code !== 'PRECONDITION_FAILED' || attempt === MERGE_ATTEMPTS)
        throw error;
    }
  }
}
