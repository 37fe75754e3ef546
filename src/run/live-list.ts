/** Shows a list of VMs on the full screen of a terminal, and keeps it up to date until the user quits. */
import { watchEvents } from '../client/event-source.ts';
import type { Context } from '../command.ts';
import { Interrupted } from '../exit.ts';
import { LiveFleet } from '../fleet/live-fleet.ts';
import type { Screen } from '../io/screen.ts';
import type { Sort, VmWithLiveness } from '../protocol/api.ts';
import { drawScreen, onKey, type ScreenContent, type ScreenPosition, sortVms } from '../render/live-screen.ts';
import { isTransient } from './retry.ts';

/** Milliseconds between two updates of the screen after events: fast enough to read, little work for a busy fleet. */
const DRAW_INTERVAL = 250;
/** Milliseconds between two updates without events, because ages are shown in seconds. */
const AGE_INTERVAL = 1000;
/** Milliseconds before a list that failed is requested again. */
const RETRY_INTERVAL = 2000;
/** Minimum milliseconds between two lists, which contain what no event does: the health of services, and the warming notice. */
const REFRESH_INTERVAL = 10_000;
/** A list that takes long, because the fleet is large, is requested less often: it takes up to 2 % of the time. */
const REFRESH_FACTOR = 50;

export interface LiveListOptions {
  /** Requests the VMs to show, newest registration first. */
  list(): Promise<readonly VmWithLiveness[]>;
  /** Whether a VM belongs to the list, as it is now. */
  isListed(vm: VmWithLiveness): boolean;
  /** Role of all VMs in the list; undefined if they may have any. */
  role: string | undefined;
  sort: Sort;
  /** Metadata keys that get a column each. */
  metaColumns: readonly string[] | undefined;
  /** Maximum number of VMs. */
  limit: number | undefined;
}

/**
 * Resolves when the user quits.
 * @throws Interrupted on Ctrl-C or a signal; VregError if the first list fails, or later if the registry refuses access
 */
export async function showLiveList(context: Context, options: LiveListOptions): Promise<void> {
  const view = new LiveList(context, options);
  try {
    await Promise.race([view.follow(), view.quit]);
  } finally {
    view.close();
  }
}

class LiveList {
  /** Resolves when the user quits. */
  readonly quit: Promise<void>;
  readonly #context: Context;
  readonly #options: LiveListOptions;
  readonly #fleet: LiveFleet;
  readonly #ended = new AbortController();
  #position: ScreenPosition;
  #outage: string | undefined;
  #warming: number | undefined;
  #screen: Screen | undefined;
  #timers: NodeJS.Timeout[] = [];
  #refreshTimer: NodeJS.Timeout | undefined;
  /** The list that is being requested. Events wait for it, because it would replace what they changed. */
  #refreshing: Promise<void> | undefined;
  /** The pending update of the screen. */
  #pending: NodeJS.Timeout | undefined;
  #drawnAt = Number.NEGATIVE_INFINITY;
  #isDrawing = false;
  #page = 0;
  /** The VMs in the order on the screen, and the input from which they were sorted. */
  #sorted:
    | { vms: readonly VmWithLiveness[]; sort: Sort; reversed: boolean; result: readonly VmWithLiveness[] }
    | undefined;
  #end!: { resolve(): void; reject(reason: unknown): void };

  constructor(context: Context, options: LiveListOptions) {
    this.#context = context;
    this.#options = options;
    this.#fleet = new LiveFleet(options.isListed);
    this.#position = { sort: options.sort, reversed: false, offset: 0 };
    this.quit = new Promise((resolve, reject) => {
      this.#end = { resolve, reject };
    });
  }

