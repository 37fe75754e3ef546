/**
 * Decides which incarnation of a VM may send its heartbeats.
 *
 * Each heartbeat from an agent *spends* a single-use heartbeat token, that is, contains the token that the previous heartbeat
 * announced, and announces the next one. A token has a number that only increases, and 128 random bits. If a token is spent a
 * second time, the sender is a copy of the VM or of its agent's state, or the VM was restored from an older snapshot
 * (*rewound*). A plain heartbeat has no token, and this module never refuses it.
 *
 * **States of a VM**
 *
 * - *Held*: one incarnation, the *holder*, has proved its identity. The registry stores the token that the holder must spend
 *   next.
 * - *Held tentatively*: the holder was accepted without proof, because it is probably the VM. The registry also stores the last
 *   *proven* incarnation for one lease period. If the proven incarnation spends its token within that period, it takes the VM
 *   back; otherwise the tentative holder becomes the proven one.
 * - *Contested*: another incarnation claims the VM and was refused. The registry stores the claim as a conflict, with the token
 *   that the holder had to spend at that time. The claim is *decided* when a proven holder spends that token: then the claim is
 *   rejected. It is also decided when the holder has been silent for one lease period: then the claim is accepted. A claim that
 *   was not repeated for one lease period has ended (for 30 s, if both sides are the same incarnation at the same place). A later
 *   one is a new claim: the VM may have been rewound to the same state a second time. All claims end when the holder changes by
 *   rules 4 to 6.
 *
 * **Who is accepted.** The first rule that matches applies:
 *
 * 1. The VM has no holder: the sender becomes the holder.
 * 2. The sender spends the holder's token, or repeats the holder's last heartbeat because the response was lost: it is the
 *    holder. If it is another process at another address, it must wait until the holder's next heartbeat is overdue. If that
 *    heartbeat arrives, the sender is a copy; otherwise the VM has moved.
 * 3. The holder is tentative, and the sender spends the token of the last proven incarnation: it takes the VM back, as in rule
 *    2, and the conflict is recorded.
 * 4. The sender's access token may change the VM, and the sender requests to replace the holder, or the access tokens of the
 *    holder and of the proven incarnation may not change the VM: it becomes the holder, and the conflict is recorded. A client
 *    that may only send heartbeats could otherwise become the holder before the VM does.
 * 5. The holder has been silent for one lease period: the sender becomes the holder; only tentatively if its token number is
 *    ahead, because a client could invent that. The conflict is recorded, unless a sender that is ahead resembles the proven
 *    incarnation, or the VM has only lost its agent's state.
 * 6. The sender is probably the VM: it becomes the tentative holder. It is probably the VM if its token has a higher number
 *    than the proven one (the registry has lost heartbeats), if it has no token but the addresses of the proven incarnation
 *    (the agent has lost its state), or if the status of the VM was set to stopped or paused after the last heartbeat. A client
 *    could invent all of this, so the proven incarnation keeps its right to return. If the VM is already held tentatively, the
 *    sender must resemble the proven incarnation more than the holder does. If it resembles that equally, or has the addresses
 *    of the holder, it needs an access token that may change the VM while the holder's may not, a higher token number, or a
 *    holder whose next heartbeat is overdue. The conflict is recorded if the sender resembles neither the proven incarnation nor
 *    the holder.
 * 7. Otherwise the VM is contested.
 *
 * **Silence.** Only an accepted heartbeat is a sign of life and ends the silence of the holder. Silence is measured in
 * listening time, so it does not include pauses of the registry.
 *
 * **Enrolment.** A VM that has lost its access token cannot send heartbeats until it has enrolled again, which is a claim, too.
 * It is accepted when the holder has been silent for one lease period, and rejected when a proven holder sends a heartbeat from
 * another place, with an access token that may change the VM. A holder at the same place may be the sender itself: its own
 * access token was refused for a moment. If the VM has no holder, any sign of life of the VM counts as one of the holder. A VM
 * that has enrolled again has no holder, so rule 1 accepts it.
 *
 * **409.** If the response has `Retry-After`, the claim is undecided, and the sender must retry with the same heartbeat: an
 * agent does so until it is accepted or the claim is decided. Otherwise, another incarnation is alive: an agent exits with 9 or
 * applies `--on-clone`. A one-shot `vreg heartbeat` exits with 9 in both cases.
 */
