/**
 * The event-loop delay of the daemon under a mixed load: the heartbeats and discovers of the whole fleet, long answers,
 * registrations, a backup, and subscribers that receive the full state. A request waits for that long before the daemon reads it,
 * so the 99th percentile is that of requests at random moments.
 */
import { setMaxListeners } from 'node:events';
import { get } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { PATHS } from '../../src/protocol/api.ts';
import { type Blocks, waitExceededBy } from './event-loop.ts';
import { idOf, nthVm } from './fleet.ts';
import { heartbeatAll } from './heartbeats.ts';
import { Load, readBody, requestOf } from './load.ts';
import type { Row } from './row.ts';
import type { Daemon, RawServer } from './servers.ts';

/** Subscribers, each of which receives the full state when the load begins. */
const SUBSCRIBERS = 100;
/** Seconds between two heartbeats of a VM, the default of `vreg daemon agent`. Each VM also discovers as often. */
const INTERVAL = 60;
/** Requests per second of each kind for a small fleet. */
const MIN_RATE = 10;
/** Milliseconds of the load for each turn of the other rows. */
const TIME_PER_TURN = 2000;
/** Connections of each kind of request. */
const CONNECTIONS = 16;
/** The number of the first VM that is registered during the load: none of the stored fleet. */
const FIRST = 5_000_000;
/** Bytes of the last event of a chunk: the control events are shorter. */
const TAIL = 1024;
/** Share of requests that may wait longer than the 99th percentile. */
const SLOWEST = 0.01;
/** Aims for the 99th percentile, by size of the fleet. */
const GOALS = [
  { vms: 10_000, goal: '≤ 20 ms' },
  { vms: 100_000, goal: '≤ 50 ms' },
];

interface Kind {
  connections: number;
  /** Requests per second. */
  rate: number;
  request(): Buffer;
}

function kindsOf(vms: number): Kind[] {
  const read = (path: string) => requestOf('GET', path, {});
  const infra = read('/registry/discover/infra');
  const workers = read('/registry/discover/worker');
  const list = read(PATHS.vms);
  const heartbeats = countFrom(0);
  const changes = countFrom(0);
  return [
    {
      connections: CONNECTIONS,
      rate: Math.max(MIN_RATE, vms / INTERVAL),
      request: () => requestOf('POST', `${PATHS.vms}/${idOf(heartbeats() % vms)}/heartbeat`, {}),
    },
    { connections: CONNECTIONS, rate: Math.max(MIN_RATE, vms / INTERVAL), request: () => infra },
    { connections: 1, rate: 1, request: () => workers },
    { connections: 1, rate: 0.2, request: () => list },
    {
      // On one connection, so that each registration is followed by the removal of that VM.
      connections: 1,
      rate: 10,
      request() {
        const change = changes();
        const n = FIRST + Math.floor(change / 2);
        return change % 2 === 0
          ? requestOf('POST', PATHS.vms, {}, JSON.stringify(nthVm(n, 'custom')))
          : requestOf('DELETE', `${PATHS.vms}/${idOf(n)}`, {});
      },
    },
  ];
}

function countFrom(first: number): () => number {
  let next = first;
  return () => next++;
}

export const MIXED_ROWS: readonly Row[] = [
  {
    name: 'event-loop-delay',
    group: 'mixed',
    isPerFleet: true,
    async measure(lab) {
      const daemon = await lab.startDaemon(await lab.copyFleet('mixed'));
      try {
        await heartbeatAll(daemon, lab.vms);
        const time = lab.options.turns * TIME_PER_TURN;
        const [vreg, idle] = await blocksUnderLoad(daemon, await lab.raw('open'), lab.vms, time);
        const goal = GOALS.find(({ vms }) => lab.vms <= vms)?.goal ?? '';
        const line = { unit: 'ms', over: 'an idle server' } as const;
        const p99 = (measured: Blocks) => waitExceededBy(SLOWEST, measured);
        const max = ({ blocks }: Blocks) => Math.max(0, ...blocks);
        return [
          { ...line, name: 'event-loop-delay-p99', vreg: p99(vreg), floor: p99(idle), goal },
          { ...line, name: 'event-loop-delay-max', vreg: max(vreg), floor: max(idle) },
        ];
      } finally {
        await daemon.end();
      }
    },
  },
];

/**
 * @param time milliseconds of the load, which takes longer if the backup or the full state do
 * @param idle a server without load: its delay is that of the machine
 */
async function blocksUnderLoad(daemon: Daemon, idle: RawServer, vms: number, time: number): Promise<[Blocks, Blocks]> {
  const end = new AbortController();
  setMaxListeners(0, end.signal);
  const probes = [daemon.probe, idle.probe] as const;
  await Promise.all(probes.map((probe) => probe.startSampler()));
  try {
    const streams = Array.from({ length: SUBSCRIBERS }, () => subscribe(daemon, end.signal));
    const load = kindsOf(vms).map((kind) => send(daemon, kind, end.signal));
    const once = Promise.all([sleep(time), readBody(daemon, 'GET', PATHS.backup), ...streams]);
    await Promise.race([once, Promise.all(load)]);
    const [vreg, floor] = await Promise.all(probes.map((probe) => probe.stopSampler()));
    end.abort();
    await Promise.all(load);
    return [vreg!, floor!];
  } finally {
    end.abort();
  }
}

/** Sends requests at a constant rate, whether they have been answered or not, as long as a connection is free. */
async function send(daemon: Daemon, { connections, rate, request }: Kind, signal: AbortSignal): Promise<void> {
  const load = await Load.open(daemon, connections);
  const started = performance.now();
  const sent = countFrom(0);
  const next = async () => {
    const due = started + (sent() / rate) * 1000;
    await sleep(Math.max(0, due - performance.now()), undefined, { signal }).catch(() => {});
    return signal.aborted ? undefined : request();
  };
  await load.run({ next }).finally(() => load.close());
}

/** Subscribes to all changes. @returns when it has received the full state */
function subscribe({ url }: Daemon, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const onError = (error: Error) => (signal.aborted ? undefined : reject(error));
    get(`${url}${PATHS.events}?since=start`, { agent: false, signal }, (response) => {
      let tail = '';
      response
        .on('data', (chunk: Buffer) => {
          tail = (tail + chunk.toString('latin1', Math.max(0, chunk.length - TAIL))).slice(-TAIL);
          if (tail.includes('event: synced')) resolve();
          else if (tail.includes('event: lagged')) reject(new Error('a subscriber was disconnected because it lagged'));
        })
        .on('error', onError)
        .on('end', () => reject(new Error('a subscription ended')));
    }).on('error', onError);
  });
}
