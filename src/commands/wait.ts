import { type Context, defineCommand } from '../command.ts';
import { parseDuration, splitList, withUnit } from '../config/values.ts';
import { thisVmId } from '../fleet/local-vm.ts';
import { discoverRoles, POLL_INTERVAL, registeredVms } from '../fleet/lookup.ts';
import { listVms } from '../fleet/selection.ts';
import { countStates, isOffered, vmsAnswer } from '../fleet/table.ts';
import { separate, usableVms } from '../fleet/usable.ts';
import { nextStep, suggestion } from '../help/suggest.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import { livenessOf } from '../protocol/liveness.ts';
import { isRole, ROLES, type Role } from '../protocol/vm.ts';
import { isTransient, Outage } from '../run/retry.ts';

interface Flags {
  for?: string;
  timeout?: string;
}

/** Longer than a VM takes to boot and register. */
const DEFAULT_TIMEOUT = '60s';
const STATES = ['live', 'gone', 'stale'] as const;
/** Milliseconds for each request: the default for `--timeout` in all other commands. */
const REQUEST_TIMEOUT = 10_000;

export const wait = defineCommand<Flags>({
  name: 'wait',
  summary: 'wait until a role or VM is live, gone or stale',
  description: `Waits for a VM, or for VMs with a role, and prints the matching VMs. While the registry is unreachable, the command keeps waiting; if it is still unreachable at the end, the exit code is 8 instead of 6. --timeout limits the entire wait instead of each request. Conditions for --for:
  live      the VM, or at least one VM with the role, is live
  gone      the VM is not registered, or no VM with the role is live
  stale     the VM, or at least one VM with the role, is stale
  count=N   at least N VMs with the role are live
  registry  the registry responds
  self      the registry responds and this VM is live`,
  arguments: [
    {
      name: 'role|id',
      about: 'id of a VM, or a role, or several roles separated by commas; omit it with --for registry and --for self',
      optional: true,
      values: 'roles-and-ids',
    },
  ],
  flags: [
    {
      flags: '--for <what>',
      about: 'condition: live (default), gone, stale, count=N, registry or self',
      offers: ['live', 'gone', 'stale', 'count=', 'registry', 'self'],
    },
  ],
  examples: [
    { about: 'wait for a live worker', command: 'vreg wait worker --timeout 5m' },
    { about: 'wait for three live workers', command: 'vreg wait worker --for count=3' },
    { about: 'wait for the registry', command: 'vreg wait --for registry --timeout 30s' },
  ],
  exits: [2, 6, 8],
  async run(context, [target], flags) {
    const condition = parseCondition(context, flags.for ?? 'live', target);
    const timeout = withUnit(flags.timeout ?? DEFAULT_TIMEOUT);
    const timeoutMs = parseDuration(timeout, '--timeout');
    // Limit each request, so that a hanging one does not use up the entire wait.
    if (flags.timeout !== undefined) context.config.limitTimeout(Math.min(timeoutMs, REQUEST_TIMEOUT));
    const deadline = context.now() + timeoutMs;
    const reportOnTerminal = context.io.errTty;
    const outage = new Outage(context);
    for (let attempt = 1; ; attempt++) {
      let lastError: VregError | undefined;
      const vms = await condition.check(context).catch((error: unknown) => {
        if (!isTransient(error)) throw error;
        lastError = error;
        return undefined;
      });
      if (vms) {
        const single = condition.isOfOneVm === true && vms.length === 1;
        return context.print(vmsAnswer(vms, { single, now: context.client().server.now }));
      }
      const left = deadline - context.now();
      if (left <= 0) {
        const message = `timed out after ${timeout}, waiting for ${condition.what}`;
        // The exit code tells a registry that stays away (8) from a condition that is not met (6).
        throw lastError
          ? new VregError(lastError.code, `${message}: ${lastError.message}`, { hint: nextStep(lastError)! })
          : new VregError('TIMEOUT', `${message}${await statesOf(context, condition.roles)}`, { hint: condition.hint });
      }
      if (reportOnTerminal) {
        if (attempt === 1) context.note(`waiting for ${condition.what} (timeout ${timeout})`);
        if (lastError) outage.begins(lastError);
        else outage.over();
      }
      await context.sleep(Math.min(POLL_INTERVAL, left));
    }
  },
});

interface Condition {
  /** Completes "waiting for …". */
  what: string;
  /** The hint after a timeout. */
  hint: string;
  /** The roles that the condition is about, whose VMs explain a timeout. */
  roles?: readonly Role[];
  /** The condition can match one VM only, so the answer is that VM instead of a list. */
  isOfOneVm?: true;
  /** Returns the matching VMs (none for a condition such as `gone`), or undefined while the condition is not met. */
  check(context: Context): Promise<VmWithLiveness[] | undefined>;
}