import { heartbeatInterval } from '../../src/protocol/api.ts';
import { VregError } from '../../src/protocol/errors.ts';
import type { AgentHeartbeat, Claim, Conflict } from '../../src/protocol/heartbeat.ts';
import type { Contents, RecordChange } from '../store/store.ts';
import type { RegistryObserver } from './options.ts';
import type { VmRecord } from './vm-record.ts';
import type { RecordQueue } from './writes.ts';

/** A heartbeat from an agent, with the network address of its sender. */
export interface Proof extends AgentHeartbeat {
  /** The peer's address; undefined on a unix socket. */
  from?: string | undefined;
  /** The scope of the sender's access token permits changes. A token that may only send heartbeats is less trusted. */
  mayWrite?: boolean;
}

/** An incarnation that was accepted. */
interface Incarnation extends Claim {
  /** The heartbeat token that the next heartbeat must spend. */
  token: string;
  /**
   * The heartbeat token that the last heartbeat spent, which announced {@link token}. Recognizes a repetition of that
   * heartbeat.
   */
  spent?: string;
  /** Time of the last accepted proof on the listening clock, in milliseconds. */
  heardAt: number;
  /** As in {@link Proof}, for the last accepted heartbeat. */
  mayWrite?: boolean;
}

/** The incarnation whose heartbeats are accepted. */
interface Holder extends Incarnation {
  /** Revision of the VM's registration. If it differs from the current one, the id belongs to another VM now. */
  created: number;
  /** The last heartbeat token of each former holder, newest last. Their numbers may be higher than the holder's own. */
  superseded?: string[];
  /** The status of the VM was set to stopped or paused after the last proof, so the VM may no longer exist. */
  isIdle?: true;
  /**
   * Time of the change of the VM's role after the last proof, RFC 3339. A reader of the new role must not see what the holder
   * reported in the other one.
   */
  movedAt?: string;
  /** The last proven incarnation, while this holder is tentative. `until` is in milliseconds on the listening clock. */
  proven?: Incarnation & { until: number };
  /** Key of the conflict that was recorded when this holder was accepted tentatively. */
  claim?: string;
}

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

/** The sender of an enrolment for an id that is registered. */
export interface Enroller {
  address: string;
  /** The peer's address; undefined on a unix socket. */
  from: string | undefined;
  /** The role and the enrol token are those with which the registered VM enrolled. */
  isReturning: boolean;
}

