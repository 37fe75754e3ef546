/**
 * Incarnations of a VM: the running copies that may send heartbeats for its id. Compares them by their heartbeat tokens,
 * incarnation ids and addresses, and measures how long they have been silent. The rules that use this are in `identity.ts`.
 */
import { heartbeatInterval } from '../../src/protocol/api.ts';
import type { AgentHeartbeat, Claim } from '../../src/protocol/heartbeat.ts';

/** A heartbeat from an agent, with the network address of its sender. */
export interface Proof extends AgentHeartbeat {
  /** The peer's address; undefined on a unix socket. */
  from?: string | undefined;
  /** The scope of the sender's access token permits changes. A token that may only send heartbeats is less trusted. */
  mayWrite?: boolean;
}

/** An incarnation that was accepted. */
export interface Incarnation extends Claim {
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
export interface Holder extends Incarnation {
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

/** Number of heartbeat intervals after which a silent holder is presumed dead: one missed heartbeat plus half an interval. */
const MISSED_HEARTBEATS = 1.5;

/** The public part of a holder, without its heartbeat tokens and without what it reported before the VM got its current role. */
export function claimOf({ movedAt, ...holder }: Holder): Claim {
  return movedAt === undefined ? sideOf(holder) : { at: movedAt };
}

function sideOf({ incarnation, address, from, at }: Claim): Claim {
  return { ...definedOnly({ incarnation, address, from }), at };
}

/** The claim that a heartbeat makes. @param at RFC 3339 */
export function claimIn({ incarnation, address, from }: Proof, at: string): Claim {
  return { ...definedOnly({ incarnation, address, from }), at };
}

export function incarnationOf(holder: Holder): Incarnation {
  const { token, spent, heardAt, mayWrite } = holder;
  return { ...sideOf(holder), ...definedOnly({ spent, mayWrite }), token, heardAt };
}

/** True if a heartbeat spends the token of an incarnation, or repeats the incarnation's last heartbeat. */
export function continues({ token, spent }: Incarnation, { spend, next }: Proof): boolean {
  return spend === token || (spend === spent && next === token);
}

/**
 * The resemblance between two incarnations: 3 for the same incarnation id from the same network address, 2 for the same
 * addresses, 1 for the same incarnation id, else 0. A client can read an incarnation id in a conflict, but cannot choose the
 * network address from which it sends.
 */
export function resemblance(one: Proof | Claim, other: Claim): number {
  const isSame = isSameIncarnation(one, other);
  if (isSame && (other.from === undefined ? isSamePlace(one, other) : one.from === other.from)) return 3;
  if (isSamePlace(one, other)) return 2;
  return isSame ? 1 : 0;
}

export function isSameIncarnation({ incarnation }: Pick<Proof, 'incarnation'>, other: Claim): boolean {
  return incarnation !== undefined && incarnation === other.incarnation;
}

/**
 * True if both have the same addresses. A claim made over a unix socket has no network address (`from`), so only `address` is
 * compared.
 */
export function isSamePlace({ address, from }: Pick<Proof, 'address' | 'from'>, other: Claim): boolean {
  return address === other.address && (other.from === undefined || from === other.from);
}

/** Milliseconds until the next heartbeat of an incarnation is overdue. */
export function untilOverdue(incarnation: Incarnation, now: Now): number {
  return MISSED_HEARTBEATS * heartbeatInterval(now.lease) - silenceOf(incarnation, now);
}

/** Milliseconds of listening time since a VM or an incarnation was last heard. */
export function silenceOf({ heardAt }: { heardAt: number }, { listening, silenceFrom }: Now): number {
  return listening - Math.max(heardAt, silenceFrom);
}

/** The sequence number of a heartbeat token; 0 without one. */
export function numberOf(token: string | undefined): number {
  return token === undefined ? 0 : Number.parseInt(token, 10);
}

export function definedOnly<T extends object>(fields: T): { [K in keyof T]?: NonNullable<T[K]> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: NonNullable<T[K]>;
  };
}
