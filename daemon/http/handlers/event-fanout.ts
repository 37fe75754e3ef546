/**
 * What the readers of the event stream are told. It is written down once, whoever reads; those who ask the same are given
 * the same bytes; and what many are given, or much, is given in turns of the event loop. Written event by event and reader
 * by reader, one batch of heartbeats is millions of writes in one turn.
 */
import { setImmediate } from 'node:timers/promises';
import type { Heartbeat } from '../../../src/protocol/api.ts';
import type { Event, EventLog, EventSubscriber } from '../../registry/events.ts';
import type { VmRecord } from '../../registry/vm-record.ts';
import type { Pieces } from '../scheduler.ts';

/** UTF-16 units that a reader is given at once, or one event that is larger: a fraction of a millisecond of work. */
const SLICE = 65_536;
/** Events and beats looked at for one slice: a reader may want none of them. */
const MAX_LOOKED_AT = 4096;
/** UTF-16 units that are kept for the readers together, as much as there is for those who come back. */
const MAX_TOLD = 33_554_432;
/** Milliseconds of giving in one turn. */
const TURN = 5;

/** What a filter looks at. */
export type Seen = Pick<Event, 'id' | 'role' | 'status' | 'before'>;

export interface Listener {
  /** The same for those who want the same. */
  readonly question: string;
  readonly wantsBeats: boolean;
  wants(about: Seen): boolean;
  /** @returns false when it takes no more */
  take(bytes: Buffer): boolean;
  /** It missed something, and is told no more. */
  lagged(): void;
}

export interface Place {
  /** Gives it at once what it was told and has not been given yet. */
  giveRest(): void;
  leave(): void;
}

/** All that there is at one moment. */
export interface State {
  /** Newest registration first. */
  readonly entries: readonly VmRecord[];
  /** How each of them is, where that is to be said. */
  readonly liveness: readonly ('stale' | 'suspect' | undefined)[];
}

interface Told {
  about: Seen;
  text: string;
  isBeat: boolean;
}

interface Slice {
  bytes: Buffer | undefined;
  /** Place behind it. */
  end: number;
}

export function textOf({ type, revision, json }: Event): string {
  return `id: ${revision}\nevent: ${type}\ndata: ${json}\n\n`;
}

export class Telling implements EventSubscriber {
  readonly #events: EventLog;
  readonly #pieces: Pieces;
  /** Who listens, and where each is in the order of what was told. */
  readonly #places = new Map<Listener, number>();
  /** What not all have been given yet, oldest first. */
  #told: Told[] = [];
  /** Place of the first of it. */
  #first = 0;
  #size = 0;
  /** Those who want beats. */
  #beatListeners = 0;
  /** Of this round, by place and question. */
  readonly #slices = new Map<string, Slice>();
  #isGiving = false;
  #state: { kept: WeakRef<State>; mark: number } | undefined;
  #stopWatching = () => {};

  constructor(events: EventLog, pieces: Pieces) {
    this.#events = events;
    this.#pieces = pieces;
  }

  get listeners(): number {
    return this.#places.size;
  }

  /** From here on it is told all that it wants, in order. */
  join(listener: Listener): Place {
    if (this.#places.size === 0) this.#stopWatching = this.#events.subscribe(this);
    this.#places.set(listener, this.#end);
    if (listener.wantsBeats) this.#beatListeners++;
    return {
      giveRest: () => {
        while ((this.#places.get(listener) ?? this.#end) < this.#end) this.#give(listener);
      },
      leave: () => this.#drop(listener),
    };
  }

  /** The state now, made once for all who ask before anything else happens; it is here for as long as one of them needs it. */
  state(look: () => State): State {
    const { mark } = this.#events;
    const known = this.#state?.mark === mark ? this.#state.kept.deref() : undefined;
    if (known) return known;
    const state = look();
    this.#state = { kept: new WeakRef(state), mark };
    return state;
  }

  event(event: Event): void {
    this.#tell({ about: event, text: textOf(event), isBeat: false });
  }

  heartbeat({ vm: { id, role, status }, lastSeen }: VmRecord): void {
    if (this.#beatListeners === 0) return;
    const json = JSON.stringify({ id, lastSeen } satisfies Heartbeat);
    this.#tell({ about: { id, role, status, before: {} }, text: `event: heartbeat\ndata: ${json}\n\n`, isBeat: true });
  }

  /** Place of what is told next. */
  get #end(): number {
    return this.#first + this.#told.length;
  }

  #tell(told: Told): void {
    this.#told.push(told);
    this.#size += told.text.length;
    if (this.#size > MAX_TOLD) this.#leaveBehind();
    if (this.#isGiving) return;
    this.#isGiving = true;
    void this.#giveAll();
  }

  /** Round after round, a slice for each, until all have been given all. */
  async #giveAll(): Promise<void> {
    while (this.#told.length > 0) {
      // All that this turn tells is given together; and between two slices a reader has time to take the first.
      await setImmediate();
      const listeners = [...this.#places.keys()];
      let at = 0;
      const piece = () => {
        const until = performance.now() + TURN;
        do this.#give(listeners[at]!);
        while (++at < listeners.length && performance.now() < until);
      };
      while (at < listeners.length) await this.#pieces.run(piece);
      this.#slices.clear();
      this.#forgetGiven();
    }
    this.#isGiving = false;
  }

  #give(listener: Listener): void {
    const place = this.#places.get(listener);
    if (place === undefined || place === this.#end) return;
    const { bytes, end } = this.#sliceFor(listener, place);
    this.#places.set(listener, end);
    if (bytes && !listener.take(bytes)) this.#drop(listener);
  }

  #sliceFor({ question, wantsBeats, wants }: Listener, place: number): Slice {
    const key = `${place} ${question}`;
    const made = this.#slices.get(key);
    if (made) return made;
    const last = Math.min(this.#told.length, place - this.#first + MAX_LOOKED_AT);
    let at = place - this.#first;
    let text = '';
    for (; at < last && text.length < SLICE; at++) {
      const told = this.#told[at]!;
      if ((wantsBeats || !told.isBeat) && wants(told.about)) text += told.text;
    }
    const slice = { bytes: text === '' ? undefined : Buffer.from(text), end: this.#first + at };
    this.#slices.set(key, slice);
    return slice;
  }

  #forgetGiven(): void {
    let first = this.#end;
    for (const place of this.#places.values()) first = Math.min(first, place);
    for (const { text } of this.#told.splice(0, first - this.#first)) this.#size -= text.length;
    this.#first = first;
  }

  /** More is told than can be given to so many: those who have been given least have to start again. */
  #leaveBehind(): void {
    this.#forgetGiven();
    if (this.#size <= MAX_TOLD) return;
    const half = this.#first + this.#told.length / 2;
    for (const [listener, place] of this.#places) {
      if (place > half) continue;
      this.#drop(listener);
      listener.lagged();
    }
    this.#forgetGiven();
  }

  #drop(listener: Listener): void {
    if (!this.#places.delete(listener)) return;
    if (listener.wantsBeats) this.#beatListeners--;
    if (this.#places.size === 0) this.#stopWatching();
  }
}
