/**
 * Entries of VMs that other extensions of pi create and destroy. These extensions send events on pi's event bus. The channels and fields
 * are those for which the extension of the original registry listens (hdresearch/vers-agent-services, extensions/agent-services.ts).
 */
import type { RegistryClient } from '../../client.ts';
import { whyNoVm } from '../../fleet/self.ts';
import { checkArguments } from '../../mcp/tool.ts';
import { WRITE_TOOLS } from '../../mcp/write-tools.ts';
import { VregError } from '../../protocol/errors.ts';
import type { PiSession } from './pi-session.ts';

/** The extension of the original registry registers VMs under this name, and other programs select VMs by it. */
const REGISTERED_BY = 'agent-services';

type Fields = Readonly<Record<string, unknown>>;

/** The entry of a new VM, by channel. Absent fields are undefined. */
const CREATED: Readonly<Record<string, (data: Fields) => Fields>> = {
  'vers:agent_spawned': ({ vmId, label, role, address, commitId }) => ({
    id: vmId,
    name: label,
    role: role || 'worker',
    address,
    metadata: { agentId: label, commitId, createdAt: new Date().toISOString() },
  }),
  'vers:lt_created': ({ vmId, name, role, address, ltRole, commitId, createdAt }) => ({
    id: vmId,
    name,
    role: role || 'lieutenant',
    address,
    metadata: { agentId: name, role: ltRole, commitId, createdAt },
  }),
};
const DESTROYED: readonly string[] = ['vers:agent_destroyed', 'vers:lt_destroyed'];

export const CHANNELS: readonly string[] = [...Object.keys(CREATED), ...DESTROYED];

/**
 * Registers or removes the VM of one event. Leaves the entry of a VM that has registered itself already, and never removes that of the
 * VM on which pi runs. Does nothing if no registry is configured. A machine that is no VM, and a clone, register children without a
 * parent; a clone removes none.
 * @throws the client's errors, and VregError INVALID or IDENTITY_CONFLICT
 */
export async function applyEvent(
  session: PiSession,
  client: RegistryClient,
  channel: string,
  data: unknown,
): Promise<void> {
  const { context, standing } = session;
  const fields = (typeof data === 'object' && data !== null ? data : {}) as Fields;
  const { vmId } = fields;
  // Without an id, the tools would act on the VM on which pi runs.
  if (typeof vmId !== 'string' || vmId === '')
    throw new VregError('INVALID', `the event ${channel} has no vmId`, { field: 'vmId' });
  const call = { context, client, standing, tools: [], signal: context.signal, progress: async () => {} };
  if (context.config.find('url')!.origin === 'default') return;
  const self = await standing.read(context, client);
  const { id: ownId, verdict } = self;
  if (vmId === ownId) return;
  const created = CREATED[channel];
  if (!created) {
    await WRITE_TOOLS.deregister.run(call, { id: vmId }).catch(unless('NOT_FOUND'));
    return;
  }
  const isParent = whyNoVm(context.config, self) === undefined && verdict !== 'clone' && verdict !== 'contested';
  const { metadata, ...entry } = created(fields);
  const args = {
    ...entry,
    registeredBy: REGISTERED_BY,
    metadata: { ...(metadata as object), registeredVia: channel },
    ...(isParent ? { parentVmId: ownId } : {}),
  };
  // Without the fields that are undefined.
  const given = JSON.parse(JSON.stringify(args)) as object;
  await WRITE_TOOLS.register.run(call, checkArguments(WRITE_TOOLS.register, given)).catch(unless('CONFLICT'));
}

function unless(code: VregError['code']): (error: unknown) => void {
  return (error) => {
    if (!(error instanceof VregError) || error.code !== code) throw error;
  };
}
