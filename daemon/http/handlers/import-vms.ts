/** `POST /registry/import`: registers VMs of another registry, with their times. */
import { type Imported, type ImportOutcome, MAX_IMPORT } from '../../../src/protocol/api.ts';
import { toErrorBody, VregError } from '../../../src/protocol/errors.ts';
import { type ImportedVm, parseImported } from '../../../src/protocol/vm.ts';
import type { VmRecord } from '../../registry/vm-record.ts';
import { assertPrincipalActive } from '../auth.ts';
import type { RequestContext, Result } from '../context.ts';
import { parseJson, rejectFlaw } from '../request/body.ts';
import { splitList } from '../response/json-list.ts';
import { reserveFor } from '../response/streaming.ts';
import { jsonResult } from '../results.ts';

/** An entry of the body: the parsed one, or why it cannot be registered. */
type Item = { id: string | undefined; vm: ImportedVm } | { id: string | undefined; error: VregError };

export async function importVms(ctx: RequestContext): Promise<Result> {
  const { registry, scheduler, bodies, maxBody } = ctx.services;
  const bytes = (ctx.body ?? Buffer.alloc(0)) as Buffer;
  const { elements, memory } = await splitList(bytes, 'vms', MAX_IMPORT, scheduler);
  // The body itself is already reserved. The values of most bodies take no more memory than that.
  if (memory > bytes.length) reserveFor(ctx.response, bodies, memory - bytes.length);
  const items: Item[] = [];
  await scheduler.forEach(elements, (element) => void items.push(parseItem(element, maxBody)));
  const entries = items.flatMap((item) => ('vm' in item ? [item.vm] : []));
  const forEach: typeof scheduler.forEach = (list, act) => scheduler.forEach(list, act);
  const assertActive = () => assertPrincipalActive(ctx);
  const registered = await registry.import(entries, { by: ctx.principal.name, assertActive, forEach });
  ctx.position = registry.positions.current;
  let at = 0;
  const outcomes = items.map((item) => outcomeOf(item.id, 'vm' in item ? registered[at++]! : item.error));
  const created = outcomes.filter(({ outcome }) => outcome === 'created').length;
  return jsonResult({ entries: outcomes, count: outcomes.length, created } satisfies Imported);
}

/** @throws VregError INVALID if the element is not JSON */
function parseItem(element: Buffer, maxBytes: number): Item {
  const value = parseJson(element);
  if (element.length > maxBytes) {
    const message = `the entry is too large: ${element.length} bytes (limit ${maxBytes} bytes)`;
    return { id: undefined, error: new VregError('TOO_LARGE', message, { field: 'metadata' }) };
  }
  const id = idOf(value);
  try {
    rejectFlaw(value);
    const vm = parseImported(value);
    return { id: vm.id, vm };
  } catch (error) {
    if (error instanceof VregError) return { id, error };
    throw error;
  }
}

function idOf(value: unknown): string | undefined {
  const { id } = (value ?? {}) as { id?: unknown };
  return typeof id === 'string' ? id : undefined;
}

function outcomeOf(id: string | undefined, result: VmRecord | VregError): ImportOutcome {
  const named = id === undefined ? {} : { id };
  if (!(result instanceof VregError)) return { ...named, outcome: 'created' };
  const { code } = result;
  const outcome = code === 'CONFLICT' ? 'exists' : code === 'INVALID' ? 'invalid' : 'refused';
  return { ...named, outcome, ...toErrorBody(result) };
}
