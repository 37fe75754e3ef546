/**
 * Fans events out to the subscribers of the event stream. Each event is serialized once, and subscribers with the same filter
 * share buffers. The scheduler divides the delivery into slices. Otherwise one batch of heartbeats could cause millions of
 * writes in one turn of the event loop.
 */
import { setImmediate } from 'node:timers/promises';
import type { Heartbeat } from '../../../src/protocol/api.ts';
import type { Budget, Budgets, Scheduler } from '../../limits.ts';
import type { Event, EventLog, EventSubscriber, Movable } from '../../registry/events.ts';
import type { VmRecord } from '../../registry/vm-record.ts';

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
  /** Subscribers with the same key receive the same events. */
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

/** All entries at a point in time. */
export interface Snapshot {
  /** Newest registration first. */
  readonly entries: readonly VmRecord[];
  /** Liveness of the entries that are stale or suspect. */
  readonly liveness: ReadonlyMap<VmRecord, 'stale' | 'suspect'>;
}

interface QueuedEvent extends EventSubject {
  text: string;
  isHeartbeat: boolean;
  moved?: { left: QueuedEvent; entered: QueuedEvent };
}

interface SharedBuffer {
  /** Undefined if no queued event matches. */
  bytes: Buffer | undefined;
  /** Queue position of the event after the last one in the buffer. */
  end: number;
}

/** Formats an event for the event stream. */
export function formatEvent({ type, position, json }: Event): string {
  return `id: ${position}\nevent: ${type}\ndata: ${json}\n\n`;
}

function queuedEvent(event: Event): QueuedEvent {
  const { id, role, status, before, moved } = event;
  const queued: QueuedEvent = { id, role, status, before, text: formatEvent(event), isHeartbeat: false };
  if (moved) queued.moved = { left: queuedEvent(moved.left), entered: queuedEvent(moved.entered) };
  return queued;
}

export class EventFanout implements EventSubscriber {
  readonly #events: EventLog;
  readonly #scheduler: Scheduler;
  /** Maximum size of the queue in UTF-16 units. */
  readonly #maxQueued: number;
  readonly #unread: Budget;
  /** Queue position of the next event for each subscriber: the number of events since the start, including dropped ones. */
  readonly #positions = new Map<Subscriber, number>();
  /** Events that some subscribers have not received yet, oldest first. */
  #queue: QueuedEvent[] = [];
  /** Queue position of the first event in the queue. */
  #start = 0;
  /** UTF-16 units in the queue. */
  #queued = 0;
  #heartbeatSubscribers = 0;
  /** Buffers of the current round, by queue position and filter key. */
  readonly #buffers = new Map<string, SharedBuffer>();
  #isFlushing = false;
  #snapshot: { kept: WeakRef<Snapshot>; mark: number } | undefined;
  #stopListening = () => {};

  /**
   * @param budgets `fanout` limits the events that are queued for delivery, `subscribers` the events that were delivered but
   * not read. If either budget is exhausted, the slowest subscribers are evicted.
   */
  constructor(events: EventLog, scheduler: Scheduler, budgets: Pick<Budgets, 'fanout' | 'subscribers'>) {
    this.#events = events;
    this.#scheduler = scheduler;
    this.#maxQueued = budgets.fanout.limit;
    this.#unread = budgets.subscribers;
  }

  /** Number of subscribers, for the metrics. */
  get listeners(): number {
    return this.#positions.size;
  }

