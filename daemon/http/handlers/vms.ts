/** The routes for VMs, except their list: register, read, replace, update, remove, explain, and heartbeats. */
import { type Heartbeats, MAX_BATCH, type Why } from '../../../src/protocol/api.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import { type AgentHeartbeat, parseHeartbeat } from '../../../src/protocol/heartbeat.ts';
import { formatPosition } from '../../../src/protocol/position.ts';
import { mayDo } from '../../../src/protocol/token.ts';
import { assertUnsplittable, parseIds, parseRegistration, parseUpdate } from '../../../src/protocol/vm.ts';
import { enrol } from '../../access/enrol.ts';
import type { Principal } from '../../access/principal.ts';
import { explain } from '../../registry/explain.ts';
import type { Proof } from '../../registry/incarnation.ts';
import { assertMayHeartbeat, permitsHeartbeat } from '../../registry/preconditions.ts';
import { withFields } from '../../registry/vm-record.ts';
import { assertPrincipalActive } from '../auth.ts';
import type { RequestContext, Result } from '../context.ts';
import { runScheduled, writeOptions } from '../request/write-options.ts';
import { entryResult, jsonResult, readResult } from '../results.ts';

/** Attempts to record a heartbeat while other replicas receive heartbeats of the same VM. */
const MAX_CLAIMS = 5;
/** Number of characters to which an agent's address is truncated: the maximum length of a host name (RFC 1035, 2.3.4). */
const MAX_ADDRESS = 255;

/** Registers a VM. With an `enrol` token, the response also contains a token for the new VM. */
export async function registerVm(ctx: RequestContext): Promise<Result> {
  const registration = parseRegistration(ctx.body);
  const { principal } = ctx;
  const { registry, authenticator } = ctx.services;
  ctx.subject = { vm: registration.id };
  assertMayChoose(principal, registration.id);
  if (principal.scope !== 'enrol')
    return entryResult(ctx, await registry.register(registration, writeOptions(ctx)), 201);
  const enrolment = { enroller: principal.token!, registration, from: ctx.remoteAddress, write: writeOptions(ctx) };
  const { entry, secret } = await enrol(registry, authenticator.tokens, enrolment);
  return { ...entryResult(ctx, entry, 201), body: entry.jsonWith({ token: secret }) };
}

/** @throws VregError INVALID as {@link assertUnsplittable} for a token that is limited, but not to this VM */
function assertMayChoose({ scope, restriction }: Principal, id: string): void {
  const isLimited = restriction !== undefined || !mayDo(scope, 'write');
  if (isLimited && restriction?.vm !== id) assertUnsplittable(id);
}

export function readVm(ctx: RequestContext): Result {
  ctx.assertReadable(ctx.id);
  return readResult(ctx, ctx.services.registry.get(ctx.id));
}

export async function replaceVm(ctx: RequestContext): Promise<Result> {
  const registration = parseRegistration(ctx.body, ctx.id);
  const { registry } = ctx.services;
  await registry.replicas.awaitVm(ctx.id);
  assertPrincipalActive(ctx);
  if (!registry.has(ctx.id)) assertMayChoose(ctx.principal, ctx.id);
  const { entry, created } = await registry.replace(registration, writeOptions(ctx));
  return entryResult(ctx, entry, created ? 201 : 200);
}

export async function updateVm(ctx: RequestContext): Promise<Result> {
  const { registry } = ctx.services;
  await registry.replicas.awaitVm(ctx.id);
  assertPrincipalActive(ctx);
  // As in the original registry (vers-agent-services), an unknown VM is 404 even if the body is invalid.
  registry.get(ctx.id);
  const update = parseUpdate(ctx.body, ctx.id);
  const options = writeOptions(ctx);
  return entryResult(ctx, await runScheduled(ctx, () => registry.update(ctx.id, update, options)));
}

export async function removeVm(ctx: RequestContext): Promise<Result> {
  const options = writeOptions(ctx);
  const position = await runScheduled(ctx, () => ctx.services.registry.deregister(ctx.id, options));
  ctx.position = formatPosition(position);
  return jsonResult({ deleted: true });
}

/** Explains why `discover` returns or omits a VM. */
export function explainVm(ctx: RequestContext): Result {
  const { registry } = ctx.services;
  ctx.assertReadable(ctx.id);
  return jsonResult(explain(registry, registry.get(ctx.id)) satisfies Why);
}

