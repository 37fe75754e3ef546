/**
 * Compares the positions in heartbeats with the history of the registry. A position of another history means that this registry
 * was restored or copied, or that a second registry answers at the same URL. An agent can invent positions, so such a claim is
 * only logged, counted and shown; it does not affect responses to other clients.
 */
import { heartbeatInterval } from '../../src/protocol/api.ts';
import type { AgentHeartbeat, HistoryAnswer, OtherRegistry } from '../../src/protocol/heartbeat.ts';
import { parsePosition } from '../../src/protocol/position.ts';
import type { Contents, RecordChange } from '../store/store.ts';
import type { Now } from './incarnation.ts';
import type { RegistryObserver } from './options.ts';
import type { Positions } from './positions.ts';
import type { RecordQueue } from './record-queue.ts';

/** Minimum number of milliseconds between two reports of a rollback: an operator needs one line, not one per agent. */
const REPORT_INTERVAL = 3_600_000;
/** Maximum number of milliseconds from the first agent's claim to the report, so that one report can count many VMs. */
const MAX_COLLECTING = 3000;
/** The registry retains only the newest claim that another registry exists. */
const RECORD = { kind: 'other-registry', key: 'newest' } as const;

export class HistoryClaims {
  readonly #positions: Positions;
  readonly #records: RecordQueue;
  readonly #observer: Pick<RegistryObserver, 'rollback' | 'otherRegistry'>;
  /** VMs whose agents have sent a position of another history since the start. */
  readonly #rolledBack = new Set<string>();
  /** The VMs of {@link rolledBack} that the next report will count. */
  readonly #unreported = new Set<string>();
  /** Time of the last report on the listening clock, in milliseconds. */
  #reportedAt = Number.NEGATIVE_INFINITY;
  /** Time from which a report may be made, on the listening clock. */
  #reportFrom = 0;
  #otherRegistry: OtherRegistry | undefined;
  /** VMs whose agents have made the claim {@link otherRegistry} since the start. */
  readonly #claimants = new Set<string>();

  constructor(
    { records }: Pick<Contents, 'records'>,
    positions: Positions,
    queue: RecordQueue,
    observer: Pick<RegistryObserver, 'rollback' | 'otherRegistry'> = {},
  ) {
    this.#positions = positions;
    this.#records = queue;
    this.#observer = observer;
    const stored = records.find(({ kind }) => kind === RECORD.kind);
    if (stored) this.#otherRegistry = JSON.parse(stored.body) as OtherRegistry;
  }

  /** Number of VMs whose agents have sent a position of another history since the start. */
  get rolledBack(): number {
    return this.#rolledBack.size;
  }

  get otherRegistry(): OtherRegistry | undefined {
    return this.#otherRegistry;
  }

  /**
   * Compares the positions in a heartbeat that was accepted. @param isCurrent as for {@link Positions.compare}
   * @returns undefined if it has none
   */
  answer(id: string, heartbeat: AgentHeartbeat, now: Now, isCurrent?: boolean): HistoryAnswer | undefined {
    const { position, alternates } = heartbeat;
    if (position === undefined) return undefined;
    // A client can send any text, and a claim is stored and shown.
    const leftPosition = isOtherPosition(heartbeat.leftPosition, position) ? heartbeat.leftPosition : undefined;
    const history = this.#positions.compare(position, isCurrent);
    const hasLeft = leftPosition !== undefined && this.#positions.compare(leftPosition) === 'same';
    const returned = hasLeft && (history === 'other' || (history === 'same' && follows(leftPosition, position)));
    if (alternates && returned) this.#claimOther(id, leftPosition, position, now);
    else if (alternates && leftPosition !== undefined && history === 'same')
      this.#claimOther(id, position, leftPosition, now);
    else if (history === 'other') this.#claimRollback(id, now);
    return returned ? { history, returned } : { history };
  }

  /** Applies a record that another replica has written. */
  recordArrived({ body }: RecordChange): void {
    if (body === undefined) this.#claimants.clear();
    this.#otherRegistry = body === undefined ? undefined : (JSON.parse(body) as OtherRegistry);
  }

  /** Discards the claims of a removed VM. */
  forget(id: string): void {
    this.#rolledBack.delete(id);
    this.#unreported.delete(id);
    this.#claimants.delete(id);
  }

  /**
   * Reports the VMs whose agents have sent a position of another history, if a report is due. @param listening milliseconds on
   * the listening clock
   */
  report(listening: number): void {
    if (this.#unreported.size === 0 || listening < this.#reportFrom) return;
    this.#observer.rollback?.(this.#unreported.size);
    this.#reportedAt = listening;
    this.#unreported.clear();
  }

  /**
   * Deletes the claim that another registry exists, once `save` has made the deletion durable.
   * @returns the number of deleted claims, 0 or 1 @throws the store's errors; the claim then remains
   */
  async clear(save: () => Promise<void>): Promise<number> {
    const claim = this.#otherRegistry;
    if (!claim) return 0;
    this.#records.add({ ...RECORD, body: undefined });
    await save().catch((error: unknown) => {
      if (this.#otherRegistry) this.#put(this.#otherRegistry);
      throw error;
    });
    // An agent may have repeated the claim in the meantime.
    if (this.#otherRegistry !== claim) return 1;
    this.#otherRegistry = undefined;
    this.#claimants.clear();
    return 1;
  }

  #claimRollback(id: string, { listening, lease }: Now): void {
    this.#rolledBack.add(id);
    if (this.#unreported.size === 0) {
      const collecting = Math.min(heartbeatInterval(lease), MAX_COLLECTING);
      this.#reportFrom = Math.max(listening + collecting, this.#reportedAt + REPORT_INTERVAL);
    }
    this.#unreported.add(id);
  }

  #claimOther(id: string, position: string, otherPosition: string, { at }: Now): void {
    const before = this.#otherRegistry;
    this.#claimants.add(id);
    const vms = Math.max(before?.vms ?? 0, this.#claimants.size);
    const claim = { position, otherPosition, vms, firstAt: before?.firstAt ?? at, lastAt: at };
    this.#put(claim);
    if (!before) this.#observer.otherRegistry?.(claim);
  }

  #put(claim: OtherRegistry): void {
    this.#otherRegistry = claim;
    this.#records.add({ ...RECORD, body: JSON.stringify(claim) });
  }
}

function isOtherPosition(text: string | undefined, position: string): boolean {
  return text !== undefined && text !== position && parsePosition(text) !== undefined;
}

/** True if a position of this history has a higher revision than another one. */
function follows(position: string, other: string): boolean {
  return Number.parseInt(position, 10) > Number.parseInt(other, 10);
}
