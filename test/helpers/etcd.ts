/**
 * Runs real etcd clusters on loopback ports, in a temporary folder, and injects faults: killed, stopped and restarted members,
 * and connections that are cut.
 */
import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, readFileSync, rmSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { promisify } from 'node:util';
import { endAfter, tempDir } from './daemon.ts';
import { freeze } from './freeze.ts';
import { unless } from './tools.ts';

/** Below the ephemeral ports of Linux (32768 to 60999), in which a connection may take the port of a restarting member. */
const FIRST_PORT = 20_000;
const LAST_PORT = 32_767;
/** Oldest version that the store supports. */
const OLDEST_VERSION = '3.4';
/** Milliseconds in which a cluster elects its first leader, on a busy machine. */
const START_TIMEOUT = 60_000;

/** etcdctl would take flags from other variables. */
const ENV: NodeJS.ProcessEnv = { PATH: process.env.PATH, ETCDCTL_API: '3' };

const exec = promisify(execFile);

/** The `skip` option of a test that needs etcd and etcdctl of a supported version. */
export function unlessEtcd(): { skip: string | false } {
  const missing = unless('etcd', 'etcdctl');
  if (missing.skip) return missing;
  const version = /etcd Version: (\d+)\.(\d+)/.exec(
    spawnSync('etcd', ['--version'], { encoding: 'utf8' }).stdout ?? '',
  );
  const [, major, minor] = version ?? [];
  const isSupported = Number(major) > 3 || (Number(major) === 3 && Number(minor) >= 4);
  if (isSupported || process.env.CI) return { skip: false };
  return { skip: `needs etcd ${OLDEST_VERSION} or newer; found ${version?.[0] ?? 'none'}` };
}

export interface ClusterOptions {
  /** Number of members. */
  members?: number;
  /** More flags of each member, such as `--quota-backend-bytes=16777216`. */
  flags?: readonly string[];
  /** Serves clients over TLS, and requires certificates of this authority. All are paths of PEM files. */
  tls?: { ca: string; cert: string; key: string };
}

export interface EtcdMember {
  readonly name: string;
  /** `host:port` for clients. */
  readonly endpoint: string;
  readonly pid: number;
  /** Sends SIGKILL and waits until the process has gone. */
  kill(): Promise<void>;
  /** SIGSTOP: the kernel still accepts connections for it. */
  freeze(): void;
  thaw(): void;
  /** Starts it again with the same data, if it was killed. */
  restart(): Promise<void>;
  /** Its log so far. */
  log(): string;
}

export interface Cluster {
  readonly members: readonly EtcdMember[];
  readonly endpoints: readonly string[];
  /** `etcd://` or `etcds://` with all members and the prefix `/vreg/v1/`. */
  readonly url: string;
  /** Waits until a majority has a leader. */
  ready(): Promise<void>;
  leader(): Promise<EtcdMember>;
  /** The members that are not the leader. */
  followers(): Promise<EtcdMember[]>;
  /** Runs etcdctl. @returns its stdout @throws if it fails */
  etcdctl(...args: string[]): Promise<string>;
  /** Saves a snapshot of the first member. @returns its path */
  snapshot(): Promise<string>;
  /** Kills all members, restores a snapshot on each, and starts them again. */
  restore(snapshot: string): Promise<void>;
  stop(): Promise<void>;
}

/** Starts a cluster, waits for its leader, and stops it when the test ends. */
export async function startCluster(t: TestContext, options: ClusterOptions = {}): Promise<Cluster> {
  for (;;) {
    const cluster = await makeCluster(t, options);
    try {
      if (cluster.members.some(({ pid }) => pid === 0))
        throw new Error(`a member of etcd has ended:\n${lastLines(cluster)}`);
      await cluster.ready();
      return cluster;
    } catch (error) {
      const isPortTaken = cluster.members.some((member) => member.log().includes('address already in use'));
      await cluster.stop();
      if (!isPortTaken) throw error;
    }
  }
}

