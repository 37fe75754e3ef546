import { type Clock, type Gap, QUEUE_TIME } from '../../daemon/clock.ts';

/** A clock that only the test moves. */
export class FakeClock implements Clock {
  wall = Date.parse('2026-01-01T00:00:00.000Z');
  heard = 0;
  gap: Gap | undefined;
  /** All gaps, oldest first. */
  gaps: Gap[] = [];
  isSuspended = false;
  readonly #silences: { from: number; to: number }[] = [];

  now(): number {
    return this.wall;
  }

  listening(): number {
    return this.heard;
  }

  listeningAt(wall: number): number {
    const missed = this.#silences.reduce((sum, { from, to }) => sum + Math.max(0, to - Math.max(from, wall)), 0);
    return Math.min(this.heard, this.heard - (this.wall - wall) + missed);
  }

  /** Advances the wall clock while the registry is down. */
  sleep(ms: number): void {
    this.#silences.push({ from: this.wall, to: this.wall + ms });
    this.wall += ms;
  }

  suspend(): void {
    this.isSuspended = true;
  }

  resume(): void {
    if (this.isSuspended) this.gap = { endedAt: this.heard, certainFrom: this.heard };
    this.isSuspended = false;
  }

  lastGap(): Gap | undefined {
    return this.gap;
  }

  /** Advances the wall clock alone: the registry was paused. */
  miss(ms: number): void {
    this.#silences.push({ from: this.wall, to: this.wall + ms });
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
    if (this.isSuspended) this.#silences.push({ from: this.wall, to: this.wall + ms });
    else this.heard += ms;
    this.wall += ms;
  }
}

/** A clock whose time passes as on the wall, for agents and commands that run meanwhile. It knows no pauses. */
export class RealClock extends FakeClock {
  override now(): number {
    return Date.now();
  }

  override listening(): number {
    return performance.now();
  }

  override listeningAt(wall: number): number {
    return this.listening() - Math.max(0, this.now() - wall);
  }
}
