/** The order of the history: newest first. */
import type { VmEvent } from '../protocol/events.ts';

/** Identifies an event. */
export function keyOf({ revision, type, vm, at }: VmEvent): string {
  return `${revision} ${type} ${vm.id} ${at}`;
}

/**
 * Merges two lists of which either may contain events that the other one lacks, for example those of an outage.
 * @param max events to keep, the newest
 * @returns newest first
 */
export function mergeEvents(a: readonly VmEvent[], b: readonly VmEvent[], max: number): readonly VmEvent[] {
  const byKey = new Map([...a, ...b].map((event) => [keyOf(event), event]));
  return [...byKey.values()].sort(byAge).slice(0, max);
}

/** An event without a change has the revision of the change before it. */
function byAge(a: VmEvent, b: VmEvent): number {
  return b.revision - a.revision || Date.parse(b.at) - Date.parse(a.at);
}
