/**
 * The last events of the registry, and who wants to hear of the next. A watcher that was away asks for what came since
 * the revision it knows; when that is no longer here it is told so and starts from the full state, never from a gap.
 */
import { type FieldChanges, LIVENESS_TYPES, type VmEventType } from '../../src/protocol/events.ts';
import type { VmRecord } from './vm-record.ts';

/** Events kept for watchers that come back: minutes of a busy fleet, a few megabytes. */
const KEPT = 4096;
/** UTF-16 units of JSON in them, at most: a few thousand entries as large as a body may be are gigabytes. */
const KEPT_SIZE = 33_554_432;

const LIVENESS: ReadonlySet<VmEventType> = new Set(LIVENESS_TYPES);

/** An event with its entry as JSON, written once however many watch. */
export interface Event {
  type: VmEventType;
  id: string;
  role: string;
  status: string;
  /** What role and status were, where the event changed them. */
  before: { role?: string; status?: string };
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

export interface EventSubscriber {
  /** How many hear of it through this one; one when nothing is said. */
  readonly listeners?: number;
  event(event: Event): void;
  heartbeat(entry: VmRecord): void;
}

export class EventLog {
  readonly #kept: Event[] = [];
  readonly #limit: number;
  #added = 0;
  #size = 0;
  /** First revision from which a watcher can go on without a gap. */
  #from: number;
  readonly #watchers = new Set<EventSubscriber>();

  /**
   * @param revision of the registry at the start; what was before it is not known here
   * @param limit events kept at most
   */
  constructor(revision: number, limit = KEPT) {
    // Who knows the last revision of an earlier run may have missed what went stale after it, and that is not kept.
    this.#from = revision === 0 ? 0 : revision + 1;
    this.#limit = limit;
  }

  add(type: VmEventType, entry: VmRecord, occasion: Occasion): void {
    const event = eventOf(type, entry, occasion);
    this.#kept.push(event);
    this.#added++;
    this.#size += event.json.length;
    while (this.#kept.length > this.#limit || this.#size > KEPT_SIZE) this.#forgetOldest();
    for (const watcher of this.#watchers) watcher.event(event);
  }

  heartbeat(entry: VmRecord): void {
    for (const watcher of this.#watchers) watcher.heartbeat(entry);
  }

  /**
   * What came after a revision, the liveness events that followed it included.
   * @returns undefined when that is not known any more, or the revision is none of this registry's
   */
  since(revision: number, current: number): Event[] | undefined {
    if (revision < this.#from || revision > current) return undefined;
    return this.#kept.filter(
      (event) => event.revision > revision || (event.revision === revision && LIVENESS.has(event.type)),
    );
  }

  /** A place in the order of events, for {@link after}. */
  get mark(): number {
    return this.#added;
  }

  /** What came after a place. @returns undefined when that is not known any more */
  after(mark: number): Event[] | undefined {
    const count = this.#added - mark;
    return count > this.#kept.length ? undefined : this.#kept.slice(this.#kept.length - count);
  }

  /** @returns what ends it */
  subscribe(watcher: EventSubscriber): () => void {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }

  /** Number of those who hear of what comes. */
  get subscriberCount(): number {
    let count = 0;
    for (const { listeners = 1 } of this.#watchers) count += listeners;
    return count;
  }

  #forgetOldest(): void {
    const { type, revision, json } = this.#kept.shift()!;
    this.#size -= json.length;
    // A liveness event follows its revision: knowing that one is no longer enough.
    this.#from = LIVENESS.has(type) ? revision + 1 : revision;
  }
}

export function eventOf(type: VmEventType, entry: VmRecord, { revision, at, by, changes }: Occasion): Event {
  const { id, role, status } = entry.vm;
  const rest = { ...(by === undefined ? {} : { by }), ...(changes === undefined ? {} : { changes }) };
  const head = JSON.stringify({ type, revision, at: new Date(at).toISOString() }).slice(0, -1);
  const tail = Object.keys(rest).length > 0 ? `,${JSON.stringify(rest).slice(1)}` : '}';
  const before: Event['before'] = {};
  if (changes?.role) before.role = changes.role[0] as string;
  if (changes?.status) before.status = changes.status[0] as string;
  return { type, id, role, status, before, revision, json: `${head},"vm":${entry.json}${tail}` };
}
