/**
 * Checks an etcd cluster before a registry relies on it: what it cannot run on, and what will hurt later. It changes no key: a
 * transaction whose compare never holds is committed like any other, and writes nothing.
 */
import { get as getPlain } from 'node:http';
import { get as getSecure } from 'node:https';
import { text } from 'node:stream/consumers';
import { formatBytes } from '../../../src/protocol/errors.ts';
import { EtcdClient, isAtLeast } from './etcd-client.ts';
import { EtcdError } from './etcd-error.ts';
import type { EtcdTarget } from './etcd-url.ts';
import { type Compare, type Op, prefixEnd, type StatusResponse } from './messages.ts';

export interface ClusterFinding {
  check: string;
  /** A registry cannot run after a `fail`. `skip`: the check was not possible. */
  result: 'ok' | 'warn' | 'fail' | 'skip';
  detail: string;
  /** The next step after a warning or failure. */
  fix?: string;
}

type Outcome = Omit<ClusterFinding, 'check'>;

/** Oldest version that upstream still fixes. */
const MAINTAINED_VERSION = [3, 5] as const;
/** Maximum acceptable difference between two clocks in seconds. NTP keeps them much closer, and `Date` headers have whole seconds. */
const MAX_SKEW = 5;
/** Milliseconds of a commit at the median. With more, a thousand registrations take a minute. */
const SLOW_COMMIT = 50;
/** Number of commits to measure. */
const COMMITS = 20;
/** Share of the quota above which space may run out before the next compaction. */
const MAX_USED = 0.8;
/** Bytes of quota for a registry with history: 2 GiB is etcd's default and enough for 100,000 VMs. */
const SMALL_QUOTA = 2 ** 31;
/** Revisions without any compaction, after which none is expected any more. */
const MANY_REVISIONS = 5000;
/** Milliseconds until a member fails to answer. */
const TIMEOUT = 5000;

/** The state that the checks share. */
interface Subject {
  target: EtcdTarget;
  client: EtcdClient;
  /** Members that answered, by `host:port`. Undefined if the member tells its status to the user root only. */
  statuses: Map<string, StatusResponse | undefined>;
  now(): number;
}

/** @param now milliseconds since the epoch @throws VregError STORE_UNUSABLE if gRPC is missing or the certificates are wrong */
export async function checkCluster(target: EtcdTarget, now: () => number = Date.now): Promise<ClusterFinding[]> {
  const client = await EtcdClient.open(target);
  try {
    const subject: Subject = { target, client, statuses: new Map(), now };
    const findings: ClusterFinding[] = [];
    for (const { name, run } of CHECKS) {
      const hasFailed = findings.some(({ result }) => result === 'fail');
      findings.push({
        check: name,
        ...(hasFailed ? { result: 'skip' as const, detail: 'an earlier check failed' } : await examine(run, subject)),
      });
    }
    return findings;
  } finally {
    client.close();
  }
}

async function examine(run: Check['run'], subject: Subject): Promise<Outcome> {
  try {
    return await run(subject);
  } catch (error) {
    if (!(error instanceof EtcdError)) throw error;
    const fix = FIXES[error.kind] ?? 'check the URL, the certificates and the health of etcd (etcdctl endpoint health)';
    return { result: 'fail', detail: error.message, fix };
  }
}

const FIXES: Partial<Record<EtcdError['kind'], string>> = {
  denied: 'check --etcd-user and --etcd-password-file, and grant its role the prefix: etcdctl role grant-permission',
  unauthenticated: 'check --etcd-user and --etcd-password-file',
  unsupported: 'use etcd 3.4 or newer; kine and other translations lack transactions with several compares',
  'no-space': 'compact and defragment etcd, then: etcdctl alarm disarm',
};

interface Check {
  name: string;
  run(subject: Subject): Promise<Outcome>;
}

