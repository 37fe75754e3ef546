import { type Context, defineCommand } from '../command.ts';
import { parseDuration } from '../config/duration.ts';
import { thisVmId } from '../fleet/local-vm.ts';
import { isOffered, livenessOf, vmsAnswer } from '../fleet/table.ts';
import { nextStep, suggestion } from '../help/suggest.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { isRole, ROLES, type Role } from '../protocol/vm.ts';
import { isPassing } from '../run/retry.ts';

interface Flags {
  for?: string;
  timeout?: string;
}

/** Milliseconds between two looks: a person does not notice it, a registry does not feel it. */
const LOOK_EVERY = 500;
const DEFAULT_PATIENCE = '60s';
const STATES = ['live', 'gone', 'stale'] as const;
/** Milliseconds for one answer: the default of every command. */
const ANSWER_WITHIN = 10_000;

export const wait = defineCommand<Flags>({
  name: 'wait',
  summary: 'wait until a role or a VM is live, gone or stale',
  description:
    'Waits for a role or a VM, and prints what it waited for. --for live: it is live (of a role: at least one is). gone: it is not registered (of a role: none is live). stale: it is stale (of a role: at least one is). count=N: at least N of the role are live. registry: the registry answers. self: it answers, and this VM is live. A registry that is away is waited for, too. --timeout is the longest wait, not that for one answer.',
  arguments: [
    {
      name: 'role|id',
      about: 'a role, or the id of a VM; none with --for registry or self',
      optional: true,
      values: 'ids',
    },
  ],
  flags: [
    {
      flags: '--for <what>',
      about: 'live (the default), gone, stale, count=N, registry or self',
      offers: ['live', 'gone', 'stale', 'count=', 'registry', 'self'],
    },
  ],
  examples: [
    { about: 'until a worker can take work', command: 'vreg wait worker --timeout 5m' },
    { about: 'until three can', command: 'vreg wait worker --for count=3' },
    { about: 'until the registry is up', command: 'vreg wait --for registry --timeout 30s' },
  ],
  exits: [2, 6, 8],
  async run(context, [target], flags) {
    const condition = parseCondition(context, flags.for ?? 'live', target);
    const patience = flags.timeout ?? DEFAULT_PATIENCE;
    const length = parseDuration(patience, '--timeout');
    // One answer that never comes shall not use up all of the wait.
    if (flags.timeout !== undefined) context.config.limitTimeout(Math.min(length, ANSWER_WITHIN));
    const deadline = context.now() + length;
    for (;;) {
      let trouble: VregError | undefined;
      const met = await condition.look(context).catch((error: unknown) => {
        if (!isPassing(error)) throw error;
        trouble = error;
        return undefined;
      });
      if (met) return context.print(vmsAnswer(met));
      const left = deadline - context.now();
      if (left <= 0) {
        const why = trouble ? `: ${trouble.message}` : '';
        throw new VregError('TIMEOUT', `timed out after ${patience}, waiting for ${condition.what}${why}`, {
          hint: trouble ? nextStep(trouble)! : condition.hint,
        });
      }
      await context.sleep(Math.min(LOOK_EVERY, left));
    }
  },
});

interface Condition {
  /** What is waited for, in words. */
  what: string;
  /** What to look at when it does not come. */
  hint: string;
  /** The VMs that meet it (none, where it is about absence), or undefined while it is not met. */
  look(context: Context): Promise<VmWithLiveness[] | undefined>;
}

function parseCondition(context: Context, text: string, target: string | undefined): Condition {
  if ((text === 'registry' || text === 'self') && target !== undefined) {
    throw new VregError(
      'USAGE',
      `--for ${text} waits for ${text === 'self' ? 'this VM' : 'no role and no VM'}, so what is "${target}"?`,
      {
        field: 'for',
        hint: `leave it out: vreg wait --for ${text}`,
      },
    );
  }
  if (text === 'registry') return REGISTRY;
  if (text === 'self') return vmCondition(thisVmId(context.config), 'live')!;
  if (target === undefined)
    throw new VregError('USAGE', 'wait for which role or VM?', {
      field: 'role|id',
      hint: 'for example: vreg wait worker',
    });
  const condition = isRole(target) ? roleCondition(target, text) : vmCondition(target, text);
  if (condition) {
    // Somebody may well wait for a VM that is still to come, so this is no error.
    const meant = isRole(target) ? '' : suggestion(target, ROLES);
    if (meant) context.note(`waiting for a VM with the id "${target}"${meant}`);
    return condition;
  }
  const kind = isRole(target) ? 'role' : 'VM';
  const known = isRole(target) ? [...STATES, 'count=N'] : STATES;
  throw new VregError('USAGE', `--for: "${text}" is not possible for a ${kind}${suggestion(text, STATES)}`, {
    field: 'for',
    hint: `of a ${kind} one of: ${known.join(', ')}; without any: registry, self`,
  });
}

const REGISTRY: Condition = {
  what: 'the registry',
  hint: 'see what is wrong: vreg doctor',
  look: async (context) => ((await context.client().health()) ? [] : undefined),
};

function roleCondition(role: Role, text: string): Condition | undefined {
  const hint = `see who is there: vreg ls --role ${role}`;
  const [, number] = /^count=([1-9]\d{0,8})$/.exec(text) ?? [];
  if (number !== undefined) {
    const what = `${number} live ${role} VM${number === '1' ? '' : 's'}`;
    return { what, hint, look: (context) => atLeast(context, role, Number(number)) };
  }
  if (text === 'live') return { what: `a live ${role} VM`, hint, look: (context) => atLeast(context, role, 1) };
  if (text === 'stale') return { what: `a stale ${role} VM`, hint, look: (context) => anyStale(context, role) };
  if (text !== 'gone') return undefined;
  const look = async (context: Context) => ((await context.client().discover(role)).length === 0 ? [] : undefined);
  return { what: `no ${role} VM to be live`, hint, look };
}

function vmCondition(id: string, text: string): Condition | undefined {
  const hint = `see what it is now: vreg get ${id}`;
  if (text === 'live' || text === 'stale')
    return { what: `VM ${id} to be ${text}`, hint, look: (context) => one(context, id, text) };
  if (text !== 'gone') return undefined;
  const look = async (context: Context) => ((await getIfThere(context, id)) ? undefined : []);
  return { what: `VM ${id} to be gone`, hint, look };
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
  if (!vm) return undefined;
  return (liveness === 'live' ? isOffered(vm) : livenessOf(vm) === liveness) ? [vm] : undefined;
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
