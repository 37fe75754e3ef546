/**
 * Decides which incarnation of a VM may send its heartbeats. Each heartbeat of an agent spends a single-use heartbeat token
 * and names the next one, like a ratchet. An agent that spends a token a second time is a copy of the VM or of its agent's
 * state. {@link Identities.prove} lists the rules.
 */
import { heartbeatInterval } from '../../src/protocol/api.ts';
import { VregError } from '../../src/protocol/errors.ts';
import type { AgentHeartbeat, Claim, Conflict } from '../../src/protocol/heartbeat.ts';
import type { Contents } from '../store/store.ts';
import type { RegistryObserver } from './options.ts';
import type { VmRecord } from './vm-record.ts';
import type { RecordQueue } from './writes.ts';

/** A heartbeat of an agent, with the address that it came from. */
export interface Proof extends AgentHeartbeat {
  /** The peer's address; undefined on a unix socket. */
  from?: string | undefined;
}

/** The incarnation whose heartbeats are accepted. */
interface Holder extends Claim {
  /** The heartbeat token that the next heartbeat must spend. */
  token: string;
  /** The heartbeat token that was spent to name {@link token}. */
  spent?: string;
  /** Time of the last proof on the listening clock, in milliseconds. */
  heardAt: number;
  /** Revision of the VM's registration. After another registration, the id belongs to another VM. */
  created: number;
  /** Last heartbeat tokens of former holders, newest last. They may have higher numbers than the holder's own. */
  superseded?: string[];
  /** The VM was declared stopped or paused after the last proof, so it may be gone. */
  isIdle?: true;
}

interface StoredConflict extends Conflict {
  /** The heartbeat token that the refused incarnation spent. */
  spend?: string;
}

/** The time of a heartbeat, and the state of the registry at that time. */
export interface Now {
  /** Wall clock, RFC 3339. */
  at: string;
  /** Listening clock, milliseconds. */
  listening: number;
  /** The lease in milliseconds. */
  lease: number;
  /** Revision of the registry. */
  revision: number;
}

/** Conflicts on record. Beyond that the VM with the most conflicts loses its oldest one, so that no VM can evict the conflicts of others. */
const MAX_CONFLICTS = 1000;
/** Heartbeat intervals after which a silent holder is presumed dead: half an interval more than one missed heartbeat. */
const MISSED_HEARTBEATS = 1.5;
/** Seconds after which a waiting successor retries at the latest, so that it takes over soon after the holder is presumed dead. */
const MAX_RETRY_AFTER = 5;
/** Heartbeat tokens of former holders that are remembered per VM. */
const MAX_SUPERSEDED = 8;
/** Heartbeats by which an agent may be ahead of a registry that was killed: those of the last second, which is not durable yet. */
const MAX_LOST_HEARTBEATS = 20;

export class Identities {
  readonly #holders = new Map<string, Holder>();
  /** Oldest first. */
  readonly #conflicts = new Map<string, StoredConflict>();
  readonly #records: RecordQueue;
  readonly #observer: Pick<RegistryObserver, 'conflict' | 'rollback'>;
  #hasReportedRollback = false;

  constructor(
    { records, vms }: Pick<Contents, 'records' | 'vms'>,
    queue: RecordQueue,
    observer: Pick<RegistryObserver, 'conflict' | 'rollback'> = {},
  ) {
    this.#records = queue;
    this.#observer = observer;
    const registrations = new Map(vms.map(({ id, created }) => [id, created]));
    const conflicts: StoredConflict[] = [];
    for (const { kind, key, body } of records) {
      if (kind === 'conflict') conflicts.push(JSON.parse(body) as StoredConflict);
      if (kind !== 'identity') continue;
      const holder = parseHolder(body);
      // The removal of a VM is durable before the removal of its identity. A kill between the two leaves an orphan.
      if (holder.created === registrations.get(key)) this.#holders.set(key, holder);
      else this.#records.add({ kind, key, body: undefined });
    }
    conflicts.sort((a, b) => (a.firstAt < b.firstAt ? -1 : 1));
    for (const conflict of conflicts) this.#conflicts.set(keyOf(conflict), conflict);
  }

