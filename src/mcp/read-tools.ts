/** The tools of `vreg mcp` that read the registry. */
import type { RegistryClient } from '../client.ts';
import { discoverRoles } from '../fleet/lookup.ts';
import { listVms } from '../fleet/selection.ts';
import { lacksAgent, verdictText, withOwnToken } from '../fleet/self.ts';
import { separate } from '../fleet/usable.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { ageOf, LIVENESS, livenessOf } from '../protocol/liveness.ts';
import { ROLES, type Role, STATUSES } from '../protocol/vm.ts';
import { isAway } from '../run/retry.ts';
import { cause, cleanText, limitRows } from './answer-text.ts';
import { nextCall } from './next-call.ts';
import { ID, idOf, OBJECT, ROLE, STRING, VMS } from './schemas.ts';
import { rebirthCall, type Standpoint } from './standing.ts';
import type { Call, Tool, ToolAnswer } from './tool.ts';

/** Maximum number of stale VMs that the status names. */
const MAX_STALE = 20;

const list: Tool = {
  name: 'registry_list',
  description: 'List VMs, newest first. Prefer registry_discover for lookups.',
  input: {
    type: 'object',
    properties: {
      role: ROLE,
      status: { type: 'string', enum: STATUSES, description: 'running excludes stale VMs' },
      stale: { type: 'boolean', description: 'only stale VMs' },
      selector: { type: 'string', description: 'metadata terms: key=value, key!=value, key, !key' },
    },
  },
  output: VMS,
  async run(call, { role, status, stale, selector }) {
    const { client } = call;
    const vms = await listVms(client, {
      ...(role === undefined ? {} : { role: [role as Role] }),
      ...(status === undefined ? {} : { status: [status as string] }),
      ...(selector === undefined ? {} : { selector: [selector as string] }),
      ...(stale === true ? { stale } : {}),
    });
    // Only running VMs are stale, and the status running excludes them, so a list with one of these filters is empty with both.
    const state = status ?? (stale || undefined);
    const filters = { role, status: state, stale: state, selector };
    return vmsAnswer(vms, call, { narrower: unusedOf(filters).join(', ') || 'another selector' });
  },
};

const discover: Tool = {
  name: 'registry_discover',
  description: 'Find live VMs by role, oldest first: running and with a recent heartbeat.',
  input: {
    type: 'object',
    properties: {
      role: ROLE,
      service: { type: 'string', description: 'healthy ones first' },
    },
    required: ['role'],
  },
  output: VMS,
  async run(call, { role, service: given }) {
    // Models send an empty text for a parameter that they do not use.
    const service = (given as string | undefined) || undefined;
    const vms = await discoverRoles(call.client, [role as Role], { service });
    const list = call.tools.includes('registry_list')
      ? `registry_list {"role":"${role}","status":"running"} and a selector`
      : 'another service';
    const narrower = service === undefined ? 'service' : list;
    const which = service === undefined ? '' : ' with this service';
    return vmsAnswer(separate(vms).usable, call, { kind: `live ${role} `, which, narrower });
  },
};

const status: Tool = {
  name: 'registry_status',
  description:
    'Which VM am I, am I a clone, where is infra; counts by role, stale VMs, conflicts. Works without the registry.',
  input: { type: 'object', properties: {} },
  output: {
    type: 'object',
    properties: {
      registry: { type: 'object', required: ['url', 'reachable'] },
      self: { type: 'object', required: ['id', 'clone'] },
      infra: { type: 'array' },
      roles: OBJECT,
    },
    required: ['registry', 'self'],
  },
  async run(call) {
    const { client, context, standing, tools } = call;
    try {
      return await withOwnToken(
        context.config,
        client,
        () => statusOf(call),
        (self) => standing.tokenOf(self),
      );
    } catch (error) {
      if (!(error instanceof VregError)) throw error;
      const last = standing.lastStatus;
      const next = nextCall(error, { tool: 'registry_status', args: {}, parameters: [], tools, isOwn: true });
      const isReachable = !isAway(error, client.server);
      return {
        summary: isReachable ? 'the registry responded with an error' : 'the registry is not reachable',
        data: {
          registry: {
            url: client.url,
            reachable: isReachable,
            reason: cause(error),
            ...(last === undefined ? {} : { knownSecondsAgo: secondsSince(last.at, context.now()) }),
          },
          self: await rememberedSelf(call),
          ...last?.fleet,
        },
        more: `Next: ${next}`,
      };
    }
  },
};

