/** What an agent says with a beat, and what the registry keeps of two that say they are the same VM. */

/** How one service of a VM answered its agent's probes. */
export const HEALTHS = ['passing', 'failing'] as const;
export type Health = (typeof HEALTHS)[number];

/**
 * The body of `POST /registry/vms/:id/heartbeat` from an agent that proves who it is. A beat without a body is a sign of
 * life and no more; each field here is optional on the wire.
 *
 * A token is `N.HEX`: the number of the beat, growing by one, and 128 bits read from the kernel. Each beat spends the token
 * of the last one and names the next; sent again with the same two it is the same beat, so a lost answer does no harm. A
 * snapshot of a VM holds a token that its twin spends, too: the second of them is another incarnation.
 */
export interface AgentBeat {
  /** The token of the last beat; absent from an agent that has none (its first beat, or its state is lost). */
  spend?: string;
  /** The token of this beat, made by the agent. */
  next?: string;
  /** Name of this life of the agent, made when its process starts. */
  incarnation?: string;
  /** The address that the agent would register. */
  address?: string;
  /** The agent takes the VM's identity over from whoever holds it. */
  replace?: boolean;
  /** The highest revision that the agent has seen of this registry. */
  revision?: number;
  /** The services that the agent probes, by name. */
  health?: Record<string, Health>;
}

/** One side of a conflict. */
export interface Claim {
  /** Absent where the agent did not say. */
  incarnation?: string;
  /** The address that it says it has. */
  address?: string;
  /** The address its beats come from. */
  from?: string;
  /** Its last beat, RFC 3339. */
  at: string;
}

/** Two incarnations that say they are the same VM. */
export interface Conflict {
  id: string;
  /** First and last beat of the one that was refused, RFC 3339. */
  firstAt: string;
  lastAt: string;
  /** Beats that were refused. */
  count: number;
  /** Whose beats are taken. */
  holder: Claim;
  /** Whose beats are not. */
  other: Claim;
  /** What became of it: `open`, `replaced` (the other one took the identity over) or `reborn` (it lives on under another id). */
  state: 'open' | 'replaced' | 'reborn';
  /** Of a reborn one: its new id. */
  rebornAs?: string;
}

/** `GET /registry/conflicts`, newest first. */
export interface Conflicts {
  conflicts: Conflict[];
  count: number;
}