  /** Newest first. */
  get conflicts(): Conflict[] {
    return [...this.#conflicts.values()].reverse().map(({ spend: _spend, ...conflict }) => conflict);
  }

  /**
   * Deletes the conflicts of a VM, or all, once `save` has made that durable. A conflict that recurs meanwhile stays.
   * @returns the number of conflicts @throws the store's errors; all conflicts stay then
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

  /** Deletes the identity of a removed VM, so that a new VM with the same id starts afresh. */
  forget(id: string): void {
    if (this.#holders.delete(id)) this.#records.add({ kind: 'identity', key: id, body: undefined });
  }

  /** The VM was declared stopped or paused. Until the holder's next heartbeat, it counts as silent. */
  markIdle(id: string): void {
    const holder = this.#holders.get(id);
    if (holder && !holder.isIdle) this.#putHolder(id, { ...holder, isIdle: true });
  }

  /**
   * Decides whether the sender of a heartbeat is the VM. The *holder* is the incarnation that proved its identity last. The
   * first rule that matches applies:
   *
   * 1. The VM has no holder: the sender becomes the holder.
   * 2. The sender spends the holder's heartbeat token, or repeats the holder's last heartbeat because the response was lost:
   *    it is the holder. Exception: if it is another process at another address and the holder was heard recently, it must
   *    wait until the holder's next heartbeat is overdue. If that heartbeat arrives, the sender is a copy; otherwise the VM
   *    has moved.
   * 3. The sender's heartbeat token has a higher number than the holder's: the registry has lost heartbeats, and the sender
   *    becomes the holder. Exception: a former holder, which is recognized by the token that it spends or names.
   * 4. The sender asks to replace the holder: it becomes the holder, and the conflict is recorded.
   * 5. The sender has no heartbeat token, and the holder has been silent for a lease or has the same addresses: the VM has
   *    lost its state, and the sender becomes the holder.
   * 6. The holder has been silent for a lease: the VM was rewound, and its other incarnation is gone. The sender becomes the
   *    holder, and the conflict is recorded.
   * 7. Otherwise there are two incarnations.
   *
   * A holder whose VM was declared stopped or paused after its last heartbeat counts as silent for a lease.
   *
   * @throws VregError IDENTITY_CONFLICT in the last case, BUSY if the sender must wait
   */
  prove(entry: VmRecord, proof: Proof, now: Now): void {
    const { next, spend } = proof;
    this.#detectRollback(entry, proof, now);
    if (next === undefined) return;
    const { id } = entry.vm;
    const holder = this.#holders.get(id);
    const isSilent = holder?.isIdle || (holder && now.listening - holder.heardAt > now.lease);
    let superseded = holder?.superseded;
    if (!holder) this.#markReborn(entry, proof);
    else if (spend === holder.token || (spend === holder.spent && next === holder.token)) {
      const wait = isSilent ? 0 : waitFor(holder, proof, now);
      if (wait > 0) throw mustWait(id, holder, wait);
    } else if (!isAhead(proof, holder)) {
      const hasSameAddress = proof.address === holder.address && (!holder.from || proof.from === holder.from);
      const hasLostState = spend === undefined && (isSilent || hasSameAddress);
      const takesOver = proof.replace === true || isSilent;
      if (!hasLostState) {
        this.#recordConflict(id, holder, proof, now, takesOver ? 'replaced' : 'open');
        if (!takesOver) throw identityConflict(id, holder);
      }
      superseded = [...(superseded ?? []), holder.token].filter((token) => token !== spend).slice(-MAX_SUPERSEDED);
    }
    const { address, incarnation, from } = proof;
    this.#putHolder(id, {
      ...definedOnly({ incarnation, address, from, spent: spend, superseded }),
      token: next,
      at: now.at,
      heardAt: now.listening,
      created: entry.version.created,
    });
  }

  /** Reports once if an agent has seen a higher revision, or sent more heartbeats, than a killed registry can have lost. */
  #detectRollback({ vm }: VmRecord, proof: Proof, now: Now): void {
    if (this.#hasReportedRollback) return;
    const { revision, spend } = proof;
    const holder = this.#holders.get(vm.id);
    const heartbeats = holder && isAhead(proof, holder) ? numberOf(spend!) - numberOf(holder.token) : 0;
    const known = {
      ...(revision !== undefined && revision > now.revision ? { revision } : {}),
      ...(heartbeats > MAX_LOST_HEARTBEATS ? { heartbeats } : {}),
    };
    if (Object.keys(known).length === 0) return;
    this.#hasReportedRollback = true;
    this.#observer.rollback?.(vm.id, known);
  }

