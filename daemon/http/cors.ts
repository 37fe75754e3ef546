/**
 * Which pages of other origins may use the registry (the fetch standard's CORS protocol): none unless they are named. By
 * hand instead of by @fastify/cors: a plugin's hooks come after those of the app, and a preflight must be answered before
 * a token is asked for; its wildcard route for OPTIONS would also end the 404s and 405s of unknown paths and methods.
 */
import type { FastifyReply, FastifyRequest } from 'fastify';
import {
  LEASE_HEADER,
  REGISTRY_HEADER,
  REQUEST_ID_HEADER,
  REVISION_HEADER,
  VERSION_HEADER,
  WARMING_HEADER,
} from '../../src/protocol/api.ts';
import { methodsOf } from './routes.ts';

/** What a page may send: all that a route looks at. */
const TAKEN = `authorization, content-type, if-match, if-none-match, last-event-id, ${REQUEST_ID_HEADER}`;
/** What a page may read, besides what every page may. */
const SHOWN = [
  VERSION_HEADER,
  LEASE_HEADER,
  REGISTRY_HEADER,
  REVISION_HEADER,
  WARMING_HEADER,
  REQUEST_ID_HEADER,
  'etag',
  'retry-after',
  'allow',
  'date',
].join(', ');
/** Seconds for which a browser need not ask again: short, since a restart may have taken an origin out. */
const MAX_AGE = 600;

export class Cors {
  readonly #origins: ReadonlySet<string>;

  /** @param origins as browsers write them: `https://dash.example` */
  constructor(origins: readonly string[]) {
    this.#origins = new Set(origins);
  }

  allows(origin: string | undefined): boolean {
    return origin !== undefined && this.#origins.has(origin);
  }

  /** What every answer says of this. */
  introduce({ headers: { origin } }: FastifyRequest, reply: FastifyReply): void {
    reply.header('vary', 'Origin');
    if (!this.allows(origin)) return;
    reply.header('access-control-allow-origin', origin).header('access-control-expose-headers', SHOWN);
  }

  /** Answers a browser that asks beforehand whether a page may do something. @returns false when it is no such request */
  answersPreflight({ method, url, headers }: FastifyRequest, reply: FastifyReply): boolean {
    if (method !== 'OPTIONS' || !headers['access-control-request-method'] || !this.allows(headers.origin)) return false;
    const methods = methodsOf(url.split('?', 1)[0]!);
    if (methods.length === 0) return false;
    reply
      .header('access-control-allow-methods', methods.join(', '))
      .header('access-control-allow-headers', TAKEN)
      .header('access-control-max-age', MAX_AGE)
      .code(204)
      .send();
    return true;
  }
}
