/**
 * Which incarnation of each VM may speak for it. An agent's beat spends a single-use token and names the next; who comes
 * with a token that is spent is a copy, of the VM or of its agent's state, and is told so. The rules stand at {@link
 * Identities.prove}; the idea is that of a ratchet.
 */
import { beatInterval } from '../../src/protocol/api.ts';
import { VregError } from '../../src/protocol/errors.ts';
import type { AgentBeat, Claim, Conflict } from '../../src/protocol/heartbeat.ts';
import type { Contents } from '../store/store.ts';
import type { RegistryObserver } from './options.ts';
import type { PendingRecords } from './pending.ts';
import type { VmRecord } from './vm-record.ts';

/** A beat of an agent, and where it came from. */
export interface Proof extends AgentBeat {
  /** The peer's address, where there is one. */
  from?: string | undefined;
}

/** Whose beats are taken. */
interface Holder extends Claim {
  token: string;
  /** The token that was spent to name this one. */
  spent?: string;
  /** When it last proved itself, on the listening clock, in milliseconds. */
  heardAt: number;
  /** Revision of the VM's registration: under another one, its id is another VM's. */
  created: number;
  /** Tokens of those that it took the VM over from, the last one last: theirs may have higher numbers than its own. */
  superseded?: string[];
  /** The VM was declared stopped or paused after that: it may well be gone. */
  isIdle?: true;
}

interface StoredConflict extends Conflict {
  /** The token that the other one came with. */
  spend?: string;
}

export interface Now {
  /** Wall clock, RFC 3339. */
  at: string;
  /** Listening clock, milliseconds. */
  listening: number;
  /** The lease, in milliseconds. */
  lease: number;
  revision: number;
}

/** Conflicts that are kept; then the oldest goes of the VM that has most, so that none crowds out those of others. */
const MAX_CONFLICTS = 1000;
/** Intervals between beats after which a holder that was not heard has ended, and seconds after which its successor asks again. */
const MISSED_BEATS = 1.5;
const ASK_AGAIN = 5;
/** Tokens of former holders that are remembered. */
const MAX_SUPERSEDED = 8;
/** Beats by which an agent may be ahead of a registry that was killed: those of the second that is not durable yet. */
const LOST_BEATS = 20;

export class Identities {
  readonly #holders = new Map<string, Holder>();
  /** Oldest first. */
  readonly #conflicts = new Map<string, StoredConflict>();
  readonly #pending: PendingRecords;
  readonly #observer: Pick<RegistryObserver, 'conflict' | 'rollback'>;
  #toldOfRollback = false;

  constructor(
    { records, vms }: Pick<Contents, 'records' | 'vms'>,
    pending: PendingRecords,
    observer: Pick<RegistryObserver, 'conflict' | 'rollback'> = {},
  ) {
    this.#pending = pending;
    this.#observer = observer;
    const registrations = new Map(vms.map(({ id, created }) => [id, created]));
    const conflicts: StoredConflict[] = [];
    for (const { kind, key, body } of records) {
      if (kind === 'conflict') conflicts.push(JSON.parse(body) as StoredConflict);
      if (kind !== 'identity') continue;
      const holder = parseHolder(body);
      // A VM's removal is durable before that of its holder: a kill between the two leaves one that nobody is.
      if (holder.created === registrations.get(key)) this.#holders.set(key, holder);
      else this.#pending.add({ kind, key, body: undefined });
    }
    conflicts.sort((a, b) => (a.firstAt < b.firstAt ? -1 : 1));
    for (const conflict of conflicts) this.#conflicts.set(keyOf(conflict), conflict);
  }

