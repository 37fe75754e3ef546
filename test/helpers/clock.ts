import type { Clock } from '../../daemon/clock.ts';

/** A clock that only the test moves. */
export class FakeClock implements Clock {
  wall = Date.parse('2026-01-01T00:00:00.000Z');
  heard = 0;
  gap: number | undefined;

  now(): number {
    return this.wall;
  }

  listening(): number {
    return this.heard;
  }

  gapEndedAt(): number | undefined {
    return this.gap;
  }

  /** Advances the wall clock alone: the registry could not receive heartbeats. */
  miss(ms: number): void {
    this.wall += ms;
    this.gap = this.heard;
  }

  /** Advances both clocks. */
  pass(ms: number): void {
    this.wall += ms;
    this.heard += ms;
  }
}
