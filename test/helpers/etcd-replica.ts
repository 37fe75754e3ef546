/** A replica of the low-level layer: a client, an informer of `/t/s/`, a session and transactions. */
import type { TestContext } from 'node:test';
import { EtcdClient } from '../../daemon/store/etcd/etcd-client.ts';
import { parseEtcdUrl } from '../../daemon/store/etcd/etcd-url.ts';
import { type Batch, Informer } from '../../daemon/store/etcd/informer.ts';
import { ReplicaSession } from '../../daemon/store/etcd/replica-session.ts';
import { Transactions } from '../../daemon/store/etcd/transaction.ts';

/** The prefix of all keys of the tests. */
export const PREFIX = '/t/s/';

export async function openClient(t: TestContext, endpoints: readonly string[]): Promise<EtcdClient> {
  // The first endpoint is the one in use, so that a test decides which member a fault hits.
  const client = await EtcdClient.open(parseEtcdUrl(`etcd://${endpoints.join(',')}/`), { random: () => 0 });
  t.after(() => client.close());
  return client;
}

/** Collects what an informer reports, and applies it to a map, as a store would. */
export class View {
  readonly values = new Map<string, string>();
  readonly batches: Batch[] = [];
  readonly problems: string[] = [];
  readonly informer: Informer;
  /** Events from watches, in order: `put key revision` or `delete key revision`. */
  readonly events: string[] = [];

  constructor(client: EtcdClient, prefix: string = PREFIX) {
    this.informer = new Informer(client, prefix, {
      apply: (batch) => this.#apply(batch),
      onProblem: (text) => this.problems.push(text),
    });
  }

  #apply(batch: Batch): void {
    this.batches.push(batch);
    if (batch.isReset) this.values.clear();
    for (const { type, key, revision, kv } of batch.events) {
      if (kv) this.values.set(key, kv.value.toString());
      else this.values.delete(key);
      if (batch.source === 'watch') this.events.push(`${type} ${key} ${revision}`);
    }
  }
}

/** Starts an informer, and stops it when the test ends. */
export async function startView(t: TestContext, client: EtcdClient, prefix: string = PREFIX): Promise<View> {
  const view = new View(client, prefix);
  t.after(() => view.informer.stop());
  await view.informer.start();
  return view;
}

export interface Replica {
  client: EtcdClient;
  view: View;
  session: ReplicaSession;
  transactions: Transactions;
}

export async function openReplica(
  t: TestContext,
  endpoints: readonly string[],
  name: string = 'r1',
  ttl: number = 30,
): Promise<Replica> {
  const client = await openClient(t, endpoints);
  const view = await startView(t, client);
  const session = new ReplicaSession(client, { key: `${PREFIX}replica/${name}`, ttl, details: { name } });
  t.after(() => session.close());
  await session.open();
  const transactions = new Transactions(client, session, view.informer);
  t.after(() => transactions.close());
  return { client, view, session, transactions };
}
