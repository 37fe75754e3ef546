/**
 * Converts between the listening clock and the clock of stored times, in milliseconds. Replicas have different listening clocks,
 * so their records have times of the wall clock.
 */
import type { Clock } from '../clock.ts';

export interface StoredTimes {
  toStored?(listening: number): number;
  fromStored?(stored: number): number;
}

/** The stored times are on the listening clock. */
export const SAME_TIMES: StoredTimes = {};

/** Times of the wall clock, for the records that replicas exchange. */
export function wallTimes(clock: Clock): Required<StoredTimes> {
  const toStored = (listening: number) => clock.now() - (clock.listening() - listening);
  const fromStored = (wall: number) => {
    const ahead = wall - clock.now();
    return ahead > 0 ? clock.listening() + ahead : clock.listeningAt(wall);
  };
  return { toStored, fromStored };
}
