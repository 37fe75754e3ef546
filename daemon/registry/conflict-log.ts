/** The conflicts on record: which incarnations claimed a VM that has another one, and how each claim was decided. */
import type { Claim, Conflict } from '../../src/protocol/heartbeat.ts';
import type { Contents, RecordChange } from '../store/store.ts';
import { MAX_RETRY_AFTER } from './identity-errors.ts';
import { definedOnly, isSameIncarnation, isSamePlace, type Now, type Proof } from './incarnation.ts';
import type { RegistryObserver } from './options.ts';
import type { RecordQueue } from './record-queue.ts';
import { SAME_TIMES, type StoredTimes } from './stored-times.ts';
import type { VmRecord } from './vm-record.ts';

interface StoredConflict extends Conflict {
  /** The heartbeat token that the refused incarnation spent. */
  spend?: string;
  /** The token that the holder had to spend when the claim was first refused. */
  against?: string;
  /** The conflict dates from before the VM got its current role. A reader of one role must not see the record. */
  isPast?: true;
  /** Time of the last refusal on the listening clock, in milliseconds. */
  refusedAt?: number;
}

/**
 * Maximum number of conflicts on record. A further one evicts the oldest conflict of the VM with the most conflicts, so that no
 * VM can evict the conflicts of others.
 */
const MAX_CONFLICTS = 1000;
/**
 * Maximum number of conflicts per VM to log and to publish as events. Otherwise, a client that invents tokens could push
 * other events out of the event log.
 */
const MAX_ANNOUNCED = 16;
/**
 * Milliseconds after which a refused incarnation has stopped its retries: three times the longest delay between two of them. An
 * agent extends `Retry-After` to at most twice its value.
 */
const MAX_RETRY_GAP = 3 * 2 * MAX_RETRY_AFTER * 1000;

export class ConflictLog {
  /** Oldest first. */
  readonly #conflicts = new Map<string, StoredConflict>();
  readonly #records: RecordQueue;
  readonly #observer: Pick<RegistryObserver, 'conflict'>;
  readonly #registrationOf: (id: string) => number | undefined;
  readonly #times: StoredTimes;

