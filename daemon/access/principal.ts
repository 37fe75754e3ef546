/** An authenticated client, and the session with which it may have authenticated. */
import type { Scope } from '../../src/protocol/token.ts';
import type { TokenRestriction } from '../registry/preconditions.ts';
import type { Token } from './token.ts';

/** An authenticated client. */
export interface Principal {
  /** The name of a token, `VERS_AUTH_TOKEN`, `socket`, or `anonymous`. */
  name: string;
  scope: Scope;
  /** VMs that the principal may change, or read with the scope `read`; undefined means all. */
  restriction?: TokenRestriction | undefined;
  token?: Token;
  /** The session of a browser, if the client has authenticated with one. */
  session?: SessionInfo;
  /** Connected through the unix socket. */
  isLocal?: boolean;
  /**
   * Aborted when the principal's token is revoked, replaced or expires, which ends all open responses and request bodies of the
   * principal. The abort reason is the VregError with which to respond.
   */
  revoked: AbortSignal;
}

/** A session of a browser. */
export interface SessionInfo {
  /** Hash of its secret. */
  key: string;
  /** Milliseconds since the epoch. */
  expiresAt: number;
}
