import { setImmediate } from 'node:timers/promises';
import type { Change, RecordChange, StoredHeartbeat } from '../../daemon/store/store.ts';
import type { Position } from '../../src/protocol/position.ts';
import { MemoryStore } from './memory-store.ts';

interface Waiting {
  save(): Promise<void>;
  resolve(): void;
  reject(error: Error): void;
}

/** A slow disk: commits wait until the test releases them or makes them fail. */
export class GatedStore extends MemoryStore {
  readonly #waiting: Waiting[] = [];
  /** If set, commits are not accepted and throw it. */
  refusal: Error | undefined;
  /** If set, saves of heartbeats fail with it. */
  heartbeatsFailure: Error | undefined;

  get waiting(): number {
    return this.#waiting.length;
  }

  override commit(change: Change): Promise<Position> {
    const committed = this.#wait(() => super.commitAll([change]));
    return committed.then(() => change);
  }

  override commitAll(changes: readonly Change[]): Promise<void> {
    return this.#wait(() => super.commitAll(changes));
  }

  #wait(save: () => Promise<void>): Promise<void> {
    if (this.refusal) throw this.refusal;
    return new Promise((resolve, reject) => this.#waiting.push({ save, resolve, reject }));
  }

  override async saveHeartbeats(
    heartbeats: Iterable<StoredHeartbeat>,
    listened: number,
    records?: readonly RecordChange[],
  ): Promise<void> {
    if (this.heartbeatsFailure) throw this.heartbeatsFailure;
    await super.saveHeartbeats(heartbeats, listened, records);
  }

  /** Makes the first waiting commits durable. */
  async release(count = this.#waiting.length): Promise<void> {
    for (const { save, resolve } of this.#waiting.splice(0, count)) {
      await save();
      resolve();
    }
  }

  /** Makes changes durable until the work, which waits for some of them, is done. */
  async settle<T>(work: Promise<T>): Promise<T> {
    let isDone = false;
    const done = () => (isDone = true);
    void work.then(done, done);
    while (!isDone) {
      await this.release();
      await setImmediate();
    }
    return work;
  }

  /** Fails all waiting commits, as a store does if one transaction fails. */
  fail(error: Error): void {
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }
}
