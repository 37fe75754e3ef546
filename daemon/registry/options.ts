/** What the registry is handed, and whom it tells what it finds out. */
import type { Conflict } from '../../src/protocol/heartbeat.ts';
import type { Clock } from '../clock.ts';
import type { Store } from '../store/store.ts';
import type { RegistryLimits } from './capacity.ts';
import type { VmRecord } from './vm-record.ts';

/** What is worth a line in the log, or somebody's attention. */
export interface RegistryObserver {
  /** A VM was removed. */
  removed?(id: string): void;
  /** A sweep found VMs suspect. */
  massLoss?(suspects: readonly VmRecord[]): void;
  /** Two incarnations say that they are the same VM, or one has replaced the other. */
  conflict?(conflict: Conflict): void;
  /** The registry has forgotten what an agent knows: it was restored from an older copy. Told once. */
  rollback?(id: string, known: { revision?: number; beats?: number }): void;
}

export interface RegistryOptions {
  store: Store;
  clock: Clock;
  /** Listening time without a sign of life after which a VM is stale, in milliseconds. */
  staleAfter: number;
  /** Share of the live VMs, 0 to 1, that must fall silent together to be suspect instead of stale; off when nothing is said. */
  massLoss?: number | undefined;
  /** None when nothing is said. */
  limits?: RegistryLimits | undefined;
  /** Told of what is worth a line in the log. */
  observer?: RegistryObserver;
  /** Events kept for watchers that come back; {@link EventLog} says how many when nothing is said. */
  keptEvents?: number;
}
