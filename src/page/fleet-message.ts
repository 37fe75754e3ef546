/** The messages between the event stream, which the tabs of a browser share, and the tabs. */
import type { VmEvent } from '../protocol/events.ts';
import type { Liveness } from '../protocol/liveness.ts';
import type { Vm } from '../protocol/vm.ts';

/** A VM as the page knows it. */
export interface FleetRow {
  vm: Vm;
  state: Liveness;
  /** Last sign of life, milliseconds since the epoch. */
  seen: number;
}

/** State of the connection to the registry. */
export type Connection =
  /** The first list is being read. */
  | 'loading'
  /** The page shows the current fleet. */
  | 'live'
  /** The registry is unreachable. The page shows an older fleet. */
  | 'reconnecting'
  /** The session has ended. */
  | 'logged-out';

export interface LinkState {
  connection: Connection;
  /** Time of the last message of the registry, by the clock of this machine; 0 if there was none. */
  heardAt: number;
  /** Why the page is not live. */
  reason?: string | undefined;
  /** Whether the reason is an answer of the registry. */
  isReachable?: boolean | undefined;
  /** Id and version of the registry, and its lease in milliseconds. */
  registry?: string | undefined;
  version?: string | undefined;
  lease?: number | undefined;
}

export type FleetMessage =
  /** All rows are obsolete; the rows of the fleet follow. */
  | { type: 'reset' }
  | { type: 'put'; rows: readonly FleetRow[] }
  | { type: 'remove'; ids: readonly string[] }
  /** Heartbeats: ids, and times in milliseconds since the epoch. */
  | { type: 'seen'; ids: readonly string[]; at: readonly number[] }
  | { type: 'events'; events: readonly VmEvent[] }
  /** All events are obsolete: the registry was restored or copied, or another session has begun. */
  | { type: 'other-history' }
  | ({ type: 'link' } & LinkState);

/** Messages of a tab to the stream. */
export type TabMessage =
  /** The tab runs again after a goodbye, and needs the current state. */
  | 'hello'
  /** The tab is closed, or receives nothing until it runs again. */
  | 'goodbye'
  /** Any message is an answer. */
  | 'ping'
  /** Reconnect now. */
  | 'wake'
  /** Another session has begun. */
  | 'renew';
