/**
 * Reads what the registry knows about this VM, for `vreg whoami` and `vreg hook`. They report what they get, so a question without
 * an answer is no error.
 */
import type { RegistryClient } from '../client.ts';
import type { VmWithLiveness } from '../protocol/api.ts';
import { VregError } from '../protocol/errors.ts';
import type { Conflict } from '../protocol/heartbeat.ts';
import type { Whoami } from '../protocol/token.ts';
import { type CloneVerdict, cloneVerdict, currentConflicts, type Self } from './self.ts';
import { separate } from './usable.ts';

export interface OwnStatus {
  /** Undefined if the VM is not registered, null if the token may not read it. */
  entry: VmWithLiveness | undefined | null;
  /** Live VMs with the role infra; null if the token may not read them. */
  infra: readonly VmWithLiveness[] | null;
  /** The token that was used. Undefined with the original registry, which has no such tokens. */
  token: Whoami | undefined;
  /** The conflicts of all VMs that the token may read. */
  conflicts: readonly Conflict[];
  /** Why the conflicts of this VM are not among them; undefined if they are. */
  conflictsUnknown: string | undefined;
  verdict: CloneVerdict;
}

/** @throws the client's errors, except those of reads that the token is not allowed */
export async function readOwnStatus(client: RegistryClient, self: Self): Promise<OwnStatus> {
  const isVreg = await client.isVreg();
  const [token, entry, { conflicts, unknown }, infra] = await Promise.all([
    isVreg ? client.whoami() : undefined,
    client.get(self.id).catch(insteadOf({ NOT_FOUND: undefined, FORBIDDEN: null })),
    isVreg ? knownConflicts(client) : { conflicts: [], unknown: undefined },
    client.discover('infra').catch(insteadOf({ FORBIDDEN: null })),
  ]);
  // A token that is restricted to other VMs gets a list without the conflicts of this one.
  const hidden = entry === null ? CONFLICTS_UNKNOWN.FORBIDDEN : undefined;
  return {
    entry,
    infra: infra && !isLimited(token, 'infra') ? separate(infra).usable : null,
    token,
    conflicts,
    conflictsUnknown: unknown ?? hidden,
    verdict: cloneVerdict(self, conflicts),
  };
}

/**
 * As `currentConflicts`, for programs that only report.
 * @returns none, and why they are unknown, if the token may not read them or the registry does not list them
 */
export async function knownConflicts(
  client: RegistryClient,
): Promise<{ conflicts: readonly Conflict[]; unknown: string | undefined }> {
  const found = await currentConflicts(client).catch(insteadOf(CONFLICTS_UNKNOWN));
  return typeof found === 'string' ? { conflicts: [], unknown: found } : { conflicts: found, unknown: undefined };
}

const CONFLICTS_UNKNOWN = {
  FORBIDDEN: 'this token may not read them',
  NOT_FOUND: 'this registry does not list them',
  BAD_ANSWER: 'this registry does not list them',
} as const;

/** True if lists of VMs lack those that the token may not read. @param role of all VMs in the list */
export function isLimited(token: Whoami | undefined, role?: string): boolean {
  if (token?.scope !== 'read') return false;
  return token.vm !== undefined || (token.role !== undefined && token.role !== role);
}

/** Makes an error handler that returns a value for some error codes. @throws any other error */
export function insteadOf<T>(values: Readonly<Partial<Record<VregError['code'], T>>>): (error: unknown) => T {
  return (error) => {
    if (error instanceof VregError && Object.hasOwn(values, error.code)) return values[error.code] as T;
    throw error;
  };
}
