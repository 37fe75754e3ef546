import { type Context, defineCommand } from '../command.ts';
import { parseDuration } from '../duration.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { isRole } from '../protocol/vm.ts';
import { livenessOf, vmsAnswer } from '../vm-answer.ts';

interface Flags {
  for?: string;
  timeout?: string;
}

/** Milliseconds between two looks: a person does not notice it, a registry does not feel it. */
const LOOK_EVERY = 500;
const DEFAULT_PATIENCE = '60s';

export const wait = defineCommand<Flags>({
  name: 'wait',
  summary: 'wait until a role or a VM is live, gone or stale',
  description:
    'Waits for a role or a VM, and prints what it waited for. --for live: it is live (of a role: at least one is). gone: it is not registered (of a role: none is live). stale: it is stale (of a role: at least one is). count=N: at least N of the role are live. registry: the registry answers. A registry that is away is waited for, too. --timeout is the longest wait, not that for one answer.',
  arguments: [
    { name: 'role|id', about: 'a role, or the id of a VM; none with --for registry', optional: true, values: 'ids' },
  ],
  flags: [
    {
      flags: '--for <what>',
      about: 'live (the default), gone, stale, count=N or registry',
      offers: ['live', 'gone', 'stale', 'count=', 'registry'],
    },
  ],
  examples: [
    { about: 'until a worker can take work', command: 'vreg wait worker --timeout 5m' },
    { about: 'until three can', command: 'vreg wait worker --for count=3' },
    { about: 'until the registry is up', command: 'vreg wait --for registry --timeout 30s' },
  ],
  exits: [2, 6, 8],
  async run(context, [target], flags) {
    const condition = parseCondition(flags.for ?? 'live', target);
    const patience = flags.timeout ?? DEFAULT_PATIENCE;
    const deadline = context.now() + parseDuration(patience, '--timeout');
    for (;;) {
      const met = await condition.look(context).catch((error: unknown) => {
        if (error instanceof VregError && (error.code === 'UNREACHABLE' || error.code === 'BUSY')) return undefined;
        throw error;
      });
      if (met) {
        if (met.length > 0) await context.print(vmsAnswer(met));
        return;
      }
      const left = deadline - context.now();
      if (left <= 0)
        throw new VregError('TIMEOUT', `${condition.what} did not come within ${patience}`, {
          hint: 'look at vreg status',
        });
      await context.sleep(Math.min(LOOK_EVERY, left));
    }
  },
});

interface Condition {
  /** What is waited for, in words. */
  what: string;
  /** The VMs that meet it (none, where it is about absence), or undefined while it is not met. */
  look(context: Context): Promise<VmWithLiveness[] | undefined>;
}

function parseCondition(text: string, target: string | undefined): Condition {
  if (text === 'registry')
    return { what: 'the registry', look: async (context) => ((await context.client().health()) ? [] : undefined) };
  if (target === undefined)
    throw new VregError('USAGE', 'wait for which role or VM?', {
      field: 'role|id',
      hint: 'for example: vreg wait worker',
    });
  const what = `${target} ${text}`;
  const [, number] = /^count=(\d+)$/.exec(text) ?? [];
  if (number !== undefined && isRole(target))
    return { what, look: (context) => atLeast(context, target, Number(number)) };
  if (text === 'live')
    return { what, look: (context) => (isRole(target) ? atLeast(context, target, 1) : one(context, target, 'live')) };
  if (text === 'stale')
    return { what, look: (context) => (isRole(target) ? anyStale(context, target) : one(context, target, 'stale')) };
  if (text === 'gone') return { what, look: (context) => gone(context, target) };
  throw new VregError('USAGE', `--for: "${text}" is not possible${number === undefined ? '' : ` for a VM`}`, {
    field: 'for',
    hint: 'one of: live, gone, stale, count=N (of a role), registry',
  });
}

async function atLeast(context: Context, role: string, number: number): Promise<VmWithLiveness[] | undefined> {
  const vms = await context.client().discover(role);
  return vms.length >= number ? vms : undefined;
}

async function anyStale(context: Context, role: string): Promise<VmWithLiveness[] | undefined> {
  const stale = (await context.client().list({ role })).filter((vm) => livenessOf(vm) === 'stale');
  return stale.length > 0 ? stale : undefined;
}

async function one(context: Context, id: string, liveness: 'live' | 'stale'): Promise<VmWithLiveness[] | undefined> {
  const vm = await getIfThere(context, id);
  return vm && livenessOf(vm) === liveness ? [vm] : undefined;
}

async function gone(context: Context, target: string): Promise<[] | undefined> {
  if (isRole(target)) return (await context.client().discover(target)).length === 0 ? [] : undefined;
  return (await getIfThere(context, target)) ? undefined : [];
}

function getIfThere(context: Context, id: string): Promise<VmWithLiveness | undefined> {
  return context
    .client()
    .get(id)
    .catch((error: unknown) => {
      if (error instanceof VregError && error.code === 'NOT_FOUND') return undefined;
      throw error;
    });
}