const CHECKS: readonly Check[] = [
  { name: 'members', run: checkMembers },
  { name: 'version', run: checkVersion },
  { name: 'transactions', run: checkTransactions },
  { name: 'alarms', run: checkAlarms },
  { name: 'tls', run: checkTls },
  { name: 'access', run: checkAccess },
  { name: 'compaction', run: checkCompaction },
  { name: 'quota', run: checkQuota },
  { name: 'clock', run: checkClock },
  { name: 'latency', run: checkLatency },
];

async function checkMembers({ target, client, statuses }: Subject): Promise<Outcome> {
  const failures: EtcdError[] = [];
  for (const endpoint of target.endpoints) {
    try {
      statuses.set(endpoint, await client.status(endpoint));
    } catch (error) {
      if (!(error instanceof EtcdError)) throw error;
      if (error.kind === 'denied') statuses.set(endpoint, undefined);
      else failures.push(error);
    }
  }
  if (statuses.size === 0) throw failures[0]!;
  const members = await client.members();
  const answered = `${statuses.size} of ${members.length} members answer`;
  if (failures.length > 0)
    return {
      result: 'warn',
      detail: `${answered}; ${failures[0]!.message}`,
      fix: 'start the member, or correct the URL',
    };
  const leaderless = [...statuses].find(([, status]) => status?.leader === 0n);
  if (leaderless)
    return { result: 'fail', detail: `${leaderless[0]} has no leader`, fix: 'start a majority of the members' };
  if (members.length < 3)
    return {
      result: 'warn',
      detail: `the cluster has ${members.length} ${members.length === 1 ? 'member' : 'members'}: none may fail`,
      fix: 'use three members on three machines',
    };
  if (statuses.size < members.length)
    return {
      result: 'warn',
      detail: `the URL names ${statuses.size} of ${members.length} members`,
      fix: 'name all of them',
    };
  return { result: 'ok', detail: answered };
}

async function checkVersion({ target, statuses }: Subject): Promise<Outcome> {
  const found = new Set<string>();
  for (const [endpoint, status] of statuses) {
    const version = status?.version ?? (await publicVersion(target, endpoint));
    if (version !== undefined) found.add(version);
  }
  const versions = [...found].sort();
  if (versions.length === 0)
    return { result: 'skip', detail: 'etcd tells its version to the user root only, and has no /version here' };
  const detail = versions.join(', ');
  const isOld = versions.some((version) => !isAtLeast(version, MAINTAINED_VERSION));
  if (versions.length > 1)
    return { result: 'warn', detail: `members have different versions: ${detail}`, fix: 'finish the upgrade' };
  if (isOld)
    return { result: 'warn', detail: `${detail} is no longer maintained`, fix: 'upgrade to etcd 3.5 or newer' };
  return { result: 'ok', detail };
}

async function checkTransactions({ client, target }: Subject): Promise<Outcome> {
  await client.checkServer(probeKey(target));
  return { result: 'ok', detail: 'several compares in one transaction work' };
}

async function checkAlarms({ client }: Subject): Promise<Outcome> {
  const alarms = [...new Set((await client.alarms()).map(({ alarm }) => alarm))];
  if (alarms.length === 0) return { result: 'ok', detail: 'no alarm is active' };
  if (alarms.includes('CORRUPT'))
    return { result: 'fail', detail: 'a member has corrupt data', fix: 'replace the member, or restore a backup' };
  return { result: 'fail', detail: 'the database is full: etcd refuses to store anything', fix: FIXES['no-space']! };
}

async function checkTls({ target }: Subject): Promise<Outcome> {
  if (target.tls) return { result: 'ok', detail: 'connections to etcd use TLS' };
  const remote = target.endpoints.filter((endpoint) => !/^(127\.|localhost:|\[::1\])/.test(endpoint));
  if (remote.length === 0) return { result: 'ok', detail: 'connections to etcd stay on this machine' };
  return {
    result: 'warn',
    detail: `connections to ${remote.join(', ')} are not encrypted: anyone on the network can read and change them`,
    fix: 'set up TLS for clients of etcd, and use etcds:// with --etcd-ca',
  };
}