  /**
   * @param registrationOf returns the revision of the registration of a VM; undefined if it is not registered
   * @param times of records; by default on the listening clock
   */
  constructor(
    { records }: Pick<Contents, 'records'>,
    registrationOf: (id: string) => number | undefined,
    queue: RecordQueue,
    observer: Pick<RegistryObserver, 'conflict'> = {},
    times = SAME_TIMES,
  ) {
    this.#records = queue;
    this.#observer = observer;
    this.#registrationOf = registrationOf;
    this.#times = times;
    const conflicts = records
      .filter(({ kind }) => kind === 'conflict')
      .map(({ key, body }) => ({ stored: key, conflict: this.#parse(body) }))
      .sort(({ conflict: a }, { conflict: b }) => (a.firstAt < b.firstAt ? -1 : 1));
    for (const { stored, conflict } of conflicts) {
      const key = conflictKey(conflict);
      if (stored === key) this.#conflicts.set(key, conflict);
      else {
        // Earlier versions had one record for all copies that spent the same token.
        this.#records.add({ kind: 'conflict', key: stored, body: undefined });
        this.#put(key, conflict);
      }
    }
  }

  /** Applies a record that another replica has written. */
  recordArrived({ key, body }: RecordChange): void {
    if (body === undefined) {
      this.#conflicts.delete(key);
      return;
    }
    const conflict = this.#parse(body);
    const before = this.#conflicts.get(key);
    this.#conflicts.set(key, conflict);
    if (before?.state !== conflict.state && this.#registrationOf(conflict.id) !== undefined) this.#announce(conflict);
  }

  #parse(body: string): StoredConflict {
    return withRefusal(JSON.parse(body) as StoredConflict, this.#times.fromStored);
  }

  /** Logs and publishes a conflict, unless its VM has too many. */
  #announce(conflict: StoredConflict): void {
    if (this.#countOf(conflict.id) <= MAX_ANNOUNCED) this.#observer.conflict?.(publicPart(conflict));
  }

  /** All conflicts, newest first. */
  get all(): Conflict[] {
    return [...this.#conflicts.values()].reverse().map(publicPart);
  }

  /** Number of {@link all}. */
  get count(): number {
    return this.#conflicts.size;
  }

  /** For each VM, only the conflicts since it got its current role; newest first. */
  get inCurrentRole(): Conflict[] {
    return [...this.#conflicts.values()]
      .filter(({ isPast }) => !isPast)
      .reverse()
      .map(publicPart);
  }

  /**
   * Deletes the conflicts of a VM, or all conflicts, once `save` has made the deletion durable. A conflict that recurs in the
   * meantime remains.
   * @returns the number of deleted conflicts
   * @throws the store's errors; then all conflicts remain
   */
  async clear(id: string | undefined, save: () => Promise<void>): Promise<number> {
    const chosen = [...this.#conflicts].filter(([, conflict]) => id === undefined || conflict.id === id);
    const unchanged = () => chosen.filter(([key, conflict]) => this.#conflicts.get(key) === conflict);
    for (const [key] of chosen) this.#records.add({ kind: 'conflict', key, body: undefined });
    const restore = (error: unknown) => {
      for (const [key, conflict] of unchanged()) this.#put(key, conflict);
      throw error;
    };
    if (chosen.length > 0) await save().catch(restore);
    for (const [key] of unchanged()) this.#conflicts.delete(key);
    return chosen.length;
  }

  /** True if there is a conflict with this key. */
  has(key: string): boolean {
    return this.#conflicts.has(key);
  }

  /** Records that the claim of a conflict was accepted, if there is one. */
  markReplaced(key: string): void {
    const conflict = this.#conflicts.get(key);
    if (conflict) this.#put(key, { ...conflict, state: 'replaced' });
  }

  /** Marks the conflicts of a VM that was removed or whose role has changed. */
  markPast(id: string): void {
    for (const [key, conflict] of this.#conflicts)
      if (conflict.id === id && !conflict.isPast) this.#put(key, { ...conflict, isPast: true });
  }

  /**
   * Records that an incarnation was refused, or that a claim was decided.
   * @param former key of an earlier record, which this one replaces
   * @returns the record; its `against` is that of the first refusal of the claim
   */
  record(
    { against, ...found }: Omit<StoredConflict, 'firstAt' | 'lastAt' | 'count' | 'refusedAt'>,
    { listening, lease }: Now,
    former?: string,
  ): StoredConflict {
    const key = conflictKey(found);
    const before = this.#conflicts.get(key) ?? this.#conflicts.get(former ?? key);
    if (former !== undefined && former !== key && before) this.#delete(former);
    const { at } = found.other;
    const since = before?.isPast ? undefined : before;
    const isRepeated = since?.state === 'open' && listening - (since.refusedAt ?? listening) <= maxGap(found, lease);
    const conflict: StoredConflict = {
      ...found,
      firstAt: since?.firstAt ?? at,
      lastAt: at,
      count: (since?.count ?? 0) + 1,
      ...definedOnly({ against: (isRepeated ? since.against : undefined) ?? against }),
      refusedAt: listening,
    };
    this.#put(key, conflict);
    if (before?.state !== found.state) this.#announce(conflict);
    if (this.#conflicts.size > MAX_CONFLICTS) this.#delete(this.#oldestOfMost());
    return conflict;
  }

  /** Ends all claims to a VM whose holder has changed without the holder's token: no claim was refused for the new holder. */
  endClaims(vm: string): void {
    for (const [key, { id }] of this.#conflicts) if (id === vm) this.endClaim(key);
  }

  /** The record remains, but the next refusal begins a new claim. */
  endClaim(key: string): void {
    const { against, refusedAt: _refusedAt, ...conflict } = this.#conflicts.get(key)!;
    if (against !== undefined) this.#put(key, conflict);
  }

  #countOf(vm: string): number {
    let count = 0;
    for (const { id } of this.#conflicts.values()) if (id === vm) count++;
    return count;
  }

  /** Marks the conflicts of a clone that was refused under its old id and then registered as a child of that VM. */
  markReborn(entry: VmRecord, { incarnation, from }: Proof): void {
    if (entry.parentId === undefined || incarnation === undefined) return;
    for (const [key, conflict] of this.#conflicts) {
      const { id, other } = conflict;
      // Any reader can copy the incarnation from a conflict, but cannot send from its address.
      if (id !== entry.parentId || other.incarnation !== incarnation || other.from !== from) continue;
      this.#put(key, { ...conflict, state: 'reborn', rebornAs: entry.id });
    }
  }

  /** Key of the oldest conflict of the VM that has the most conflicts. */
  #oldestOfMost(): string {
    const byVm = new Map<string, string[]>();
    for (const [key, { id }] of this.#conflicts) {
      const keys = byVm.get(id);
      if (keys) keys.push(key);
      else byVm.set(id, [key]);
    }
    return [...byVm.values()].reduce((a, b) => (b.length > a.length ? b : a))[0]!;
  }

  #delete(key: string): void {
    this.#conflicts.delete(key);
    this.#records.add({ kind: 'conflict', key, body: undefined });
  }

  #put(key: string, conflict: StoredConflict): void {
    this.#conflicts.set(key, conflict);
    this.#records.add({ kind: 'conflict', key, body: JSON.stringify(withRefusal(conflict, this.#times.toStored)) });
  }
}

function withRefusal(conflict: StoredConflict, convert: StoredTimes['toStored'] | undefined): StoredConflict {
  const { refusedAt } = conflict;
  return convert && refusedAt !== undefined ? { ...conflict, refusedAt: convert(refusedAt) } : conflict;
}

/**
 * Maximum number of milliseconds between two refusals of one claim. If both sides are the same incarnation at the same place,
 * they are probably one VM that was rewound, resumed and rewound again, so a pause in its retries already ends the claim.
 */
function maxGap({ holder, other }: Pick<Conflict, 'holder' | 'other'>, lease: number): number {
  return isSameIncarnation(other, holder) && isSamePlace(other, holder) ? MAX_RETRY_GAP : lease;
}

/** A conflict as clients see it, without heartbeat tokens. */
function publicPart({ spend: _s, against: _a, refusedAt: _r, isPast: _p, ...conflict }: StoredConflict): Conflict {
  return conflict;
}

/**
 * The key of a record. Each copy has its own record: copies spend the same token, but differ in their incarnation or address. A
 * refused incarnation retries with the same heartbeat and updates its record.
 */
export function conflictKey({ id, spend, other }: { id: string; spend?: string | undefined; other: Claim }): string {
  const { incarnation, address, from } = other;
  return JSON.stringify([id, ...[spend, incarnation, address, from].map((part) => part ?? '')]);
}
