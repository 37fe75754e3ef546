/** The events that `GET /registry/events` streams, and the items of a VM's history. */
import type { Heartbeat } from './api.ts';
import type { Claim, Conflict } from './heartbeat.ts';
import { fieldForScripts, forScripts, type Vm } from './vm.ts';

/** Types of committed changes. Each change has its own revision. */
export const CHANGE_TYPES = ['registered', 'updated', 'status', 'deregistered'] as const;
export type ChangeType = (typeof CHANGE_TYPES)[number];

/**
 * Types of events that are not changes; they have the revision of the change before them. A VM became stale, became suspect
 * (it fell silent together with a large share of the fleet), or sent a heartbeat again; two incarnations claim to be the same
 * VM, or one of them took it over from the other.
 */
export const OCCURRENCE_TYPES = ['stale', 'suspect', 'revived', 'conflict'] as const;

export type VmEventType = ChangeType | (typeof OCCURRENCE_TYPES)[number];

/**
 * Changes that a registry's journal retains: months of a quiet fleet, a few megabytes. Older changes are in no history, and
 * their positions are unknown.
 */
export const JOURNAL_LENGTH = 10_000;

/** Old and new value of each changed field; `null` means absent. */
export type FieldChanges = Record<string, [before: unknown, after: unknown]>;

/** A change to a VM or to its liveness. */
export interface VmEvent {
  type: VmEventType;
  /** Revision of the change. {@link OCCURRENCE_TYPES} have the revision of the change before them. */
  revision: number;
  /** Position at that revision. Absent from the original registry (vers-agent-services), which has none. */
  position?: string;
  /** Time by the registry's wall clock, RFC 3339. */
  at: string;
  /** The entry after the event; for `deregistered`, the entry before it. */
  vm: Vm;
  /** Name of the principal: the name of a token, or `anonymous`. */
  by?: string;
  changes?: FieldChanges;
  /** The conflict of a `conflict` event, as `GET /registry/conflicts` lists it. */
  conflict?: Conflict;
}

/**
 * Items of the event stream. `reset`: the requested events are no longer available, and the full state follows as one
 * `registered` event per VM. `synced`: the stream has caught up. `lagged`: the subscriber fell behind, and the stream ends.
 */
export type StreamEvent =
  | VmEvent
  | ({ type: 'heartbeat' } & Heartbeat)
  | { type: 'reset' | 'synced' | 'lagged'; revision: number; position?: string };

/** Response to `GET /registry/recent`: the last events of the fleet that the registry retains in memory, newest first. */
export interface RecentEvents {
  events: VmEvent[];
  count: number;
}

/** A change in the history of a VM. */
export interface HistoryItem {
  /** Absent if the change was made in another store, from which the registry was moved to etcd. So is the position. */
  revision?: number;
  /** Position of the change. Absent if the change is older than positions: the registry was upgraded since. */
  position?: string;
  at: string;
  type: ChangeType;
  by: string;
  changes: FieldChanges;
}

/** Response to `GET /registry/vms/:id/history`, newest change first. */
export interface History {
  id: string;
  history: HistoryItem[];
  count: number;
}

/** Names a change for scripts: its position, or the revision of a change that is older than positions, or `none`. */
export function nameOfChange({ position, revision }: HistoryItem): string {
  return position ?? revision?.toString() ?? 'none';
}

/** `status: running -> paused, name: one -> two`. */
export function formatChanges(changes: FieldChanges, arrow = '->'): string {
  const show = (value: unknown) => (typeof value === 'string' ? value : JSON.stringify(value));
  return Object.entries(changes)
    .map(([field, [before, after]]) => `${field}: ${show(before)} ${arrow} ${show(after)}`)
    .join(', ');
}

/** Changes as scripts may get them: their values are those of entries, also of entries that no longer exist. */
export function changesForScripts(changes: FieldChanges): FieldChanges {
  return Object.fromEntries(
    Object.entries(changes).map(([field, values]) => [
      field,
      values.map((value) => fieldForScripts(field, value) ?? null) as FieldChanges[string],
    ]),
  );
}

/** A conflict as scripts may get it. The ids remain, because a fault names them. */
export function conflictForScripts(conflict: Conflict): Conflict {
  const prepare = (claim: Claim): Claim =>
    claim.address === undefined ? claim : { ...claim, address: String(fieldForScripts('address', claim.address)) };
  return { ...conflict, holder: prepare(conflict.holder), other: prepare(conflict.other) };
}

/** An event as scripts may get it. The id remains, because a fault names it. */
export function eventForScripts(event: StreamEvent): StreamEvent {
  if (!('vm' in event)) return event;
  const { vm, changes, conflict } = event;
  return {
    ...event,
    vm: forScripts(vm).row,
    ...(changes && { changes: changesForScripts(changes) }),
    ...(conflict && { conflict: conflictForScripts(conflict) }),
  };
}
