/** The resources of `vreg mcp`: the fleet, and each VM. Their content is JSON, cleaned like the results of tools. */
import {
  ProtocolError,
  ProtocolErrorCode,
  ResourceNotFoundError,
  type Server,
  type ServerContext,
} from '@modelcontextprotocol/server';
import { VregError } from '../protocol/errors.ts';
import { cause, clean, limitRows, MAX_ROWS, rowOf, safeJson } from './answer-text.ts';
import { nextCall } from './next-call.ts';
import { statesOf } from './read-tools.ts';
import type { Call } from './tool.ts';

const FLEET = 'vreg://fleet';
const VM_PREFIX = 'vreg://vms/';
const JSON_TYPE = { mimeType: 'application/json' };

/**
 * @param work runs with a client that ends with the request
 * @param kind `wait` for work that lasts as long as the caller wants
 */
export type WithCall = <T>(
  request: ServerContext,
  work: (call: Call) => Promise<T>,
  kind?: 'short' | 'wait',
) => Promise<T>;

/**
 * @param tools names of the tools that this server offers
 * @param warn reports a registry that is away, because a list of resources has no place for an error
 */
export function handleResources(
  server: Server,
  withCall: WithCall,
  tools: readonly string[],
  warn: (message: string) => void,
): void {
  server.setRequestHandler('resources/templates/list', () => ({
    resourceTemplates: [
      {
        name: 'vm',
        title: 'One VM',
        uriTemplate: `${VM_PREFIX}{id}`,
        description: 'The entry of one VM',
        ...JSON_TYPE,
      },
    ],
  }));
  server.setRequestHandler('resources/list', ({ params: { cursor } = {} }, request) =>
    withCall(request, (call) => listResources(call, cursor)).catch((error: unknown) => {
      if (!(error instanceof VregError)) throw error;
      if (error.code === 'INVALID') throw new ProtocolError(ProtocolErrorCode.InvalidParams, 'invalid cursor');
      warn(error.message);
      return { resources: [FLEET_RESOURCE] };
    }),
  );
  server.setRequestHandler('resources/read', async ({ params: { uri } }, request) => {
    const content = contentOf(uri);
    const text = await withCall(request, async (call) => safeJson(clean(await content(call)))).catch(
      (error: unknown) => {
        if (!(error instanceof VregError)) throw error;
        if (error.code === 'NOT_FOUND') throw notFound(uri);
        const next = nextCall(error, { tool: 'resources/read', args: {}, parameters: [], tools, isOwn: false });
        throw new ProtocolError(ProtocolErrorCode.InternalError, `${cause(error)}; next: ${next}`);
      },
    );
    return { contents: [{ uri, ...JSON_TYPE, text }] };
  });
}

const FLEET_RESOURCE = {
  uri: FLEET,
  name: 'fleet',
  title: 'The fleet',
  description: `The number of VMs by state, and the ${MAX_ROWS} newest VMs`,
  ...JSON_TYPE,
};

/**
 * One page of the resources.
 * @param cursor of the previous page; undefined for the first page
 * @throws VregError INVALID for an invalid cursor, and the client's errors
 */
async function listResources({ client }: Call, cursor: string | undefined) {
  const { vms, next } = await client.listPage({ limit: MAX_ROWS }, cursor);
  const resources = vms.map(({ id, name, role, address }) => ({
    uri: VM_PREFIX + encodeURIComponent(id),
    name: `${name} (${role} ${id})`,
    description: `The entry of the VM at ${address}`,
    ...JSON_TYPE,
  }));
  return {
    resources: [...(cursor === undefined ? [FLEET_RESOURCE] : []), ...(clean(resources) as typeof resources)],
    ...(next === undefined ? {} : { nextCursor: next }),
  };
}

/** @throws ResourceNotFoundError */
function contentOf(uri: string): (call: Call) => Promise<unknown> {
  if (uri === FLEET)
    return async ({ client }) => {
      const vms = await client.list();
      const { rows, more } = limitRows(vms, client.server.now);
      return { count: vms.length, states: statesOf(vms), vms: rows, more };
    };
  const id = uri.startsWith(VM_PREFIX) ? decoded(uri.slice(VM_PREFIX.length)) : undefined;
  if (!id) throw notFound(uri);
  return async ({ client }) => rowOf(await client.get(id), client.server.now);
}

/** @returns undefined if the text is not a valid part of a URI */
function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}

/** The SDK sends the code that the specification demands, -32602. */
function notFound(uri: string): ResourceNotFoundError {
  return new ResourceNotFoundError(
    uri,
    `no such resource: the resources are ${FLEET} and ${VM_PREFIX}{id} of a registered VM`,
  );
}
