/** What crosses the wire besides the entry itself: paths, answers, header names and the defaults both sides assume. */
import type { ServiceHealth } from './heartbeat.ts';
import type { Vm } from './vm.ts';

/** Where the CLI looks for a registry, and where the daemon listens, when nothing is said. */
export const DEFAULT_HOST = '127.0.0.1';
/** Port of the original registry server. */
export const DEFAULT_PORT = 3000;
export const DEFAULT_URL = `http://${DEFAULT_HOST}:${DEFAULT_PORT}`;
/** Milliseconds of listening time without a sign of life after which a VM is stale: the original registry's 5 minutes. */
export const DEFAULT_STALE_AFTER = 300_000;
/** Milliseconds between two beats of an agent: a fifth of the default lease, as the original agent extension beats. */
export const DEFAULT_INTERVAL = 60_000;

/** Milliseconds between two beats of an agent at most. */
const SLOWEST_BEAT = 60_000;
/** Beats in one lease: two may be late or lost before the VM is stale (etcd's clients beat at a third, too). */
const BEATS_PER_LEASE = 3;

/** Milliseconds between two beats of an agent, given the registry's lease in milliseconds. */
export function beatInterval(lease: number): number {
  return Math.min(SLOWEST_BEAT, lease / BEATS_PER_LEASE);
}

/** Share of the live VMs that must fall silent together before the network is suspected and not the VMs. */
export const DEFAULT_MASS_LOSS = 0.5;

/** What becomes of a VM's entry when its agent is told to stop. */
export const ON_EXIT = ['stopped', 'deregister', 'keep'] as const;
export type OnExit = (typeof ON_EXIT)[number];

/** What an agent does when the registry knows another incarnation of its VM. */
export const ON_CLONE = ['reject', 'rebirth', 'replace'] as const;
export type OnClone = (typeof ON_CLONE)[number];

/** How much a daemon or an agent logs, and how. */
export const LOG_LEVELS = ['debug', 'info', 'warn', 'error', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];
export const LOG_FORMATS = ['pretty', 'json'] as const;
export type LogFormat = (typeof LOG_FORMATS)[number];

/** Routes, relative to the registry's base URL. */
export const PATHS = {
  health: '/health',
  metrics: '/metrics',
  events: '/registry/events',
  heartbeats: '/registry/heartbeats',
  backup: '/registry/backup',
  vms: '/registry/vms',
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

/** On every answer of a vreg daemon; the original registry has no such header. */
export const VERSION_HEADER = 'x-vreg-version';
/** On every answer of a vreg daemon, and in its log: the name of the request, the client's own if it sends one. */
export const REQUEST_ID_HEADER = 'x-request-id';
/** On every answer of a vreg daemon: the lease, in whole milliseconds. An agent beats well within it. */
export const LEASE_HEADER = 'x-vreg-lease-ms';

/** On every answer of a vreg daemon: which registry it is, made once with its store. */
export const REGISTRY_HEADER = 'x-vreg-registry-id';
/** On every answer of a vreg daemon: its revision. One lower than before means that an older copy was put in its place. */
export const REVISION_HEADER = 'x-vreg-revision';
/**
 * On an answer that may offer VMs that are dead: the seconds after which it cannot any more. `; suspect=N` follows where N
 * VMs of the answer are offered only because so many fell silent at once.
 */
export const WARMING_HEADER = 'x-vreg-warming';

/** `GET /registry/vms` and `GET /registry/discover/:role`. */
export interface VmList {
  vms: Vm[];
  count: number;
}

/** `POST /registry/vms/:id/heartbeat`. */
export interface Heartbeat {
  id: string;
  lastSeen: string;
}

/** `DELETE /registry/vms/:id`. */
export interface Deleted {
  deleted: true;
}

/** `GET /health`; `uptime` in seconds. */
export interface Health {
  status: string;
  uptime: number;
}

/** Query options of `GET /registry/vms`. The original registry knows the first two and ignores the others. */
export interface ListQuery {
  role?: string;
  status?: string;
  /** `key=value,key!=value,key,!key` over the metadata. */
  selector?: string;
  sort?: Sort;
  /** At most that many. */
  limit?: number;
}

/** Orders of a list; `registered` is newest first, `seen` is last heard first. */
export const SORTS = ['registered', 'id', 'name', 'role', 'seen'] as const;
export type Sort = (typeof SORTS)[number];

/** `POST /registry/heartbeats`. */
export interface Heartbeats {
  lastSeen: string;
  /** Ids that were heard. */
  count: number;
  /** Ids that are not registered. */
  unknown: string[];
}

/** Ids in one `POST /registry/heartbeats`. */
export const MAX_BATCH = 10_000;

/** Live VMs that `discover?wait=` waits for. */
export const DEFAULT_WAIT_MIN = 1;

/** Longest that `discover?wait=` holds an answer, in milliseconds: below what proxies between cut off. */
export const MAX_WAIT = 55_000;

/** `GET /registry/vms/:id/why`: whether `discover` offers the VM, and each reason why not. */
export interface Why {
  id: string;
  offered: boolean;
  /** One line for people. */
  summary: string;
  reasons: { code: 'paused' | 'stopped' | 'stale'; message: string }[];
}

/** Query option of every route that answers entries: each then also says whether it is stale. Other servers ignore it. */
export const INCLUDE_LIVENESS = { include: 'liveness' } as const;

/** An entry as answered to {@link INCLUDE_LIVENESS}. */
export interface VmWithLiveness extends Vm {
  /** More than the lease of listening time has gone by since the last sign of life. */
  stale: boolean;
  /** The same, but it is offered for one more lease, since many others fell silent with it. */
  suspect?: boolean;
  /** What the VM's agent found when it last probed the VM's services; absent where none probes them. */
  health?: Record<string, ServiceHealth>;
}

/** Query options of `GET /registry/discover/:role` that choose among the live VMs. The original registry ignores them. */
export interface DiscoverQuery {
  /** Only VMs that have this service; those where it passes its checks first, those where it fails last. */
  service?: string | undefined;
  /** Only VMs where `service` passes. */
  passing?: boolean | undefined;
  /** Only VMs heard of within a lease of plain wall time, whatever the registry could hear. */
  strict?: boolean | undefined;
}
