/**
 * Fans events out to the subscribers of the event stream. Each event is serialized once, and subscribers with the same filter
 * share buffers. The scheduler divides the delivery into slices. Otherwise one batch of heartbeats could cause millions of
 * writes in one turn of the event loop. Subscribers with and without heartbeats have separate queues, so that a heartbeat causes
 * no work for those that do not want it.
 */
import { setImmediate } from 'node:timers/promises';
import type { Heartbeat } from '../../../src/protocol/api.ts';
import type { Position } from '../../../src/protocol/position.ts';
import type { Budget, Budgets, Reservation } from '../../limits/budgets.ts';
import type { Scheduler } from '../../limits/scheduler.ts';
import type { Event, EventLog, EventSubscriber, Movable } from '../../registry/events.ts';
import type { VmRecord } from '../../registry/vm-record.ts';
import { formatEvent } from './event-text.ts';
import { StateChunks } from './state-chunks.ts';

/**
 * Maximum size of a buffer in UTF-16 units, unless one event is larger. Building a buffer takes a fraction of a millisecond.
 */
const BUFFER_SIZE = 65_536;
/** Maximum number of queued events to match against a filter for one buffer. Limits the time if no event matches. */
const MAX_MATCHED = 4096;

/** The fields of an event that filters use. */
export type EventSubject = Pick<Event, 'id' | 'role' | 'status' | 'before'>;

/**
 * @returns the event as this subscriber receives it (a role change appears as `registered` or `deregistered` to subscribers of
 * one role); undefined if the filter excludes it
 */
export type SelectEvent = <T extends EventSubject & Movable<T>>(event: T) => T | undefined;

export interface Subscriber {
  /** Subscribers with the same key and the same {@link wantsHeartbeats} receive the same events. */
  readonly filterKey: string;
  readonly wantsHeartbeats: boolean;
  readonly select: SelectEvent;
  /** @returns false if the subscriber accepts no more events */
  write(bytes: Buffer): boolean;
  /** Bytes that this subscriber has not read yet. */
  backlog(): number;
  /** Called when the subscriber is evicted: it has missed events and receives no more. */
  lagged(): void;
}

export interface Subscription {
  /** Delivers all queued events immediately. */
  flush(): void;
  unsubscribe(): void;
}

/** All entries at a position. */
export interface Snapshot {
  readonly position: Position;
  /** Wall clock, milliseconds since the epoch. */
  readonly at: number;
  /** Newest registration first. */
  readonly entries: readonly VmRecord[];
  /** Liveness of the entries that are stale or suspect. */
  readonly liveness: ReadonlyMap<VmRecord, 'stale' | 'suspect'>;
}

interface QueuedEvent extends EventSubject {
  text: string;
  moved?: { left: QueuedEvent; entered: QueuedEvent };
}

interface SharedBuffer {
  /** Undefined if no queued event matches. */
  bytes: Buffer | undefined;
  /** Queue position of the event after the last one in the buffer. */
  end: number;
}

function queuedEvent(event: Event): QueuedEvent {
  const { id, role, status, before, moved } = event;
  const queued: QueuedEvent = { id, role, status, before, text: formatEvent(event) };
  if (moved) queued.moved = { left: queuedEvent(moved.left), entered: queuedEvent(moved.entered) };
  return queued;
}

/** Events in order, and how far each subscriber has received them. */
class EventQueue {
  /** Queue position of the next event for each subscriber: the number of events since the start, including dropped ones. */
  readonly positions = new Map<Subscriber, number>();
  isFlushing = false;
  /** Events that some subscribers have not received yet, oldest first. */
  readonly #events: QueuedEvent[] = [];
  /** Queue position of the first of these events. */
  #start = 0;
  #size = 0;
  readonly #reservation: Reservation;
  /** Buffers of the current round, by queue position and filter key. */
  readonly #buffers = new Map<string, SharedBuffer>();

  /** @param budget counts an event once, even if several queues contain it */
  constructor(budget: Budget) {
    this.#reservation = budget.reserveAnyway(0);
  }

  /** UTF-16 units of the queued events. */
  get size(): number {
    return this.#size;
  }

