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
import { VregError } from '../../src/protocol/errors.ts';
import type { Claim, Conflict } from '../../src/protocol/heartbeat.ts';
import type { Contents, RecordChange } from '../store/store.ts';
import { type ConflictLog, conflictKey } from './conflict-log.ts';
import { aliveAs, assertMoved, COMPARE, identityConflict, retryAfter, undecided } from './identity-errors.ts';
import {
  claimIn,
  claimOf,
  continues,
  definedOnly,
  type Holder,
  incarnationOf,
  isSameIncarnation,
  isSamePlace,
  type Now,
  numberOf,
  type Proof,
  resemblance,
  silenceOf,
  untilOverdue,
} from './incarnation.ts';
import type { RecordQueue } from './record-queue.ts';
import { SAME_TIMES, type StoredTimes } from './stored-times.ts';
import type { VmRecord } from './vm-record.ts';

/** The sender of an enrolment for an id that is registered. */
export interface Enroller {
  address: string;
  /** The peer's address; undefined on a unix socket. */
  from: string | undefined;
  /** The role and the enrol token are those with which the registered VM enrolled. */
  isReturning: boolean;
}

/** Maximum number of heartbeat tokens of former holders to remember per VM. */
const MAX_SUPERSEDED = 8;

export class Identities {
  readonly #holders = new Map<string, Holder>();
  readonly #conflicts: ConflictLog;
  readonly #records: RecordQueue;
  readonly #times: StoredTimes;

  /**
   * @param registrationOf returns the revision of the registration of a VM; undefined if it is not registered
   * @param times of records; by default on the listening clock
   */
  constructor(
    { records }: Pick<Contents, 'records'>,
    registrationOf: (id: string) => number | undefined,
    queue: RecordQueue,
    conflicts: ConflictLog,
    times = SAME_TIMES,
  ) {
    this.#records = queue;
    this.#conflicts = conflicts;
    this.#times = times;
    for (const { kind, key, body } of records) {
      if (kind !== 'identity') continue;
      const holder = this.#parseHolder(body);
      // The removal of a VM is durable before the removal of its identity. A crash in between leaves an orphan.
      if (holder.created === registrationOf(key)) this.#holders.set(key, holder);
      else this.#records.add({ kind, key, body: undefined });
    }
  }

  /** Applies a record that another replica has written. */
  recordArrived({ key, body }: RecordChange): void {
    if (body === undefined) this.#holders.delete(key);
    else this.#holders.set(key, this.#parseHolder(body));
  }

  #parseHolder(body: string): Holder {
    return withTimes(parseHolder(body), this.#times.fromStored);
  }

  /** Deletes the identity of a removed VM, so that a new VM with the same id has none. */
  forget(id: string): void {
    this.#conflicts.markPast(id);
    this.release(id);
  }

  /** Removes the holder of a VM that has enrolled again, so that the silence of its former agent does not count any more. */
  release(id: string): void {
    this.#conflicts.endClaims(id);
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
    this.#conflicts.markPast(id);
  }

  #movedHolder({ id, version: { created } }: VmRecord, movedAt: string): Holder | undefined {
    const holder = this.#holders.get(id);
    return holder && { ...holder, created, movedAt };
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
    if (!holder) this.#conflicts.markReborn(entry, proof);
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
    const key = conflictKey({ id, other });
    const holder = this.#holderOf(id, now);
    const silence = silenceOf((isReturning && holder) || seen, now);
    if (silence > now.lease) {
      this.#conflicts.markReplaced(key);
      return;
    }
    const known: Claim = holder ? claimOf(holder) : { address: entry.vm.address, at: lastSeen };
    // Not `heardAt`, which also changes when the registry starts with a shorter lease.
    const latest = holder ? holder.token : lastSeen;
    const { against, count } = this.#conflicts.record(
      { id, holder: known, other, state: 'open', against: latest },
      now,
    );
    const details = { field: 'id', hint: COMPARE };
    const mayDecide = !holder || (!holder.proven && holder.mayWrite);
    if (against !== latest && mayDecide && !isSamePlace({ address, from }, holder ?? known)) {
      // The next claim from this address may come from another incarnation, which must see a sign of life after its own start.
      this.#conflicts.endClaim(key);
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
      return this.#conflicts.record({ id, ...sides, state: 'open', spend: token, against: token }, now, claim);
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
      return this.#conflicts.record({ id, ...sides, state, ...definedOnly({ spend: proof.spend, against }) }, now);
    };
    const isReplacing = proof.replace || isFirstToWrite(proof, holder);
    if (!isReplacing && !isSilent && !isProbablyTheVm(proof, holder, now)) {
      const { against, count } = record('open', holder.token);
      if (!proven && against !== holder.token) throw identityConflict(id, holder);
      throw undecided(id, holder, count, now.lease - silenceOf(holder, now));
    }
    const key = conflictKey({ id, spend: proof.spend, other: claimIn(proof, now.at) });
    this.#conflicts.endClaims(id);
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

/** Data dirs from before the first release have `ousted` instead of `superseded` and `rests` instead of `isIdle`. */
function parseHolder(body: string): Holder {
  const { ousted, rests, ...holder } = JSON.parse(body) as Holder & { ousted?: string[]; rests?: true };
  return { ...holder, ...(ousted ? { superseded: ousted } : {}), ...(rests ? { isIdle: rests } : {}) };
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

/** The tokens that the successor of a holder must not spend. */
function supersede(holder: Holder, proof: Proof): string[] {
  const { superseded = [], token } = holder;
  return [...superseded, token].filter((one) => one !== proof.spend).slice(-MAX_SUPERSEDED);
}
