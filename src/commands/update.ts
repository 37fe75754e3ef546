import type { RegistryClient } from '../client.ts';
import { defineCommand } from '../command.ts';
import { META_FLAG, parseMetaFlags, parseServiceFlag, SERVICE_FLAG } from '../fleet/flags.ts';
import { vmsAnswer } from '../fleet/table.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { parseUpdate, STATUSES, type VmUpdate } from '../protocol/vm.ts';
import { each, throwFailed } from '../run/batch.ts';

/** Times that a merge of metadata is tried when others change the same VM. */
const TRIES = 5;

interface Flags {
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
    'Changes fields of VMs. --service replaces all its services; --meta sets single keys and leaves the others, --unset-meta takes keys away. The role cannot be changed.',
  arguments: [{ name: 'id', about: 'id of a VM', variadic: true, values: 'ids' }],
  flags: [
    { flags: '--name <name>', about: 'new name' },
    { flags: '--status <status>', about: 'new status', values: STATUSES },
    { flags: '--address <address>', about: 'new address' },
    SERVICE_FLAG,
    META_FLAG,
    { flags: '--unset-meta <key>', about: 'take a key of the metadata away', repeat: true },
  ],
  examples: [
    { about: 'save resources', command: 'vreg update abc-123-def --status paused --meta reason="saving resources"' },
    { about: 'it moved', command: 'vreg update abc-123-def --address 10.0.0.9' },
    { about: 'drop a key of its metadata', command: 'vreg update abc-123-def --unset-meta reason' },
  ],
  exits: [2, 3, 8],
  async run(context, ids, { name, status, address, service, meta = [], unsetMeta = [] }) {
    const set = parseMetaFlags(meta);
    const change = parseUpdate({ name, status, address, services: service?.map(parseServiceFlag) });
    const metadataToo = meta.length > 0 || unsetMeta.length > 0;
    if (Object.keys(change).length === 0 && !metadataToo) {
      throw new VregError('USAGE', 'nothing to change', {
        hint: 'name a field: --name, --status, --address, --service, --meta or --unset-meta',
      });
    }
    const { done, failed } = await each(context, ids, (id) => {
      return metadataToo
        ? mergeMetadata(context.client(), id, change, set, unsetMeta)
        : context.client().update(id, change);
    });
    if (done.length > 0) await context.print(vmsAnswer(done, { single: ids.length === 1 }));
    throwFailed(context, ids.length, failed, (id) => id);
  },
});

/** The wire replaces metadata whole, so single keys are merged here, and again when somebody else was faster. */
async function mergeMetadata(
  client: RegistryClient,
  id: string,
  change: VmUpdate,
  set: Record<string, unknown>,
  unset: readonly string[],
): Promise<VmWithLiveness> {
  for (let tries = 1; ; tries++) {
    const { vm, revision } = await client.getWithRevision(id);
    const metadata = { ...vm.metadata, ...set };
    for (const key of unset) delete metadata[key];
    try {
      return await client.update(id, { ...change, metadata }, revision);
    } catch (error) {
      if (!(error instanceof VregError) || error.code !== 'PRECONDITION_FAILED' || tries === TRIES) throw error;
    }
  }
}
