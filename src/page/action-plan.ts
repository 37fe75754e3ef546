/** The requests that an action on VMs or conflicts will send to the registry, and how the confirmation describes it. */
import { PATHS, type VmWithLiveness } from '../protocol/api.ts';
import { durationOf } from '../protocol/duration.ts';
import { livenessOf } from '../protocol/liveness.ts';
import type { Status } from '../protocol/vm.ts';
import { shellWord } from './fleet-filter.ts';
import type { FleetRow } from './fleet-message.ts';
import { refusalOf, rows } from './fleet-store.ts';
import { request } from './requests.ts';
import { serverNow } from './server-clock.ts';
import { vmsText } from './times.ts';

/** Ids in a command to copy: more make a command line that is hard to read. */
const MAX_IN_COMMAND = 50;

interface Action {
  title: string;
  /** The command with the same effect, for the ids of VMs. */
  command: string;
  /** The status that the VMs get; without one they are removed. */
  status?: Status;
  note?: string;
}

const VM_ACTIONS_BY_NAME = {
  pause: { title: 'Pause', command: 'vreg pause', status: 'paused' },
  resume: { title: 'Resume', command: 'vreg resume', status: 'running' },
  stop: { title: 'Stop', command: 'vreg stop', status: 'stopped' },
  remove: { title: 'Remove', command: 'vreg rm', note: 'A VM whose agent is running will register again.' },
  prune: { title: 'Prune', command: 'vreg rm' },
} as const satisfies Record<string, Action>;

export type ActionName = keyof typeof VM_ACTIONS_BY_NAME | 'clear';

/** The actions on a VM of any state. */
export const VM_ACTIONS = ['pause', 'resume', 'stop', 'remove'] as const;

export function titleOf(name: keyof typeof VM_ACTIONS_BY_NAME): string {
  return VM_ACTIONS_BY_NAME[name].title;
}

export interface PlannedRequest {
  /** The VM, or the conflicts, in an error. */
  subject: string;
  /** Name of the VM. */
  name?: string;
  method: string;
  path: string;
  body?: { status: Status } | undefined;
  /** Asked immediately before the request, which is skipped if it resolves to false. */
  isStillDue?(): Promise<boolean>;
}

export interface Plan {
  /** For example `Pause 3 VMs`. */
  title: string;
  isDangerous: boolean;
  requests: readonly PlannedRequest[];
  /** The command with the same effect. */
  command: string;
  note: string | undefined;
  /** Why the session may not send some or all of the requests. */
  warning: string | undefined;
}

/**
 * @param ids VMs; for `clear` none to clear all conflicts
 * @param olderThan for `prune`: the silence as a duration, such as `1h`
 */
export function planOf(name: ActionName, ids: readonly string[], olderThan: string): Plan {
  return name === 'clear' ? planToClear(ids) : planForVms(name, ids, olderThan);
}

function planForVms(name: Exclude<ActionName, 'clear'>, ids: readonly string[], olderThan: string): Plan {
  const { title, command, status, note }: Action = VM_ACTIONS_BY_NAME[name];
  const found = name === 'prune' ? prunable(ids, olderThan) : rowsOf(ids);
  const allowed = found.filter(({ vm }) => refusalOf('write', vm) === undefined);
  const count = allowed.length;
  const refused = found.length - count;
  const words = allowed.slice(0, MAX_IN_COMMAND).map(({ vm }) => shellWord(vm.id));
  const more = count > MAX_IN_COMMAND ? ` # and ${count - MAX_IN_COMMAND} more` : '';
  return {
    title: `${title} ${count === 0 && name === 'prune' ? 'stale VMs' : vmsText(count)}`,
    isDangerous: status === undefined,
    requests: allowed.map(({ vm: { id, name: vmName } }) => ({
      subject: id,
      name: vmName,
      method: status === undefined ? 'DELETE' : 'PATCH',
      path: PATHS.vm(id),
      body: status && { status },
      ...(name === 'prune' && { isStillDue: () => isStale(id) }),
    })),
    command: `${command} ${words.join(' ')}${more}`,
    note,
    warning: refused > 0 ? `${vmsText(refused)} beyond the rights of this session will not be changed.` : undefined,
  };
}

/** The stale VMs that have been silent for longer than the given duration. */
function prunable(ids: readonly string[], olderThan: string): FleetRow[] {
  const age = durationOf(olderThan);
  if (age === undefined) return [];
  const now = serverNow();
  return rowsOf(ids).filter(({ state, seen }) => state === 'stale' && now - seen > age);
}

function rowsOf(ids: readonly string[]): FleetRow[] {
  return ids.flatMap((id) => rows.get(id) ?? []);
}

/** A VM may have sent a heartbeat since it was selected. */
async function isStale(id: string): Promise<boolean> {
  return livenessOf(await request<VmWithLiveness>('GET', `${PATHS.vm(id)}?include=liveness`)) === 'stale';
}

function planToClear(ids: readonly string[]): Plan {
  const isAll = ids.length === 0;
  const warning = refusalOf('write');
  const requests = isAll
    ? [{ subject: 'all conflicts', method: 'DELETE', path: PATHS.conflicts }]
    : ids.map((id) => ({
        subject: id,
        method: 'DELETE',
        path: `${PATHS.conflicts}?id=${encodeURIComponent(id)}`,
      }));
  return {
    title: isAll ? 'Clear all conflicts' : `Clear the conflicts of ${vmsText(ids.length)}`,
    isDangerous: true,
    requests: warning === undefined ? requests : [],
    command: ['vreg conflicts', ...ids.map(shellWord), '--clear'].join(' '),
    note: 'This removes the records of conflicts. If two incarnations still claim a VM, the next heartbeat records it again.',
    warning,
  };
}
