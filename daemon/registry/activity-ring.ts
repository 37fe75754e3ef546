/** The last hour of the fleet in a small ring in memory, for the plots of the fleet page. */
import { ACTIVITY_INTERVAL, type Activity, type ActivityPoint } from '../../src/protocol/api.ts';
import type { Registry } from './registry.ts';

/** One hour. */
const POINTS = 3_600_000 / ACTIVITY_INTERVAL;

export class ActivityRing {
  readonly #registry: Registry;
  readonly #points: ActivityPoint[] = [];
  #heartbeats = 0;
  #changes = 0;

  constructor(registry: Registry) {
    this.#registry = registry;
    let revision = registry.revision;
    registry.events.subscribe({
      // It is not a client.
      listeners: 0,
      event: (event) => {
        if (event.revision > revision) this.#changes++;
        revision = event.revision;
      },
      heartbeat: () => {
        this.#heartbeats++;
      },
    });
  }

  /** Ends a point, and begins the next one. Call it every {@link ACTIVITY_INTERVAL}. */
  sample(): void {
    const { clock, counts } = this.#registry;
    if (this.#points.length === POINTS) this.#points.shift();
    this.#points.push({
      at: new Date(clock.now()).toISOString(),
      live: counts.live,
      heartbeats: this.#heartbeats,
      changes: this.#changes,
    });
    this.#heartbeats = 0;
    this.#changes = 0;
  }

  /** The points, oldest first. */
  get activity(): Activity {
    return { interval: ACTIVITY_INTERVAL, points: this.#points };
  }
}
