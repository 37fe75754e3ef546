/**
 * Lets requests wait until this registry knows the changes, and the identities of VMs, that other replicas of the same store have
 * accepted. A registry without other replicas does not wait.
 */
import type { ReplicaInfo } from '../../src/protocol/api.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { parsePosition } from '../../src/protocol/position.ts';
import type { Replication } from '../store/store.ts';
import type { Identities } from './identity.ts';
import type { Proof } from './incarnation.ts';
import type { Positions } from './positions.ts';
import type { RecordQueue } from './record-queue.ts';

export class Replicas {
  readonly #replication: Replication | undefined;
  readonly #positions: Positions;
  readonly #identities: Identities;
  readonly #records: RecordQueue;
  readonly #has: (id: string) => boolean;

  /**
   * @param replication undefined if this process is the only writer
   * @param has true if this replica knows a VM
   */
  constructor(
    replication: Replication | undefined,
    positions: Positions,
    identities: Identities,
    records: RecordQueue,
    has: (id: string) => boolean,
  ) {
    this.#replication = replication;
    this.#positions = positions;
    this.#identities = identities;
    this.#records = records;
    this.#has = has;
  }

  /** The replicas that share the store, this one included; none if this process is the only writer. */
  get all(): readonly ReplicaInfo[] {
    return this.#replication?.replicas() ?? [];
  }

  /**
   * Waits for the changes that other replicas have committed before this call.
   * @returns undefined if there are no other replicas @throws VregError BUSY, STORE_FAILED
   */
  catchUp(): Promise<unknown> | undefined {
    return this.#replication?.refresh();
  }

  /**
   * Waits until this replica can judge a heartbeat: until it knows the VM, the identity that another replica has accepted, and the
   * position that the agent has received from another one.
   * @returns undefined if there is nothing to wait for; otherwise, whether the positions are as for {@link Positions.compare}
   * @throws VregError BUSY, STORE_FAILED if the VM is unknown and the store does not respond
   */
  prepareHeartbeat(id: string, proof?: Proof): Promise<boolean> | undefined {
    const replication = this.#replication;
    if (!replication) return undefined;
    const isUnknown = !this.#has(id);
    const isAhead = proof?.position !== undefined && this.#positions.isAhead(proof.position);
    const isForeign = proof?.next !== undefined && !replication.ownsIdentity(id);
    if (!isUnknown && !isAhead && !isForeign) return undefined;
    return this.#prepare(id, replication, { isUnknown, isAhead, isForeign });
  }

  async #prepare(
    id: string,
    replication: Replication,
    { isUnknown, isAhead, isForeign }: { isUnknown: boolean; isAhead: boolean; isForeign: boolean },
  ): Promise<boolean> {
    let isCurrent = false;
    try {
      if (isUnknown || isAhead) {
        await replication.refresh();
        isCurrent = true;
      }
    } catch (error) {
      // A heartbeat of a known VM is accepted while the store is away; the agent compares its history later.
      if (isUnknown) throw error;
    }
    if (isForeign) await replication.fetchIdentity(id);
    return isCurrent;
  }

  /**
   * Makes the identity of an accepted heartbeat known to the other replicas, if another one had accepted the last one.
   * @returns false if yet another replica was first: prepare the heartbeat and record it again
   */
  async claimIdentity(id: string): Promise<boolean> {
    const replication = this.#replication;
    const record = this.#identities.recordOf(id);
    if (!replication || !record || replication.ownsIdentity(id)) return true;
    this.#records.drop(record);
    return replication.claimIdentity(record);
  }

  /**
   * Waits until this replica has a position that a client has received from another one.
   * @throws VregError INVALID, PRECONDITION_FAILED if it belongs to another history, STORE_FAILED if the store does not respond
   */
  async awaitPosition(text: string): Promise<void> {
    if (!parsePosition(text)) {
      throw new VregError('INVALID', `minPosition: "${text}" is not a position`, {
        field: 'minPosition',
        hint: 'send the header X-Vreg-Position of an earlier response unchanged',
      });
    }
    if (this.#positions.isAhead(text)) await this.catchUp();
    if (this.#positions.compare(text, true) !== 'other') return;
    throw new VregError('PRECONDITION_FAILED', `the position ${text} belongs to another history of this registry`, {
      field: 'minPosition',
      hint: 'the registry was restored or copied: read again without minPosition',
    });
  }

  /** As {@link catchUp}, but returns undefined if this replica knows the VM. */
  awaitVm(id: string): Promise<unknown> | undefined {
    return this.#has(id) ? undefined : this.catchUp();
  }
}
