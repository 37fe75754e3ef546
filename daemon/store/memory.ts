/** The store's twin without a disk: for tests, and for rules that shall be looked at alone. */
import type { Beat, Change, Contents, Store, StoredVm } from './store.ts';

export class MemoryStore implements Store {
  readonly vms = new Map<string, StoredVm>();
  revision = 0;
  listened = 0;
  readonly registryId = 'memory';
  /** Set it to make every commit fail with it. */
  failure: Error | undefined;

  async commit(change: Change): Promise<void> {
    await Promise.resolve();
    if (this.failure) throw this.failure;
    if (change.kind === 'put') {
      this.vms.set(change.vm.id, { ...change.vm });
      this.revision = change.vm.revision;
    } else {
      this.vms.delete(change.id);
      this.revision = change.revision;
    }
  }

  async saveBeats(beats: readonly Beat[], listened: number): Promise<void> {
    for (const beat of beats) Object.assign(this.vms.get(beat.id) ?? {}, beat);
    this.listened = listened;
  }

  async close(): Promise<void> {}

  contents(): Contents {
    const vms = [...this.vms.values()].sort((a, b) => a.created - b.created);
    return {
      vms: vms.map((vm) => ({ ...vm })),
      revision: this.revision,
      listened: this.listened,
      registryId: this.registryId,
    };
  }
}
