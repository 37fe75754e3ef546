/** From a request to who sent it, and whether its route is for them. */
import type { FastifyRequest } from 'fastify';
import { type Access, checkScope, type Guest } from '../access/access.ts';
import type { Cors } from './cors.ts';
import { refuseForeignHost, refuseForeignPage } from './foreign.ts';
import type { Route } from './routes.ts';
import { certificateName } from './tls.ts';
import { isLocal } from './unix-socket.ts';

/** What a proxy adds to what it passes on (RFC 7239, RFC 9110, and what was before them). */
const OF_PROXIES = ['x-forwarded-for', 'forwarded', 'x-real-ip', 'via'] as const;

export interface DoorOptions {
  access: Access;
  /** Names of this registry besides `localhost` and its addresses, in lower case. */
  names: Pick<ReadonlySet<string>, 'has'>;
  cors: Cors | undefined;
  /** Proxies that are believed; undefined where there is none. */
  trustProxy: string | undefined;
}

export class Door {
  readonly #options: DoorOptions;

  constructor(options: DoorOptions) {
    this.#options = options;
  }

  /** Of a registry that asks nobody who they are. @throws VregError FORBIDDEN */
  refuseForeigners({ raw, headers: { origin, host } }: FastifyRequest): void {
    const { access, names, cors } = this.#options;
    if (!access.isOpen) return;
    if (!cors?.allows(origin)) refuseForeignPage(origin);
    // Nobody's domain leads to a unix socket.
    if (!isLocal(raw.socket)) refuseForeignHost(host, names);
  }

  /** Finds out who asks. @throws VregError UNAUTHORIZED, TOO_MANY_REQUESTS, FORBIDDEN */
  admit(request: FastifyRequest): void {
    const { raw, ip, headers, routeOptions } = request;
    // A URL that cannot be read has led to no route.
    const route = routeOptions?.config?.route;
    if (route?.access === 'open') return;
    request.guest = this.#options.access.admit({
      authorization: headers.authorization,
      address: ip,
      // What a proxy passes on may come from anywhere, whichever way the proxy comes.
      isLocal:
        this.#options.trustProxy === undefined &&
        isLocal(raw.socket) &&
        OF_PROXIES.every((name) => headers[name] === undefined),
      certificate: certificateName(raw.socket),
    });
    if (route) checkRoute(route, request.guest);
  }
}

/** @throws VregError FORBIDDEN */
function checkRoute({ access, enrols }: Route, guest: Guest): void {
  if (access === 'any' || access === 'open' || (enrols && guest.scope === 'enrol')) return;
  checkScope(guest, access);
}
