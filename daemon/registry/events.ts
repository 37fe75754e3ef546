/**
 * The event log: the most recent events, and the subscribers to new ones. A subscriber that reconnects requests the events
 * after the last revision that it has received. If the log no longer contains all of them, the subscriber receives the full
 * state, so it never misses an event without noticing.
 */
import { type FieldChanges, OCCURRENCE_TYPES, type VmEventType } from '../../src/protocol/events.ts';
import type { Conflict } from '../../src/protocol/heartbeat.ts';
import { formatPosition, type Position } from '../../src/protocol/position.ts';
import type { VmRecord } from './vm-record.ts';

/** Maximum number of events to retain for subscribers that reconnect: minutes of events from a busy fleet, a few megabytes. */
const MAX_EVENTS = 4096;

const OCCURRENCES: ReadonlySet<VmEventType> = new Set(OCCURRENCE_TYPES);

/** An event, serialized once for all subscribers. */
export interface Event {
  type: VmEventType;
  id: string;
  role: string;
  status: string;
  /** The previous role and status, if the event changed them. */
  before: { role?: string; status?: string };
  revision: number;
  /** {@link Occasion.position} in the text form of the API. */
  position: string;
  /** The complete {@link VmEvent}. */
  json: string;
  /**
   * If the event changed the role, the events that subscribers to one role receive instead: `deregistered` with the last entry
   * in the old role, and `registered` with the first entry in the new one.
   */
  moved?: { left: Event; entered: Event };
}

/** The time, position and author of an event. */
export interface Occasion {
  /** Position of the change; for a liveness event, of the last change before it. */
  position: Position;
  /** Wall clock, milliseconds since the epoch. */
  at: number;
  by?: string;
  changes?: FieldChanges;
  conflict?: Conflict;
  /** The entry before the change. */
  previous?: VmRecord | undefined;
}

export interface EventSubscriber {
  /** Number of clients behind this subscriber, for the metrics. Default: 1. */
  readonly listeners?: number;
  event(event: Event): void;
  /**
   * Called when a VM may have entered the answers of `discover` without an event: its health report has changed, or a heartbeat
   * has shown that it lives.
   */
  discoverable?(entry: VmRecord): void;
  /** Called after each heartbeat. A heartbeat does nothing for a subscriber without this method. */
  heartbeat?(entry: VmRecord): void;
}

export interface EventLogLimits {
  maxEvents?: number | undefined;
  maxSize?: number | undefined;
}

export class EventLog {
  readonly #retained: Event[] = [];
  readonly #maxEvents: number;
  readonly #maxSize: number;
  #added = 0;
  #size = 0;
  /** First revision from which a subscriber can resume without a gap. */
  #from: number;
  readonly #subscribers = new Set<EventSubscriber>();
  /** The subscribers that want heartbeats, because a fleet sends thousands per second and most subscribers want none. */
  readonly #heartbeatSubscribers = new Set<EventSubscriber>();

  /**
   * @param revision revision of the registry at the start; the log does not contain earlier events
   * @param limits on the retained events: their number, and the UTF-16 units of their JSON, because a few thousand events with
   * the largest possible entries would take gigabytes
   */
  constructor(revision: number, { maxEvents = MAX_EVENTS, maxSize = Number.POSITIVE_INFINITY }: EventLogLimits = {}) {
    // Liveness events are not stored, so a subscriber that has received the last revision of an earlier run may have missed
    // some.
    this.#from = revision === 0 ? 0 : revision + 1;
    this.#maxEvents = maxEvents;
    this.#maxSize = maxSize;
  }

