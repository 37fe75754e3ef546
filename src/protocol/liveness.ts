/** The liveness of a VM as the CLI shows it: one of five states, and the seconds since its last sign of life. */
import type { VmWithLiveness } from './api.ts';
import type { Vm } from './vm.ts';

/** A running VM is `live`, `suspect` or `stale`; any other VM has its declared status. `discover` returns live and suspect VMs. */
export const LIVENESS = ['live', 'suspect', 'stale', 'paused', 'stopped'] as const;
export type Liveness = (typeof LIVENESS)[number];

/** A status that the protocol does not know, or none, counts as running: only another registry can send it. */
export function livenessOf({ status, stale, suspect }: VmWithLiveness): Liveness {
  if (status === 'paused' || status === 'stopped') return status;
  if (stale) return 'stale';
  return suspect ? 'suspect' : 'live';
}

/**
 * Whole seconds since the last sign of life.
 * @param now milliseconds since the epoch, by the clock of the registry
 * @returns 0 if `lastSeen` is in the future; null if it is not a time, as another registry may send
 */
export function ageOf({ lastSeen }: Pick<Vm, 'lastSeen'>, now: number): number | null {
  const seen = Date.parse(lastSeen);
  return Number.isNaN(seen) ? null : Math.max(0, Math.round((now - seen) / 1000));
}

/** The entry as a client without {@link VmWithLiveness} sees it. */
export function withoutLiveness({ stale: _stale, suspect: _suspect, health: _health, ...vm }: VmWithLiveness): Vm {
  return vm;
}