  /** Adds a subscriber. It receives all further events that match its filter, in order. */
  subscribe(subscriber: Subscriber): Subscription {
    if (this.#positions.size === 0) this.#stopListening = this.#events.subscribe(this);
    this.#positions.set(subscriber, this.#end);
    if (subscriber.wantsHeartbeats) this.#heartbeatSubscribers++;
    return {
      flush: () => {
        while ((this.#positions.get(subscriber) ?? this.#end) < this.#end) this.#deliver(subscriber);
      },
      unsubscribe: () => this.#remove(subscriber),
    };
  }

  /** Returns the current state. Until the next event, callers share one snapshot while one of them still uses it. */
  snapshot(take: () => Snapshot): Snapshot {
    const { mark } = this.#events;
    const known = this.#snapshot?.mark === mark ? this.#snapshot.kept.deref() : undefined;
    if (known) return known;
    const snapshot = take();
    this.#snapshot = { kept: new WeakRef(snapshot), mark };
    return snapshot;
  }

  event(event: Event): void {
    this.#enqueue(queuedEvent(event));
  }

  heartbeat({ id, role, status, lastSeen }: VmRecord): void {
    if (this.#heartbeatSubscribers === 0) return;
    const json = JSON.stringify({ id, lastSeen } satisfies Heartbeat);
    const text = `event: heartbeat\ndata: ${json}\n\n`;
    this.#enqueue({ id, role, status, before: {}, text, isHeartbeat: true });
  }

  /** Queue position of the next event that is added. */
  get #end(): number {
    return this.#start + this.#queue.length;
  }

  #enqueue(event: QueuedEvent): void {
    this.#queue.push(event);
    this.#queued += event.text.length;
    if (this.#queued > this.#maxQueued) this.#evictSlowest();
    if (this.#isFlushing) return;
    this.#isFlushing = true;
    void this.#flush();
  }

  /** Delivers the queue in rounds of one buffer per subscriber, until the queue is empty. */
  async #flush(): Promise<void> {
    while (this.#queue.length > 0) {
      // Events in the same turn share buffers, and subscribers have time to read a buffer before the next one.
      await setImmediate();
      const subscribers = [...this.#positions.keys()];
      let at = 0;
      const step = () => {
        if (at < subscribers.length) this.#deliver(subscribers[at]!);
        return ++at < subscribers.length;
      };
      await this.#scheduler.repeat(step);
      this.#buffers.clear();
      this.#evictUnread();
      this.#dropDelivered();
    }
    this.#isFlushing = false;
  }

  #deliver(subscriber: Subscriber): void {
    const position = this.#positions.get(subscriber);
    if (position === undefined || position === this.#end) return;
    const { bytes, end } = this.#bufferFor(subscriber, position);
    this.#positions.set(subscriber, end);
    if (bytes && !subscriber.write(bytes)) this.#remove(subscriber);
  }

  #bufferFor(subscriber: Subscriber, position: number): SharedBuffer {
    const key = `${position} ${subscriber.filterKey}`;
    const shared = this.#buffers.get(key);
    if (shared) return shared;
    const last = Math.min(this.#queue.length, position - this.#start + MAX_MATCHED);
    let at = position - this.#start;
    let text = '';
    for (; at < last && text.length < BUFFER_SIZE; at++) {
      const event = this.#queue[at]!;
      if (subscriber.wantsHeartbeats || !event.isHeartbeat) text += subscriber.select(event)?.text ?? '';
    }
    const buffer = { bytes: text === '' ? undefined : Buffer.from(text), end: this.#start + at };
    this.#buffers.set(key, buffer);
    return buffer;
  }

  #dropDelivered(): void {
    let start = this.#end;
    for (const position of this.#positions.values()) start = Math.min(start, position);
    for (const { text } of this.#queue.splice(0, start - this.#start)) this.#queued -= text.length;
    this.#start = start;
  }

  /** Called when the queue is full. Evicts the subscribers that have received less than half of it. */
  #evictSlowest(): void {
    this.#dropDelivered();
    if (this.#queued <= this.#maxQueued) return;
    const half = this.#start + this.#queue.length / 2;
    for (const [subscriber, position] of this.#positions) {
      if (position > half) continue;
      this.#remove(subscriber);
      subscriber.lagged();
    }
    this.#dropDelivered();
  }

  /** If too many bytes are delivered but not read, evicts the subscribers with the largest backlogs. */
  #evictUnread(): void {
    const { limit } = this.#unread;
    if (this.#unread.used <= limit) return;
    // Computing the backlog also releases what was read since the last write.
    const backlogs = [...this.#positions.keys()].map((subscriber) => ({ subscriber, bytes: subscriber.backlog() }));
    let excess = this.#unread.used - limit;
    for (const { subscriber, bytes } of backlogs.sort((a, b) => b.bytes - a.bytes)) {
      if (excess <= 0) return;
      excess -= bytes;
      this.#remove(subscriber);
      subscriber.lagged();
    }
  }

  #remove(subscriber: Subscriber): void {
    if (!this.#positions.delete(subscriber)) return;
    if (subscriber.wantsHeartbeats) this.#heartbeatSubscribers--;
    if (this.#positions.size === 0) this.#stopListening();
  }
}