  /** Newest first. */
  get conflicts(): Conflict[] {
    return [...this.#conflicts.values()].reverse().map(({ spend: _spend, ...conflict }) => conflict);
  }

  /**
   * Forgets the conflicts of a VM, or all, when `save` has made that durable; one that comes again meanwhile stays.
   * @returns how many there were @throws the store's errors; then none is forgotten
   */
  async clear(id: string | undefined, save: () => Promise<void>): Promise<number> {
    const chosen = [...this.#conflicts].filter(([, conflict]) => id === undefined || conflict.id === id);
    const unchanged = () => chosen.filter(([key, conflict]) => this.#conflicts.get(key) === conflict);
    for (const [key] of chosen) this.#pending.add({ kind: 'conflict', key, body: undefined });
    const failed = (error: unknown) => {
      for (const [key, conflict] of unchanged()) this.#keep(key, conflict);
      throw error;
    };
    if (chosen.length > 0) await save().catch(failed);
    for (const [key] of unchanged()) this.#conflicts.delete(key);
    return chosen.length;
  }

  /** Of a VM that is gone: one that is registered under its id begins anew. */
  forget(id: string): void {
    if (this.#holders.delete(id)) this.#pending.add({ kind: 'identity', key: id, body: undefined });
  }

  /** The VM is declared stopped or paused: unless its holder beats once more, that one is as good as silent. */
  markIdle(id: string): void {
    const holder = this.#holders.get(id);
    if (holder && !holder.isIdle) this.#hold(id, { ...holder, isIdle: true });
  }

  /**
   * Decides whether the one that beats is the VM. In this order, the holder being who proved itself last:
   *
   * 1. Nobody has proved itself yet: it is the holder now.
   * 2. It spends the holder's token, or says the holder's last beat once more (its answer was lost): it is the holder.
   *    But if it is a process of another place, and the holder was heard a moment ago, it has to wait for the next beat
   *    that is due from there: where that comes, this one is a copy, and else the VM has moved.
   * 3. Its token is later than the holder's: the registry has forgotten beats, and it is the holder. Unless it is one from
   *    whom the VM was taken over: what it spends, or says once more, is known.
   * 4. It says that it replaces the holder: it is, and that is on record.
   * 5. It has no token, and the holder is silent for a lease, or has the same addresses: the VM has lost its state.
   * 6. The holder is silent for a lease: the VM was rewound, and its other self is gone. That is on record.
   * 7. Else there are two.
   *
   * Who was declared stopped or paused, and has not beaten since, counts as silent for a lease.
   *
   * @throws VregError IDENTITY_CONFLICT in the last case, BUSY to who has to wait
   */
  prove(entry: VmRecord, proof: Proof, moment: Now): void {
    const { next, spend } = proof;
    this.#lookForRollback(entry, proof, moment);
    if (next === undefined) return;
    const { id } = entry.vm;
    const holder = this.#holders.get(id);
    const isSilent = holder?.isIdle || (holder && moment.listening - holder.heardAt > moment.lease);
    let superseded = holder?.superseded;
    if (!holder) this.#markRebirth(entry, proof);
    else if (spend === holder.token || (spend === holder.spent && next === holder.token)) {
      const wait = isSilent ? 0 : waitFor(holder, proof, moment);
      if (wait > 0) throw mustWait(id, holder, wait);
    } else if (!isAhead(proof, holder)) {
      const isSame = proof.address === holder.address && (!holder.from || proof.from === holder.from);
      const hasLostState = spend === undefined && (isSilent || isSame);
      const takesOver = proof.replace === true || isSilent;
      if (!hasLostState) {
        this.#record(id, holder, proof, moment, takesOver ? 'replaced' : 'open');
        if (!takesOver) throw conflictOf(id, holder);
      }
      superseded = [...(superseded ?? []), holder.token].filter((token) => token !== spend).slice(-MAX_SUPERSEDED);
    }
    const { address, incarnation, from } = proof;
    this.#hold(id, {
      ...given({ incarnation, address, from, spent: spend, superseded }),
      token: next,
      at: moment.at,
      heardAt: moment.listening,
      created: entry.version.created,
    });
  }

  #lookForRollback({ vm }: VmRecord, proof: Proof, moment: Now): void {
    if (this.#toldOfRollback) return;
    const { revision, spend } = proof;
    const holder = this.#holders.get(vm.id);
    const beats = holder && isAhead(proof, holder) ? numberOf(spend!) - numberOf(holder.token) : 0;
    const known = {
      ...(revision !== undefined && revision > moment.revision ? { revision } : {}),
      ...(beats > LOST_BEATS ? { beats } : {}),
    };
    if (Object.keys(known).length === 0) return;
    this.#toldOfRollback = true;
    this.#observer.rollback?.(vm.id, known);
  }

  #record(id: string, holder: Holder, proof: Proof, { at }: Now, state: Conflict['state']): void {
    const { spend, incarnation, address, from } = proof;
    const other: Claim = { ...given({ incarnation, address, from }), at };
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
      ...given({ spend }),
    };
    this.#keep(key, conflict);
    if (before?.state !== state) this.#observer.conflict?.(conflict);
    if (this.#conflicts.size > MAX_CONFLICTS) this.#drop(this.#mostCommon());
  }

  /** A clone that was refused under its old id, and comes under a new one as that one's child. */
  #markRebirth({ vm }: VmRecord, { incarnation, from }: Proof): void {
    if (vm.parentId === undefined || incarnation === undefined) return;
    for (const [key, conflict] of this.#conflicts) {
      const { id, other } = conflict;
      // Everybody can read the incarnations of a conflict, but not come from another's address.
      if (id !== vm.parentId || other.incarnation !== incarnation || other.from !== from) continue;
      this.#keep(key, { ...conflict, state: 'reborn', rebornAs: vm.id });
    }
  }