/** The time at which a heartbeat is processed, and the state of the registry at that time. */
export interface Now {
  /** Wall clock, RFC 3339. */
  at: string;
  /** Listening clock, milliseconds. */
  listening: number;
  /** The lease in milliseconds. */
  lease: number;
  /** Listening time from which silence counts at the earliest, because the lease became shorter then. */
  silenceFrom: number;
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
/** Number of heartbeat intervals after which a silent holder is presumed dead: one missed heartbeat plus half an interval. */
const MISSED_HEARTBEATS = 1.5;
/** Maximum `Retry-After` for a refused incarnation, in seconds, so that it soon receives the decision. */
const MAX_RETRY_AFTER = 5;
/**
 * Milliseconds after which a refused incarnation has stopped its retries: three times the longest delay between two of them. An
 * agent extends `Retry-After` to at most twice its value.
 */
const MAX_RETRY_GAP = 3 * 2 * MAX_RETRY_AFTER * 1000;
/** Maximum number of heartbeat tokens of former holders to remember per VM. */
const MAX_SUPERSEDED = 8;

/**
 * Converts between the listening clock and the clock of stored times, in milliseconds. Replicas have different listening clocks,
 * so their records have times of the wall clock.
 */
export interface StoredTimes {
  toStored?(listening: number): number;
  fromStored?(stored: number): number;
}

const SAME_TIMES: StoredTimes = {};

export class Identities {
  readonly #holders = new Map<string, Holder>();
  /** All conflicts, oldest first. */
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
    const conflicts: [key: string, conflict: StoredConflict][] = [];
    for (const { kind, key, body } of records) {
      if (kind === 'conflict') conflicts.push([key, this.#parseConflict(body)]);
      if (kind !== 'identity') continue;
      const holder = this.#parseHolder(body);
      // The removal of a VM is durable before the removal of its identity. A crash in between leaves an orphan.
      if (holder.created === registrationOf(key)) this.#holders.set(key, holder);
      else this.#records.add({ kind, key, body: undefined });
    }
    conflicts.sort(([, a], [, b]) => (a.firstAt < b.firstAt ? -1 : 1));
    for (const [stored, conflict] of conflicts) {
      const key = keyOf(conflict);
      if (stored === key) this.#conflicts.set(key, conflict);
      else {
        // Earlier versions had one record for all copies that spent the same token.
        this.#records.add({ kind: 'conflict', key: stored, body: undefined });
        this.#putConflict(key, conflict);
      }
    }
  }

  /** Applies a record that another replica has written. */
  recordArrived({ kind, key, body }: RecordChange): void {
    if (kind === 'identity') {
      if (body === undefined) this.#holders.delete(key);
      else this.#holders.set(key, this.#parseHolder(body));
      return;
    }
    if (body === undefined) {
      this.#conflicts.delete(key);
      return;
    }
    const conflict = this.#parseConflict(body);
    const before = this.#conflicts.get(key);
    this.#conflicts.set(key, conflict);
    if (before?.state !== conflict.state && this.#registrationOf(conflict.id) !== undefined) this.#announce(conflict);
  }

  #parseHolder(body: string): Holder {
    return withTimes(parseHolder(body), this.#times.fromStored);
  }

  #parseConflict(body: string): StoredConflict {
    return withRefusal(JSON.parse(body) as StoredConflict, this.#times.fromStored);
  }

  /** Logs and publishes a conflict, unless its VM has too many. */
  #announce(conflict: StoredConflict): void {
    if (this.#countOf(conflict.id) <= MAX_ANNOUNCED) this.#observer.conflict?.(publicPart(conflict));
  }

  /** All conflicts, newest first. */
  get conflicts(): Conflict[] {
    return [...this.#conflicts.values()].reverse().map(publicPart);
  }

  /** Number of {@link conflicts}. */
  get conflictCount(): number {
    return this.#conflicts.size;
  }

  /** For each VM, only the conflicts since it got its current role; newest first. */
  get conflictsInRole(): Conflict[] {
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
      for (const [key, conflict] of unchanged()) this.#putConflict(key, conflict);
      throw error;
    };
    if (chosen.length > 0) await save().catch(restore);
    for (const [key] of unchanged()) this.#conflicts.delete(key);
    return chosen.length;
  }

  /** Deletes the identity of a removed VM, so that a new VM with the same id has none. */
  forget(id: string): void {
    this.#markPast(id);
    this.release(id);
  }

  /** Removes the holder of a VM that has enrolled again, so that the silence of its former agent does not count any more. */
  release(id: string): void {
    this.#endClaims(id);
    if (this.#holders.delete(id)) this.#records.add({ kind: 'identity', key: id, body: undefined });
  }

  /** True if an incarnation has proved that it is the VM. */
  isHeld(id: string): boolean {
    return this.#holders.has(id);
  }

  /**
   * The identity of a VM whose role changes, to commit with that change. After a crash, the holder would otherwise look like
   * that of a removed VM if the VM has moved to the end of lists.
   * @param movedAt time of the change, RFC 3339
   */
  recordAfterMove(entry: VmRecord, movedAt: string): RecordChange[] {
    const holder = this.#movedHolder(entry, movedAt);
    return holder ? [this.#identityRecord(entry.id, holder)] : [];
  }

  /**
   * Updates the identity of a VM whose role has changed. Its incarnation stays the same, even if it has moved to the end of
   * lists.
   * @param movedAt time of the change, RFC 3339
   */
  move(entry: VmRecord, movedAt: string): void {
    const { id } = entry;
    const holder = this.#movedHolder(entry, movedAt);
    if (holder) this.#putHolder(id, holder);
    this.#markPast(id);
  }

  #movedHolder({ id, version: { created } }: VmRecord, movedAt: string): Holder | undefined {
    const holder = this.#holders.get(id);
    return holder && { ...holder, created, movedAt };
  }

  #markPast(id: string): void {
    for (const [key, conflict] of this.#conflicts)
      if (conflict.id === id && !conflict.isPast) this.#putConflict(key, { ...conflict, isPast: true });
  }

  /** Records that the status of the VM was set to stopped or paused. Until its next heartbeat, the holder counts as silent. */
  markIdle(id: string): void {
    const holder = this.#holders.get(id);
    if (holder && !holder.isIdle) this.#putHolder(id, { ...holder, isIdle: true });
  }

  /**
   * Decides by the rules at the top of this module whether the sender of a heartbeat is the VM.
   * @throws VregError IDENTITY_CONFLICT if the sender is not accepted; with `retryAfter` while that is undecided
   */
  prove(entry: VmRecord, proof: Proof, now: Now): void {
    const { next, spend } = proof;
    if (next === undefined) return;
    const { id } = entry;
    const holder = this.#holderOf(id, now);
    if (!holder) this.#markReborn(entry, proof);
    const { proven, superseded, claim } = holder ? this.#succeed(id, holder, proof, now) : {};
    const { address, incarnation, from, mayWrite } = proof;
    this.#putHolder(id, {
      ...definedOnly({ incarnation, address, from, spent: spend, superseded, proven, claim, mayWrite }),
      token: next,
      at: now.at,
      heardAt: now.listening,
      created: entry.version.created,
    });
  }

  /**
   * Checks that a VM that has lost its access token may enrol again under its id; see *Enrolment* at the top of this module.
   * If its role or enrol token differs, no plain heartbeat may have arrived for one lease period either.
   * @throws VregError CONFLICT with `retryAfter` while that is undecided, IDENTITY_CONFLICT if the claim is rejected
   */
  assertVacant(entry: VmRecord, { address, from, isReturning }: Enroller, now: Now): void {
    const { id, seen, lastSeen } = entry;
    const other: Claim = { ...definedOnly({ address, from }), at: now.at };
    const key = keyOf({ id, other });
    const before = this.#conflicts.get(key);
    const holder = this.#holderOf(id, now);
    const silence = silenceOf((isReturning && holder) || seen, now);
    if (silence > now.lease) {
      if (before) this.#putConflict(key, { ...before, state: 'replaced' });
      return;
    }
    const known: Claim = holder ? claimOf(holder) : { address: entry.vm.address, at: lastSeen };
    // Not `heardAt`, which also changes when the registry starts with a shorter lease.
    const latest = holder ? holder.token : lastSeen;
    const { against, count } = this.#recordConflict({ id, holder: known, other, state: 'open', against: latest }, now);
    const details = { field: 'id', hint: COMPARE };
    const mayDecide = !holder || (!holder.proven && holder.mayWrite);
    if (against !== latest && mayDecide && !isSamePlace({ address, from }, holder ?? known)) {
      // The next claim from this address may come from another incarnation, which must see a sign of life after its own start.
      this.#endClaim(key);
      throw new VregError('IDENTITY_CONFLICT', `VM already registered, and ${aliveAs(id, known)}`, details);
    }
    throw new VregError('CONFLICT', 'VM already registered', {
      ...details,
      hint: `if VM "${id}" has lost its token, retry: it may enrol again once it has been silent for one lease period; otherwise remove it: vreg rm ${id}`,
      retryAfter: retryAfter(count, now.lease - silence),
    });
  }

  /** The holder of a VM. A tentative holder counts as proven once the proven incarnation can no longer return. */
  #holderOf(id: string, { listening }: Now): Holder | undefined {
    const holder = this.#holders.get(id);
    if (!holder?.proven || listening <= holder.proven.until) return holder;
    const { proven: _proven, claim: _claim, ...settled } = holder;
    return settled;
  }

