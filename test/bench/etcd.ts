/**
 * Registrations through replicas on a cluster of three members. The floor is one client of the same cluster that creates the same
 * records with transactions: the cost of etcd alone.
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { EtcdClient } from '../../daemon/store/etcd/etcd-client.ts';
import { parseEtcdUrl } from '../../daemon/store/etcd/etcd-url.ts';
import { PATHS } from '../../src/protocol/api.ts';
import { freePorts } from '../helpers/etcd.ts';
import { killAtExit } from './cleanup.ts';
import { type Contestant, compete, handling } from './compare.ts';
import { nthVm } from './fleet.ts';
import type { Lab } from './lab.ts';
import { requestOf } from './load.ts';
import type { Line, Row } from './row.ts';
import { endProcess } from './servers.ts';

const MEMBERS = 3;
/** Concurrent writers of each contestant, as many as in the measurements of etcd itself. */
const WRITERS = 64;
/** Registrations in a turn: about a second. */
const COUNT = 2000;
/** Milliseconds between two attempts to reach a cluster that starts. */
const POLL = 100;
const ATTEMPTS = 600;

export const ETCD_ROWS: readonly Row[] = [
  { name: 'etcd-1', replicas: 1, goal: '≥ 0.4' },
  { name: 'etcd-3', replicas: 3, goal: '' },
].map(({ name, replicas, goal }) => ({
  name,
  group: 'etcd',
  isPerFleet: false,
  measure: (lab) => measureReplicas(lab, name, replicas, goal),
}));

async function measureReplicas(lab: Lab, name: string, replicas: number, goal: string): Promise<Line[]> {
  if (spawnSync('etcd', ['--version'], { stdio: 'ignore' }).error) {
    process.stderr.write(`${name} is skipped: it needs etcd (apt-get install etcd-server)\n`);
    return [];
  }
  const { endpoints, end } = await startMembers(lab.home);
  const client = await EtcdClient.open(parseEtcdUrl(`etcd://${endpoints.join(',')}/`));
  const store = `etcd://${endpoints.join(',')}/vreg/v1/`;
  const daemons = await Promise.all(
    Array.from({ length: replicas }, () => lab.startDaemon(mkdtempSync(join(lab.home, 'replica-')), 'open', { store })),
  );
  let registered = 0;
  const count = Math.min(COUNT, lab.options.requests);
  const to = () => () => requestOf('POST', PATHS.vms, {}, JSON.stringify(nthVm(registered++)));
  const share = { connections: Math.floor(WRITERS / replicas), count: Math.ceil(count / replicas), to };
  try {
    const through = await Promise.all(daemons.map((daemon) => handling(daemon, share)));
    const contestants = [together(through), creating(client, count)];
    const [vreg, floor] = await compete(contestants, { warmUp: 1, measured: lab.options.turns });
    return [{ name, unit: '1/s', vreg: vreg!.rate, over: 'creates in etcd', floor: floor!.rate, goal }];
  } finally {
    client.close();
    await Promise.all([...daemons.map((daemon) => daemon.end()), end()]);
  }
}

/** All of them at the same time. */
function together(contestants: readonly Contestant[]): Contestant {
  return {
    async turn() {
      const started = performance.now();
      const turns = await Promise.all(contestants.map((contestant) => contestant.turn()));
      const count = turns.reduce((sum, turn) => sum + turn.count, 0);
      return { count, seconds: (performance.now() - started) / 1000 };
    },
    close() {
      for (const contestant of contestants) contestant.close();
    },
  };
}

/** Creates records with one transaction each, as a replica does. */
function creating(client: EtcdClient, count: number): Contestant {
  let created = 0;
  return {
    async turn() {
      const started = performance.now();
      let left = count;
      const create = async (): Promise<void> => {
        while (left-- > 0) {
          const vm = nthVm(created++);
          const key = `/bench/${vm.id}`;
          const put = { type: 'put', key, value: JSON.stringify(vm) } as const;
          const { succeeded } = await client.txn([{ key, createRevision: 0 }], [put]);
          if (!succeeded) throw new Error(`${key} was not created`);
        }
      };
      await Promise.all(Array.from({ length: WRITERS }, create));
      return { count, seconds: (performance.now() - started) / 1000 };
    },
    close() {},
  };
}

async function startMembers(home: string): Promise<{ endpoints: string[]; end(): Promise<unknown> }> {
  const root = mkdtempSync(join(home, 'etcd-'));
  const ports = await freePorts(2 * MEMBERS);
  const urls = ports.map((port) => `http://127.0.0.1:${port}`);
  const peers = urls.slice(MEMBERS);
  const children = peers.map((peer, n) =>
    killAtExit(
      spawn(
        'etcd',
        [
          ...['--name', `m${n}`, '--data-dir', join(root, `m${n}`), '--logger=zap', '--log-level=error'],
          ...[`--listen-client-urls=${urls[n]}`, `--advertise-client-urls=${urls[n]}`],
          ...[`--listen-peer-urls=${peer}`, `--initial-advertise-peer-urls=${peer}`],
          `--initial-cluster=${peers.map((url, index) => `m${index}=${url}`).join(',')}`,
        ],
        { env: { PATH: process.env.PATH, ETCD_UNSUPPORTED_ARCH: process.arch }, stdio: 'ignore' },
      ),
    ),
  );
  const endpoints = ports.slice(0, MEMBERS).map((port) => `127.0.0.1:${port}`);
  const end = () => Promise.all(children.map(endProcess));
  for (let attempt = 1; ; attempt++) {
    try {
      const client = await EtcdClient.open(parseEtcdUrl(`etcd://${endpoints.join(',')}/`));
      await client.range({ key: 'ready' }).finally(() => client.close());
      return { endpoints, end };
    } catch (error) {
      if (attempt < ATTEMPTS && children.every(({ exitCode }) => exitCode === null)) {
        await sleep(POLL);
        continue;
      }
      await end();
      throw error;
    }
  }
}
