/** The errors for incarnations that are not accepted as the VM. */
import { VregError } from '../../src/protocol/errors.ts';
import type { Claim } from '../../src/protocol/heartbeat.ts';
import { claimOf, type Holder, type Incarnation, type Now, type Proof, untilOverdue } from './incarnation.ts';

/** Maximum `Retry-After` for a refused incarnation, in seconds, so that it soon receives the decision. */
export const MAX_RETRY_AFTER = 5;

/** Hint for an operator. */
export const COMPARE = 'compare both incarnations: vreg conflicts';

/**
 * Computes `Retry-After` in seconds: short at first, because a live holder usually sends a heartbeat within seconds.
 * @param count attempts so far
 * @param remaining maximum number of milliseconds until the claim is decided
 */
export function retryAfter(count: number, remaining: number): number {
  return Math.max(1, Math.min(2 ** (count - 1), MAX_RETRY_AFTER, Math.ceil(remaining / 1000)));
}

/** @param remaining milliseconds until the holder has been silent for one lease period */
export function undecided(id: string, holder: Holder, count: number, remaining: number): VregError {
  const seconds = Math.max(1, Math.ceil(remaining / 1000));
  return new VregError(
    'IDENTITY_CONFLICT',
    `VM "${id}" has another incarnation (${describe(claimOf(holder))}): this one is accepted if that one stays silent for another ${seconds} s`,
    { field: 'spend', retryAfter: retryAfter(count, remaining), hint: `wait, or ${COMPARE}` },
  );
}

export function identityConflict(id: string, holder: Holder): VregError {
  return new VregError(
    'IDENTITY_CONFLICT',
    `${aliveAs(id, claimOf(holder))}: this one is a clone, or was restored from an older snapshot`,
    {
      field: 'spend',
      hint: COMPARE,
    },
  );
}

export function aliveAs(id: string, holder: Claim): string {
  return `VM "${id}" is alive as another incarnation (${describe(holder)})`;
}

function describe({ address, from, at }: Claim): string {
  return [address, from && `from ${from}`, `last heartbeat at ${at}`].filter(Boolean).join(', ');
}

/**
 * Makes a new process at another address wait until the next heartbeat of the previous process is overdue.
 * @throws VregError IDENTITY_CONFLICT with `retryAfter`
 */
export function assertMoved(id: string, before: Incarnation, { incarnation, address, from }: Proof, now: Now): void {
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