export function heartbeat(ctx: RequestContext): Result | Promise<Result> {
  const proof = readProof(ctx);
  if (proof?.replace && proof.next !== undefined) {
    assertMayReplace(ctx.principal);
    // A takeover by another incarnation is a change, so the audit log names the VM.
    ctx.subject = { vm: ctx.id };
  }
  const ready = ctx.services.registry.replicas.prepareHeartbeat(ctx.id, proof);
  return ready ? recordWhenReady(ctx, proof, ready) : recordHeartbeat(ctx, proof);
}

/** Records a heartbeat when this replica can judge it. If another replica accepts one of the same VM meanwhile, judges again. */
async function recordWhenReady(
  ctx: RequestContext,
  proof: Proof | undefined,
  ready: Promise<boolean>,
): Promise<Result> {
  const { registry } = ctx.services;
  let isCurrent = await ready;
  for (let attempt = 1; ; attempt++) {
    assertPrincipalActive(ctx);
    const result = recordHeartbeat(ctx, proof, isCurrent);
    if (proof?.next === undefined || (await registry.replicas.claimIdentity(ctx.id))) return result;
    if (attempt === MAX_CLAIMS)
      throw new VregError('BUSY', 'too many replicas receive heartbeats of this VM', { retryAfter: 1 });
    isCurrent = (await registry.replicas.prepareHeartbeat(ctx.id, proof)) ?? isCurrent;
  }
}

/** @param isCurrent as for {@link Registry.compareHistory} */
function recordHeartbeat(ctx: RequestContext, proof: Proof | undefined, isCurrent?: boolean): Result {
  const { registry } = ctx.services;
  const entry = registry.heartbeat(ctx.id, proof, ctx.principal.restriction);
  const history = proof && registry.compareHistory(ctx.id, proof, isCurrent);
  return { status: 200, body: history ? withFields(entry.heartbeatJson, history) : entry.heartbeatJson };
}

/**
 * Checks only the scope; the registry checks the restriction of the token. The error's field is `replace`, not `scope`: an
 * agent treats a FORBIDDEN error with field `scope` as a sign that it must enrol.
 * @throws VregError FORBIDDEN unless the principal may change VMs
 */
function assertMayReplace({ name, scope }: Principal): void {
  if (mayDo(scope, 'write')) return;
  throw new VregError('FORBIDDEN', `token "${name}" has the scope ${scope}; "replace" requires the scope write`, {
    field: 'replace',
    hint: 'create one with that scope: vreg token create NAME --scope write --vm ID',
  });
}

/**
 * The agent's proof of identity and report; undefined for a plain heartbeat. The response to any other one has a position.
 * @throws VregError INVALID
 */
function readProof(ctx: RequestContext): Proof | undefined {
  const { body, remoteAddress, principal, services } = ctx;
  const { current } = services.registry.positions;
  let beat: AgentHeartbeat | undefined;
  try {
    beat = parseHeartbeat(body);
  } catch (error) {
    ctx.position = current;
    throw error;
  }
  if (!beat) return undefined;
  ctx.position = current;
  const address = beat.address?.slice(0, MAX_ADDRESS);
  const mayWrite = mayDo(principal.scope, 'write');
  return { ...beat, ...(address === undefined ? {} : { address }), from: remoteAddress, mayWrite };
}

/** Records heartbeats of many VMs in one request. */
export async function heartbeats(ctx: RequestContext): Promise<Result> {
  const { body, principal } = ctx;
  const { registry, scheduler } = ctx.services;
  const unknown: string[] = [];
  const ids = new Set(parseIds(body, MAX_BATCH));
  const unknownHere = [...ids].find((id) => !registry.has(id));
  if (unknownHere !== undefined) await registry.replicas.awaitVm(unknownHere);
  assertPrincipalActive(ctx);
  // Check all VMs first, so that a refused request has no effect.
  for (const id of ids) {
    if (registry.has(id)) assertMayHeartbeat(principal.restriction, registry.get(id));
    else unknown.push(id);
  }
  const beat = (id: string) =>
    registry.has(id) && permitsHeartbeat(principal.restriction, registry.get(id)) && !!registry.heartbeat(id);
  // Not cancelled if the client disconnects, because its heartbeats still count.
  await scheduler.filter([...ids], beat);
  const lastSeen = new Date(registry.clock.now()).toISOString();
  return jsonResult({ lastSeen, count: ids.size - unknown.length, unknown } satisfies Heartbeats);
}
