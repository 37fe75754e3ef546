/** From a request to who sent it, and whether its route is for them. */
import type { FastifyRequest } from 'fastify';
import { VregError } from '../../src/protocol/errors.ts';
import { type Authenticator, assertScope, type Principal } from '../access/authenticator.ts';
import type { Cors } from './cors.ts';
import { refuseForeignHost, refuseForeignPage } from './origin.ts';
import type { Route } from './routes.ts';
import { certificateName } from './server/tls.ts';
import { isLocal } from './server/unix-socket.ts';

/** What a proxy adds to what it passes on (RFC 7239, RFC 9110, and what was before them, or is of one vendor). */
const OF_PROXIES =
  /^(x-forwarded-.*|forwarded|via|x-real-ip|x-client-ip|x-original-.*|x-envoy-.*|.*-connecting-ip|true-client-ip)$/;

export interface DoorOptions {
  authenticator: Authenticator;
  /** Names of this registry besides `localhost` and its addresses, in lower case. */
  names: Pick<ReadonlySet<string>, 'has'>;
  cors: Cors | undefined;
  /** Proxies that are believed; undefined where there is none. */
  trustProxy: string | undefined;
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Who asks; undefined until that is known, and where nobody is asked. */
    principal?: Principal | undefined;
  }
}

export class Door {
  readonly #options: DoorOptions;

  constructor(options: DoorOptions) {
    this.#options = options;
  }

  /** Of a registry that asks nobody who they are, or that a browser may use without being asked. @throws VregError FORBIDDEN */
  refuseForeigners(request: FastifyRequest): void {
    const { raw, headers } = request;
    const { origin, host } = headers;
    const { authenticator, names, cors, trustProxy } = this.#options;
    if (trustProxy !== undefined) dropWordOfNobody(request);
    // A browser shows a certificate by itself, whichever page asks; a token it does not.
    const showsItself = !headers.authorization && certificateName(raw.socket) !== undefined;
    if (!authenticator.isOpen && !showsItself) return;
    if (!cors?.allows(origin)) refuseForeignPage(origin);
    // Nobody's domain leads to a unix socket.
    if (!isLocal(raw.socket)) refuseForeignHost(host, names);
    else if (!this.#isOfOwner(request)) {
      throw new VregError(
        'FORBIDDEN',
        'a registry that asks for no token does not serve what a proxy passes on to its socket',
        {
          field: 'host',
          hint: 'start the daemon with a token: VERS_AUTH_TOKEN or --token-file',
        },
      );
    }
  }

  /** What a proxy passes on may come from anywhere, whichever way the proxy comes. */
  #isOfOwner({ raw, headers }: FastifyRequest): boolean {
    if (this.#options.trustProxy !== undefined || !isLocal(raw.socket)) return false;
    return !Object.keys(headers).some((name) => OF_PROXIES.test(name));
  }

  /** Finds out who asks. @throws VregError UNAUTHORIZED, TOO_MANY_REQUESTS, FORBIDDEN */
  admit(request: FastifyRequest): void {
    const { raw, ip, headers, routeOptions } = request;
    // A URL that cannot be read has led to no route.
    const route = routeOptions?.config?.route;
    if (route?.access === 'open') return;
    const { authenticator } = this.#options;
    const credentials = {
      authorization: headers.authorization,
      address: ip,
      isLocal: this.#isOfOwner(request),
      certificate: certificateName(raw.socket),
    };
    try {
      request.principal = authenticator.authenticate(credentials);
    } catch (error) {
      request.rejectedName = authenticator.nameOfRejected(credentials);
      throw error;
    }
    if (route) checkRoute(route, request.principal);
  }
}

/** A connection that is gone has no address either; only of the daemon's own socket does that say who is believed. */
function dropWordOfNobody({ raw: { socket, headers } }: FastifyRequest): void {
  // Once it was read, Node remembers it.
  if (socket.remoteAddress !== undefined || isLocal(socket)) return;
  delete headers['x-forwarded-for'];
  delete headers['x-forwarded-proto'];
}

/** @throws VregError FORBIDDEN */
function checkRoute({ access, enrols }: Route, principal: Principal): void {
  if (access === 'any' || access === 'open' || (enrols && principal.scope === 'enrol')) return;
  assertScope(principal, access);
}