/** @throws the client's errors */
async function statusOf({ context, client, standing, tools }: Call): Promise<ToolAnswer> {
  const vms = await client.list();
  const { version, warming, now } = client.server;
  const standpoint = await standing.read(context, client);
  const own = vms.find((vm) => vm.id === standpoint.id);
  const stale = vms.filter((vm) => livenessOf(vm) === 'stale');
  const infra = separate(vms.filter((vm) => vm.role === 'infra' && isLive(vm))).usable.reverse();
  const roles = ROLES.map((role) => [role, statesOf(vms.filter((vm) => vm.role === role))] as const);
  const conflicts = await openConflicts(client);
  const fleet = {
    infra: infra.slice(0, MAX_STALE).map(({ address }) => address),
    roles: Object.fromEntries(roles.filter(([, states]) => Object.keys(states).length > 0)),
    stale: stale.slice(0, MAX_STALE).map((vm) => vm.id),
    ...(conflicts === undefined ? {} : { conflicts }),
  };
  standing.lastStatus = { at: context.now(), fleet };
  const moreStale = stale.length - MAX_STALE;
  const { id, idOrigin, verdict } = standpoint;
  const isOther = verdict === 'clone' || verdict === 'contested';
  const state = verdict === 'clone' ? 'a clone' : isOther ? 'contested' : own ? livenessOf(own) : 'not registered';
  const lacks = verdict === 'unproven' && (await lacksAgent(context.config, standpoint, await client.isVreg()));
  const lines = [
    moreStale > 0 &&
      `${moreStale} more are stale${tools.includes('registry_list') ? ': registry_list {"stale":true}' : ''}`,
    idOrigin === 'the host name' && 'The id of this VM is its host name, because VERS_VM_ID is not set.',
    `Is this VM a clone? ${verdictText(verdict, undefined, lacks)}`,
    isOther && tools.includes('registry_register') && `Next: ${cleanText(rebirthCall(id))}`,
  ];
  return {
    summary: `${count(vms.length)}, ${stale.length} stale; this VM is ${state}`,
    data: {
      registry: {
        url: client.url,
        reachable: true,
        ...(version && { version }),
        ...(warming && { warmingSeconds: warming }),
      },
      self: {
        ...selfOf(standpoint),
        registered: own !== undefined,
        ...(own ? { name: own.name, role: own.role, live: livenessOf(own), ageSeconds: ageOf(own, now) ?? 0 } : {}),
      },
      ...fleet,
    },
    more: lines.filter(Boolean).join('\n'),
  };
}

/** This VM according to its settings and the state of its agent. */
async function rememberedSelf({ context, standing }: Call) {
  const standpoint = await standing.remembered(context);
  const provenAt = standpoint.state?.content.provenAt;
  return {
    ...selfOf(standpoint),
    ...(provenAt === undefined ? {} : { provenSecondsAgo: secondsSince(provenAt, context.now()) }),
  };
}

function selfOf({ id, parentId, verdict, fault }: Standpoint) {
  return {
    id,
    clone: verdict,
    ...(parentId === undefined ? {} : { parentId }),
    ...(fault === undefined ? {} : { fault }),
  };
}

/** @param time milliseconds since the epoch; a time in the future counts as now */
function secondsSince(time: number, now: number): number {
  return Math.max(0, Math.round((now - time) / 1000));
}

const why: Tool = {
  name: 'registry_why',
  description: 'Why registry_discover returns a VM or omits it.',
  input: { type: 'object', properties: { id: ID } },
  output: {
    type: 'object',
    properties: {
      id: STRING,
      offered: { type: 'boolean' },
      summary: STRING,
      reasons: { type: 'array' },
    },
    required: ['id', 'offered', 'summary'],
  },
  async run(call, args) {
    const id = await idOf(call, args);
    const { offered, summary, reasons } = await call.client.why(id);
    return {
      summary: `registry_discover ${offered ? 'returns' : 'omits'} this VM`,
      data: { id, offered, summary, reasons },
    };
  },
};

const lineage: Tool = {
  name: 'registry_lineage',
  description: 'Ancestors (nearest first), children, or all descendants (subtree) of a VM.',
  input: {
    type: 'object',
    properties: { id: ID, direction: { type: 'string', enum: ['ancestors', 'children', 'subtree'] } },
    required: ['direction'],
  },
  output: VMS,
  async run(call, args) {
    const id = await idOf(call, args);
    const { client } = call;
    const read = { ancestors: client.ancestors, children: client.children, subtree: client.subtree };
    const vms = await read[args.direction as keyof typeof read].call(client, id);
    return vmsAnswer(vms, call, { narrower: 'the id of one of these VMs' });
  },
};

export const READ_TOOLS = { list, discover, status, why, lineage } as const;

function vmsAnswer(
  vms: readonly VmWithLiveness[],
  { client: { server } }: Call,
  { kind, which = '', narrower }: { kind?: string; which?: string; narrower: string },
): ToolAnswer {
  const { rows, more } = limitRows(vms, server.now);
  const { warming } = server;
  return {
    summary: count(vms.length, kind) + which,
    data: {
      vms: rows,
      count: vms.length,
      ...(more > 0 ? { more } : {}),
      ...(warming === undefined ? {} : { warmingSeconds: warming }),
    },
    more: more > 0 ? `${more} more: narrow with ${narrower}` : undefined,
  };
}

/** The names of the filters that a call has not used yet. */
function unusedOf(filters: Readonly<Record<string, unknown>>): string[] {
  return Object.keys(filters).filter((name) => filters[name] === undefined);
}

/** `3 live infra VMs` */
function count(number: number, kind = ''): string {
  return `${number} ${kind}VM${number === 1 ? '' : 's'}`;
}

function isLive(vm: VmWithLiveness): boolean {
  return ['live', 'suspect'].includes(livenessOf(vm));
}

/** The number of VMs in each state that occurs. */
export function statesOf(vms: readonly VmWithLiveness[]): Record<string, number> {
  const counts = LIVENESS.map((state) => [state, vms.filter((vm) => livenessOf(vm) === state).length] as const);
  return Object.fromEntries(counts.filter(([, number]) => number > 0));
}

/** @returns undefined if the registry has no such record, or the token may not read it */
async function openConflicts(client: RegistryClient): Promise<number | undefined> {
  try {
    return (await client.conflicts()).conflicts.filter(({ state }) => state === 'open').length;
  } catch (error) {
    if (error instanceof VregError) return undefined;
    throw error;
  }
}
