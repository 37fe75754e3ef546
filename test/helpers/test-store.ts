/**
 * The store of the suites that run on both engines: in memory, or in etcd if VREG_TEST_STORE has the endpoint of a member
 * (`test/etcd/both-stores.test.ts` sets it). Each registry has a prefix of its own there, so that one server serves all tests.
 */
import { randomUUID } from 'node:crypto';
import { after } from 'node:test';
import { MemoryStore } from './memory-store.ts';

/** `host:port` of the etcd server of this run; undefined if the suites run with the embedded store. */
export const TEST_ETCD = process.env.VREG_TEST_STORE;

/** The URL of a registry on the etcd server of this run. @param name unique to the registry */
export function testStoreUrl(name: string): string {
  return `etcd://${TEST_ETCD}/test/${name}/`;
}

/** The `skip` option of a test of a suite that runs on both engines. @param reason why etcd differs */
export function embeddedOnly(reason: string): { skip: string | false } {
  return { skip: TEST_ETCD === undefined ? false : `the embedded store only: ${reason}` };
}

const opened: MemoryStore[] = [];
if (TEST_ETCD !== undefined) after(() => Promise.all(opened.map((store) => store.close())));

/**
 * Opens the store of a new registry, and closes it at the end of the file unless the test does.
 * @param now the wall clock of the registry, in milliseconds since the epoch
 */
export async function openTestStore(now: () => number): Promise<MemoryStore> {
  if (TEST_ETCD === undefined) return new MemoryStore();
  const { EtcdTestStore } = await import('./etcd-test-store.ts');
  const store = await EtcdTestStore.open(testStoreUrl(randomUUID()), now);
  opened.push(store);
  return store;
}

/** Opens the store of a registry again, as a restart does, which must have written what is pending. @returns the store to use from now on */
export async function reopen(store: MemoryStore): Promise<MemoryStore> {
  const again = await store.reopen();
  if (again !== store) opened.push(again);
  return again;
}
