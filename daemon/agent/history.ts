/**
 * The agent's knowledge of the registry's history. A registry that was restored, rewound or copied has another history, and
 * responds that the agent's position is `other`. The agent then leaves the history that it knows: it reports its VM again, and
 * adopts the position in the response to that report.
 *
 * Two registries can respond at one URL, for example behind a load balancer, or if a copy of the data dir is served elsewhere.
 * The agent then leaves a history and later returns to it. Such a *switch* is certain, because only a registry with the history
 * of a position recognizes that position. An operator who undoes a restore causes one switch. After two switches the agent
 * concludes that the registries *alternate*, and reports at most once per lease.
 */
import type { AgentHeartbeat, HistoryAnswer } from '../../src/protocol/heartbeat.ts';

/** The state that an agent stores about the history of its registry. */
export interface History {
  /** The last position that was adopted. Undefined if the agent or the registry did not know positions. */
  position?: string;
  /** The last position in the history that was left. */
  left?: string;
  /** A position of the other registry, if that one is an older copy without changes of its own: both registries know it. */
  copied?: string;
  /** The last response to a heartbeat came from a registry whose history does not contain {@link position}. */
  isAway?: true;
  /** The position was adopted with a report, and no registry has recognized it yet. */
  isUnproven?: true;
  /** The last heartbeat has shown a switch. The next one claims it, so that claims end together with the alternation. */
  hasSwitched?: true;
  /** Times of the last two switches, in milliseconds since the epoch. */
  switches?: number[];
  /** Time of the last report or comparison, in milliseconds since the epoch. */
  reportedAt?: number;
}

/** The part of a response to a heartbeat that concerns the history. */
export interface HeartbeatAnswer extends Partial<HistoryAnswer> {
  /** The position of the registry; undefined if a proxy has removed it, or from a registry without positions. */
  position?: string | undefined;
}

/**
 * Work that is due after a heartbeat. `report`: the history is another one, so the agent reports its VM again. `compare`: the
 * registry or the agent cannot tell, so the agent compares its entry without logging that.
 */
export type DueReport = 'report' | 'compare' | undefined;

/** Milliseconds between two switches that make an alternation: longer than DNS caches, which can delay a switch. */
const ALTERNATION_WINDOW = 3_600_000;

/** @param at milliseconds since the epoch */
export function isAlternating({ switches = [] }: History, at: number): boolean {
  const [first, second] = switches;
  return second !== undefined && second - first! < ALTERNATION_WINDOW && Math.abs(at - second) < ALTERNATION_WINDOW;
}

/** The positions for the next heartbeat. @param at milliseconds since the epoch */
export function positionsOf(
  history: History,
  at: number,
): Pick<AgentHeartbeat, 'position' | 'leftPosition' | 'alternates'> {
  const alternates = history.hasSwitched && isAlternating(history, at);
  // A position that both registries know proves no switch, so it is sent only after the alternation has been detected.
  const { position, left = alternates ? history.copied : undefined } = history;
  return {
    ...(position === undefined ? {} : { position }),
    ...(left === undefined ? {} : { leftPosition: left }),
    ...(alternates ? { alternates } : {}),
  };
}

/**
 * Evaluates the response to a heartbeat.
 * @param at milliseconds since the epoch @param lease in milliseconds
 * @returns the work that is due, and the state after the heartbeat
 */
export function observe(
  before: History,
  { history, returned, position }: HeartbeatAnswer,
  { at, lease }: { at: number; lease: number },
): { due: DueReport; after: History } {
  // The absolute value, because a clock that was set back must not delay a report indefinitely.
  const isRecent = before.reportedAt !== undefined && Math.abs(at - before.reportedAt) < lease;
  const { isAway, isUnproven, hasSwitched: _claimed, ...rest } = before;
  if (history === 'same') {
    const after = { ...rest, ...(position === undefined ? {} : { position }) };
    if (!returned) return { due: undefined, after: isAway ? withSwitch(after, at) : after };
    const { left: _left, ...shared } = after;
    return { due: undefined, after: withSwitch({ ...shared, copied: before.position! }, at) };
  }
  if (history === 'other') {
    const away: History = { ...rest, ...(isUnproven ? { isUnproven } : {}), isAway: true };
    const after = returned && !isAway ? withSwitch(away, at) : away;
    const isLimited = position === undefined || isAlternating(after, at);
    // Another registry may have acknowledged the report. If so, the response to the next heartbeat shows a switch.
    const isPostponed = isUnproven && !isAway && !returned;
    return { due: isPostponed || (isLimited && isRecent) ? undefined : 'report', after };
  }
  // A registry without positions, or a proxy that removes them.
  if (history === undefined && (position === undefined || before.position !== undefined))
    return { due: undefined, after: before };
  const isLimited = position === undefined || isUnproven;
  return { due: isLimited && isRecent ? undefined : 'compare', after: before };
}

/**
 * Stores the position from the response that acknowledged a report or comparison. If the last heartbeat came from a registry
 * with another history (`isAway`), the previous position becomes {@link History.left}.
 * @param position undefined if a proxy has removed it @param at milliseconds since the epoch
 */
export function adopt(before: History, position: string | undefined, at: number): History {
  if (position === undefined) return { ...before, reportedAt: at };
  const { isAway, ...rest } = before;
  const left = isAway ? before.position : before.left;
  return { ...rest, position, ...(left === undefined ? {} : { left }), isUnproven: true, reportedAt: at };
}

/**
 * Moves to the position of a response that acknowledged a change of the VM's entry, so that a registry restored from before the
 * change is recognized.
 */
export function follow(before: History, position: string | undefined): History {
  return position === undefined || before.position === undefined || before.isAway ? before : { ...before, position };
}

/** Rejects a state that vreg did not write. */
export function isHistory(value: unknown): value is History | undefined {
  if (value === undefined) return true;
  if (typeof value !== 'object' || value === null) return false;
  const { position, left, copied, switches, reportedAt } = value as Record<string, unknown>;
  return (
    [position, left, copied].every((text) => ['undefined', 'string'].includes(typeof text)) &&
    ['undefined', 'number'].includes(typeof reportedAt) &&
    (switches === undefined || (Array.isArray(switches) && switches.every((time) => typeof time === 'number')))
  );
}

function withSwitch(history: History, at: number): History {
  return { ...history, hasSwitched: true, switches: [...(history.switches ?? []), at].slice(-2) };
}