async function makeCluster(t: TestContext, { members: size = 3, flags = [], tls }: ClusterOptions): Promise<Cluster> {
  const root = tempDir(t);
  const ports = await freePorts(2 * size);
  const scheme = tls ? 'https' : 'http';
  const peers = Array.from({ length: size }, (_, index) => `http://127.0.0.1:${ports[2 * index + 1]}`);
  const initial = peers.map((url, index) => `m${index}=${url}`).join(',');
  const members = peers.map((peer, index) => {
    const endpoint = `127.0.0.1:${ports[2 * index]}`;
    const files = tls
      ? ['--client-cert-auth', '--trusted-ca-file', tls.ca, '--cert-file', tls.cert, '--key-file', tls.key]
      : [];
    return makeMember(root, `m${index}`, endpoint, [
      `--listen-client-urls=${scheme}://${endpoint}`,
      `--advertise-client-urls=${scheme}://${endpoint}`,
      `--listen-peer-urls=${peer}`,
      `--initial-advertise-peer-urls=${peer}`,
      `--initial-cluster=${initial}`,
      `--initial-cluster-token=${root}`,
      ...files,
      ...flags,
    ]);
  });
  const endpoints = members.map(({ endpoint }) => endpoint);
  const etcdctl = async (...args: string[]): Promise<string> => {
    const files = tls ? ['--cacert', tls.ca, '--cert', tls.cert, '--key', tls.key] : [];
    const urls = endpoints.map((endpoint) => `${scheme}://${endpoint}`).join(',');
    const { stdout } = await exec('etcdctl', ['--endpoints', urls, ...files, ...args], {
      env: ENV,
      maxBuffer: 64 << 20,
    });
    return stdout;
  };
  const stop = async (): Promise<void> => {
    await Promise.all(members.map((member) => member.kill()));
  };
  endAfter(t, stop);
  /** Ids have 64 bits, so they are compared as text. */
  const findLeader = async (): Promise<EtcdMember | undefined> => {
    for (const member of members) {
      const url = `${scheme}://${member.endpoint}`;
      const files = tls ? ['--cacert', tls.ca, '--cert', tls.cert, '--key', tls.key] : [];
      const args = ['--endpoints', url, '--command-timeout=1s', ...files, 'endpoint', 'status', '-w', 'json'];
      const { stdout } = await exec('etcdctl', args, { env: ENV }).catch(() => ({ stdout: '' }));
      const [, id] = /"member_id":(\d+)/.exec(stdout) ?? [];
      const [, leader] = /"leader":(\d+)/.exec(stdout) ?? [];
      if (id !== undefined && id === leader) return member;
    }
    return undefined;
  };
  const leader = async (): Promise<EtcdMember> => {
    const end = Date.now() + START_TIMEOUT;
    for (;;) {
      const found = await findLeader();
      if (found) return found;
      if (Date.now() > end) throw new Error(`etcd has no leader:\n${lastLines({ members })}`);
    }
  };
  for (const member of members) await member.restart();
  let snapshots = 0;
  return {
    async snapshot() {
      const file = join(root, `snapshot-${++snapshots}`);
      const url = `${scheme}://${endpoints[0]}`;
      await exec('etcdctl', ['--endpoints', url, 'snapshot', 'save', file], { env: ENV });
      return file;
    },
    async restore(snapshot) {
      await stop();
      for (const [index, { name }] of members.entries()) {
        rmSync(join(root, name), { recursive: true });
        const to = ['--name', name, '--data-dir', join(root, name), '--initial-advertise-peer-urls', peers[index]!];
        const cluster = ['--initial-cluster', initial, '--initial-cluster-token', root];
        await exec('etcdctl', ['snapshot', 'restore', snapshot, ...to, ...cluster], { env: ENV });
      }
      for (const member of members) await member.restart();
      await leader();
    },
    members,
    endpoints,
    url: `etcd${tls ? 's' : ''}://${endpoints.join(',')}/vreg/v1/`,
    async ready() {
      await leader();
    },
    leader,
    async followers() {
      const first = await leader();
      return members.filter((member) => member !== first);
    },
    etcdctl,
    stop,
  };
}

/** The last lines of the logs, for error messages. */
function lastLines({ members }: Pick<Cluster, 'members'>): string {
  return members.map((member) => `${member.name}:\n${member.log().split('\n').slice(-6).join('\n')}`).join('\n');
}

