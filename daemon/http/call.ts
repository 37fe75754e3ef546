/** One request as a route's handler sees it: its parameters checked, its answer encoded. */
import type { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { INCLUDE_LIVENESS } from '../../src/protocol/api.ts';
import { VregError } from '../../src/protocol/errors.ts';
import type { WriteOptions } from '../registry/changes.ts';
import { type Doubt, doubtOf } from '../registry/doubt.ts';
import type { Entry } from '../registry/entry.ts';
import type { Registry } from '../registry/registry.ts';
import type { StreamLimits } from './event-stream.ts';
import type { Held, Lookout } from './held.ts';
import { listOf, sizeOf } from './list.ts';
import type { Pieces } from './pieces.ts';

export interface Answer {
  status: number;
  /** JSON, unless {@link type} says otherwise. */
  body: string | Readable;
  /** Bytes of a body that is no text, where that is known. */
  length?: number | undefined;
  type?: string;
  /** Revision of the one entry that is answered. */
  etag?: number;
  /** What the answer may have wrong. */
  doubt?: Doubt | undefined;
}

export class Call {
  readonly registry: Registry;
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
  /** Where the daemon may put a file for as long as it takes to send it. */
  readonly dataDir: string | undefined;
  /** Aborted when the daemon stops: long answers end then. */
  readonly stopping: AbortSignal;
  readonly streams: StreamLimits;
  /** Places of those that wait or watch, and of backups. */
  readonly held: Held;
  readonly backups: Held;
  readonly lookout: Lookout;
  readonly pieces: Pieces;

  constructor(
    request: FastifyRequest,
    reply: FastifyReply,
    shared: Pick<Call, 'registry' | 'dataDir' | 'stopping' | 'streams' | 'held' | 'backups' | 'lookout' | 'pieces'>,
  ) {
    this.request = request;
    this.reply = reply;
    this.registry = shared.registry;
    this.dataDir = shared.dataDir;
    this.stopping = shared.stopping;
    this.streams = shared.streams;
    this.held = shared.held;
    this.backups = shared.backups;
    this.lookout = shared.lookout;
    this.pieces = shared.pieces;
  }

  get id(): string {
    return (this.request.params as { id: string }).id;
  }

  get body(): unknown {
    return this.request.body;
  }

  /**
   * Query parameters by name; an empty one counts as not given, as the original registry reads it.
   * @throws VregError INVALID on one that is given twice
   */
  query<K extends string>(...names: readonly K[]): { [name in K]?: string } {
    const query = this.request.query as Record<string, string | string[]>;
    const known: { [name in K]?: string } = {};
    for (const name of names) {
      const value = query[name];
      if (Array.isArray(value)) throw invalidQuery(name, `${name} is given ${value.length} times: give it once`);
      if (value) known[name] = value;
    }
    return known;
  }

  /** A query parameter that is `true` or `false`. @throws VregError INVALID */
  flag(name: string): boolean {
    const text = this.query(name)[name];
    if (text === undefined || text === 'false') return false;
    if (text === 'true') return true;
    throw invalidQuery(name, `${name}: "${text}" is not true or false`);
  }

  /** A whole number from a query parameter. @throws VregError INVALID naming the bounds */
  number(name: string, min: number, max: number): number | undefined {
    const text = this.query(name)[name];
    if (text === undefined) return undefined;
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= min && value <= max) return value;
    throw invalidQuery(name, `${name}: "${text}" is not a whole number from ${min} to ${max}`);
  }

  /** Who writes, and what they have seen: from the token, `If-Match` and `If-None-Match`. @throws VregError INVALID */
  write(): WriteOptions {
    // An answer that cannot be given is refused before anything is changed.
    this.#encoder();
    const { 'if-match': match, 'if-none-match': noneMatch } = this.request.headers;
    const by = this.request.by;
    if (noneMatch === '*') return { by, expect: 'none' };
    if (noneMatch !== undefined) {
      throw new VregError('INVALID', `if-none-match: ${noneMatch} is not possible for a change`, {
        field: 'if-none-match',
        hint: 'send * to change nothing that is there, or the ETag as If-Match',
      });
    }
    if (match === undefined) return { by };
    if (match === '*') return { by, expect: 'any' };
    const [, revision] = /^"(\d{1,15})"$/.exec(match) ?? [];
    if (revision === undefined) {
      throw new VregError('INVALID', `if-match: ${match} is not an ETag of this registry`, {
        field: 'if-match',
        hint: 'send the ETag as it came, for example "42"',
      });
    }
    return { by, expect: Number(revision) };
  }

  /** Answers one entry. */
  entry(entry: Entry, status = 200): Answer {
    return { status, body: this.#encoder()(entry), etag: entry.order.revision };
  }

  /** Answers one entry to somebody who wants to know how it is. */
  read(entry: Entry): Answer {
    return { ...this.entry(entry), doubt: this.#doubtOf([entry]) };
  }

  /**
   * Answers a list of entries.
   * @param offered those that are in doubt, where some of them were left out of the answer
   */
  entries(entries: readonly Entry[], offered = entries): Answer {
    const body = listOf(entries, this.#encoder(), this.pieces);
    // Of text it is known, and of entries with more in them it is not.
    const length = typeof body === 'string' || this.query('include').include ? undefined : sizeOf(entries);
    return { status: 200, body, length, doubt: this.#doubtOf(offered) };
  }

  #doubtOf(entries: readonly Entry[]): Doubt | undefined {
    return doubtOf(entries, this.registry.clock, this.registry.staleAfter);
  }

  /** How entries are written for this request: plain, or with what `include` asks for. */
  #encoder(): (entry: Entry) => string {
    const { include } = this.query('include');
    if (include === undefined) return (entry) => entry.json;
    if (include !== INCLUDE_LIVENESS.include) {
      throw invalidQuery('include', `include: "${include}" is not known (one of ${INCLUDE_LIVENESS.include})`);
    }
    return (entry) => {
      const health = this.registry.health.of(entry);
      return entry.jsonWith({
        stale: this.registry.isStale(entry),
        ...(entry.isSuspect ? { suspect: true } : {}),
        ...(health ? { health } : {}),
      });
    };
  }
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Who asks: a token's name, or undefined where nobody has to say. */
    by?: string | undefined;
  }
}

export function invalidQuery(field: string, message: string): VregError {
  return new VregError('INVALID', message, { field });
}
