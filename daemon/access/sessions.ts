/**
 * Sessions of browsers. The holder of a token makes a magic link, which a browser exchanges for a session with the rights of
 * that token. Links exist in memory only: a restart invalidates them, and the holder makes another one. Sessions are stored as
 * records, which are saved with the next heartbeats, so that a log-in also works while the disk is full.
 */
import { limitReached, type VregError } from '../../src/protocol/errors.ts';
import { kernelRandomHex } from '../process/random.ts';
import type { RecordQueue } from '../registry/record-queue.ts';
import type { Contents, RecordChange } from '../store/store.ts';
import type { Principal, SessionInfo } from './principal.ts';
import { hashOf } from './stored-token.ts';
import { newRevocation } from './token.ts';
import { expired, unauthorized } from './token-errors.ts';

/** Milliseconds for which a link is valid: 5 minutes, as in the original registry (vers-agent-services). */
const LINK_LIFETIME = 300_000;
/** Milliseconds for which a session is valid: 24 hours, as in the original registry. */
export const SESSION_LIFETIME = 86_400_000;
/** Number of random bytes in a link and in a session, as in a token. */
const SECRET_BYTES = 32;
/** The prefix of tokens, so that logs mask a link in a URL. */
const PREFIX = 'vreg_';
/** Most links and sessions of one token. A further one replaces the oldest. */
const MAX_PER_TOKEN = 100;
/** Most sessions of all tokens: far more than a fleet has operators. */
const MAX_SESSIONS = 10_000;

interface Link {
  principal: Principal;
  /** Hash of the secret of the principal's token. */
  tokenHash: string;
  /** Milliseconds since the epoch. */
  expiresAt: number;
}

interface StoredSession {
  /** Name of the token. */
  name: string;
  /**
   * Hash of the session's secret and of the hash of the token. It binds the session to the token and not to its name, and does
   * not reveal the hash of the root token, which may be guessable, to a reader of a backup.
   */
  binding: string;
  /** Milliseconds since the epoch. */
  expiresAt: number;
}

/** A session of a browser. */
export class Session implements SessionInfo {
  readonly stored: StoredSession;
  readonly key: string;
  readonly #revocation = newRevocation();
  #isJoined = false;

  constructor(key: string, stored: StoredSession) {
    this.key = key;
    this.stored = stored;
  }

  get name(): string {
    return this.stored.name;
  }

  /** Milliseconds since the epoch. */
  get expiresAt(): number {
    return this.stored.expiresAt;
  }

  /** True if the token with this hash has made the session. @param secret of the session */
  isBoundTo(tokenHash: string, secret: string): boolean {
    return this.stored.binding === bindingOf(tokenHash, secret);
  }

