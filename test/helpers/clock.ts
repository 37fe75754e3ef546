import { type Clock, type Gap, QUEUE_TIME } from '../../daemon/clock.ts';

/** A clock that only the test moves. */
export class FakeClock implements Clock {
  wall = Date.parse('2026-01-01T00:00:00.000Z');
  heard = 0;
  gap: Gap | undefined;
  /** All gaps, oldest first. */
  gaps: Gap[] = [];

  now(): number {
    return this.wall;
  }

  listening(): number {
    return this.heard;
  }

  lastGap(): Gap | undefined {
    return this.gap;
  }

  /** Advances the wall clock alone: the registry was paused. */
  miss(ms: number): void {
    this.wall += ms;
    this.gap = { endedAt: this.heard, certainFrom: this.heard + QUEUE_TIME };
    this.gaps.push(this.gap);
  }

  /** Whether a heartbeat that was read at this listening time may have waited in the kernel during a pause. */
  mayHaveWaited(heardAt: number): boolean {
    return this.gaps.some(({ endedAt, certainFrom }) => heardAt >= endedAt && heardAt <= certainFrom);
  }

  /** Advances both clocks. */
  pass(ms: number): void {
    this.wall += ms;
    this.heard += ms;
  }
}
