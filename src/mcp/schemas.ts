/** Schemas that several tools of `vreg mcp` share. They are short, because each client loads them into its model's context. */
import { ROLES } from '../protocol/vm.ts';
import type { Arguments, Call, ObjectSchema, Schema } from './tool.ts';

export const STRING: Schema = { type: 'string' };
export const OBJECT: Schema = { type: 'object' };
export const ROLE: Schema = { type: 'string', enum: ROLES };
export const ID: Schema = { type: 'string', description: 'default: this VM' };
export const SERVICES: Schema = { type: 'array', items: { type: 'object', description: '{name, port, healthPath?}' } };

/** An entry in a result. */
const ROW: Schema = { type: 'object', required: ['id', 'live'] };

/** The result of a tool that lists VMs. */
export const VMS: ObjectSchema = {
  type: 'object',
  properties: { vms: { type: 'array', items: ROW }, count: { type: 'integer' } },
  required: ['vms', 'count'],
};

/** The result of a tool that changes one VM. */
export const VM: ObjectSchema = { type: 'object', properties: { vm: ROW }, required: ['vm'] };

/** The parameter `id` of a tool that reads; by default the id of this VM. */
export async function idOf({ context, client, standing }: Call, { id }: Arguments): Promise<string> {
  return id === undefined ? (await standing.read(context, client)).id : (id as string);
}