  /** The principal of requests of this session: that of the token, which ends with the token or with the session. */
  principalFrom(token: Principal): Principal {
    if (!this.#isJoined) this.#joinRevocation(token.revoked);
    return { ...token, session: this, revoked: this.#revocation.signal };
  }

  #joinRevocation(revoked: AbortSignal): void {
    this.#isJoined = true;
    const end = () => this.#revocation.abort(revoked.reason);
    if (revoked.aborted) end();
    else revoked.addEventListener('abort', end, { once: true, signal: this.#revocation.signal });
  }

  end(message: string): void {
    this.#revocation.abort(unauthorized(`Unauthorized — ${message}`, LOG_IN_HINT));
  }
}

const LOG_IN_HINT = 'log in again with a new link: vreg ui';

export interface SessionsOptions {
  /** Records in this queue are saved with the next heartbeats. */
  queue: RecordQueue;
  /** Wall clock, milliseconds since the epoch. */
  now(): number;
}

export class Sessions {
  /** By the hash of their secrets, oldest first. */
  readonly #links = new Map<string, Link>();
  readonly #sessions = new Map<string, Session>();
  readonly #options: SessionsOptions;

  constructor({ records }: Pick<Contents, 'records'>, options: SessionsOptions) {
    this.#options = options;
    const found = records.filter(({ kind }) => kind === 'session');
    const stored = found.map(({ key, body }) => new Session(key, JSON.parse(body) as StoredSession));
    stored.sort((a, b) => a.expiresAt - b.expiresAt);
    for (const session of stored) this.#sessions.set(session.key, session);
    this.expire();
  }

  /** Applies a record that another replica has written. */
  recordArrived({ key, body }: RecordChange): void {
    const known = this.#sessions.get(key);
    if (body !== undefined) {
      if (!known) this.#sessions.set(key, new Session(key, JSON.parse(body) as StoredSession));
    } else if (known) {
      this.#sessions.delete(key);
      known.end('the session was ended through another replica');
    }
  }

  /** Creates a link. @param tokenHash hash of the secret of the principal's token */
  createLink(principal: Principal, tokenHash: string): { secret: string; expiresAt: number } {
    const ofToken = [...this.#links].filter(([, link]) => link.principal.name === principal.name);
    if (ofToken.length >= MAX_PER_TOKEN) this.#links.delete(ofToken[0]![0]);
    if (this.#links.size >= MAX_SESSIONS) throw tooMany('magic links');
    const secret = newSecret();
    const expiresAt = this.#options.now() + LINK_LIFETIME;
    this.#links.set(hashOf(secret), { principal, tokenHash, expiresAt });
    return { secret, expiresAt };
  }

  /**
   * Exchanges a link for a session. A link works once.
   * @throws VregError UNAUTHORIZED if it is unknown, used or expired, or its token was revoked
   */
  logIn(linkSecret: string): { secret: string; principal: Principal; session: Session } {
    this.expire();
    const link = this.#links.get(hashOf(linkSecret));
    // After a step of the wall clock, an older link may expire later.
    if (!link || link.expiresAt <= this.#options.now()) {
      throw unauthorized(
        'Unauthorized — this link was used, has expired, or is from before a restart of the registry or from another replica',
        LOG_IN_HINT,
      );
    }
    const { name, token, revoked } = link.principal;
    revoked.throwIfAborted();
    if (token?.isExpired()) throw expired(token.info);
    const ofToken = [...this.#sessions.values()].filter((session) => session.name === name);
    if (ofToken.length >= MAX_PER_TOKEN) this.#forget(ofToken[0]!, 'newer sessions of the same token have replaced it');
    if (this.#sessions.size >= MAX_SESSIONS) throw tooMany('sessions');
    this.#links.delete(hashOf(linkSecret));
    const secret = newSecret();
    const stored: StoredSession = {
      name,
      binding: bindingOf(link.tokenHash, secret),
      expiresAt: this.#options.now() + SESSION_LIFETIME,
    };
    const session = new Session(hashOf(secret), stored);
    this.#sessions.set(session.key, session);
    this.#options.queue.add(recordOf(session));
    return { secret, session, principal: session.principalFrom(link.principal) };
  }

  /** The session with this secret; undefined if there is none, or if it has expired. */
  find(secret: string): Session | undefined {
    const session = this.#sessions.get(hashOf(secret));
    return session && session.expiresAt > this.#options.now() ? session : undefined;
  }

  /** Ends a session and its open responses. @param key see {@link SessionInfo} */
  logOut(key: string): void {
    const session = this.#sessions.get(key);
    if (session) this.#forget(session, 'the session was ended');
  }

  /** Ends the sessions and links that have expired. Called several times per second. */
  expire(): void {
    const now = this.#options.now();
    // The oldest are first and all last equally long.
    for (const [key, { expiresAt }] of this.#links) {
      if (expiresAt > now) break;
      this.#links.delete(key);
    }
    for (const session of this.#sessions.values()) {
      if (session.expiresAt > now) break;
      this.#forget(session, 'the session has expired');
    }
  }

  #forget(session: Session, reason: string): void {
    if (!this.#sessions.delete(session.key)) return;
    this.#options.queue.add({ kind: 'session', key: session.key, body: undefined });
    session.end(reason);
  }
}

function newSecret(): string {
  return PREFIX + Buffer.from(kernelRandomHex(SECRET_BYTES), 'hex').toString('base64url');
}

function bindingOf(tokenHash: string, secret: string): string {
  return hashOf(`${secret} ${tokenHash}`);
}

function recordOf({ key, stored }: Session): RecordChange {
  return { kind: 'session', key, body: JSON.stringify(stored) };
}

function tooMany(what: string): VregError {
  return limitReached(what, MAX_SESSIONS, { hint: 'revoke unused tokens, which ends their sessions', retryAfter: 60 });
}