  #recordConflict(id: string, holder: Holder, proof: Proof, { at }: Now, state: Conflict['state']): void {
    const { spend, incarnation, address, from } = proof;
    const other: Claim = { ...definedOnly({ incarnation, address, from }), at };
    const key = keyOf({ id, spend, other });
    const before = this.#conflicts.get(key);
    const conflict: StoredConflict = {
      id,
      state,
      firstAt: before?.firstAt ?? at,
      lastAt: at,
      count: (before?.count ?? 0) + 1,
      holder: claimOf(holder),
      other,
      ...definedOnly({ spend }),
    };
    this.#putConflict(key, conflict);
    if (before?.state !== state) this.#observer.conflict?.(conflict);
    if (this.#conflicts.size > MAX_CONFLICTS) this.#deleteConflict(this.#oldestOfMost());
  }

  /** Marks the conflicts of a clone that was refused under its old id and has registered as a child of that VM. */
  #markReborn({ vm }: VmRecord, { incarnation, from }: Proof): void {
    if (vm.parentId === undefined || incarnation === undefined) return;
    for (const [key, conflict] of this.#conflicts) {
      const { id, other } = conflict;
      // Any reader can copy an incarnation from a conflict, but cannot send from its address.
      if (id !== vm.parentId || other.incarnation !== incarnation || other.from !== from) continue;
      this.#putConflict(key, { ...conflict, state: 'reborn', rebornAs: vm.id });
    }
  }

  #putHolder(id: string, holder: Holder): void {
    this.#holders.set(id, holder);
    this.#records.add({ kind: 'identity', key: id, body: JSON.stringify(holder) });
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
    this.#records.add({ kind: 'conflict', key, body: JSON.stringify(conflict) });
  }
}

/** Data dirs written before the first release have `ousted` instead of `superseded` and `rests` instead of `isIdle`. */
function parseHolder(body: string): Holder {
  const { ousted, rests, ...holder } = JSON.parse(body) as Holder & { ousted?: string[]; rests?: true };
  return { ...holder, ...(ousted ? { superseded: ousted } : {}), ...(rests ? { isIdle: rests } : {}) };
}

/** The public part of a holder, without its heartbeat tokens. */
function claimOf({ incarnation, address, from, at }: Holder): Claim {
  return { ...definedOnly({ incarnation, address, from }), at };
}

/** A refused incarnation retries with the same heartbeat token; without a token it has the same name. */
function keyOf({ id, spend, other }: { id: string; spend?: string | undefined; other: Claim }): string {
  return JSON.stringify([id, spend ?? other.incarnation ?? other.from ?? '']);
}

/** Milliseconds that a process at another address must wait until the holder's next heartbeat is overdue. */
function waitFor(holder: Holder, { incarnation, address, from }: Proof, { listening, lease }: Now): number {
  const isSuccessor =
    incarnation !== undefined && holder.incarnation !== undefined && incarnation !== holder.incarnation;
  const isElsewhere =
    address !== holder.address || (from !== undefined && holder.from !== undefined && from !== holder.from);
  if (!isSuccessor || !isElsewhere) return 0;
  return MISSED_HEARTBEATS * heartbeatInterval(lease) - (listening - holder.heardAt);
}

function mustWait(id: string, { address, from }: Holder, wait: number): VregError {
  const seconds = Math.ceil(wait / 1000);
  return new VregError(
    'BUSY',
    `VM "${id}" is still sending heartbeats from ${address ?? from ?? 'another process'}; retry in ${seconds} s`,
    {
      field: 'spend',
      retryAfter: Math.min(seconds, MAX_RETRY_AFTER),
      hint: 'wait; if both processes keep running, one of them will be refused as a clone',
    },
  );
}

function isAhead({ spend, next }: Proof, { token, superseded = [] }: Holder): boolean {
  if (spend === undefined || superseded.includes(spend) || superseded.includes(next!)) return false;
  return numberOf(spend) > numberOf(token);
}

/** The sequence number of a heartbeat token. */
function numberOf(token: string): number {
  return Number.parseInt(token, 10);
}

function definedOnly<T extends object>(fields: T): { [K in keyof T]?: NonNullable<T[K]> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: NonNullable<T[K]>;
  };
}

function identityConflict(id: string, { address, from, at }: Holder): VregError {
  const source = [address, from && `from ${from}`].filter(Boolean).join(', ');
  return new VregError(
    'IDENTITY_CONFLICT',
    `VM "${id}" is alive as another incarnation (${source ? `${source}, ` : ''}last heartbeat at ${at}): this one is a clone or was rewound`,
    { field: 'spend', hint: 'compare both incarnations: vreg conflicts' },
  );
}
