/** The dependencies and settings of the registry, and the observer to which it reports. */
import type { Conflict, OtherRegistry } from '../../src/protocol/heartbeat.ts';
import type { Clock } from '../clock.ts';
import type { RecordChange, Store } from '../store/store.ts';
import type { RegistryLimits } from './capacity.ts';
import type { EventLogLimits } from './events.ts';
import type { VmRecord } from './vm-record.ts';
import type { Attachment } from './writes.ts';

/** Receives findings that belong in the log. */
export interface RegistryObserver {
  /** A sweep found a mass loss. */
  massLoss?(suspects: readonly VmRecord[]): void;
  /** Two incarnations claim to be the same VM, or one has replaced the other. */
  conflict?(conflict: Conflict): void;
  /** Agents have sent positions of another history. Called at most once an hour with the number of their VMs since then. */
  rollback?(vms: number): void;
  /** An agent reports for the first time that another registry answers at the URL of this one. */
  otherRegistry?(claim: OtherRegistry): void;
}

export interface RegistryOptions {
  store: Store;
  clock: Clock;
  /** The lease: milliseconds of listening time after the last sign of life until a VM is stale. */
  staleAfter: number;
  /** Share of the live VMs, 0 to 1, that must fall silent together to become suspect instead of stale. Default: disabled. */
  massLoss?: number | undefined;
  /** Default: unlimited. */
  limits?: RegistryLimits | undefined;
  observer?: RegistryObserver;
  /** Returns the records to remove in the same transaction as the VM, such as its own token. */
  onDeregister?: ((id: string) => Attachment | undefined) | undefined;
  /** Returns the records to change in the same transaction as the VM's place in the order, such as its own token. */
  onMove?: ((id: string, created: number) => Attachment | undefined) | undefined;
  /** Receives the records of tokens and sessions that other replicas have written. */
  onTokenRecord?: ((record: RecordChange) => void) | undefined;
  /** Events retained for subscribers that reconnect. */
  eventLog?: EventLogLimits | undefined;
}
