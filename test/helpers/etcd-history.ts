/**
 * Three replicas with concurrent clients, while members are killed and stopped. All operations are recorded, so that the history can
 * be checked.
 */
import assert from 'node:assert/strict';
import type { TestContext } from 'node:test';
import { EtcdError } from '../../daemon/store/etcd/etcd-error.ts';
import { prefixEnd } from '../../daemon/store/etcd/messages.ts';
import type { Write } from '../../daemon/store/etcd/transaction.ts';
import { type Cluster, startCluster } from './etcd.ts';
import { openReplica, PREFIX, type Replica } from './etcd-replica.ts';
import { History, MAX_OPERATIONS, type Operation, type Result } from './linearizability.ts';
import { randomOf } from './random.ts';
import { until } from './until.ts';

/** Keys in use at the same time: few, so that clients collide. */
const KEYS = 12;
const WORKERS_PER_REPLICA = 8;
/** Pause between two faults, and their length, in milliseconds. */
const FAULT_PERIOD = 2500;
const FAULT_LENGTH = 2000;

/** Makes values unique. */
let unique = 0;

export type Execute = (replica: Replica, key: string, operation: Operation, revision: number) => Promise<Result>;

/**
 * The transaction of an operation. A deletion also puts a unique value, as the journal of a registry does: otherwise nobody could
 * tell which of two replicas has deleted a key.
 * @param revision mod revision to which an update or a deletion is bound
 */
function toWrite(key: string, operation: Exclude<Operation, { kind: 'read' }>, revision: number): Write {
  const compares = [operation.kind === 'create' ? { key, createRevision: 0 } : { key, modRevision: revision }];
  const success =
    operation.kind === 'delete'
      ? [
          { type: 'delete' as const, key },
          { type: 'put' as const, key: `${PREFIX}log`, value: `delete ${++unique}` },
        ]
      : [{ type: 'put' as const, key, value: operation.value }];
  return { compares, success };
}

async function readKey({ client }: Replica, key: string): Promise<Result> {
  try {
    const [kv] = (await client.range({ key })).kvs;
    return { value: kv?.value.toString() ?? null };
  } catch {
    return 'unknown';
  }
}

/** As a replica of the registry does. */
export const fenced: Execute = async (replica, key, operation, revision) => {
  if (operation.kind === 'read') return readKey(replica, key);
  try {
    const { applied } = await replica.transactions.commit(toWrite(key, operation, revision));
    return applied ? 'done' : 'refused';
  } catch (error) {
    if (!(error instanceof EtcdError)) throw error;
    return error.kind === 'unknown' ? 'unknown' : 'never';
  }
};

/** Takes each failure for "not executed". */
export const naive: Execute = async (replica, key, operation, revision) => {
  if (operation.kind === 'read') return readKey(replica, key);
  const { compares, success } = toWrite(key, operation, revision);
  for (let attempt = 0; attempt < 5; attempt++) {
    try {
      return (await replica.client.txn(compares, success)).succeeded ? 'done' : 'refused';
    } catch (error) {
      if (!(error instanceof EtcdError)) throw error;
    }
  }
  return 'unknown';
};

interface Run {
  history: History;
  replicas: Replica[];
  cluster: Cluster;
}

/** Runs clients and faults. @param ms milliseconds */
export async function runHistory(t: TestContext, execute: Execute, ms: number): Promise<Run> {
  const random = randomOf(t);
  const cluster = await startCluster(t);
  const replicas: Replica[] = [];
  for (const [index] of cluster.endpoints.entries()) {
    const order = cluster.endpoints.map((_, shift) => cluster.endpoints[(index + shift) % 3]!);
    replicas.push(await openReplica(t, order, `r${index}`));
  }
  const history = new History();
  const end = performance.now() + ms;
  /** Keys are retired before the search for an order would take too long. */
  const used = new Map<number, { generation: number; operations: number }>();
  const work = async (replica: Replica): Promise<void> => {
    while (performance.now() < end) {
      const number = random.below(KEYS);
      const slot = used.get(number) ?? { generation: 0, operations: 0 };
      used.set(number, slot);
      if (++slot.operations >= MAX_OPERATIONS / 2) {
        slot.generation++;
        slot.operations = 0;
      }
      const key = `${PREFIX}vm/${number}-${slot.generation}`;
      const current = replica.view.values.get(key);
      const revision = replica.view.informer.revisionOf(key);
      const value = `v${++unique}`;
      const dice = random.below(100);
      let operation: Operation = { kind: 'create', value };
      if (dice < 25) operation = { kind: 'read' };
      else if (current !== undefined && dice < 60) operation = { kind: 'update', from: current, value };
      else if (current !== undefined && dice < 90) operation = { kind: 'delete', from: current };
      const finish = history.start(key, operation);
      finish(await execute(replica, key, operation, revision));
    }
  };
  const faults = async (): Promise<void> => {
    while (performance.now() + FAULT_PERIOD < end) {
      const member = random.below(2) === 0 ? await cluster.leader() : cluster.members[random.below(3)]!;
      const isKill = random.below(2) === 0;
      if (isKill) await member.kill();
      else member.freeze();
      const over = performance.now() + FAULT_LENGTH;
      await until('the fault is over', () => performance.now() > over);
      if (isKill) await member.restart();
      else member.thaw();
      await cluster.ready();
      const next = performance.now() + FAULT_PERIOD - FAULT_LENGTH;
      await until('the next fault', () => performance.now() > next);
    }
  };
  const workers = replicas.flatMap((replica) => Array.from({ length: WORKERS_PER_REPLICA }, () => work(replica)));
  await Promise.all([...workers, faults()]);
  return { history, replicas, cluster };
}

/** The history is linearizable, each view equals the store, and no event was lost. */
export async function assertLinearizable(t: TestContext, { history, replicas }: Run): Promise<void> {
  t.diagnostic(
    `${history.size} operations, ${history.count('unknown')} with an unknown outcome, ${history.count('never')} not executed`,
  );
  assert.deepEqual(history.violations(), []);
  assert.ok(history.size > 1000);
  const { client } = replicas[0]!;
  for (const { transactions, view } of replicas) {
    await until('the view is current', () =>
      transactions.barrier().then(
        () => true,
        () => false,
      ),
    );
    assert.equal(view.informer.gaps, 0);
  }
  const vms = `${PREFIX}vm/`;
  const { kvs } = await client.range({ key: vms, rangeEnd: prefixEnd(vms) });
  const stored = kvs.map(({ key, value }) => `${key}=${value}`);
  for (const { view } of replicas) {
    const seen = [...view.values].filter(([key]) => key.startsWith(vms)).map(([key, value]) => `${key}=${value}`);
    assert.deepEqual(seen.sort(), stored.sort());
  }
}
