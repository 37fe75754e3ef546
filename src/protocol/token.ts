/**
 * Tokens: who may do what. A scope says what its token may do, a limit which VMs it may touch. What a token may look at is
 * limited only where it may do nothing else: a VM that lives in the fleet has to find the others.
 */
import { invalid } from './errors.ts';
import { parseObject, parseRole, parseText, type Role } from './vm.ts';

/** Each may do what those before it may. */
const LADDER = ['read', 'heartbeat', 'register', 'write', 'admin'] as const;
/**
 * - `read`: ask everything but for tokens and backups
 * - `heartbeat`: and send signs of life
 * - `register`: and register new VMs
 * - `write`: and replace, update and remove them
 * - `admin`: and make and revoke tokens, and take backups
 * - `enrol`: register one new VM, and nothing else; the answer brings a token of that VM's own
 */
export const SCOPES = [...LADDER, 'enrol'] as const;
export type Scope = (typeof SCOPES)[number];

/** True when a token of the one scope may do what asks for the other. */
export function mayDo(scope: Scope, needed: Scope): boolean {
  if (scope === 'enrol' || needed === 'enrol') return scope === needed;
  return LADDER.indexOf(scope) >= LADDER.indexOf(needed);
}

/** The VMs that a token may touch, or look at with the scope `read`: one, those of a role, or all. */
export interface Restriction {
  vm?: string;
  role?: Role;
}

/** `POST /registry/tokens`. */
export interface TokenRequest extends Restriction {
  name: string;
  scope: Scope;
  /** Seconds after which it is good for nothing; never when nothing is said. */
  expiresIn?: number;
}

/** What is told of a token: never the token itself. All times are RFC 3339. */
export interface TokenInfo extends Restriction {
  name: string;
  scope: Scope;
  createdAt: string;
  /** Name of the token that made it, `socket`, or `anonymous`. */
  createdBy: string;
  expiresAt?: string;
  /** To the minute; absent until it is used. */
  lastUsedAt?: string;
  /** Address from where; absent where that was the unix socket. */
  lastUsedFrom?: string;
  /** Name of the enrol token that a VM got it for. */
  enrolledBy?: string;
}

/** The one answer that has the token itself. */
export interface NewToken extends TokenInfo {
  token: string;
}

/** `GET /registry/tokens`, oldest first. */
export interface Tokens {
  tokens: TokenInfo[];
  count: number;
}

/** `DELETE /registry/tokens/:name` and `DELETE /registry/tokens?enrolledBy=NAME`. */
export interface Revoked {
  /** Names of those that are good for nothing now. */
  revoked: string[];
}

/** `GET /registry/whoami`. */
export interface Whoami extends Restriction {
  /** A token's name, `VERS_AUTH_TOKEN`, `socket`, or `anonymous`. */
  name: string;
  scope: Scope;
  expiresAt?: string;
}

/** What a token looks like, as a regular expression without ends. */
export const TOKEN_TEXT = 'vreg_[A-Za-z0-9_-]{43}';
const HOLDS_TOKEN = new RegExp(TOKEN_TEXT);

/** Names are words of a command line and of a log; those with a slash are given to the tokens of enrolled VMs. */
const NAME = /^[A-Za-z0-9][\w.@-]{0,63}$/;
/** Names that say something else where a token's name stands, in whatever case: who reads a log takes them for the same. */
const RESERVED: readonly string[] = ['anonymous', 'socket', 'vers_auth_token'];
/** Ten years, in seconds: beyond it somebody meant never. */
const MAX_EXPIRY = 315_360_000;

/** @throws VregError INVALID naming the field, the reason and what is accepted */
export function parseTokenRequest(input: unknown): TokenRequest {
  const body = parseObject(input, 'body');
  const name = parseText(body.name, 'name');
  if (!NAME.test(name))
    throw invalid('name', 'name must be letters, digits and . _ @ -, at most 64, the first no sign');
  if (name.startsWith('vreg_') || HOLDS_TOKEN.test(name))
    throw invalid('name', 'name cannot be a token, nor begin with vreg_ as those do');
  if (isReserved(name)) throw invalid('name', `name cannot be "${name}", which is not a token's`);
  const scope = parseScope(body.scope);
  const limit = parseRestriction(body, scope);
  const { expiresIn } = body;
  if (expiresIn === undefined || expiresIn === null) return { name, scope, ...limit };
  if (!Number.isInteger(expiresIn) || (expiresIn as number) < 1 || (expiresIn as number) > MAX_EXPIRY)
    throw invalid('expiresIn', `expiresIn must be seconds: a whole number from 1 to ${MAX_EXPIRY}`);
  return { name, scope, ...limit, expiresIn: expiresIn as number };
}

/** True of what stands in the place of a name where somebody came without a token of the registry's own. */
export function isReserved(name: string): boolean {
  return RESERVED.includes(name.toLowerCase());
}

/** @throws VregError INVALID listing the scopes */
export function parseScope(value: unknown): Scope {
  if (SCOPES.includes(value as Scope)) return value as Scope;
  const given = value === undefined || value === null ? 'scope is required' : 'scope is not known';
  throw invalid('scope', `${given} (one of ${SCOPES.join(', ')})`);
}

function parseRestriction({ vm, role }: Record<string, unknown>, scope: Scope): Restriction {
  const [hasVm, hasRole] = [vm !== undefined && vm !== null, role !== undefined && role !== null];
  if (!hasVm && !hasRole) return {};
  const field = hasVm ? 'vm' : 'role';
  if (hasVm && hasRole) throw invalid('role', 'vm and role exclude each other: a token is for one VM, or for a role');
  if (scope === 'admin')
    throw invalid(field, `${field} is not possible with the scope admin, which makes other tokens`);
  return hasVm ? { vm: parseText(vm, 'vm') } : { role: parseRole(role) };
}
