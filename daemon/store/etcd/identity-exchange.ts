/**
 * Passes the identity of a VM's agent from replica to replica. Its owner is the replica that has accepted the last heartbeat; it
 * writes later ones to etcd only once per minute. A replica that receives a heartbeat of a VM that another one owns asks that
 * replica for the identity first, and becomes its owner by writing the new one over the revision that it knows. If two replicas
 * do so at the same time, one of them fails and decides again.
 */
import type { RecordChange } from '../store.ts';
import { EtcdError } from './etcd-error.ts';
import { type EtcdKeys, encodeValue } from './etcd-keys.ts';
import type { Replicas } from './etcd-view.ts';
import { type OwnWrites, replicaOf } from './own-writes.ts';
import type { RecordWriter } from './record-writer.ts';
import type { Transactions } from './transaction.ts';

/** Milliseconds to wait for the owner: a frozen or dead one does not answer. An agent repeats its heartbeat after seconds. */
const OWNER_TIMEOUT = 500;

export interface IdentityExchangeOptions {
  replica: string;
  keys: EtcdKeys;
  replicas: Replicas;
  transactions: Transactions;
  records: RecordWriter;
  writes: OwnWrites;
}

export class IdentityExchange {
  readonly #options: IdentityExchangeOptions;
  /** The replica that owns the identity of each VM, by the id of the VM. */
  readonly #owners = new Map<string, string>();
  /** Requests of this replica that are not answered, by their keys. */
  readonly #requests = new Map<string, { done: Promise<void>; finish(): void }>();

  constructor(options: IdentityExchangeOptions) {
    this.#options = options;
  }

  owns(vm: string): boolean {
    return this.#owners.get(vm) === this.#options.replica;
  }

  /** An identity has arrived. @param write id of its transaction; undefined if it was removed */
  arrived(vm: string, write: string | undefined): void {
    if (write === undefined) this.#owners.delete(vm);
    else this.#owners.set(vm, replicaOf(write));
  }

  /** Waits until the owner has written what it knows, if it is running. */
  async fetch(vm: string): Promise<void> {
    const owner = this.#owners.get(vm);
    const { replica, replicas, keys } = this.#options;
    if (owner === undefined || owner === replica || !replicas.has(owner)) return;
    const key = keys.request(owner, vm);
    const pending = this.#requests.get(key) ?? this.#send(key);
    await pending.done;
  }

  #send(key: string): { done: Promise<void>; finish(): void } {
    const { transactions, writes, replica } = this.#options;
    let finish = () => {};
    const done = new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, OWNER_TIMEOUT);
      finish = () => {
        clearTimeout(timer);
        resolve();
      };
    }).finally(() => this.#requests.delete(key));
    const request = { done, finish };
    this.#requests.set(key, request);
    const value = encodeValue({ w: writes.next() }, replica);
    transactions.commit({ compares: [], success: [{ type: 'put', key, value }] }).catch(finish);
    return request;
  }

  /** A request was answered, by this or another replica. */
  answered(key: string): void {
    this.#requests.get(key)?.finish();
  }

  /**
   * Answers a request of another replica, which owns the identity from now on. @param identity what this replica knows
   * @param key of the request
   */
  async answer(vm: string, asker: string, identity: RecordChange | undefined, key: string): Promise<void> {
    if (this.owns(vm)) this.#owners.set(vm, asker);
    try {
      await this.#options.records.handOver(identity, key);
    } catch (error) {
      // The other replica waits no longer than a moment.
      if (!(error instanceof EtcdError)) throw error;
    }
  }

  /**
   * Makes this replica the owner, with a new identity.
   * @returns false if another replica was first; its identity has arrived then
   */
  async claim(identity: RecordChange): Promise<boolean> {
    const { records, replica } = this.#options;
    try {
      if (!(await records.claim(identity))) return false;
      this.#owners.set(identity.key, replica);
    } catch (error) {
      if (!(error instanceof EtcdError)) throw error;
      // Heartbeats are accepted while etcd is away. The identity is written later, unless another replica has a newer one.
      records.defer(identity);
    }
    return true;
  }
}
