/** The tools of `vreg mcp` that change the registry. Each finds out first whether this VM is a clone; see standing.ts. */
import type { RegistryClient } from '../client.ts';
import { completeEntry, parseOwnRegistration, withMetadata } from '../fleet/local-vm.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { parseUpdate, STATUSES } from '../protocol/vm.ts';
import { cause, rowOf } from './answer-text.ts';
import { ID, OBJECT, ROLE, SERVICES, STRING, VM } from './schemas.ts';
import type { Call, Tool, ToolAnswer } from './tool.ts';

const register: Tool = {
  name: 'registry_register',
  description: 'Register a VM so that others discover it. Without arguments: this VM, from its environment.',
  input: {
    type: 'object',
    properties: {
      id: ID,
      name: STRING,
      role: ROLE,
      address: { type: 'string', description: 'host or host:port' },
      services: SERVICES,
      metadata: OBJECT,
      registeredBy: STRING,
      parentVmId: STRING,
      self: { type: 'boolean', description: 'a clone: act as this VM from now on' },
    },
  },
  output: VM,
  change: { destructive: false, idempotent: false },
  async run(call, args) {
    const { context, client, standing } = call;
    const { self = false, ...fields } = args;
    const target = await standing.registrationTarget(context, client, args.id as string | undefined, self as boolean);
    const { id, parentId, adopt } = target;
    const isInherited = args.parentVmId === undefined && parentId !== undefined;
    const given = { ...fields, id, ...(isInherited ? { parentId } : {}) };
    // The settings describe a clone as well, under whichever id. Its agent uses them, and must not look like another place.
    const entry = completeEntry(context.config, {}, given, adopt ? id : undefined);
    // The token that the registry issues for an enrol token must not become part of a conversation.
    const { token, ...vm } = await client.register(withMetadata(context.config, parseOwnRegistration(entry)));
    const fault = await adopt?.(token);
    const lease = call.tools.includes('registry_heartbeat')
      ? `; ${leaseText(client)}, and each heartbeat renews it`
      : '';
    const answer = vmAnswer(call, `registered${lease}`, vm);
    return fault ? { ...answer, more: `this VM has the new id until this session ends: ${cause(fault)}` } : answer;
  },
};

const update: Tool = {
  name: 'registry_update',
  description: 'Change fields of a VM. services and metadata are replaced, not merged.',
  input: {
    type: 'object',
    properties: {
      id: ID,
      name: STRING,
      status: { type: 'string', enum: STATUSES },
      address: STRING,
      services: SERVICES,
      metadata: OBJECT,
    },
  },
  output: VM,
  change: { destructive: true, idempotent: true },
  async run(call, { id: given, ...fields }) {
    const { context, client, standing } = call;
    if (Object.keys(fields).length === 0)
      throw new VregError('INVALID', 'nothing to change', { hint: 'name, status, address, services or metadata' });
    const id = await standing.targetOf(context, client, given as string | undefined);
    return vmAnswer(call, 'updated', await client.update(id, parseUpdate(fields, id)));
  },
};

const heartbeat: Tool = {
  name: 'registry_heartbeat',
  description: 'Renew the lease of a VM. If it expires, the VM is stale.',
  input: { type: 'object', properties: { id: ID } },
  output: {
    type: 'object',
    properties: { id: STRING, leaseSeconds: { type: 'integer' } },
    required: ['id', 'leaseSeconds'],
  },
  change: { destructive: false, idempotent: true },
  async run({ context, client, standing }, args) {
    const id = await standing.targetOf(context, client, args.id as string | undefined);
    const { lastSeen } = await client.heartbeat(id);
    const leaseSeconds = secondsOfLease(client);
    return { summary: `heartbeat accepted; ${leaseText(client)}`, data: { id, lastSeen, leaseSeconds } };
  },
};

const deregister: Tool = {
  name: 'registry_deregister',
  description: 'Remove a VM from the registry.',
  input: { type: 'object', properties: { id: STRING }, required: ['id'] },
  output: { type: 'object', properties: { id: STRING, deleted: { type: 'boolean' } }, required: ['id', 'deleted'] },
  change: { destructive: true, idempotent: true },
  async run({ context, client, standing }, args) {
    const id = await standing.targetOf(context, client, args.id as string);
    const { deleted } = await client.deregister(id);
    return { summary: 'removed', data: { id, deleted } };
  },
};

export const WRITE_TOOLS = { register, update, heartbeat, deregister } as const;

function secondsOfLease({ server }: RegistryClient): number {
  return Math.round(server.lease / 1000);
}

function leaseText(client: RegistryClient): string {
  return `the lease is ${secondsOfLease(client)} s`;
}

function vmAnswer({ client }: Call, summary: string, vm: VmWithLiveness): ToolAnswer {
  return { summary, data: { vm: rowOf(vm, client.server.now) } };
}