function makeMember(root: string, name: string, endpoint: string, flags: readonly string[]): EtcdMember {
  const logFile = join(root, `${name}.log`);
  appendFileSync(logFile, '');
  let child: ChildProcess | undefined;
  const member: EtcdMember = {
    name,
    endpoint,
    get pid() {
      return child?.pid ?? 0;
    },
    async restart() {
      if (child) return;
      const started = spawn('etcd', ['--name', name, '--data-dir', join(root, name), '--logger=zap', ...flags], {
        env: { PATH: process.env.PATH, ETCD_UNSUPPORTED_ARCH: process.arch },
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      child = started;
      started.stderr.on('data', (data: Buffer) => appendFileSync(logFile, data));
      started.once('exit', () => {
        if (child === started) child = undefined;
      });
      await Promise.race([isListening(endpoint, () => child === started), once(started, 'exit')]);
    },
    async kill() {
      const running = child;
      if (!running) return;
      const gone = once(running, 'exit');
      running.kill('SIGKILL');
      await gone;
    },
    freeze() {
      if (child) freeze(child);
    },
    thaw() {
      child?.kill('SIGCONT');
    },
    log: () => readFileSync(logFile, 'utf8'),
  };
  return member;
}

/** Waits until the port accepts connections. A member of a new cluster listens only after the first election. */
async function isListening(endpoint: string, isRunning: () => boolean): Promise<void> {
  const end = Date.now() + 200;
  while (isRunning() && Date.now() < end) {
    if (await canConnect(endpoint)) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

function canConnect(endpoint: string): Promise<boolean> {
  const [host, port] = endpoint.split(':') as [string, string];
  return new Promise((resolve) => {
    const socket = connect(Number(port), host);
    socket.once('connect', () => resolve(true));
    socket.once('error', () => resolve(false));
    socket.once('connect', () => socket.destroy());
  });
}

/** Finds free ports of the range, from a random one on, so that concurrent tests rarely choose the same. */
export async function freePorts(count: number): Promise<number[]> {
  const found: number[] = [];
  const size = LAST_PORT - FIRST_PORT;
  for (let port = Math.floor(Math.random() * size); found.length < count; port = (port + 1) % size)
    if (await isFree(FIRST_PORT + port)) found.push(FIRST_PORT + port);
  return found;
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}

/** Adds root, and the user `vreg` who may only use the prefix, and turns authentication on. @param password undefined for a client certificate only */
export async function enableUsers({ etcdctl }: Cluster, prefix: string, password: string | undefined): Promise<void> {
  await etcdctl('user', 'add', 'root:root');
  await etcdctl('user', 'grant-role', 'root', 'root');
  await etcdctl('role', 'add', 'vreg');
  await etcdctl('role', 'grant-permission', '--prefix=true', 'vreg', 'readwrite', prefix);
  if (password === undefined) await etcdctl('user', 'add', 'vreg', '--no-password');
  else await etcdctl('user', 'add', `vreg:${password}`);
  await etcdctl('user', 'grant-role', 'vreg', 'vreg');
  await etcdctl('auth', 'enable');
}

export interface CutProxy {
  /** `host:port` that forwards to the member. */
  readonly endpoint: string;
  /** Number of connections so far. */
  readonly connections: number;
  /** Resets all connections. */
  cut(): void;
  /** Resets the connections as soon as they have forwarded that many more bytes from the member. */
  cutAfter(bytes: number): void;
  /** Forwards nothing from the member until `release()`, as a network that loses packets. */
  hold(): void;
  release(): void;
}

/** Starts a TCP proxy to a member. It is closed when the test ends. */
export async function cutProxy(t: TestContext, target: string, listenOn: string = '127.0.0.1'): Promise<CutProxy> {
  const [host, port] = target.split(':') as [string, string];
  const pairs = new Set<[Socket, Socket]>();
  let connections = 0;
  let bytesLeft = Number.POSITIVE_INFINITY;
  let isHeld = false;
  const cut = (): void => {
    for (const pair of pairs) for (const socket of pair) socket.resetAndDestroy();
  };
  const server = createServer((client) => {
    connections++;
    const member = connect(Number(port), host);
    const pair: [Socket, Socket] = [client, member];
    pairs.add(pair);
    if (isHeld) member.pause();
    for (const socket of pair) {
      socket.on('error', () => {});
      socket.once('close', () => {
        pairs.delete(pair);
        for (const other of pair) other.destroy();
      });
    }
    client.on('data', (data) => member.write(data));
    member.on('data', (data) => {
      client.write(data);
      bytesLeft -= data.length;
      if (bytesLeft > 0) return;
      bytesLeft = Number.POSITIVE_INFINITY;
      cut();
    });
  });
  await new Promise<void>((resolve) => server.listen(0, listenOn, resolve));
  endAfter(t, async () => {
    cut();
    server.close();
  });
  return {
    endpoint: `127.0.0.1:${(server.address() as AddressInfo).port}`,
    get connections() {
      return connections;
    },
    cut,
    cutAfter(bytes) {
      bytesLeft = bytes;
    },
    hold() {
      isHeld = true;
      for (const [, member] of pairs) member.pause();
    },
    release() {
      isHeld = false;
      for (const [, member] of pairs) member.resume();
    },
  };
}
