import assert from 'node:assert/strict';
import test from 'node:test';
import { SqliteStore } from '../../../daemon/store/sqlite-store.ts';
import { tempDir } from '../../helpers/daemon.ts';

test('the journal keeps what was changed, and of a large value how large it was', async (t) => {
  const { store } = await SqliteStore.open({ dataDir: tempDir(t), onDeath: (error) => assert.fail(error) });
  const vm = { id: 'a', created: 1, revision: 1, body: '{"id":"a"}', lastSeen: 1, heardAt: 1 };
  const changes = { name: ['one', 'two'], metadata: [null, { x: 'x'.repeat(10_000) }] } as Record<
    string,
    [unknown, unknown]
  >;
  await store.commit({ kind: 'put', vm, revision: 1, note: { type: 'updated', at: 0, by: 'test', changes } });
  const [item] = await store.history('a', 10);
  assert.deepEqual(item?.changes, { name: ['one', 'two'], metadata: [null, '(10008 characters)'] });
  await store.close();
});
