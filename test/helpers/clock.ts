import type { Clock } from '../../daemon/clock.ts';

/** A clock that stands until it is moved. */
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

  /** Time in which nobody could be heard. */
  miss(ms: number): void {
    this.wall += ms;
    this.gap = this.heard;
  }

  /** Time in which the registry could hear. */
  pass(ms: number): void {
    this.wall += ms;
    this.heard += ms;
  }
}