/** Writes with the user of the registry, which must succeed, and reads without it, which must not. */
async function checkAccess(subject: Subject): Promise<Outcome> {
  const { target } = subject;
  await commitNothing(subject);
  const { credentials: _credentials, tls, ...rest } = target;
  const anonymous = await EtcdClient.open({ ...rest, ...(tls ? { tls: tls.ca ? { ca: tls.ca } : {} } : {}) });
  try {
    const { prefix } = target;
    await anonymous.range({ key: prefix, rangeEnd: prefixEnd(prefix), countOnly: true }, { timeoutMs: TIMEOUT });
  } catch (error) {
    if (!(error instanceof EtcdError)) throw error;
    return { result: 'ok', detail: `${target.prefix} requires a user or a certificate` };
  } finally {
    anonymous.close();
  }
  return {
    result: 'warn',
    detail: `anyone who reaches etcd can read and change ${target.prefix}`,
    fix: 'create a user with a role for the prefix and run etcdctl auth enable, or require client certificates',
  };
}

async function checkCompaction(subject: Subject): Promise<Outcome> {
  const { revision, oldest } = await findOldestRevision(subject);
  if (oldest > 1)
    return { result: 'ok', detail: `etcd has the last ${revision - oldest + 1} of ${revision} revisions` };
  if (revision < MANY_REVISIONS)
    return { result: 'skip', detail: `the cluster is at revision ${revision}: no compaction is due` };
  return {
    result: 'warn',
    detail: `etcd has never been compacted in ${revision} revisions, and will run out of space`,
    fix: 'start etcd with --auto-compaction-mode=periodic --auto-compaction-retention=5m',
  };
}

async function checkQuota({ target, statuses }: Subject): Promise<Outcome> {
  const [endpoint, status] = [...statuses].sort(([, a], [, b]) => (b?.dbSize ?? 0) - (a?.dbSize ?? 0))[0]!;
  const metrics = (await fetchFrom(target, endpoint, '/metrics'))?.body ?? '';
  const dbSize = status?.dbSize ?? metricOf(metrics, 'etcd_mvcc_db_total_size_in_bytes');
  const dbSizeInUse = status?.dbSizeInUse ?? metricOf(metrics, 'etcd_mvcc_db_total_size_in_use_in_bytes');
  if (dbSize === undefined || dbSizeInUse === undefined)
    return { result: 'skip', detail: 'etcd tells its size to the user root only, and has no /metrics here' };
  const size = `the database has ${formatBytes(dbSize)}, ${formatBytes(dbSizeInUse)} of them in use`;
  const quota = metricOf(metrics, 'etcd_server_quota_backend_bytes');
  if (quota === undefined)
    return { result: 'skip', detail: `${size}; the quota is unknown, because etcd has no /metrics here` };
  const detail = `${size}; the quota is ${formatBytes(quota)}`;
  if (dbSizeInUse > MAX_USED * quota)
    return { result: 'warn', detail, fix: 'raise --quota-backend-bytes, and check the compaction' };
  if (dbSize > MAX_USED * quota)
    return { result: 'warn', detail, fix: 'return free space: etcdctl defrag, one member after the other' };
  if (quota < SMALL_QUOTA) return { result: 'warn', detail, fix: 'raise --quota-backend-bytes to 4 GiB' };
  return { result: 'ok', detail };
}

async function checkClock({ target, statuses, now }: Subject): Promise<Outcome> {
  let worst: { endpoint: string; skew: number } | undefined;
  for (const endpoint of statuses.keys()) {
    const answer = await fetchFrom(target, endpoint, '/version');
    if (answer?.date === undefined) continue;
    const skew = (now() - answer.date) / 1000;
    if (!worst || Math.abs(skew) > Math.abs(worst.skew)) worst = { endpoint, skew };
  }
  if (!worst) return { result: 'skip', detail: 'no member has sent its time' };
  if (Math.abs(worst.skew) <= MAX_SKEW) return { result: 'ok', detail: 'the members are in sync with this machine' };
  const direction = worst.skew > 0 ? 'ahead of' : 'behind';
  return {
    result: 'warn',
    detail: `this machine is ${Math.round(Math.abs(worst.skew))}s ${direction} ${worst.endpoint}`,
    fix: 'enable NTP on both machines: timedatectl set-ntp true',
  };
}