  /**
   * Decides by rules 2 to 7 whether the sender of a heartbeat becomes, or remains, the holder.
   * @returns the fields that the new record of the holder takes over
   * @throws VregError as {@link prove}
   */
  #succeed(id: string, holder: Holder, proof: Proof, now: Now): Pick<Holder, 'proven' | 'superseded' | 'claim'> {
    const { proven, superseded, claim } = holder;
    if (continues(holder, proof)) {
      if (!holder.isIdle) assertMoved(id, holder, proof, now);
      return definedOnly({ proven, superseded, claim });
    }
    const inherited = { superseded: supersede(holder, proof) };
    const recordLoser = () => {
      const { token } = holder;
      const sides = { holder: claimIn(proof, now.at), other: claimOf(holder) };
      return this.#recordConflict({ id, ...sides, state: 'open', spend: token, against: token }, now, claim);
    };
    if (proven && continues(proven, proof)) {
      assertMoved(id, proven, proof, now);
      recordLoser();
      return inherited;
    }
    const isAhead = isAheadOf(proof, holder);
    const isSilent = silenceOf(holder, now) > now.lease;
    const record = (state: Conflict['state'], against?: string) => {
      const sides = { holder: claimOf(holder), other: claimIn(proof, now.at) };
      return this.#recordConflict({ id, ...sides, state, ...definedOnly({ spend: proof.spend, against }) }, now);
    };
    const isReplacing = proof.replace || isFirstToWrite(proof, holder);
    if (!isReplacing && !isSilent && !isProbablyTheVm(proof, holder, now)) {
      const { against, count } = record('open', holder.token);
      if (!proven && against !== holder.token) throw identityConflict(id, holder);
      throw undecided(id, holder, count, now.lease - silenceOf(holder, now));
    }
    const key = keyOf({ id, spend: proof.spend, other: claimIn(proof, now.at) });
    this.#endClaims(id);
    const hasLostState = proof.spend === undefined && !this.#conflicts.has(key);
    const isSame = isSameIncarnation(proof, holder) && isSamePlace(proof, holder);
    const isStranger = !isSame && resemblance(proof, proven ?? holder) === 0;
    const isConflict = isReplacing || (isAhead ? isStranger : !hasLostState);
    if (isConflict) record('replaced');
    else if (proven && !isSameIncarnation(proof, holder) && untilOverdue(holder, now) > 0) recordLoser();
    if (isReplacing || (isSilent && !isAhead)) return inherited;
    return {
      ...inherited,
      proven: proven ?? { ...incarnationOf(holder), until: now.listening + now.lease },
      ...definedOnly({ claim: isConflict ? key : isSame ? claim : undefined }),
    };
  }