function parseCondition(context: Context, text: string, target: string | undefined): Condition {
  if ((text === 'registry' || text === 'self') && target !== undefined) {
    throw new VregError('USAGE', `unexpected argument "${target}": --for ${text} takes no role or id`, {
      field: 'for',
      hint: `omit it: vreg wait --for ${text}`,
    });
  }
  if (text === 'registry') return REGISTRY;
  if (text === 'self') return vmCondition(thisVmId(context.config), 'live')!;
  if (target === undefined)
    throw new VregError('USAGE', 'no role or id given', {
      field: 'role|id',
      hint: 'for example: vreg wait worker',
    });
  const roles = rolesOf(target);
  const condition = roles ? rolesCondition(roles, text) : vmCondition(target, text);
  if (condition) {
    // An unknown id is not an error: the VM may not be registered yet.
    const meant = roles ? '' : suggestion(target, ROLES);
    if (meant) context.note(`waiting for a VM with the id "${target}"${meant}`);
    return condition;
  }
  const kind = roles ? 'role' : 'VM';
  const known = roles ? [...STATES, 'count=N'] : STATES;
  throw new VregError('USAGE', `invalid --for "${text}" for a ${kind}${suggestion(text, STATES)}`, {
    field: 'for',
    hint: `use one of: ${known.join(', ')}; for registry or self, omit the ${kind}`,
  });
}

const REGISTRY: Condition = {
  what: 'the registry',
  hint: 'diagnose the connection: vreg doctor',
  check: async (context) => ((await context.client().health()) ? [] : undefined),
};

/** One or several roles, separated by commas; undefined if the target is an id. */
function rolesOf(target: string): Role[] | undefined {
  const roles = splitList(target);
  return roles.every(isRole) ? roles : undefined;
}

/** The condition concerns all VMs with one of the roles. */
function rolesCondition(roles: readonly Role[], text: string): Condition | undefined {
  const role = roles.join(' or ');
  const hint = `list registered VMs: vreg ls --role ${roles.join(',')}`;
  const [, number] = /^count=([1-9]\d{0,8})$/.exec(text) ?? [];
  if (number !== undefined) {
    const what = `${number} live ${role} VM${number === '1' ? '' : 's'}`;
    return { what, hint, roles, check: (context) => atLeast(context, roles, Number(number)) };
  }
  if (text === 'live')
    return { what: `a live ${role} VM`, hint, roles, check: (context) => atLeast(context, roles, 1) };
  if (text === 'stale')
    return { what: `a stale ${role} VM`, hint, roles, check: (context) => anyStale(context, roles) };
  if (text !== 'gone') return undefined;
  const check = async (context: Context) =>
    (await discoverRoles(context.client(), roles)).length === 0 ? [] : undefined;
  return { what: `no ${role} VM to be live`, hint, roles, check };
}

function vmCondition(id: string, text: string): Condition | undefined {
  const hint = `show its state: vreg get ${id}`;
  if (text === 'live' || text === 'stale')
    return {
      what: `VM ${id} to be ${text}`,
      hint,
      isOfOneVm: true,
      check: (context) => hasLiveness(context, id, text),
    };
  if (text !== 'gone') return undefined;
  const check = async (context: Context) => ((await getIfRegistered(context, id)) ? undefined : []);
  return { what: `VM ${id} to be gone`, hint, check };
}

/** The states of the VMs with the roles: ` (4 registered: 3 stale, 1 paused)`; empty without roles, or if the request fails. */
async function statesOf(context: Context, roles: readonly Role[] | undefined): Promise<string> {
  const vms = roles && (await registeredVms(context, roles));
  return vms ? ` (${countStates(vms)})` : '';
}

async function atLeast(
  context: Context,
  roles: readonly Role[],
  number: number,
): Promise<VmWithLiveness[] | undefined> {
  const vms = await discoverRoles(context.client(), roles);
  return separate(vms).usable.length >= number ? usableVms(context, vms) : undefined;
}

async function anyStale(context: Context, role: readonly Role[]): Promise<VmWithLiveness[] | undefined> {
  const stale = await listVms(context.client(), { role, stale: true });
  return stale.length > 0 ? stale : undefined;
}

async function hasLiveness(
  context: Context,
  id: string,
  liveness: 'live' | 'stale',
): Promise<VmWithLiveness[] | undefined> {
  const vm = await getIfRegistered(context, id);
  if (!vm) return undefined;
  return (liveness === 'live' ? isOffered(vm) : livenessOf(vm) === liveness) ? [vm] : undefined;
}

function getIfRegistered(context: Context, id: string): Promise<VmWithLiveness | undefined> {
  return context
    .client()
    .get(id)
    .catch((error: unknown) => {
      if (error instanceof VregError && error.code === 'NOT_FOUND') return undefined;
      throw error;
    });
}
