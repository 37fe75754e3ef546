/** What the registry finds out that is worth a line in the log, or somebody's attention. */
import type { Conflict } from '../../src/protocol/beat.ts';
import type { Entry } from './entry.ts';

export interface RegistryObserver {
  /** A sweep found VMs suspect. */
  massLoss?(suspects: readonly Entry[]): void;
  /** Two incarnations say that they are the same VM, or one has replaced the other. */
  conflict?(conflict: Conflict): void;
  /** The registry has forgotten what an agent knows: it was restored from an older copy. Told once. */
  rollback?(id: string, known: { revision?: number; beats?: number }): void;
}