  add(type: VmEventType, entry: VmRecord, occasion: Occasion): void {
    const event = eventOf(type, entry, occasion);
    this.#retained.push(event);
    this.#added++;
    this.#size += sizeOf(event);
    while (this.#retained.length > this.#maxEvents || this.#size > this.#maxSize) this.#dropOldest();
    for (const subscriber of this.#subscribers) subscriber.event(event);
  }

  /** Notifies subscribers of a VM that may be in the answers of `discover` now, although there is no event. */
  discoverable(entry: VmRecord): void {
    for (const subscriber of this.#subscribers) subscriber.discoverable?.(entry);
  }

  heartbeat(entry: VmRecord): void {
    for (const subscriber of this.#heartbeatSubscribers) subscriber.heartbeat?.(entry);
  }

  /**
   * The events after a revision, including the liveness events between it and the next revision.
   * @param revision a revision of this registry's history
   * @returns undefined if the log does not reach back that far
   */
  since(revision: number): Event[] | undefined {
    if (revision < this.#from) return undefined;
    return this.#retained.filter(
      (event) => event.revision > revision || (event.revision === revision && OCCURRENCES.has(event.type)),
    );
  }

  /** The retained events. */
  *newestFirst(): Generator<Event> {
    for (let i = this.#retained.length - 1; i >= 0; i--) yield this.#retained[i]!;
  }

  /** The current end of the log, for {@link after}. */
  get mark(): number {
    return this.#added;
  }

  /** The events after a mark. @returns undefined if the log does not reach back that far */
  after(mark: number): Event[] | undefined {
    const count = this.#added - mark;
    return count > this.#retained.length ? undefined : this.#retained.slice(this.#retained.length - count);
  }

  /** @returns a function that unsubscribes */
  subscribe(subscriber: EventSubscriber): () => void {
    this.#subscribers.add(subscriber);
    if (subscriber.heartbeat) this.#heartbeatSubscribers.add(subscriber);
    return () => {
      this.#subscribers.delete(subscriber);
      this.#heartbeatSubscribers.delete(subscriber);
    };
  }

  /** Number of clients that receive new events. */
  get subscriberCount(): number {
    let count = 0;
    for (const { listeners = 1 } of this.#subscribers) count += listeners;
    return count;
  }

  #dropOldest(): void {
    const event = this.#retained.shift()!;
    const { type, revision } = event;
    this.#size -= sizeOf(event);
    // An event that is not a change has the revision of the change before it, so a client that resumes after that revision may
    // not have received the event.
    this.#from = OCCURRENCES.has(type) ? revision + 1 : revision;
  }
}

/** UTF-16 units of an event's JSON in all its forms. */
function sizeOf({ json, moved }: Event): number {
  return json.length + (moved ? moved.left.json.length + moved.entered.json.length : 0);
}

export function eventOf(type: VmEventType, entry: VmRecord, occasion: Occasion): Event {
  const { at, by, changes, conflict, previous } = occasion;
  const { id, role, status } = entry;
  const rest = { ...(by && { by }), ...(changes && { changes }), ...(conflict && { conflict }) };
  const { revision } = occasion.position;
  const position = formatPosition(occasion.position);
  const head = JSON.stringify({ type, revision, position, at: new Date(at).toISOString() }).slice(0, -1);
  const tail = Object.keys(rest).length > 0 ? `,${JSON.stringify(rest).slice(1)}` : '}';
  const before: Event['before'] = {};
  if (changes?.role) before.role = changes.role[0] as string;
  if (changes?.status) before.status = changes.status[0] as string;
  const event: Event = {
    type,
    id,
    role,
    status,
    before,
    revision,
    position,
    json: `${head},"vm":${entry.json}${tail}`,
  };
  if (!changes?.role || !previous) return event;
  const { changes: _changes, previous: _previous, ...move } = occasion;
  return {
    ...event,
    moved: { left: eventOf('deregistered', previous, move), entered: eventOf('registered', entry, move) },
  };
}

/**
 * Returns the form of the event for a subscriber to one role. If the VM's role changed, this subscriber sees only a
 * `registered` or a `deregistered` event, without field values from its time in the other role.
 * @param role undefined for a subscriber to all roles
 * @returns undefined if the event concerns other roles only
 */
export function eventInRole<T extends Movable<T>>(event: T, role: string | undefined): T | undefined {
  if (role === undefined) return event;
  if (event.moved?.left.role === role) return event.moved.left;
  if (event.moved?.entered.role === role) return event.moved.entered;
  return event.moved === undefined && event.role === role ? event : undefined;
}

/** An event that may have separate forms for subscribers to one role, see {@link Event.moved}. */
export interface Movable<T> {
  role: string;
  moved?: { left: T; entered: T };
}