  get isEmpty(): boolean {
    return this.#events.length === 0;
  }

  /** Queue position of the next event that is added. */
  get end(): number {
    return this.#start + this.#events.length;
  }

  add(event: QueuedEvent): void {
    this.#events.push(event);
    this.#size += event.text.length;
    this.#reservation.share(event, event.text.length);
  }

  /** Advances a subscriber. @returns its next events, as far as they fit in one buffer; undefined if none matches its filter */
  take(subscriber: Subscriber): Buffer | undefined {
    const position = this.positions.get(subscriber);
    if (position === undefined || position === this.end) return undefined;
    const { bytes, end } = this.#bufferFor(subscriber, position);
    this.positions.set(subscriber, end);
    return bytes;
  }

  #bufferFor({ filterKey, select }: Subscriber, position: number): SharedBuffer {
    const key = `${position} ${filterKey}`;
    const shared = this.#buffers.get(key);
    if (shared) return shared;
    const last = Math.min(this.#events.length, position - this.#start + MAX_MATCHED);
    let at = position - this.#start;
    let text = '';
    for (; at < last && text.length < BUFFER_SIZE; at++) text += select(this.#events[at]!)?.text ?? '';
    const buffer = { bytes: text === '' ? undefined : Buffer.from(text), end: this.#start + at };
    this.#buffers.set(key, buffer);
    return buffer;
  }

  /** Ends a round: later rounds share no buffers with it. */
  clearBuffers(): void {
    this.#buffers.clear();
  }

  /** Drops the events that all subscribers have received. */
  dropDelivered(): void {
    let start = this.end;
    for (const position of this.positions.values()) start = Math.min(start, position);
    for (const event of this.#events.splice(0, start - this.#start)) {
      this.#size -= event.text.length;
      this.#reservation.unshare(event);
    }
    this.#start = start;
  }

  /** The subscribers that have received less than half of the queue. */
  get slowest(): Subscriber[] {
    const half = this.#start + this.#events.length / 2;
    return [...this.positions].flatMap(([subscriber, position]) => (position > half ? [] : [subscriber]));
  }
}

export class EventFanout implements EventSubscriber {
  readonly #events: EventLog;
  readonly #scheduler: Scheduler;
  readonly #queued: Budget;
  readonly #unread: Budget;
  /** The events for subscribers without heartbeats. */
  readonly #changes: EventQueue;
  /** The events and heartbeats for the other subscribers. */
  readonly #withHeartbeats: EventQueue;
  /** The full states that subscribers are reading. */
  readonly stateChunks: StateChunks;
  #snapshot: { kept: WeakRef<Snapshot>; mark: number } | undefined;
  #stopListening = () => {};

  /**
   * @param budgets `fanout` limits the events that are queued for delivery, `subscribers` the events that were delivered but
   * not read. If either budget is exhausted, the slowest subscribers are evicted. `responses` also counts the full states that
   * subscribers are reading.
   */
  constructor(events: EventLog, scheduler: Scheduler, budgets: Pick<Budgets, 'fanout' | 'subscribers' | 'responses'>) {
    this.#events = events;
    this.#scheduler = scheduler;
    this.#queued = budgets.fanout;
    this.#unread = budgets.subscribers;
    this.#changes = new EventQueue(this.#queued);
    this.#withHeartbeats = new EventQueue(this.#queued);
    this.stateChunks = new StateChunks(budgets.responses);
  }

  /** Number of subscribers, for the metrics. */
  get listeners(): number {
    return this.#changes.positions.size + this.#withHeartbeats.positions.size;
  }

  /** Adds a subscriber. It receives all further events that match its filter, in order. */
  subscribe(subscriber: Subscriber): Subscription {
    if (this.listeners === 0) this.#stopListening = this.#events.subscribe(this);
    const queue = this.#queueOf(subscriber);
    queue.positions.set(subscriber, queue.end);
    return {
      flush: () => {
        while ((queue.positions.get(subscriber) ?? queue.end) < queue.end) this.#deliver(queue, subscriber);
      },
      unsubscribe: () => this.#remove(subscriber),
    };
  }

  /**
   * Returns the current state. Until the next event or change, callers share one snapshot while one of them still uses it.
   * @param position of the registry, which a change of tokens advances without an event
   */
  snapshot(position: Position, take: () => Snapshot): Snapshot {
    const { mark } = this.#events;
    const known = this.#snapshot?.mark === mark ? this.#snapshot.kept.deref() : undefined;
    if (known?.position.revision === position.revision && known.position.tag === position.tag) return known;
    const snapshot = take();
    this.#snapshot = { kept: new WeakRef(snapshot), mark };
    return snapshot;
  }

  event(event: Event): void {
    const queued = queuedEvent(event);
    this.#enqueue(this.#changes, queued);
    this.#enqueue(this.#withHeartbeats, queued);
  }

  heartbeat({ id, role, status, lastSeen }: VmRecord): void {
    if (this.#withHeartbeats.positions.size === 0) return;
    const json = JSON.stringify({ id, lastSeen } satisfies Heartbeat);
    const text = `event: heartbeat\ndata: ${json}\n\n`;
    this.#enqueue(this.#withHeartbeats, { id, role, status, before: {}, text });
  }

  #queueOf({ wantsHeartbeats }: Subscriber): EventQueue {
    return wantsHeartbeats ? this.#withHeartbeats : this.#changes;
  }

  #enqueue(queue: EventQueue, event: QueuedEvent): void {
    if (queue.positions.size === 0) return;
    queue.add(event);
    if (this.#queued.used > this.#queued.limit) this.#evictSlowest();
    if (queue.isFlushing) return;
    queue.isFlushing = true;
    void this.#flush(queue);
  }

  /** Delivers a queue in rounds of one buffer per subscriber, until it is empty. */
  async #flush(queue: EventQueue): Promise<void> {
    while (!queue.isEmpty) {
      // Events in the same turn share buffers, and subscribers have time to read a buffer before the next one.
      await setImmediate();
      const subscribers = [...queue.positions.keys()];
      let at = 0;
      const step = () => {
        if (at < subscribers.length) this.#deliver(queue, subscribers[at]!);
        return ++at < subscribers.length;
      };
      await this.#scheduler.repeat(step);
      queue.clearBuffers();
      this.#evictUnread();
      queue.dropDelivered();
    }
    queue.isFlushing = false;
  }

  #deliver(queue: EventQueue, subscriber: Subscriber): void {
    const bytes = queue.take(subscriber);
    if (bytes && !subscriber.write(bytes)) this.#remove(subscriber);
  }