  /**
   * Records that an incarnation was refused, or that a claim was decided.
   * @param former key of an earlier record, which this one replaces
   * @returns the record; its `against` is that of the first refusal of the claim
   */
  #recordConflict(
    { against, ...found }: Omit<StoredConflict, 'firstAt' | 'lastAt' | 'count' | 'refusedAt'>,
    { listening, lease }: Now,
    former?: string,
  ): StoredConflict {
    const key = keyOf(found);
    const before = this.#conflicts.get(key) ?? this.#conflicts.get(former ?? key);
    if (former !== undefined && former !== key && before) this.#deleteConflict(former);
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
    this.#putConflict(key, conflict);
    if (before?.state !== found.state) this.#announce(conflict);
    if (this.#conflicts.size > MAX_CONFLICTS) this.#deleteConflict(this.#oldestOfMost());
    return conflict;
  }

  /** Ends all claims to a VM whose holder has changed without the holder's token: no claim was refused for the new holder. */
  #endClaims(vm: string): void {
    for (const [key, { id }] of this.#conflicts) if (id === vm) this.#endClaim(key);
  }

  /** The record remains, but the next refusal begins a new claim. */
  #endClaim(key: string): void {
    const { against, refusedAt: _refusedAt, ...conflict } = this.#conflicts.get(key)!;
    if (against !== undefined) this.#putConflict(key, conflict);
  }

  #countOf(vm: string): number {
    let count = 0;
    for (const { id } of this.#conflicts.values()) if (id === vm) count++;
    return count;
  }

  /** Marks the conflicts of a clone that was refused under its old id and then registered as a child of that VM. */
  #markReborn(entry: VmRecord, { incarnation, from }: Proof): void {
    if (entry.parentId === undefined || incarnation === undefined) return;
    for (const [key, conflict] of this.#conflicts) {
      const { id, other } = conflict;
      // Any reader can copy the incarnation from a conflict, but cannot send from its address.
      if (id !== entry.parentId || other.incarnation !== incarnation || other.from !== from) continue;
      this.#putConflict(key, { ...conflict, state: 'reborn', rebornAs: entry.id });
    }
  }

  #putHolder(id: string, holder: Holder): void {
    this.#holders.set(id, holder);
    this.#records.add(this.#identityRecord(id, holder));
  }

  /** The record of a VM's identity; undefined if it has none. */
  recordOf(id: string): RecordChange | undefined {
    const holder = this.#holders.get(id);
    return holder && this.#identityRecord(id, holder);
  }

  #identityRecord(id: string, holder: Holder): RecordChange {
    return { kind: 'identity', key: id, body: JSON.stringify(withTimes(holder, this.#times.toStored)) };
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

  #deleteConflict(key: string): void {
    this.#conflicts.delete(key);
    this.#records.add({ kind: 'conflict', key, body: undefined });
  }

  #putConflict(key: string, conflict: StoredConflict): void {
    this.#conflicts.set(key, conflict);
    this.#records.add({ kind: 'conflict', key, body: JSON.stringify(withRefusal(conflict, this.#times.toStored)) });
  }
}

