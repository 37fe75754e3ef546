/** One request as a route's handler sees it: its parameters checked, its answer encoded. */
import type { Readable } from 'node:stream';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { INCLUDE_LIVENESS } from '../../src/protocol/api.ts';
import { VregError } from '../../src/protocol/errors.ts';
import type { Restriction } from '../../src/protocol/token.ts';
import type { Role } from '../../src/protocol/vm.ts';
import type { Authenticator, Principal } from '../access/authenticator.ts';
import { MAX_TIMEOUT } from '../clock.ts';
import { assertPermitted, permits, type WriteOptions } from '../registry/preconditions.ts';
import type { Registry } from '../registry/registry.ts';
import type { VmRecord } from '../registry/vm-record.ts';
import { type Warming, warmingOf } from '../registry/warming.ts';
import type { Telling } from './handlers/event-fanout.ts';
import type { StreamLimits } from './handlers/events.ts';
import { type Kept, SMALL } from './response-budget.ts';
import type { Pieces } from './scheduler.ts';
import type { Held, Lookout } from './semaphore.ts';
import { listOf, sizeOf } from './streaming.ts';

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
  warming?: Warming | undefined;
}

export class Call {
  readonly registry: Registry;
  readonly authenticator: Authenticator;
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
  /** Where the daemon may put a file for as long as it takes to send it. */
  readonly dataDir: string | undefined;
  /** Aborted when the daemon stops: long answers end then. */
  readonly stopping: AbortSignal;
  readonly streams: StreamLimits;
  readonly telling: Telling;
  /** Places of those that wait or watch, and of backups. */
  readonly held: Held;
  readonly backups: Held;
  readonly kept: Kept;
  readonly lookout: Lookout;
  readonly pieces: Pieces;

  constructor(
    request: FastifyRequest,
    reply: FastifyReply,
    shared: Pick<
      Call,
      | 'registry'
      | 'authenticator'
      | 'dataDir'
      | 'stopping'
      | 'streams'
      | 'telling'
      | 'held'
      | 'backups'
      | 'kept'
      | 'lookout'
      | 'pieces'
    >,
  ) {
    this.request = request;
    this.reply = reply;
    this.registry = shared.registry;
    this.authenticator = shared.authenticator;
    this.dataDir = shared.dataDir;
    this.stopping = shared.stopping;
    this.streams = shared.streams;
    this.telling = shared.telling;
    this.held = shared.held;
    this.backups = shared.backups;
    this.kept = shared.kept;
    this.lookout = shared.lookout;
    this.pieces = shared.pieces;
  }

  /** Who asks. Not known on a route that asks nobody. */
  get principal(): Principal {
    return this.request.principal!;
  }

  /** The VMs that they may look at; all when nothing is said. It is what the limit of a token means that may only read. */
  get readFilter(): Restriction | undefined {
    const { scope, restriction } = this.principal;
    return scope === 'read' ? restriction : undefined;
  }

  /** @throws VregError FORBIDDEN, NOT_FOUND about a VM that they may not look at, whether it is there or not */
  assertReadable(id: string): void {
    const { readFilter } = this;
    if (readFilter?.vm !== undefined) assertPermitted(readFilter, { id, role: '' as Role });
    else if (readFilter) assertPermitted(readFilter, this.registry.get(id).vm);
  }

  /**
   * Calls back when the daemon stops, or who asks is not let in any more: long answers end then.
   * @returns what takes that back
   */
  whenOver(act: () => void): () => void {
    return whenAborted([this.stopping, this.principal.revoked], act);
  }

