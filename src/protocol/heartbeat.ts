/** What an agent says with a beat, and what the registry keeps of two that say they are the same VM. */
import { VregError } from './errors.ts';

/** How one service of a VM answered its agent's probes. */
export const HEALTHS = ['passing', 'failing'] as const;
export type ServiceHealth = (typeof HEALTHS)[number];

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
  health?: Record<string, ServiceHealth>;
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

/** `DELETE /registry/conflicts`. */
export interface Cleared {
  /** Conflicts that were forgotten. */
  cleared: number;
}

/** Of an incarnation's name, and of an address or a service's name: UTF-16 units. The latter are those of an entry. */
const MAX_NAME = 128;
const MAX_ADDRESS = 1024;
const MAX_SERVICE = 1024;
/** Services whose health one beat tells: as many as a VM may have. */
const MAX_HEALTH = 256;
const TOKEN = /^[1-9]\d{0,14}\.[0-9a-f]{32}$/;

/** True of a text that an {@link AgentBeat} may spend or name. */
export function isToken(value: unknown): value is string {
  return typeof value === 'string' && TOKEN.test(value);
}

/**
 * Reads the body of a beat. The original registry reads none, so what its clients may send stays a plain sign of life:
 * only a body with a token, or with a health of services, is meant for this.
 * @returns undefined of a plain beat
 * @throws VregError INVALID naming the field
 */
export function parseBeat(input: unknown): AgentBeat | undefined {
  if (typeof input !== 'object' || input === null || Array.isArray(input)) return undefined;
  const body = input as Record<string, unknown>;
  const hasToken = body.spend !== undefined || body.next !== undefined;
  const hasHealth = typeof body.health === 'object' && body.health !== null && !Array.isArray(body.health);
  if (!hasToken && !hasHealth) return undefined;
  const beat: AgentBeat = {};
  for (const field of ['spend', 'next'] as const) {
    const value = body[field];
    if (value === undefined) continue;
    if (!isToken(value)) throw invalid(field, 'must be a token: the number of the beat, a dot, and 32 hex digits');
    beat[field] = value;
  }
  if (beat.spend !== undefined && beat.next === undefined) throw invalid('next', 'is required with spend');
  const incarnation = textOf(body.incarnation, 'incarnation', MAX_NAME);
  if (incarnation !== undefined) beat.incarnation = incarnation;
  const address = textOf(body.address, 'address', MAX_ADDRESS);
  if (address !== undefined) beat.address = address;
  if (body.replace !== undefined) {
    if (typeof body.replace !== 'boolean') throw invalid('replace', 'must be true or false');
    beat.replace = body.replace;
  }
  if (body.revision !== undefined) {
    if (!Number.isSafeInteger(body.revision) || (body.revision as number) < 0)
      throw invalid('revision', 'must be a revision of the registry: a whole number');
    beat.revision = body.revision as number;
  }
  if (body.health !== undefined) beat.health = parseHealth(body.health);
  return beat;
}

function parseHealth(value: unknown): Record<string, ServiceHealth> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw invalid('health', 'must be an object of services and what they are');
  const entries = Object.entries(value);
  if (entries.length > MAX_HEALTH) throw invalid('health', `has ${entries.length} services, at most ${MAX_HEALTH}`);
  for (const [name, health] of entries) {
    // No service has such a name, and nobody shall keep a megabyte of them with each VM.
    if (name.length > MAX_SERVICE)
      throw invalid(
        `health.${name.slice(0, 60)}`,
        `is too long a name: ${name.length} characters, at most ${MAX_SERVICE}`,
      );
    if (!HEALTHS.includes(health as ServiceHealth))
      throw invalid(`health.${name.slice(0, 60)}`, `must be one of ${HEALTHS.join(', ')}`);
  }
  return Object.fromEntries(entries) as Record<string, ServiceHealth>;
}

function textOf(value: unknown, field: string, max: number): string | undefined {
  if (value === undefined) return undefined;
  if (typeof value !== 'string' || value.length > max || /[\u0000-\u001f\u007f]/.test(value) || !value.isWellFormed())
    throw invalid(field, `must be text of at most ${max} characters`);
  return value === '' ? undefined : value;
}

function invalid(field: string, message: string): VregError {
  return new VregError('INVALID', `${field.replace(/[\u0000-\u001f\u007f]/g, '?')} ${message}`, { field });
}