/** Converts the times of a holder between the listening clock and the clock of its record. */
function withTimes(holder: Holder, convert: StoredTimes['toStored'] | undefined): Holder {
  if (!convert) return holder;
  const { proven } = holder;
  return {
    ...holder,
    heardAt: convert(holder.heardAt),
    ...(proven && { proven: { ...proven, heardAt: convert(proven.heardAt), until: convert(proven.until) } }),
  };
}

function withRefusal(conflict: StoredConflict, convert: StoredTimes['toStored'] | undefined): StoredConflict {
  const { refusedAt } = conflict;
  return convert && refusedAt !== undefined ? { ...conflict, refusedAt: convert(refusedAt) } : conflict;
}

/** Data dirs from before the first release have `ousted` instead of `superseded` and `rests` instead of `isIdle`. */
function parseHolder(body: string): Holder {
  const { ousted, rests, ...holder } = JSON.parse(body) as Holder & { ousted?: string[]; rests?: true };
  return { ...holder, ...(ousted ? { superseded: ousted } : {}), ...(rests ? { isIdle: rests } : {}) };
}

/** The public part of a holder, without its heartbeat tokens and without what it reported before the VM got its current role. */
function claimOf({ movedAt, ...holder }: Holder): Claim {
  return movedAt === undefined ? sideOf(holder) : { at: movedAt };
}

