/**
 * Paths, responses and header names of the API, and the defaults that both sides assume. "The original registry" is the server
 * of vers-agent-services, whose API the daemon implements and extends. The client also works with that server.
 */
import type { ErrorBody } from './errors.ts';
import type { ServiceHealth } from './heartbeat.ts';
import type { Whoami } from './token.ts';
import type { ReefConfig, Vm } from './vm.ts';

/** Default address of the registry, for the CLI and the daemon. */
export const DEFAULT_HOST = '127.0.0.1';
/** The port of the original registry. */
export const DEFAULT_PORT = 3000;
export const DEFAULT_URL = `http://${DEFAULT_HOST}:${DEFAULT_PORT}`;
/** Milliseconds of listening time after the last sign of life until a VM is stale: 5 minutes, as in the original registry. */
export const DEFAULT_STALE_AFTER = 300_000;
/**
 * Milliseconds between two heartbeats of an agent: a fifth of the default lease, as in the agent extension of
 * vers-agent-services.
 */
export const DEFAULT_INTERVAL = 60_000;

/** Maximum number of milliseconds between two heartbeats of an agent. */
const MAX_HEARTBEAT_INTERVAL = 60_000;
/** Heartbeats per lease: a VM stays live if two are late or lost. etcd's clients also renew after a third of the lease. */
const HEARTBEATS_PER_LEASE = 3;

/** Milliseconds between two heartbeats of an agent, given the registry's lease in milliseconds. */
export function heartbeatInterval(lease: number): number {
  return Math.min(MAX_HEARTBEAT_INTERVAL, lease / HEARTBEATS_PER_LEASE);
}

/** Share of the live VMs that must fall silent together for them to become suspect instead of stale. */
export const DEFAULT_MASS_LOSS = 0.5;

/** The action on a VM's entry when its agent stops. */
export const ON_EXIT = ['stopped', 'deregister', 'keep'] as const;
export type OnExit = (typeof ON_EXIT)[number];

/** Reaction of an agent when another incarnation holds the identity of its VM. */
export const ON_CLONE = ['reject', 'rebirth', 'replace'] as const;
export type OnClone = (typeof ON_CLONE)[number];

/** The lowest level to log. */
export const LOG_LEVELS = ['debug', 'info', 'warn', 'error', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];
export const LOG_FORMATS = ['pretty', 'json'] as const;
export type LogFormat = (typeof LOG_FORMATS)[number];

/** Routes, relative to the registry's base URL. */
export const PATHS = {
  health: '/health',
  livez: '/livez',
  readyz: '/readyz',
  metrics: '/metrics',
  magicLink: '/auth/magic-link',
  /** The fleet page. */
  page: '/ui/',
  logIn: '/ui/login',
  session: '/ui/session',
  activity: '/registry/activity',
  recent: '/registry/recent',
  replicas: '/registry/replicas',
  openapi: '/openapi.json',
  events: '/registry/events',
  heartbeats: '/registry/heartbeats',
  backup: '/registry/backup',
  vms: '/registry/vms',
  import: '/registry/import',
  vm: (id: string) => `/registry/vms/${encodeURIComponent(id)}`,
  heartbeat: (id: string) => `/registry/vms/${encodeURIComponent(id)}/heartbeat`,
  history: (id: string) => `/registry/vms/${encodeURIComponent(id)}/history`,
  why: (id: string) => `/registry/vms/${encodeURIComponent(id)}/why`,
  conflicts: '/registry/conflicts',
  tokens: '/registry/tokens',
  token: (name: string) => `/registry/tokens/${encodeURIComponent(name)}`,
  whoami: '/registry/whoami',
  children: (id: string) => `/registry/vms/${encodeURIComponent(id)}/children`,
  ancestors: (id: string) => `/registry/vms/${encodeURIComponent(id)}/ancestors`,
  subtree: (id: string) => `/registry/vms/${encodeURIComponent(id)}/subtree`,
  discover: (role: string) => `/registry/discover/${encodeURIComponent(role)}`,
} as const;

/** Version of the vreg daemon. The original registry sends no such header. */
export const VERSION_HEADER = 'x-vreg-version';
/** Id of the request, on every response and in the log: the client's own id if it sends one. */
export const REQUEST_ID_HEADER = 'x-request-id';
/** The lease in whole milliseconds. */
export const LEASE_HEADER = 'x-vreg-lease-ms';

/** Id of the registry, generated with its store. */
export const REGISTRY_HEADER = 'x-vreg-registry-id';
/** Sent with the value `1` by clients that read the headers above; other clients receive only the request id. */
export const CLIENT_HEADER = 'x-vreg-client';
/**
 * Position of the registry, on every response to an authorized request except a plain heartbeat. It is never newer than the
 * content of the response, and never older than the change that the response acknowledges.
 */
export const POSITION_HEADER = 'x-vreg-position';
/**
 * On a response to a read, if the store that the replicas of a registry share does not respond: the seconds for which changes of
 * other replicas may be missing.
 */
export const AGE_HEADER = 'x-vreg-age';
/**
 * On a response that may include dead VMs: the seconds for which this may last. `; suspect=N` follows if N VMs of the response
 * are suspect.
 */
export const WARMING_HEADER = 'x-vreg-warming';

/** Response to `GET /registry/vms` and `GET /registry/discover/:role`. */
export interface VmList {
  vms: Vm[];
  count: number;
}

/** Response to `POST /registry/vms/:id/heartbeat`. A heartbeat with a position gets a {@link HistoryAnswer} as well. */
export interface Heartbeat {
  id: string;
  lastSeen: string;
}

