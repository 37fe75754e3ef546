import assert from 'node:assert/strict';
import test from 'node:test';
import { checkDatabase } from '../../../daemon/store/check.ts';
import { openDataDir } from '../../../daemon/store/data-dir.ts';
import { StoreBackend } from '../../../daemon/store/worker.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { chain, openStore, putOf, readStore, removalOf } from '../../helpers/store.ts';

test('VMs of all sizes and alphabets, in many batches, are read as they were written', async (t) => {
  const dir = tempDir(t);
  const { store, contents } = await openStore(t, dir);
  const puts = Array.from({ length: 600 }, (_, n) => {
    const pad = (n % 97 === 0 ? '"\\\u0001é\u2028漢😀\ud800' : 'x').repeat(n % 89 === 0 ? 3000 : 1);
    const life = { lastSeen: 1_700_000_000_000 + n, heardAt: n };
    return putOf({ id: `vm "${n}" é`, revision: n + 1, life, more: { metadata: { pad } } });
  });
  const changes = chain([...puts, removalOf('vm "7" é', 601)], contents.positions.at(-1)!.tag);
  await store.commitAll(changes, async (items, act) => items.forEach(act));
  await store.close();
  const { vms } = await readStore(dir);
  const written = changes.flatMap((change) => (change.kind === 'put' && change.revision !== 8 ? [change.vm] : []));
  assert.deepEqual(
    vms.toSorted((a, b) => a.created - b.created),
    written,
  );
});

test('a database that has changed since its check is not opened', async (t) => {
  const dir = openDataDir(tempDir(t));
  await readStore(dir.path);
  const checked = await checkDatabase(dir);
  const { store } = await openStore(t, dir.path);
  await store.commit(putOf({ id: 'a', revision: 1 }));
  await store.close();
  assert.throws(
    () => new StoreBackend(dir).handle({ kind: 'open', checked: checked!.state }),
    /the database has changed since it was checked/,
  );
});
