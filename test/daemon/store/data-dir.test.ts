import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs, {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { databaseSize, type Mark, MarkFile, openDataDir, readMark } from '../../../daemon/store/data-dir.ts';
import { crcOf } from '../../../daemon/store/integrity.ts';
import type { VregError } from '../../../src/protocol/errors.ts';
import { tempDir } from '../../helpers/daemon.ts';

const MARK = { registryId: 'a'.repeat(32), revision: 7, saves: 3 };

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
    '{"registryId":"a","revision":1,"saves":"1"}',
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

type Write = (fd: number, bytes: Buffer, from: number, length: number, at: number) => number;

/** A disk of which the next writes are said: how many bytes each takes, where 0 is an error. Without a word it takes all. */
function moodyDisk(t: TestContext): { next: number[] } {
  const disk = { next: [] as number[] };
  const real = fs.writeSync as Write;
  const write: Write = (fd, bytes, from, length, at) => {
    const taken = Math.min(disk.next.shift() ?? length, length);
    if (taken === 0) throw Object.assign(new Error('EIO: i/o error, write'), { code: 'EIO' });
    return real(fd, bytes, from, taken, at);
  };
  const { mock } = t.mock.method(fs, 'writeSync', write);
  syncBuiltinESMExports();
  t.after(() => {
    mock.restore();
    syncBuiltinESMExports();
  });
  return disk;
}

test('a mark that the disk takes in parts is whole, and one that it takes a part of is put back as it was', (t) => {
  const [old, next] = [
    { ...MARK, revision: 1999, saves: 99 },
    { ...MARK, revision: 2000, saves: 100 },
  ];
  const dir = openDataDir(tempDir(t));
  const disk = moodyDisk(t);
  disk.next = [50, 3, 1];
  const file = new MarkFile(dir, old);
  t.after(() => file.close());
  assert.deepEqual(readMark(dir), old);
  for (let taken = 1; taken < 128; taken++) {
    disk.next = [taken, 0];
    file.advance(next);
    assert.deepEqual(readMark(dir), old, `${taken} bytes were taken`);
    disk.next = [taken];
    file.advance(next);
    assert.deepEqual(readMark(dir), next, `${taken} bytes were taken, then the rest`);
    file.advance(old);
  }
});

test('a mark that is half the old one and half the new one is damage, and never says a revision or a save that was none', (t) => {
  const dir = openDataDir(tempDir(t));
  const disk = moodyDisk(t);
  const [old, next] = [
    { ...MARK, revision: 1999, saves: 99 },
    { ...MARK, revision: 2000, saves: 100 },
  ];
  const file = new MarkFile(dir, old);
  t.after(() => file.close());
  let damaged = 0;
  for (let taken = 1; taken < 128; taken++) {
    disk.next = [taken, 0, 0];
    file.advance(next);
    let mark: Mark | undefined;
    try {
      mark = readMark(dir);
    } catch (error) {
      assert.equal((error as VregError).code, 'STORE_DAMAGED');
      damaged++;
    }
    if (mark) assert.deepEqual(mark, mark.revision === 1999 ? old : next, `${taken} bytes were taken`);
    file.advance(old);
    assert.deepEqual(readMark(dir), old);
  }
  assert.ok(damaged > 0);
});

test('a mark of an earlier vreg, which counted no saves and had no checksum, is a mark', (t) => {
  const dir = openDataDir(tempDir(t));
  const { registryId, revision } = MARK;
  for (const crc of [undefined, crcOf([registryId, revision])]) {
    writeFileSync(dir.mark, JSON.stringify({ registryId, revision, crc }));
    assert.deepEqual(readMark(dir), { registryId, revision, saves: 0 });
  }
  writeFileSync(dir.mark, JSON.stringify({ registryId, revision: revision + 1, crc: crcOf([registryId, revision]) }));
  assert.throws(() => readMark(dir), { code: 'STORE_DAMAGED' });
});

test('a mark that cannot be read is named, and is no damage', (t) => {
  const dir = openDataDir(tempDir(t));
  mkdirSync(dir.mark);
  assert.throws(() => readMark(dir), {
    code: 'STORE_UNUSABLE',
    message: /cannot read .*registry\.mark \(EISDIR\)/,
    hint: /may read it/,
  });
});

test('a damaged mark is told with both ways out', (t) => {
  const dir = openDataDir(tempDir(t));
  writeFileSync(dir.mark, 'x');
  assert.throws(() => readMark(dir), { hint: /vreg daemon restore FILE.*rm .*registry\.mark/ });
});

test('a mark that cannot be written at the start is named, and leaves no draft', (t) => {
  const dir = openDataDir(tempDir(t));
  const disk = moodyDisk(t);
  disk.next = [10, 0];
  assert.throws(() => new MarkFile(dir, MARK), { code: 'EIO', path: dir.mark });
  disk.next = [10, 0];
  assert.throws(() => new MarkFile(dir, MARK), { code: 'EIO', path: dir.mark });
  assert.deepEqual(
    readdirSync(dir.path).filter((name) => name !== 'registry.mark'),
    [],
  );
});

test('a database that is a link is refused: its log would lie where nobody looks for it', (t) => {
  const dir = openDataDir(tempDir(t));
  const target = join(dir.path, 'elsewhere.db');
  symlinkSync(target, dir.database);
  const refusal = { code: 'STORE_UNUSABLE', message: /registry\.db: it is no regular file/, hint: /--data-dir/ };
  assert.throws(() => databaseSize(dir), refusal);
  writeFileSync(target, 'x');
  assert.throws(() => databaseSize(dir), refusal);
});

test('a mark that is a pipe is not waited for, and a folder in the place of its draft is named and stays', (t) => {
  const dir = openDataDir(tempDir(t));
  execFileSync('mkfifo', [dir.mark]);
  assert.throws(() => readMark(dir), { code: 'STORE_UNUSABLE', message: /registry\.mark \(it is a pipe\)/ });
  rmSync(dir.mark);
  const draft = `${dir.mark}.new`;
  mkdirSync(draft);
  assert.throws(() => new MarkFile(dir, MARK), { code: 'EISDIR', path: draft });
  assert.ok(existsSync(draft));
});