  #hold(id: string, holder: Holder): void {
    this.#holders.set(id, holder);
    this.#pending.add({ kind: 'identity', key: id, body: JSON.stringify(holder) });
  }

  /** The oldest conflict of the VM that has most. */
  #mostCommon(): string {
    const ofVms = new Map<string, string[]>();
    for (const [key, { id }] of this.#conflicts) {
      const keys = ofVms.get(id);
      if (keys) keys.push(key);
      else ofVms.set(id, [key]);
    }
    return [...ofVms.values()].reduce((a, b) => (b.length > a.length ? b : a))[0]!;
  }

  #drop(key: string): void {
    this.#conflicts.delete(key);
    this.#pending.add({ kind: 'conflict', key, body: undefined });
  }

  #keep(key: string, conflict: StoredConflict): void {
    this.#conflicts.set(key, conflict);
    this.#pending.add({ kind: 'conflict', key, body: JSON.stringify(conflict) });
  }
}

/** Data dirs written before the first release have `ousted` instead of `superseded` and `rests` instead of `isIdle`. */
function parseHolder(body: string): Holder {
  const { ousted, rests, ...holder } = JSON.parse(body) as Holder & { ousted?: string[]; rests?: true };
  return { ...holder, ...(ousted ? { superseded: ousted } : {}), ...(rests ? { isIdle: rests } : {}) };
}

/** What is told of it: its tokens are nobody's business. */
function claimOf({ incarnation, address, from, at }: Holder): Claim {
  return { ...given({ incarnation, address, from }), at };
}

/** One that is refused again and again comes with the same token; one without a token, under the same name. */
function keyOf({ id, spend, other }: { id: string; spend?: string | undefined; other: Claim }): string {
  return JSON.stringify([id, spend ?? other.incarnation ?? other.from ?? '']);
}

/** Milliseconds for which a process at another address has to wait for the beat of the one that it wants to succeed. */
function waitFor(holder: Holder, { incarnation, address, from }: Proof, { listening, lease }: Now): number {
  const isSuccessor =
    incarnation !== undefined && holder.incarnation !== undefined && incarnation !== holder.incarnation;
  const isElsewhere =
    address !== holder.address || (from !== undefined && holder.from !== undefined && from !== holder.from);
  if (!isSuccessor || !isElsewhere) return 0;
  return MISSED_BEATS * beatInterval(lease) - (listening - holder.heardAt);
}

function mustWait(id: string, { address = '?' }: Holder, wait: number): VregError {
  const seconds = Math.ceil(wait / 1000);
  return new VregError(
    'BUSY',
    `VM "${id}" was heard a moment ago at ${address}: if that one is silent for ${seconds} s more, this one succeeds it`,
    {
      field: 'spend',
      retryAfter: Math.min(seconds, ASK_AGAIN),
      hint: 'wait; if both live, one of them will be refused',
    },
  );
}

function isAhead({ spend, next }: Proof, { token, superseded = [] }: Holder): boolean {
  if (spend === undefined || superseded.includes(spend) || superseded.includes(next!)) return false;
  return numberOf(spend) > numberOf(token);
}

function numberOf(token: string): number {
  return Number.parseInt(token, 10);
}

/** What is known of it: absent fields stay absent. */
function given<T extends object>(fields: T): { [K in keyof T]?: NonNullable<T[K]> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: NonNullable<T[K]>;
  };
}

function conflictOf(id: string, { address, from, at }: Holder): VregError {
  const where = [address, from && `from ${from}`].filter(Boolean).join(', ');
  return new VregError(
    'IDENTITY_CONFLICT',
    `VM "${id}" is alive as another incarnation (${where ? `${where}, ` : ''}last heard at ${at}): this one is a clone, or was rewound`,
    { field: 'spend', hint: 'see both: vreg conflicts' },
  );
}
