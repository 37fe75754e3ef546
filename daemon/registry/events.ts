/**
 * The last events of the registry, and who wants to hear of the next. A watcher that was away asks for what came since
 * the revision it knows; when that is no longer here it is told so and starts from the full state, never from a gap.
 */
import { type FieldChanges, LIVENESS_TYPES, type VmEventType } from '../../src/protocol/events.ts';
import type { Entry } from './entry.ts';

/** Events kept for watchers that come back: minutes of a busy fleet, a few megabytes. */
const KEPT = 4096;

const LIVENESS: ReadonlySet<VmEventType> = new Set(LIVENESS_TYPES);

/** An event with its entry as JSON, written once however many watch. */
export interface Event {
  type: VmEventType;
  id: string;
  role: string;
  status: string;
  /** The status before a `status` event. */
  from: string | undefined;
  revision: number;
  /** The whole {@link VmEvent}. */
  json: string;
}

export interface Occasion {
  revision: number;
  /** Wall clock, milliseconds since the epoch. */
  at: number;
  by?: string;
  changes?: FieldChanges;
}

export interface Watcher {
  event(event: Event): void;
  heartbeat(entry: Entry): void;
}

export class EventLog {
  readonly #kept: Event[] = [];
  /** Everything after this revision is kept. */
  #base: number;
  readonly #watchers = new Set<Watcher>();

  /** @param revision of the registry at the start; what was before it is not known here */
  constructor(revision: number) {
    this.#base = revision;
  }

  add(type: VmEventType, entry: Entry, { revision, at, by, changes }: Occasion): void {
    const { id, role, status } = entry.vm;
    const rest = { ...(by === undefined ? {} : { by }), ...(changes === undefined ? {} : { changes }) };
    const head = JSON.stringify({ type, revision, at: new Date(at).toISOString() }).slice(0, -1);
    const tail = Object.keys(rest).length > 0 ? `,${JSON.stringify(rest).slice(1)}` : '}';
    const from = type === 'status' ? (changes?.status?.[0] as string | undefined) : undefined;
    const event: Event = { type, id, role, status, from, revision, json: `${head},"vm":${entry.json}${tail}` };
    this.#kept.push(event);
    if (this.#kept.length > KEPT) this.#base = this.#kept.shift()!.revision;
    for (const watcher of this.#watchers) watcher.event(event);
  }

  heartbeat(entry: Entry): void {
    for (const watcher of this.#watchers) watcher.heartbeat(entry);
  }

  /**
   * What came after a revision, the liveness events that followed it included.
   * @returns undefined when that is not known any more, or the revision is none of this registry's
   */
  since(revision: number, current: number): Event[] | undefined {
    if (revision < this.#base || revision > current) return undefined;
    return this.#kept.filter(
      (event) => event.revision > revision || (event.revision === revision && LIVENESS.has(event.type)),
    );
  }

  /** @returns what ends it */
  watch(watcher: Watcher): () => void {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }
}