function sideOf({ incarnation, address, from, at }: Claim): Claim {
  return { ...definedOnly({ incarnation, address, from }), at };
}

/** The claim that a heartbeat makes. @param at RFC 3339 */
function claimIn({ incarnation, address, from }: Proof, at: string): Claim {
  return { ...definedOnly({ incarnation, address, from }), at };
}

function incarnationOf(holder: Holder): Incarnation {
  const { token, spent, heardAt, mayWrite } = holder;
  return { ...sideOf(holder), ...definedOnly({ spent, mayWrite }), token, heardAt };
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
function keyOf({ id, spend, other }: { id: string; spend?: string | undefined; other: Claim }): string {
  const { incarnation, address, from } = other;
  return JSON.stringify([id, ...[spend, incarnation, address, from].map((part) => part ?? '')]);
}

/** True if a heartbeat spends the token of an incarnation, or repeats the incarnation's last heartbeat. */
function continues({ token, spent }: Incarnation, { spend, next }: Proof): boolean {
  return spend === token || (spend === spent && next === token);
}

/** True if the heartbeat's token has a higher number than the proven one, and does not belong to a former holder. */
function isAheadOf({ spend, next }: Proof, { superseded = [], proven, token }: Holder): boolean {
  if (spend === undefined || superseded.includes(spend) || superseded.includes(next!)) return false;
  return numberOf(spend) > numberOf(proven?.token ?? token);
}

/** True if the sender's access token may change the VM, unlike those of all incarnations that were accepted. */
function isFirstToWrite({ mayWrite }: Proof, holder: Holder): boolean {
  return mayWrite === true && !holder.mayWrite && !holder.proven?.mayWrite;
}

/** Applies rule 6 at the top of this module. */
function isProbablyTheVm(proof: Proof, holder: Holder, now: Now): boolean {
  const { proven, isIdle } = holder;
  const owner = proven ?? holder;
  const isProvenSilent = silenceOf(owner, now) > now.lease;
  const hasLostState = proof.spend === undefined && isSamePlace(proof, owner);
  if (!isAheadOf(proof, holder) && !hasLostState && !isIdle && !isProvenSilent) return false;
  if (!proven) return true;
  // At one place, another incarnation id only means that the agent has restarted.
  const lead = isSamePlace(proof, holder) ? 0 : resemblance(proof, proven) - resemblance(holder, proven);
  if (lead !== 0) return lead > 0;
  if (proof.mayWrite && !holder.mayWrite) return true;
  const hasHigherNumber = numberOf(proof.spend) > numberOf(holder.token) && (proof.mayWrite || !holder.mayWrite);
  return hasHigherNumber || untilOverdue(holder, now) <= 0;
}

/**
 * The resemblance between two incarnations: 3 for the same incarnation id from the same network address, 2 for the same
 * addresses, 1 for the same incarnation id, else 0. A client can read an incarnation id in a conflict, but cannot choose the
 * network address from which it sends.
 */
function resemblance(one: Proof | Claim, other: Claim): number {
  const isSame = isSameIncarnation(one, other);
  if (isSame && (other.from === undefined ? isSamePlace(one, other) : one.from === other.from)) return 3;
  if (isSamePlace(one, other)) return 2;
  return isSame ? 1 : 0;
}

function isSameIncarnation({ incarnation }: Pick<Proof, 'incarnation'>, other: Claim): boolean {
  return incarnation !== undefined && incarnation === other.incarnation;
}

/**
 * True if both have the same addresses. A claim made over a unix socket has no network address (`from`), so only `address` is
 * compared.
 */
function isSamePlace({ address, from }: Pick<Proof, 'address' | 'from'>, other: Claim): boolean {
  return address === other.address && (other.from === undefined || from === other.from);
}

/** The tokens that the successor of a holder must not spend. */
function supersede(holder: Holder, proof: Proof): string[] {
  const { superseded = [], token } = holder;
  return [...superseded, token].filter((one) => one !== proof.spend).slice(-MAX_SUPERSEDED);
}

/** Milliseconds until the next heartbeat of an incarnation is overdue. */
function untilOverdue(incarnation: Incarnation, now: Now): number {
  return MISSED_HEARTBEATS * heartbeatInterval(now.lease) - silenceOf(incarnation, now);
}

/** Milliseconds of listening time since a VM or an incarnation was last heard. */
function silenceOf({ heardAt }: { heardAt: number }, { listening, silenceFrom }: Now): number {
  return listening - Math.max(heardAt, silenceFrom);
}

/**
 * Makes a new process at another address wait until the next heartbeat of the previous process is overdue.
 * @throws VregError IDENTITY_CONFLICT with `retryAfter`
 */
function assertMoved(id: string, before: Incarnation, { incarnation, address, from }: Proof, now: Now): void {
  const isSuccessor =
    incarnation !== undefined && before.incarnation !== undefined && incarnation !== before.incarnation;
  const isElsewhere =
    address !== before.address || (from !== undefined && before.from !== undefined && from !== before.from);
  const wait = isSuccessor && isElsewhere ? untilOverdue(before, now) : 0;
  if (wait <= 0) return;
  const seconds = Math.ceil(wait / 1000);
  const source = before.address ?? before.from ?? 'another process';
  throw new VregError(
    'IDENTITY_CONFLICT',
    `VM "${id}" is still sending heartbeats from ${source}; retry in ${seconds} s`,
    {
      field: 'spend',
      retryAfter: Math.min(seconds, MAX_RETRY_AFTER),
      hint: 'wait; if both processes keep running, one of them will be refused as a clone',
    },
  );
}

/** The sequence number of a heartbeat token; 0 without one. */
function numberOf(token: string | undefined): number {
  return token === undefined ? 0 : Number.parseInt(token, 10);
}

function definedOnly<T extends object>(fields: T): { [K in keyof T]?: NonNullable<T[K]> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: NonNullable<T[K]>;
  };
}

