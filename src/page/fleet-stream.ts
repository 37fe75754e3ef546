/**
 * Follows the registry: reads the list of VMs, and then the stream of events. After an outage it reads the list again, so that
 * it never shows a state that it has only guessed. Collects changes and passes them on in batches.
 */
import { createParser, type EventSourceMessage } from 'eventsource-parser';
import {
  CLIENT_HEADER,
  LEASE_HEADER,
  PATHS,
  POSITION_HEADER,
  REGISTRY_HEADER,
  VERSION_HEADER,
  type VmWithLiveness,
} from '../protocol/api.ts';
import type { StreamEvent, VmEvent } from '../protocol/events.ts';
import { livenessOf } from '../protocol/liveness.ts';
import type { Vm } from '../protocol/vm.ts';
import type { FleetMessage, FleetRow, LinkState } from './fleet-message.ts';

/** VMs per page of the list, as in `vreg ls`. */
const PAGE_SIZE = 5000;
/** Rows per message, so that no tab is blocked while it copies them. */
const MAX_ROWS = 2000;
/** Milliseconds between two batches: a tenth of a second looks immediate. */
const BATCH_INTERVAL = 100;
/** Milliseconds without a byte after which the connection counts as lost: the registry sends a comment every 15 s. */
const SILENCE = 40_000;
/** Events per message: a tab retains as many. */
const MAX_EVENTS = 1000;
/** Milliseconds until the first attempt to reconnect, and at most. */
const FIRST_RETRY = 500;
const MAX_RETRY = 10_000;
/** The longest delay of a timer, in milliseconds: until the tab wakes the stream. */
const FOREVER = 2 ** 31 - 1;

/** The session has ended, so that reconnecting is useless. */
class LoggedOut extends Error {}

/** The registry is reachable, and has refused a request. */
class NotReady extends Error {}

/** The registry was restored or copied since the page has read it. */
class OtherHistory extends Error {}

/** Why requests are aborted that are sent again, with another session or when the tab is visible. */
const RENEWED = new Error('the stream begins again');

export class FleetStream {
  readonly #base: URL;
  readonly #silence: number;
  readonly #send: (message: FleetMessage) => void;
  /** Oldest registration first. */
  readonly #rows = new Map<string, FleetRow>();
  readonly #put = new Map<string, FleetRow>();
  readonly #removed = new Set<string>();
  readonly #seen = new Map<string, number>();
  /** Oldest first. */
  #events: VmEvent[] = [];
  /** Position of the last event or list. */
  #position: string | undefined;
  #link: LinkState = { connection: 'loading', heardAt: 0 };
  #timer: ReturnType<typeof setTimeout> | undefined;
  #retry = FIRST_RETRY;
  #wake: (() => void) | undefined;
  #abort = new AbortController();
  #isResting = false;
  #isStopped = false;

  /**
   * @param base URL of the registry, with a slash at the end
   * @param silence milliseconds without a byte after which the connection counts as lost
   */
  constructor(base: URL, send: (message: FleetMessage) => void, silence = SILENCE) {
    this.#silence = silence;
    this.#base = base;
    this.#send = send;
  }

