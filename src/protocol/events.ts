/** What the registry tells those who watch it: the events of `GET /registry/events`, and the entries of a history. */
import type { Heartbeat } from './api.ts';
import type { Vm } from './vm.ts';

/** Committed changes; each has a revision of its own. */
export const CHANGE_TYPES = ['registered', 'updated', 'status', 'deregistered'] as const;
export type ChangeType = (typeof CHANGE_TYPES)[number];

/**
 * Changes that time makes, or a heartbeat: a live VM went silent, or did so together with so many others that it is still
 * offered, or a silent one was heard again.
 */
export const LIVENESS_TYPES = ['stale', 'suspect', 'revived'] as const;
export type LivenessType = (typeof LIVENESS_TYPES)[number];

export type VmEventType = ChangeType | LivenessType;

/** Old and new value of each field that a change touched; `null` is "absent". */
export type FieldChanges = Record<string, [before: unknown, after: unknown]>;

/** Something happened to a VM. */
export interface VmEvent {
  type: VmEventType;
  /** Revision of the change; of the last one before it for liveness events, which are no changes. */
  revision: number;
  /** When, by the registry's wall clock: RFC 3339. */
  at: string;
  /** The entry after the event; before it for `deregistered`. */
  vm: Vm;
  /** Who: a token's name, or `anonymous`. */
  by?: string;
  changes?: FieldChanges;
}

/**
 * The stream of events. `reset`: what was asked for is no longer known, the full state follows, a `registered` event a
 * VM. `synced`: from here on every event is told. `lagged`: the reader fell behind; the stream ends.
 */
export type StreamEvent =
  | VmEvent
  | ({ type: 'heartbeat' } & Heartbeat)
  | { type: 'reset' | 'synced' | 'lagged'; revision: number };

/** One change in the history of a VM. */
export interface HistoryItem {
  revision: number;
  at: string;
  type: ChangeType;
  by: string;
  changes: FieldChanges;
}

/** `GET /registry/vms/:id/history`, newest change first. */
export interface History {
  id: string;
  history: HistoryItem[];
  count: number;
}
