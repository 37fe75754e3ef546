/** Starts the real daemon on a store that its heap is too small for. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { cleanEnv, ENTRY, PROGRAM, run, startDaemon, tempDir } from '../../helpers/daemon.ts';
import { call } from '../../helpers/http.ts';
import { chain, openStore, putOf } from '../../helpers/store.ts';

/** Makes a home whose data dir has many VMs, each of which takes more than a kilobyte of heap. */
async function homeWith(t: TestContext, count: number): Promise<string> {
  const home = tempDir(t);
  const { store, contents } = await openStore(t, join(home, 'data'));
  const puts = Array.from({ length: count }, (_, n) => putOf({ id: `vm-${n}`, revision: n + 1 }));
  await store.commitAll(chain(puts, contents.positions.at(-1)!.tag), async (items, act) => items.forEach(act));
  await store.close();
  return home;
}

const options = (megabytes: number | string) => ({ NODE_OPTIONS: `--max-old-space-size=${megabytes}` });

test('a store that is far larger than the heap fails the start with the heap that it needs, and starts with it', async (t) => {
  const home = await homeWith(t, 60_000);
  const args = [...ENTRY, 'daemon', '--port', '0', '--data-dir', join(home, 'data')];
  const { code, stderr } = await run(PROGRAM, args, { env: cleanEnv(home, options(40)) });
  assert.equal(code, 1, stderr);
  assert.match(
    stderr,
    /^vreg: the heap \(40 MiB\) is too small for the stored VMs: they need [\d.]+ MiB \(limit 20 MiB\)$/m,
  );
  const [, megabytes] = /^hint: .*NODE_OPTIONS=--max-old-space-size=(\d+)\n$/m.exec(stderr) ?? [];
  const { url } = await startDaemon(t, { home, env: options(megabytes!) });
  assert.equal((await call(url, 'GET', '/registry/vms/vm-59999')).status, 200);
});

test('a store that is slightly larger than the limit on entries is served, with a warning', async (t) => {
  const home = await homeWith(t, 22_000);
  const { url, said } = await startDaemon(t, { home, env: options(40) });
  assert.match(said(), /too small for the stored VMs: .*--max-old-space-size=\d+/);
  assert.equal((await call(url, 'GET', '/registry/vms/vm-21999')).status, 200);
});
