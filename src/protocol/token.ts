/**
 * Access tokens. The scope of a token determines what it may do, and its restriction determines which VMs it may change. The
 * restriction also limits which VMs a token with the scope `read` may read. It does not limit reads with other scopes, because
 * the VMs of a fleet must find each other.
 */
import { invalid } from './errors.ts';
import { parseObject, parseRole, parseText, type Role } from './vm.ts';

/** Each scope includes the scopes before it. */
const LADDER = ['read', 'heartbeat', 'register', 'write', 'admin'] as const;
/**
 * - `read`: read everything except tokens and backups
 * - `heartbeat`: also send heartbeats
 * - `register`: also register new VMs
 * - `write`: also replace, update and remove VMs
 * - `admin`: also create and revoke tokens, import entries, and take backups
 * - `enrol`: only register a new VM; the response contains a token for that VM
 */
export const SCOPES = [...LADDER, 'enrol'] as const;
export type Scope = (typeof SCOPES)[number];

/** The hint of an error for an enrol token that is used for anything else. */
export const ENROL_HINT =
  'an enrol token can only register a new VM: use the token that the VM received in the response';

/** True if a token with the scope `scope` may do what requires the scope `needed`. */
export function mayDo(scope: Scope, needed: Scope): boolean {
  if (scope === 'enrol' || needed === 'enrol') return scope === needed;
  return LADDER.indexOf(scope) >= LADDER.indexOf(needed);
}

/**
 * The VMs that a token may change or, with the scope `read`, read: one VM, the VMs with a role, one VM while it has a role, or
 * all. A token for one VM may also change the role of that VM to the role that it names.
 */
export interface Restriction {
  vm?: string;
  role?: Role;
}

/** Body of `POST /registry/tokens`. */
export interface TokenRequest extends Restriction {
  name: string;
  scope: Scope;
  /** Seconds until the token expires; absent if it does not expire. */
  expiresIn?: number;
}

/** Information about a token, without its secret. All times are RFC 3339. */
export interface TokenInfo extends Restriction {
  name: string;
  scope: Scope;
  createdAt: string;
  /** Name of the principal that created the token: the name of a token, `socket`, or `anonymous`. */
  createdBy: string;
  expiresAt?: string;
  /** With a resolution of one minute; absent if the token was never used. */
  lastUsedAt?: string;
  /** Address of the last client; absent if it used the unix socket. */
  lastUsedFrom?: string;
  /** Name of the enrol token with which the VM obtained this token. */
  enrolledBy?: string;
}

/** A new token and its secret, which no other response contains. */
export interface NewToken extends TokenInfo {
  token: string;
}

/** Response to `GET /registry/tokens`, oldest first. */
export interface Tokens {
  tokens: TokenInfo[];
  count: number;
}

/** Response to `DELETE /registry/tokens/:name` and `DELETE /registry/tokens?enrolledBy=NAME`. */
export interface Revoked {
  /** Names of the revoked tokens. */
  revoked: string[];
}

/** Response to `GET /registry/whoami`. */
export interface Whoami extends Restriction {
  /** The name of a token, `VERS_AUTH_TOKEN`, `socket`, or `anonymous`. */
  name: string;
  scope: Scope;
  expiresAt?: string;
}

/** Format of a token, as a regular expression without anchors. */
export const TOKEN_TEXT = 'vreg_[A-Za-z0-9_-]{43}';
const CONTAINS_TOKEN = new RegExp(TOKEN_TEXT);

/** Valid token names. Names with a slash are reserved for the tokens of enrolled VMs. */
const NAME = /^[A-Za-z0-9][\w.@-]{0,63}$/;
/** Names of principals without a token, compared case-insensitively. A token with such a name would be misleading in logs. */
const RESERVED: readonly string[] = ['anonymous', 'socket', 'vers_auth_token'];
/** Ten years in seconds. A token that should last longer can be created without an expiry. */
const MAX_EXPIRY = 315_360_000;

/** @throws VregError INVALID naming the field, the reason and what is accepted */
export function parseTokenRequest(input: unknown): TokenRequest {
  const body = parseObject(input, 'body');
  const name = parseText(body.name, 'name');
  if (!NAME.test(name))
    throw invalid('name', 'invalid name: use 1 to 64 letters, digits and . _ @ -, beginning with a letter or digit');
  if (name.startsWith('vreg_') || CONTAINS_TOKEN.test(name))
    throw invalid('name', 'invalid name: it cannot be a token or begin with vreg_');
  if (isReserved(name)) throw invalid('name', `invalid name: "${name}" is reserved`);
  const scope = parseScope(body.scope);
  const limit = parseRestriction(body, scope);
  const { expiresIn } = body;
  if (expiresIn === undefined || expiresIn === null) return { name, scope, ...limit };
  if (!Number.isInteger(expiresIn) || (expiresIn as number) < 1 || (expiresIn as number) > MAX_EXPIRY)
    throw invalid('expiresIn', `expiresIn must be a whole number of seconds from 1 to ${MAX_EXPIRY}`);
  return { name, scope, ...limit, expiresIn: expiresIn as number };
}

/** True for the name of a principal that has no token. */
export function isReserved(name: string): boolean {
  return RESERVED.includes(name.toLowerCase());
}

/** @throws VregError INVALID listing the scopes */
export function parseScope(value: unknown): Scope {
  if (SCOPES.includes(value as Scope)) return value as Scope;
  const given = value === undefined || value === null ? 'scope is required' : 'invalid scope';
  throw invalid('scope', `${given} (one of ${SCOPES.join(', ')})`);
}

function parseRestriction({ vm, role }: Record<string, unknown>, scope: Scope): Restriction {
  const [hasVm, hasRole] = [vm !== undefined && vm !== null, role !== undefined && role !== null];
  if (!hasVm && !hasRole) return {};
  const field = hasVm ? 'vm' : 'role';
  if (scope === 'admin')
    throw invalid(field, `a token with the scope admin cannot be restricted to a ${field}: it can create other tokens`);
  return { ...(hasVm ? { vm: parseText(vm, 'vm') } : {}), ...(hasRole ? { role: parseRole(role) } : {}) };
}