  /** Applies events until the program ends. Opens the screen when the first list has arrived. */
  async follow(): Promise<never> {
    const outage = {
      begins: ({ message }: Error) => this.#setOutage(message),
      over: () => this.#setOutage(undefined),
    };
    const { role } = this.#options;
    const { signal } = this.#ended;
    for await (const event of watchEvents(this.#context, { role, heartbeats: true, signal, outage })) {
      await this.#refreshing;
      // Events carry no complete liveness, so the list follows each time the stream is connected. Later events wait meanwhile.
      if (event.type === 'synced') await this.#load();
      else if (this.#fleet.apply(event, performance.now())) this.#update();
    }
    throw new Error('the event stream has ended');
  }

  close(): void {
    for (const timer of [...this.#timers, this.#pending, this.#refreshTimer]) clearInterval(timer);
    this.#ended.abort();
    this.#screen?.close();
    this.#screen = undefined;
    // Ends the pending read of the stream.
    this.#context.client().close();
  }

  async #load(): Promise<void> {
    for (;;) {
      try {
        await this.#list();
        break;
      } catch (error) {
        if (!this.#screen || !isTransient(error)) throw error;
        this.#setOutage(error.message);
      }
      await this.#context.sleep(RETRY_INTERVAL, AbortSignal.any([this.#context.signal, this.#ended.signal]));
    }
    this.#fleet.restartRate(performance.now());
    this.#setOutage(undefined);
    this.#openScreen();
  }

  /** Requests the list, and plans the next one. */
  async #list(): Promise<void> {
    const started = performance.now();
    this.#fleet.replace(await this.#options.list());
    this.#warming = this.#context.client().server.warming;
    this.#planRefresh(performance.now() - started);
  }

  /** @param duration milliseconds that the last list took */
  #planRefresh(duration: number): void {
    clearTimeout(this.#refreshTimer);
    if (this.#ended.signal.aborted) return;
    const endOfWarming = this.#warming === undefined ? Number.POSITIVE_INFINITY : this.#warming * 1000;
    const delay = Math.max(Math.min(REFRESH_INTERVAL, endOfWarming), REFRESH_FACTOR * duration);
    this.#refreshTimer = setTimeout(() => {
      this.#refreshing = this.#refresh();
    }, delay);
  }

  async #refresh(): Promise<void> {
    const started = performance.now();
    try {
      await this.#list();
      this.#update();
    } catch (error) {
      // The event stream reports an outage, and the list follows when it is connected again.
      if (isTransient(error)) this.#planRefresh(performance.now() - started);
      else this.#end.reject(error);
    }
  }

  #openScreen(): void {
    if (this.#screen) {
      this.#update();
      return;
    }
    if (this.#ended.signal.aborted) return;
    this.#screen = this.#context.io.openScreen({ key: (name) => this.#onKey(name), redraw: () => void this.#draw() });
    this.#timers.push(setInterval(() => this.#tick(), AGE_INTERVAL));
    void this.#draw();
  }

  #tick(): void {
    if (this.#warming !== undefined) this.#warming = this.#warming > 1 ? this.#warming - 1 : undefined;
    this.#update();
  }

  #setOutage(message: string | undefined): void {
    if (this.#outage === message) return;
    this.#outage = message;
    this.#update();
  }

  #onKey(name: string): void {
    const next = onKey(this.#position, name, this.#page);
    if (next === 'quit') this.#end.resolve();
    else if (next === 'interrupt') this.#end.reject(new Interrupted('SIGINT'));
    else {
      this.#position = next;
      void this.#draw();
    }
  }

  /** Draws the screen soon, but at most once per {@link DRAW_INTERVAL}. */
  #update(): void {
    if (!this.#screen || this.#pending) return;
    const wait = Math.max(0, this.#drawnAt + DRAW_INTERVAL - performance.now());
    this.#pending = setTimeout(() => {
      this.#pending = undefined;
      void this.#draw();
    }, wait);
  }

  async #draw(): Promise<void> {
    const screen = this.#screen;
    if (!screen) return;
    if (this.#isDrawing) return this.#update();
    this.#isDrawing = true;
    try {
      this.#drawnAt = performance.now();
      const { width, height } = screen;
      const { lines, page, offset } = await drawScreen(
        this.#content(),
        this.#position,
        { width, height },
        this.#context.io,
      );
      this.#page = page;
      if (offset < this.#position.offset) this.#position = { ...this.#position, offset };
      if (screen === this.#screen) screen.show(lines);
    } catch (error) {
      this.#end.reject(error);
    } finally {
      this.#isDrawing = false;
    }
  }

  #content(): ScreenContent {
    return {
      url: this.#context.client().url,
      outage: this.#outage,
      warming: this.#warming,
      heartbeatsPerSecond: this.#fleet.heartbeatRate(performance.now()),
      vms: this.#vms(),
      wide: this.#context.format === 'wide',
      metaColumns: this.#options.metaColumns,
      now: this.#context.now(),
    };
  }

  /** The VMs in the order of the screen. */
  #vms(): readonly VmWithLiveness[] {
    const { vms } = this.#fleet;
    const { sort, reversed } = this.#position;
    const last = this.#sorted;
    if (last?.vms === vms && last.sort === sort && last.reversed === reversed) return last.result;
    const result = sortVms(vms, this.#position).slice(0, this.#options.limit);
    this.#sorted = { vms, sort, reversed, result };
    return result;
  }
}
