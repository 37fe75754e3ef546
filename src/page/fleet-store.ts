/**
 * The fleet in a tab. Messages change it immediately, and the page renders it once per frame at most: `structure` and `pulse`
 * are the signals that views read.
 */
import { computed, signal } from '@preact/signals';
import type { SessionStatus } from '../protocol/api.ts';
import type { VmEvent } from '../protocol/events.ts';
import { LIVENESS, type Liveness } from '../protocol/liveness.ts';
import { mayDo, type Scope } from '../protocol/token.ts';
import { ROLES, type Vm } from '../protocol/vm.ts';
import { mergeEvents } from './event-order.ts';
import type { FleetMessage, FleetRow, LinkState } from './fleet-message.ts';
import { serverNow } from './server-clock.ts';

/** Events that the page retains. */
const MAX_EVENTS = 1000;

/** Signs of life of a VM that the page retains. */
const MAX_SIGNS = 500;

/** Oldest registration first. */
export const rows = new Map<string, FleetRow>();
/** Newest first. */
let recentEvents: readonly VmEvent[] = [];

/** Incremented when VMs come, leave or change. */
export const structure = signal(0);
/** Incremented when VMs have sent heartbeats. */
export const pulse = signal(0);
/** Incremented when there are new events. */
export const eventCount = signal(0);
export const link = signal<LinkState>({ connection: 'loading', heardAt: 0 });
/** False until the page has read the list of VMs. */
export const isFleetKnown = computed(() => {
  const { connection, heardAt } = link.value;
  return connection === 'live' || (connection === 'reconnecting' && heardAt > 0);
});
/** Undefined until the registry has answered. */
export const session = signal<SessionStatus | undefined>(undefined);

export function events(): readonly VmEvent[] {
  return recentEvents;
}

const SIGNALS = {
  reset: 'structure',
  put: 'structure',
  remove: 'structure',
  seen: 'pulse',
  events: 'events',
  'other-history': 'events',
} as const;
const changed = { structure: false, pulse: false, events: false };
let isScheduled = false;

export function applyMessage(message: FleetMessage): void {
  switch (message.type) {
    case 'link': {
      const { type: _type, ...state } = message;
      const isLoggedOut = state.connection === 'logged-out' && link.peek().connection !== 'logged-out';
      link.value = state;
      if (isLoggedOut) session.value = { authenticated: false };
      return;
    }
    case 'reset':
      rows.clear();
      // The page has missed some.
      for (const id of followed.keys()) followed.set(id, { since: serverNow(), times: [] });
      break;
    case 'put':
      for (const row of message.rows) putRow(row);
      break;
    case 'remove':
      for (const id of message.ids) rows.delete(id);
      break;
    case 'seen':
      message.ids.forEach((id, index) => {
        const row = rows.get(id);
        if (row) row.seen = message.at[index]!;
        noteSign(id, message.at[index]!);
      });
      break;
    case 'other-history':
      recentEvents = [];
      break;
    case 'events':
      recentEvents = mergeEvents(message.events.toReversed(), recentEvents, MAX_EVENTS);
  }
  changed[SIGNALS[message.type]] = true;
  if (isScheduled) return;
  isScheduled = true;
  requestAnimationFrame(publish);
}

function putRow(row: FleetRow): void {
  const known = rows.get(row.vm.id);
  // A new registration is the newest, also of an id that was registered before.
  if (known && known.vm.registeredAt !== row.vm.registeredAt) rows.delete(row.vm.id);
  rows.set(row.vm.id, row);
  if (known && known.seen !== row.seen) noteSign(row.vm.id, row.seen);
}

/** Signs of life since the page follows them, without a gap. */
export interface SignsOfLife {
  /** Milliseconds since the epoch, by the clock of the registry. */
  since: number;
  /** Oldest first. */
  times: readonly number[];
}

/** By the id of each VM that the user has looked at; the registry retains only the last sign of each VM. */
const followed = new Map<string, SignsOfLife>();

export function followSignsOfLife(id: string): void {
  if (!followed.has(id)) followed.set(id, { since: serverNow(), times: [] });
}

/** @returns undefined if the page does not follow them */
export function signsOfLife(id: string): SignsOfLife | undefined {
  return followed.get(id);
}

function noteSign(id: string, at: number): void {
  const known = followed.get(id);
  if (!known) return;
  const times = [...known.times, at].slice(-MAX_SIGNS);
  followed.set(id, { since: known.times.length < MAX_SIGNS ? known.since : times[0]!, times });
}

function publish(): void {
  isScheduled = false;
  if (changed.structure) structure.value++;
  if (changed.pulse) pulse.value++;
  if (changed.events) eventCount.value++;
  changed.structure = false;
  changed.pulse = false;
  changed.events = false;
}

/** Adds events from before the tab was opened, or of an outage. @param older newest first */
export function addOlderEvents(older: readonly VmEvent[]): void {
  recentEvents = mergeEvents(recentEvents, older, MAX_EVENTS);
  eventCount.value++;
}

export type Counts = Record<Liveness, number> & { total: number };

function noCounts(): Counts {
  return { live: 0, suspect: 0, stale: 0, paused: 0, stopped: 0, total: 0 };
}

/** The number of VMs by role and state, and of all roles. */
export const counts = computed(() => {
  structure.value;
  const byRole = new Map<string, Counts>(ROLES.map((role) => [role, noCounts()]));
  const all = noCounts();
  for (const { vm, state } of rows.values()) {
    const ofRole = byRole.get(vm.role) ?? noCounts();
    byRole.set(vm.role, ofRole);
    for (const each of [ofRole, all]) {
      each[state]++;
      each.total++;
    }
  }
  return { byRole: [...byRole].filter(([, { total }]) => total > 0), all };
});

export const STATES = LIVENESS;

/** @returns undefined if the session may do what needs this scope, else the reason why not */
export function refusalOf(needed: Scope, vm?: Pick<Vm, 'id' | 'role'>): string | undefined {
  const status = session.value;
  if (!status?.authenticated) return 'you are not logged in';
  if (!mayDo(status.scope, needed)) return `the session has the scope ${status.scope}; this requires ${needed}`;
  if (vm && status.vm !== undefined && status.vm !== vm.id) return `the session is restricted to the VM ${status.vm}`;
  if (vm && status.role !== undefined && status.role !== vm.role)
    return `the session is restricted to the role ${status.role}`;
  return undefined;
}