/** Response to `GET /registry/vms/:id/diff/:other`: what the `reefConfig` of the other VM adds and lacks. */
export interface ReefDiff {
  added: Pick<ReefConfig, 'services' | 'capabilities'>;
  removed: Pick<ReefConfig, 'services' | 'capabilities'>;
}

/** Response to `POST /auth/magic-link`: a URL that logs a browser in once, and when it expires. */
export interface MagicLink {
  url: string;
  expiresAt: string;
  /** Why others may be unable to use the URL. */
  warning?: string;
}

/** Response to `GET /ui/session`, `POST /ui/login` and `DELETE /ui/session`; `expiresAt` is the end of the session. */
export type SessionStatus = { authenticated: false } | ({ authenticated: true } & Whoami);

/** Milliseconds between two points of {@link Activity}. */
export const ACTIVITY_INTERVAL = 10_000;

/** Response to `GET /registry/activity`: the last hour, oldest point first. */
export interface Activity {
  /** Milliseconds between two points. */
  interval: number;
  points: ActivityPoint[];
}

export interface ActivityPoint {
  /** End of the interval, RFC 3339. */
  at: string;
  /** Live VMs at the end of the interval, without suspect ones. */
  live: number;
  /** Heartbeats in the interval. */
  heartbeats: number;
  /** Committed changes in the interval. */
  changes: number;
}

/** Response to `DELETE /registry/vms/:id`. */
export interface Deleted {
  deleted: true;
}

/** Response to `GET /health`; `uptime` is in seconds. */
export interface Health {
  status: string;
  uptime: number;
}

/** Query options of `GET /registry/vms`. The original registry knows the first two and ignores the others. */
export interface ListQuery {
  role?: string;
  status?: string;
  /** Terms for the metadata, for example `task=billing,env!=prod,owner,!draft`. */
  selector?: string;
  sort?: Sort;
  /** Maximum number of VMs. */
  limit?: number;
}

/** Sort orders of a list: `registered` begins with the newest registration, `seen` with the latest sign of life. */
export const SORTS = ['registered', 'id', 'name', 'role', 'seen'] as const;
export type Sort = (typeof SORTS)[number];

/** Response to `POST /registry/heartbeats`. */
export interface Heartbeats {
  lastSeen: string;
  /** Number of accepted heartbeats. */
  count: number;
  /** Ids that are not registered. */
  unknown: string[];
}

/** Maximum number of ids in one `POST /registry/heartbeats`. */
export const MAX_BATCH = 10_000;

/** Maximum number of entries in one `POST /registry/import`. */
export const MAX_IMPORT = 10_000;

/** Maximum size of the body of `POST /registry/import` in bytes: 1.6 KiB per entry, several times the size of a usual one. */
export const MAX_IMPORT_BODY = 16_777_216;

/** Response to `GET /registry/replicas`. A registry that does not share its store has none. */
export interface ReplicaList {
  replicas: ReplicaInfo[];
  count: number;
}

/** A daemon that has a session in the shared store. A replica that was killed is listed for another 30 s. */
export interface ReplicaInfo {
  /** Random; a daemon gets another one with each start. */
  id: string;
  /** Absent until the replica accepts requests. */
  url?: string | undefined;
  host?: string | undefined;
  version?: string | undefined;
  /** Start of the daemon, RFC 3339. */
  since?: string | undefined;
  /** True for the replica that has answered. */
  answered: boolean;
}

/** Response to `POST /registry/import`, in the order of the entries. */
export interface Imported {
  entries: ImportOutcome[];
  /** Number of entries. */
  count: number;
  /** Number of VMs that were registered. */
  created: number;
}

/** `exists`: the id is taken. `invalid`: a field is invalid. `refused`: the entry is too large, or the registry is full. */
export interface ImportOutcome extends Partial<ErrorBody> {
  /** Absent if the entry has no valid id. */
  id?: string;
  outcome: 'created' | 'exists' | 'invalid' | 'refused';
}

/** Number of live VMs that `discover?wait=` waits for by default. */
export const DEFAULT_WAIT_MIN = 1;

/** Maximum `discover?wait=` in milliseconds: less than the 60 s after which many proxies time out. */
export const MAX_WAIT = 55_000;

/** Response to `GET /registry/vms/:id/why`: whether `discover` returns the VM, and the reasons if it does not. */
export interface Why {
  id: string;
  offered: boolean;
  /** One line of text. */
  summary: string;
  reasons: { code: 'paused' | 'stopped' | 'stale' | 'invalid'; message: string }[];
}

/** Query option that adds liveness to every entry of the response. The original registry ignores it. */
export const INCLUDE_LIVENESS = { include: 'liveness' } as const;

/** An entry with liveness, see {@link INCLUDE_LIVENESS}. */
export interface VmWithLiveness extends Vm {
  /** The lease has expired. */
  stale: boolean;
  /** The lease has expired, but `discover` returns the VM for one more lease period, because many others fell silent with it. */
  suspect?: boolean;
  /** Latest results of the agent's health checks, by service; absent if the agent runs no checks. */
  health?: Record<string, ServiceHealth>;
}

/** Query options of `GET /registry/discover/:role` that filter the live VMs. The original registry ignores them. */
export interface DiscoverQuery {
  /** Only VMs with this service. VMs where it passes its health checks come first, VMs where it fails come last. */
  service?: string | undefined;
  /** Only VMs whose `service` passes its health checks. */
  passing?: boolean | undefined;
  /** Only VMs whose last sign of life is at most a lease of wall-clock time ago and was certainly not sent before a pause. */
  strict?: boolean | undefined;
}
