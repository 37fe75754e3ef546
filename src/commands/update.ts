import { defineCommand } from '../command.ts';
import { each, throwFailed } from '../each.ts';
import { VregError } from '../protocol/errors.ts';
import { parseUpdate, STATUSES } from '../protocol/vm.ts';
import { vmsAnswer } from '../vm-answer.ts';
import { META_FLAG, parseMetaFlags, parseServiceFlag, SERVICE_FLAG } from '../vm-flags.ts';

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
  summary: 'change fields of a VM',
  description:
    'Changes fields of a VM. --service replaces all its services; --meta sets single keys and leaves the others, --unset-meta takes keys away. The role cannot be changed.',
  arguments: [{ name: 'id', about: 'id of the VM', values: 'ids' }],
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
  async run(context, [id], { name, status, address, service, meta = [], unsetMeta = [] }) {
    const set = parseMetaFlags(meta);
    const change = parseUpdate({ name, status, address, services: service?.map(parseServiceFlag) });
    const metadataToo = meta.length > 0 || unsetMeta.length > 0;
    if (Object.keys(change).length === 0 && !metadataToo) {
      throw new VregError('USAGE', 'nothing to change', {
        hint: 'name a field: --name, --status, --address, --service, --meta or --unset-meta',
      });
    }
    const client = context.client();
    const { done, failed } = await each([id!], async (id) => {
      if (!metadataToo) return client.update(id, change);
      // The wire replaces metadata whole, so single keys are merged here.
      const metadata = { ...(await client.get(id)).metadata, ...set };
      for (const key of unsetMeta) delete metadata[key];
      return client.update(id, { ...change, metadata });
    });
    throwFailed(context, 1, failed, (id) => id);
    await context.print(vmsAnswer(done, { single: true }));
  },
});