  /** The current state, for a tab that has just been opened. */
  *snapshot(): Generator<FleetMessage> {
    yield this.linkMessage();
    yield { type: 'reset' };
    const rows = [...this.#rows.values()];
    for (let at = 0; at < rows.length; at += MAX_ROWS) yield { type: 'put', rows: rows.slice(at, at + MAX_ROWS) };
  }

  linkMessage(): FleetMessage {
    return { type: 'link', ...this.#link };
  }

  async run(): Promise<void> {
    while (!this.#isStopped) {
      if (this.#isResting) {
        await this.#wait(FOREVER);
        continue;
      }
      this.#abort = new AbortController();
      try {
        await this.#follow();
        throw new Error('the registry has closed the stream');
      } catch (error) {
        if (this.#isStopped) return;
        if (this.#abort.signal.reason === RENEWED) continue;
        this.#abort.abort();
        const isLoggedOut = error instanceof LoggedOut;
        // The next session may be that of another user.
        if (isLoggedOut) this.#replace([]);
        if (error instanceof OtherHistory) this.#forgetHistory();
        // The text of a TypeError of fetch, which differs by browser, only says that there is no connection.
        const reason = error instanceof Error && !(error instanceof TypeError) ? error.message : undefined;
        this.#update({
          connection: isLoggedOut ? 'logged-out' : 'reconnecting',
          reason,
          isReachable: error instanceof NotReady,
        });
        await this.#wait(isLoggedOut ? FOREVER : this.#retry * (0.5 + Math.random()));
        this.#retry = Math.min(2 * this.#retry, MAX_RETRY);
        // Another log-out differs from this one.
        if (isLoggedOut) this.#update({ connection: 'loading', reason: undefined });
      }
    }
  }

  /** Closes the connection until {@link wake}. */
  rest(): void {
    this.#isResting = true;
    this.#abort.abort(RENEWED);
    this.#update({ connection: 'loading', reason: undefined });
  }

  /** Reconnects now, after a log-in or when the machine is online again. */
  wake(): void {
    this.#isResting = false;
    this.#retry = FIRST_RETRY;
    this.#wake?.();
  }

  /** Follows the fleet again, with the session that the browser has now, and forgets the fleet of the previous one. */
  renew(): void {
    this.#abort.abort(RENEWED);
    this.#forgetHistory();
    this.#replace([]);
    this.#update({ connection: 'loading', reason: undefined });
    this.wake();
  }

  stop(): void {
    this.#isStopped = true;
    this.#abort.abort();
    clearTimeout(this.#timer);
    this.#wake?.();
  }

  async #wait(ms: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#wake = undefined;
  }

  async #follow(): Promise<void> {
    const { rows, position } = await this.#readList();
    this.#replace(rows);
    this.#position = position;
    const since = position === undefined ? '' : `&since=${encodeURIComponent(position)}`;
    const response = await this.#fetch(`${PATHS.events}?heartbeats=true${since}`);
    this.#retry = FIRST_RETRY;
    this.#update({ connection: 'live', reason: undefined });
    await this.#readEvents(response);
  }

  async #readList(): Promise<{ rows: FleetRow[]; position: string | undefined }> {
    const rows: FleetRow[] = [];
    // A registry with another history refuses the position.
    const known = this.#position === undefined ? '' : `&minPosition=${encodeURIComponent(this.#position)}`;
    let path: string | undefined = `${PATHS.vms}?include=liveness&limit=${PAGE_SIZE}${known}`;
    let position: string | undefined;
    while (path !== undefined) {
      const response: Response = await this.#fetch(path);
      const { headers } = response;
      position ??= headers.get(POSITION_HEADER) ?? undefined;
      this.#update({
        registry: headers.get(REGISTRY_HEADER) ?? undefined,
        version: headers.get(VERSION_HEADER) ?? undefined,
        lease: Number(headers.get(LEASE_HEADER)) || undefined,
      });
      const { vms } = (await this.#unlessSilent(response.json())) as { vms: VmWithLiveness[] };
      for (const vm of vms) rows.push(rowOf(vm));
      path = /<([^>]+)>; rel="next"/.exec(headers.get('link') ?? '')?.[1];
    }
    // Newest registration first.
    return { rows: rows.reverse(), position };
  }

  async #fetch(path: string): Promise<Response> {
    // A constant, because the types of Node, whose tests run this, lack `cache`.
    const options = { headers: { [CLIENT_HEADER]: '1' }, signal: this.#abort.signal, cache: 'no-store' } as const;
    const response = await this.#unlessSilent(fetch(new URL(`.${path}`, this.#base), options));
    if (response.status === 401) throw new LoggedOut('the session has ended');
    if (response.status === 412) throw new OtherHistory('the registry has another history');
    if (response.ok) return response;
    const { error } = (await this.#unlessSilent(response.json()).catch(() => ({}))) as { error?: string };
    throw new NotReady(error ?? `the registry answered with ${response.status}`);
  }

  #replace(rows: readonly FleetRow[]): void {
    this.#put.clear();
    this.#removed.clear();
    this.#seen.clear();
    this.#rows.clear();
    for (const row of rows) this.#rows.set(row.vm.id, row);
    for (const message of this.snapshot()) if (message.type !== 'link') this.#send(message);
  }

  async #readEvents(response: Response): Promise<void> {
    const parser = createParser({ onEvent: (message) => this.#receive(message) });
    const decoder = new TextDecoder();
    const reader = response.body!.getReader();
    for (;;) {
      const { done, value } = await this.#unlessSilent(reader.read());
      if (done) return;
      this.#heard();
      parser.feed(decoder.decode(value, { stream: true }));
    }
  }

  /** Ends the connection if the answer takes too long. */
  #unlessSilent<T>(answer: Promise<T>): Promise<T> {
    const timer = setTimeout(() => this.#abort.abort(new Error('the registry is silent')), this.#silence);
    return answer.finally(() => clearTimeout(timer));
  }

  /** The events of the page are not those of the registry. */
  #forgetHistory(): void {
    this.#position = undefined;
    this.#events = [];
    this.#send({ type: 'other-history' });
  }

  #receive({ event: type, data, id }: EventSourceMessage): void {
    // The data of heartbeats has no type.
    const event = { type, ...(JSON.parse(data) as object) } as StreamEvent;
    if (event.type === 'lagged') throw new Error('this browser reads too slowly');
    // The registry has another history, so the list is read again.
    if (event.type === 'reset') throw new Error('the registry has another history');
    this.#position = id ?? this.#position;
    this.#apply(event);
    this.#schedule();
  }

  #apply(event: StreamEvent): void {
    if (event.type === 'heartbeat') {
      const row = this.#rows.get(event.id);
      if (!row) return;
      row.seen = Date.parse(event.lastSeen);
      if (row.state === 'suspect' || row.state === 'stale') this.#store({ ...row, state: 'live' });
      else this.#seen.set(event.id, row.seen);
      return;
    }
    if (!('vm' in event)) return;
    this.#events.push(event);
    if (this.#events.length >= 2 * MAX_EVENTS) this.#events = this.#events.slice(-MAX_EVENTS);
    const { vm } = event;
    if (event.type === 'deregistered') {
      this.#rows.delete(vm.id);
      this.#put.delete(vm.id);
      this.#seen.delete(vm.id);
      this.#removed.add(vm.id);
      return;
    }
    const known = this.#rows.get(vm.id);
    // A new registration is the newest, also of an id that was registered before.
    if (known && known.vm.registeredAt !== vm.registeredAt) this.#rows.delete(vm.id);
    const isSilent = (known?.state === 'stale' || known?.state === 'suspect') && !ENDS_SILENCE.has(event.type);
    const stale = event.type === 'stale' || (isSilent && known.state === 'stale' && event.type !== 'suspect');
    const suspect = event.type === 'suspect' || (isSilent && known.state === 'suspect' && event.type !== 'stale');
    this.#store(rowOf({ ...vm, stale, suspect }));
  }

  #store(row: FleetRow): void {
    const { id } = row.vm;
    this.#rows.set(id, row);
    this.#removed.delete(id);
    this.#seen.delete(id);
    this.#put.set(id, row);
  }

  #schedule(): void {
    this.#timer ??= setTimeout(() => this.#flush(), BATCH_INTERVAL);
  }

  #flush(): void {
    this.#timer = undefined;
    if (this.#removed.size > 0) this.#send({ type: 'remove', ids: [...this.#removed] });
    const rows = [...this.#put.values()];
    for (let at = 0; at < rows.length; at += MAX_ROWS) this.#send({ type: 'put', rows: rows.slice(at, at + MAX_ROWS) });
    if (this.#seen.size > 0) this.#send({ type: 'seen', ids: [...this.#seen.keys()], at: [...this.#seen.values()] });
    if (this.#events.length > 0) this.#send({ type: 'events', events: this.#events.slice(-MAX_EVENTS) });
    this.#removed.clear();
    this.#put.clear();
    this.#seen.clear();
    this.#events = [];
    this.#send(this.linkMessage());
  }

  #heard(): void {
    this.#link = { ...this.#link, heardAt: Date.now() };
    this.#schedule();
  }

  #update(change: Partial<LinkState>): void {
    this.#link = { ...this.#link, ...change, ...(change.connection === 'live' ? { heardAt: Date.now() } : {}) };
    this.#send(this.linkMessage());
  }
}

/** Events after which a VM is no longer silent. A change of its status is a sign of life, if the status is `running`. */
const ENDS_SILENCE: ReadonlySet<string> = new Set(['registered', 'status', 'revived']);

function rowOf(vm: VmWithLiveness): FleetRow {
  const { stale: _stale, suspect: _suspect, health: _health, ...entry } = vm;
  return { vm: entry as Vm, state: livenessOf(vm), seen: Date.parse(vm.lastSeen) };
}