  /** Ends an answer that is sent as its reader takes it when they are not let in any more; a stop waits for it. */
  endWhenUnwelcome(): void {
    const { raw } = this.reply;
    const { token, revoked } = this.principal;
    const end = () => raw.destroy();
    const stay = whenAborted([revoked], end);
    const left = token?.timeLeft(this.registry.clock.now()) ?? Number.POSITIVE_INFINITY;
    const expiry = left < MAX_TIMEOUT ? setTimeout(end, left).unref() : undefined;
    raw.once('close', () => {
      stay();
      clearTimeout(expiry);
    });
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

  /** Who writes, where, and what they have seen: from the token, `If-Match` and `If-None-Match`. @throws VregError INVALID */
  write(): WriteOptions {
    // An answer that cannot be given, or kept, is refused before anything is changed.
    this.#encoder();
    if (this.request.method !== 'DELETE' && this.#isLarge()) this.kept.checkRoom();
    const { 'if-match': match, 'if-none-match': noneMatch } = this.request.headers;
    const { name: by, restriction } = this.principal;
    // No entry is one that there is and one that there is not (RFC 9110, 13.2.2).
    if (noneMatch === '*' && match !== undefined) {
      throw new VregError('PRECONDITION_FAILED', 'if-match and if-none-match: * are never both true', {
        field: 'if-none-match',
        hint: 'send one of them',
      });
    }
    if (noneMatch === '*') return { by, restriction, expect: 'none' };
    if (noneMatch !== undefined) {
      throw new VregError('INVALID', `if-none-match: ${noneMatch} is not possible for a change`, {
        field: 'if-none-match',
        hint: 'send * to change nothing that is there, or the ETag as If-Match',
      });
    }
    if (match === undefined) return { by, restriction };
    if (match === '*') return { by, restriction, expect: 'any' };
    const [, revision] = /^"(\d{1,15})"$/.exec(match) ?? [];
    if (revision === undefined) {
      throw new VregError('INVALID', `if-match: ${match} is not an ETag of this registry`, {
        field: 'if-match',
        hint: 'send the ETag as it came, for example "42"',
      });
    }
    return { by, restriction, expect: Number(revision) };
  }

  /** Does what takes long where the entry is large, a few at a time: a short request may change a long entry. */
  inTurn<T>(work: () => Promise<T>): Promise<T> {
    return this.#isLarge() ? Promise.resolve(this.pieces.run(work)) : work();
  }

  /** True of a change of an entry that is large, or may make it so. */
  #isLarge(): boolean {
    const { id = '' } = (this.request.params ?? {}) as { id?: string };
    const { 'content-length': length, 'transfer-encoding': coding } = this.request.headers;
    if (coding !== undefined || Number(length ?? 0) > SMALL) return true;
    return this.registry.has(id) && this.registry.get(id).size > SMALL;
  }

  /** Answers one entry. */
  entry(entry: VmRecord, status = 200): Answer {
    return { status, body: this.#encoder()(entry), etag: entry.version.revision };
  }

  /** Answers one entry to somebody who wants to know how it is. */
  read(entry: VmRecord): Answer {
    return { ...this.entry(entry), warming: this.#warmingOf([entry]) };
  }

  /**
   * Answers a list of entries.
   * @param offered those that are in doubt, where some of them were left out of the answer
   */
  entries(entries: readonly VmRecord[], offered = entries): Answer {
    const { readFilter } = this;
    const seen = (all: readonly VmRecord[]) => (readFilter ? all.filter(({ vm }) => permits(readFilter, vm)) : all);
    return this.#list(seen(entries), seen(offered));
  }

  #list(entries: readonly VmRecord[], offered: readonly VmRecord[]): Answer {
    const body = listOf(entries, this.#encoder(), this.pieces, () => this.kept.open(this.reply.raw));
    if (typeof body !== 'string') this.endWhenUnwelcome();
    // Of text it is known, and of entries with more in them it is not.
    const length = typeof body === 'string' || this.query('include').include ? undefined : sizeOf(entries);
    return { status: 200, body, length, warming: this.#warmingOf(offered) };
  }

  #warmingOf(entries: readonly VmRecord[]): Warming | undefined {
    return warmingOf(entries, this.registry.clock, this.registry.staleAfter);
  }

  /** How entries are written for this request: plain, or with what `include` asks for. */
  #encoder(): (entry: VmRecord) => string {
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

function whenAborted(signals: readonly AbortSignal[], act: () => void): () => void {
  for (const signal of signals) signal.addEventListener('abort', act, { once: true });
  if (signals.some(({ aborted }) => aborted)) queueMicrotask(act);
  return () => {
    for (const signal of signals) signal.removeEventListener('abort', act);
  };
}

declare module 'fastify' {
  interface FastifyRequest {
    /** Who asks; undefined until that is known, and where nobody is asked. */
    principal?: Principal | undefined;
  }
}

export function invalidQuery(field: string, message: string): VregError {
  return new VregError('INVALID', message, { field });
}
