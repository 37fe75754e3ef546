import assert from 'node:assert/strict';
import { chmodSync, existsSync, mkdirSync, readdirSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { MarkFile, openDataDir, readMark } from '../../../daemon/store/data-dir.ts';
import { tempDir } from '../../helpers/daemon.ts';

const MARK = { registryId: 'a'.repeat(32), revision: 7 };

test('a data dir is made with its parents, for its owner alone', (t) => {
  const path = join(tempDir(t), 'a', 'b');
  const dir = openDataDir(path);
  assert.equal(statSync(path).mode & 0o777, 0o700);
  assert.equal(dir.database, join(path, 'registry.db'));
});

test('a data dir that cannot be made is an error that says which and what to do', (t) => {
  const file = join(tempDir(t), 'file');
  writeFileSync(file, '');
  for (const path of [file, join(file, 'below')]) {
    assert.throws(() => openDataDir(path), { code: 'STORE_UNUSABLE', message: new RegExp(path), hint: /--data-dir/ });
  }
});

const root = process.getuid?.() === 0;
test('a data dir without permission is an error that says which and what to do', {
  skip: root && 'root may write everywhere',
}, (t) => {
  const path = join(tempDir(t), 'data');
  mkdirSync(path);
  chmodSync(path, 0o500);
  assert.throws(() => openDataDir(path), { code: 'STORE_UNUSABLE', message: /EACCES/, hint: /may write/ });
});

test('the mark says what was last written, and no file is no mark', (t) => {
  const dir = openDataDir(tempDir(t));
  assert.equal(readMark(dir), undefined);
  const file = new MarkFile(dir, MARK);
  t.after(() => file.close());
  assert.deepEqual(readMark(dir), MARK);
  file.advance({ ...MARK, revision: 123_456_789 });
  assert.deepEqual(readMark(dir), { ...MARK, revision: 123_456_789 });
  file.advance({ ...MARK, revision: 8 });
  assert.deepEqual(readMark(dir), { ...MARK, revision: 8 }, 'nothing of a longer one is left');
  assert.deepEqual(readdirSync(dir.path), ['registry.mark']);
  assert.equal(statSync(dir.mark).mode & 0o777, 0o600);
  assert.equal(statSync(dir.mark).size, 128);
});

test('a half-made mark of a start that was killed is no mark', (t) => {
  const dir = openDataDir(tempDir(t));
  writeFileSync(`${dir.mark}.new`, '');
  assert.equal(readMark(dir), undefined);
  const file = new MarkFile(dir, MARK);
  t.after(() => file.close());
  assert.deepEqual(readMark(dir), MARK);
});

test('a mark that is no mark is damage', (t) => {
  const dir = openDataDir(tempDir(t));
  for (const text of [
    '',
    'x',
    'null',
    '[]',
    '{}',
    '{"registryId":"a","revision":"1"}',
    '{"registryId":1,"revision":1}',
  ]) {
    writeFileSync(dir.mark, text);
    assert.throws(() => readMark(dir), { code: 'STORE_DAMAGED', message: /registry\.mark is damaged/ }, text);
  }
});

test('a start on a disk without room for the mark fails', {
  skip: !existsSync('/dev/full') && 'needs /dev/full',
}, (t) => {
  const dir = openDataDir(tempDir(t));
  symlinkSync('/dev/full', dir.mark);
  assert.throws(() => new MarkFile(dir, MARK), { code: 'ENOSPC' });
});

test('a mark that cannot be moved fails no change that is durable already', (t) => {
  const dir = openDataDir(tempDir(t));
  const file = new MarkFile(dir, MARK);
  file.close();
  file.advance({ ...MARK, revision: 8 });
  assert.deepEqual(readMark(dir), MARK);
});
