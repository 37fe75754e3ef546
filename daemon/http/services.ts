/** The parts of the daemon that all requests share. */
import type { Logger } from 'pino';
import type { Authenticator } from '../access/authenticator.ts';
import type { Budget, Budgets } from '../limits/budgets.ts';
import type { Scheduler } from '../limits/scheduler.ts';
import type { Semaphore } from '../limits/semaphore.ts';
import type { StreamLimits } from '../limits.ts';
import type { EventLoopMonitor } from '../observability/event-loop.ts';
import type { ActivityRing } from '../registry/activity-ring.ts';
import type { Registry } from '../registry/registry.ts';
import type { MonitoredStore } from '../store/monitored-store.ts';
import type { EventFanout } from './handlers/event-fanout.ts';
import type { LongPollQueue } from './handlers/long-poll-queue.ts';
import type { OpenApi } from './openapi/document.ts';
import type { RequestCounts } from './request-counts.ts';
import type { ListTags } from './response/list-tags.ts';

export interface Services {
  readonly registry: Registry;
  readonly store: MonitoredStore;
  readonly authenticator: Authenticator;
  readonly log: Logger;
  /** The log contains successful reads and heartbeats. */
  readonly logsReads: boolean;
  /** Version of the daemon. */
  readonly version: string;
  /** @returns a request id that is unique across requests and daemons */
  newRequestId(): string;
  /** Names of this registry besides `localhost` and its addresses, in lower case. */
  readonly names: Pick<ReadonlySet<string>, 'has'>;
  /** Origins whose pages may use the registry, as browsers write them; undefined if none was configured. */
  readonly allowedOrigins: ReadonlySet<string> | undefined;
  /** True if forwarded headers of this peer are trusted; undefined if no proxy is configured. */
  readonly isTrustedProxy: ((address: string | undefined) => boolean) | undefined;
  /** URL under which browsers reach the registry; undefined if none was configured. */
  readonly publicUrl: string | undefined;
  /** The TCP address on which the registry listens; undefined if there is none. */
  ownAddress(): { host: string; port: number; isHttps: boolean } | undefined;
  readonly activity: ActivityRing;
  /** Maximum size of a request body in bytes. */
  readonly maxBody: number;
  /** Budget for large request bodies. */
  readonly bodies: Budget;
  /** Folder in which backups are prepared; if undefined, the daemon offers no backups. */
  readonly dataDir: string | undefined;
  /** Aborted when the daemon stops, which ends long polls and streams. */
  readonly stopping: AbortSignal;
  /** Limits of each event stream. */
  readonly streams: StreamLimits;
  readonly fanout: EventFanout;
  /** Caps concurrent long polls and event streams. */
  readonly openStreams: Semaphore;
  /** Caps concurrent backups. */
  readonly backups: Semaphore;
  /** Budget for response bytes that clients have not read yet. */
  readonly responses: Budget;
  /** Budget for events that wait for slow subscribers. */
  readonly subscribers: Budget;
  readonly longPolls: LongPollQueue;
  readonly listTags: ListTags;
  /** All memory budgets, for the metrics. */
  readonly budgets: Budgets;
  readonly requests: RequestCounts;
  readonly eventLoop: EventLoopMonitor;
  readonly openApi: OpenApi;
  /** Bytes that the heap may take. */
  readonly heapLimit: number;
  /** Counts since the start of the daemon, for the metrics. */
  readonly counters: {
    /** Query parameters that the requested route does not know. */
    unknownParameters: number;
  };
  readonly scheduler: Scheduler;
}
