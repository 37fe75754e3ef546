/** A restore into a data dir that is not as a clean stop leaves it. */
import assert from 'node:assert/strict';
import { copyFileSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { restore } from '../../daemon/restore.ts';
import { openDataDir } from '../../daemon/store/data-dir.ts';
import { tempDir } from '../helpers/daemon.ts';
import { assertRefused, idsOf } from '../helpers/damage.ts';
import { openDir, putOf, readStore } from '../helpers/store.ts';

let root: string;
let backup: string;
before(async () => {
  root = mkdtempSync(join(tmpdir(), 'vreg-test-'));
  backup = join(root, 'backup.db');
  const { store } = await openDir(join(root, 'data'));
  await store.commit(putOf({ id: 'a', revision: 1 }));
  await store.backup(backup);
  await store.close();
});
after(() => rmSync(root, { recursive: true, force: true }));

/** The journal that a first start leaves which is killed: its database had no page, and is to have none again. */
function emptyingJournal(): Buffer {
  const header = Buffer.alloc(512);
  header.write('d9d505f920a163d7', 'hex');
  header.writeUInt32BE(512, 20);
  header.writeUInt32BE(4096, 24);
  return header;
}

test('a restore beside the journal of a first start that was killed is what the next start finds', async (t) => {
  const dir = openDataDir(tempDir(t));
  writeFileSync(dir.database, '');
  writeFileSync(dir.journal, emptyingJournal());
  const { kept } = await restore(dir.path, backup);
  assert.ok(existsSync(join(kept!, 'registry.db-journal')));
  assert.deepEqual(idsOf(await readStore(dir.path)), ['a']);
});

test('a journal that would empty the database beside it is an error at start, and changes no byte', async (t) => {
  const dir = openDataDir(tempDir(t));
  copyFileSync(backup, dir.database);
  writeFileSync(dir.journal, emptyingJournal());
  await assertRefused(dir.path, /registry\.db-journal is not its own, and would cut it to 0 bytes/);
});