const COMPARE = 'compare both incarnations: vreg conflicts';

/**
 * Computes `Retry-After` in seconds: short at first, because a live holder usually sends a heartbeat within seconds.
 * @param count attempts so far
 * @param remaining maximum number of milliseconds until the claim is decided
 */
function retryAfter(count: number, remaining: number): number {
  return Math.max(1, Math.min(2 ** (count - 1), MAX_RETRY_AFTER, Math.ceil(remaining / 1000)));
}

/** @param remaining milliseconds until the holder has been silent for one lease period */
function undecided(id: string, holder: Holder, count: number, remaining: number): VregError {
  const seconds = Math.max(1, Math.ceil(remaining / 1000));
  return new VregError(
    'IDENTITY_CONFLICT',
    `VM "${id}" has another incarnation (${describe(claimOf(holder))}): this one is accepted if that one stays silent for another ${seconds} s`,
    { field: 'spend', retryAfter: retryAfter(count, remaining), hint: `wait, or ${COMPARE}` },
  );
}

function identityConflict(id: string, holder: Holder): VregError {
  return new VregError(
    'IDENTITY_CONFLICT',
    `${aliveAs(id, claimOf(holder))}: this one is a clone, or was restored from an older snapshot`,
    {
      field: 'spend',
      hint: COMPARE,
    },
  );
}

function aliveAs(id: string, holder: Claim): string {
  return `VM "${id}" is alive as another incarnation (${describe(holder)})`;
}

function describe({ address, from, at }: Claim): string {
  return [address, from && `from ${from}`, `last heartbeat at ${at}`].filter(Boolean).join(', ');
}