  /** Called when too many events are queued. Evicts the slowest subscribers of the larger queue, and if needed of both. */
  #evictSlowest(): void {
    const queues = [this.#changes, this.#withHeartbeats];
    for (const queue of queues) queue.dropDelivered();
    for (const queue of queues.sort((a, b) => b.size - a.size)) {
      if (this.#queued.used <= this.#queued.limit) return;
      for (const subscriber of queue.slowest) this.#evict(subscriber);
      queue.dropDelivered();
    }
  }

  /** If too many bytes are delivered but not read, evicts the subscribers with the largest backlogs. */
  #evictUnread(): void {
    const { limit } = this.#unread;
    if (this.#unread.used <= limit) return;
    const subscribers = [...this.#changes.positions.keys(), ...this.#withHeartbeats.positions.keys()];
    // Computing the backlog also releases what was read since the last write.
    const backlogs = subscribers.map((subscriber) => ({ subscriber, bytes: subscriber.backlog() }));
    let excess = this.#unread.used - limit;
    for (const { subscriber, bytes } of backlogs.sort((a, b) => b.bytes - a.bytes)) {
      if (excess <= 0) return;
      excess -= bytes;
      this.#evict(subscriber);
    }
  }

  #evict(subscriber: Subscriber): void {
    this.#remove(subscriber);
    subscriber.lagged();
  }

  #remove(subscriber: Subscriber): void {
    if (this.#queueOf(subscriber).positions.delete(subscriber) && this.listeners === 0) this.#stopListening();
  }
}
