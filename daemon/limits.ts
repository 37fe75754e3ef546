/** Limits of requests and connections, which do not depend on the heap. */

/** Limits on counts that no setting changes; see also {@link openStreamLimit}. */
export const COUNTS = {
  /** Backups in progress. Until it is sent, each needs as much disk space as the database. */
  backups: 2,
  /** History pages that are waiting to be read. They are read one at a time, and each takes up to 100 ms. */
  historyPages: 50,
} as const;

/** Share of the connections that long polls and event streams may occupy; the rest is reserved for short requests. */
const OPEN_STREAMS_SHARE = 1 / 2;

/** @param maxConnections the limit per listener */
export function openStreamLimit(maxConnections: number): number {
  return Math.ceil(maxConnections * OPEN_STREAMS_SHARE);
}

/** The minimum rate at which a request must arrive. Slow links reach it, slowloris attacks do not. */
const MIN_RATE = { bytes: 1_048_576, ms: 30_000 };

/**
 * Milliseconds within which a complete request must arrive: 30 s, or longer if larger bodies are allowed.
 * @param maxBody bytes
 */
export function requestTimeout(maxBody: number): number {
  return Math.ceil(MIN_RATE.ms * Math.max(1, maxBody / MIN_RATE.bytes));
}

/** Limits of one event stream. */
export interface StreamLimits {
  /** Milliseconds between two comment lines, which show proxies and subscribers that the connection works. */
  keepAlive: number;
  /**
   * Maximum number of bytes that a subscriber has not read yet, not counting the state that it requested. A subscriber that
   * exceeds it is evicted.
   */
  maxBacklog: number;
  /** Milliseconds for an evicted subscriber to read the `lagged` event. */
  lagGrace: number;
}

/** The HTML standard recommends a comment every 15 s. 1 MiB is a few seconds of events from a busy fleet. */
export const STREAM_LIMITS: StreamLimits = { keepAlive: 15_000, maxBacklog: 1_048_576, lagGrace: 5000 };