async function checkLatency(subject: Subject): Promise<Outcome> {
  const times: number[] = [];
  for (let commit = 0; commit < COMMITS; commit++) {
    const startedAt = performance.now();
    await commitNothing(subject);
    times.push(performance.now() - startedAt);
  }
  times.sort((a, b) => a - b);
  const median = times[COMMITS / 2]!;
  const detail = `a commit takes ${median.toFixed(1)} ms, the slowest of ${COMMITS} took ${times.at(-1)!.toFixed(1)} ms`;
  if (median <= SLOW_COMMIT) return { result: 'ok', detail };
  return { result: 'warn', detail, fix: 'give etcd faster disks, and members that are close to each other' };
}

/** Finds the oldest revision that can be read, which is 1 before the first compaction, by bisection. */
async function findOldestRevision({ client, target }: Subject): Promise<{ revision: number; oldest: number }> {
  const key = probeKey(target);
  const { revision } = (await client.range({ key, countOnly: true })).header;
  const isReadable = (at: number) =>
    client.range({ key, revision: at, countOnly: true }).then(
      () => true,
      (error: EtcdError) => {
        if (error.kind === 'compacted') return false;
        throw error;
      },
    );
  let [compacted, readable] = [0, revision];
  if (await isReadable(1)) readable = 1;
  while (readable - compacted > 1) {
    const middle = Math.floor((readable + compacted) / 2);
    if (await isReadable(middle)) readable = middle;
    else compacted = middle;
  }
  return { revision, oldest: readable };
}

/** A key that no registry uses. */
function probeKey({ prefix }: EtcdTarget): string {
  return `${prefix}check`;
}

/** A transaction that requires the permission to write, is replicated and synced, and writes nothing: no key has version -1. */
async function commitNothing({ client, target }: Subject): Promise<void> {
  const key = probeKey(target);
  const never: Compare[] = [{ key, version: 0, result: '<' }];
  const put: Op[] = [{ type: 'put', key, value: '' }];
  await client.txn(never, put, [{ type: 'range', key, countOnly: true }]);
}

/** The version that a member tells everyone; undefined if it has no HTTP at this port. */
async function publicVersion(target: EtcdTarget, endpoint: string): Promise<string | undefined> {
  const { body = '' } = (await fetchFrom(target, endpoint, '/version')) ?? {};
  return /"etcdserver":"([^"]+)"/.exec(body)?.[1];
}

/** The value of a metric without labels; undefined unless it is positive. */
function metricOf(metrics: string, name: string): number | undefined {
  const value = Number(new RegExp(`^${name} (\\S+)`, 'm').exec(metrics)?.[1]);
  return value > 0 ? value : undefined;
}

/** @returns the body, and the time of the member in milliseconds since the epoch; undefined if it does not answer */
async function fetchFrom(
  { tls }: EtcdTarget,
  endpoint: string,
  path: string,
): Promise<{ body: string; date: number | undefined } | undefined> {
  return new Promise((resolve) => {
    const options = { timeout: TIMEOUT, ...tls };
    const get = tls ? getSecure : getPlain;
    const request = get(`${tls ? 'https' : 'http'}://${endpoint}${path}`, options, (response) => {
      const date = Date.parse(response.headers.date ?? '');
      text(response).then(
        (body) =>
          resolve({ body: response.statusCode === 200 ? body : '', date: Number.isNaN(date) ? undefined : date }),
        () => resolve(undefined),
      );
    });
    request.on('timeout', () => request.destroy());
    request.on('error', () => resolve(undefined));
  });
}
