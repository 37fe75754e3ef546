import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs, {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import {
  databaseSize,
  type HighWaterMark,
  HighWaterMarkFile,
  openDataDir,
  readHighWaterMark,
} from '../../../daemon/store/data-dir.ts';
import { crcOf, DamageError, OlderError } from '../../../daemon/store/integrity.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { readStore } from '../../helpers/store.ts';

const MARK = { registryId: 'a'.repeat(32), revision: 7, saves: 3 };

const encode = (mark: object) => JSON.stringify(mark);

test('a data dir is created with its parents, for its owner only', (t) => {
  const path = join(tempDir(t), 'a', 'b');
  const dir = openDataDir(path);
  assert.equal(statSync(path).mode & 0o777, 0o700);
  assert.equal(dir.database, join(path, 'registry.db'));
});

test('a data dir that cannot be created is an error with its path and a hint', (t) => {
  const file = join(tempDir(t), 'file');
  writeFileSync(file, '');
  for (const path of [file, join(file, 'below')]) {
    assert.throws(() => openDataDir(path), { code: 'STORE_UNUSABLE', message: new RegExp(path), hint: /--data-dir/ });
  }
});

const root = process.getuid?.() === 0;
test('a data dir without permission is an error with its path and a hint', {
  skip: root && 'root may write everywhere',
}, (t) => {
  const path = join(tempDir(t), 'data');
  mkdirSync(path);
  chmodSync(path, 0o500);
  assert.throws(() => openDataDir(path), { code: 'STORE_UNUSABLE', message: /EACCES/, hint: /may write/ });
});

test('the mark contains the last written values, and a missing file means no mark', (t) => {
  const dir = openDataDir(tempDir(t));
  assert.equal(readHighWaterMark(dir), undefined);
  const file = new HighWaterMarkFile(dir, MARK);
  t.after(() => file.close());
  assert.deepEqual(readHighWaterMark(dir), MARK);
  file.advance({ ...MARK, revision: 123_456_789 });
  assert.deepEqual(readHighWaterMark(dir), { ...MARK, revision: 123_456_789 });
  file.advance({ ...MARK, revision: 8 });
  assert.deepEqual(readHighWaterMark(dir), { ...MARK, revision: 8 }, 'nothing of a longer mark remains');
  assert.deepEqual(readdirSync(dir.path), ['registry.mark']);
  assert.equal(statSync(dir.mark).mode & 0o777, 0o600);
  assert.equal(statSync(dir.mark).size, 128);
});

test('the draft of a mark that a killed start left behind is ignored', (t) => {
  const dir = openDataDir(tempDir(t));
  writeFileSync(`${dir.mark}.new`, '');
  assert.equal(readHighWaterMark(dir), undefined);
  const file = new HighWaterMarkFile(dir, MARK);
  t.after(() => file.close());
  assert.deepEqual(readHighWaterMark(dir), MARK);
});

test('a file that is not a mark is damaged', (t) => {
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
    encode({ ...MARK, crc: crcOf([MARK.registryId, 8, 3]) }),
    encode({ ...MARK, crc: crcOf(Object.values(MARK)), other: 1 }),
  ]) {
    writeFileSync(dir.mark, text);
    assert.throws(
      () => readHighWaterMark(dir),
      (error) => error instanceof DamageError && error.path === dir.mark,
      text,
    );
  }
});

test('a start fails if the disk has no space for the mark', {
  skip: !existsSync('/dev/full') && 'needs /dev/full',
}, (t) => {
  const dir = openDataDir(tempDir(t));
  symlinkSync('/dev/full', dir.mark);
  assert.throws(() => new HighWaterMarkFile(dir, MARK), { code: 'ENOSPC' });
});

test('a mark that cannot be advanced does not fail a change that is already durable', (t) => {
  const dir = openDataDir(tempDir(t));
  const file = new HighWaterMarkFile(dir, MARK);
  file.close();
  file.advance({ ...MARK, revision: 8 });
  assert.deepEqual(readHighWaterMark(dir), MARK);
});

type Write = (fd: number, bytes: Buffer, from: number, length: number, at: number) => number;

/** Makes the disk accept only part of a write. `next` has the number of bytes for each of the next writes; 0 is an error. */
function limitWrites(t: TestContext): { next: number[] } {
  const disk = { next: [] as number[] };
  const real = fs.writeSync as Write;
  const write: Write = (fd, bytes, from, length, at) => {
    const accepted = Math.min(disk.next.shift() ?? length, length);
    if (accepted === 0) throw Object.assign(new Error('EIO: i/o error, write'), { code: 'EIO' });
    return real(fd, bytes, from, accepted, at);
  };
  const { mock } = t.mock.method(fs, 'writeSync', write);
  syncBuiltinESMExports();
  t.after(() => {
    mock.restore();
    syncBuiltinESMExports();
  });
  return disk;
}

test('a mark is complete after partial writes, and keeps its old contents if a write fails halfway', (t) => {
  const [old, next] = [
    { ...MARK, revision: 1999, saves: 99 },
    { ...MARK, revision: 2000, saves: 100 },
  ];
  const dir = openDataDir(tempDir(t));
  const disk = limitWrites(t);
  disk.next = [50, 3, 1];
  const file = new HighWaterMarkFile(dir, old);
  t.after(() => file.close());
  assert.deepEqual(readHighWaterMark(dir), old);
  for (let taken = 1; taken < 128; taken++) {
    disk.next = [taken, 0];
    file.advance(next);
    assert.deepEqual(readHighWaterMark(dir), old, `${taken} bytes were accepted`);
    disk.next = [taken];
    file.advance(next);
    assert.deepEqual(readHighWaterMark(dir), next, `${taken} bytes were accepted, then the rest`);
    file.advance(old);
  }
});

test('a mark that is half old and half new is damaged, and never names a revision or a save that did not exist', (t) => {
  const dir = openDataDir(tempDir(t));
  const disk = limitWrites(t);
  const [old, next] = [
    { ...MARK, revision: 1999, saves: 99 },
    { ...MARK, revision: 2000, saves: 100 },
  ];
  const file = new HighWaterMarkFile(dir, old);
  t.after(() => file.close());
  let damaged = 0;
  for (let taken = 1; taken < 128; taken++) {
    disk.next = [taken, 0, 0];
    file.advance(next);
    let mark: HighWaterMark | undefined;
    try {
      mark = readHighWaterMark(dir);
    } catch (error) {
      assert.ok(error instanceof DamageError);
      damaged++;
    }
    if (mark) assert.deepEqual(mark, mark.revision === 1999 ? old : next, `${taken} bytes were accepted`);
    file.advance(old);
    assert.deepEqual(readHighWaterMark(dir), old);
  }
  assert.ok(damaged > 0);
});

test('a mark without a checksum or without a count of saves is of an older vreg, and not one byte changes', async (t) => {
  const dir = openDataDir(tempDir(t));
  const { registryId, revision } = MARK;
  for (const [mark, message] of [
    [{ registryId, revision }, 'it has no checksum'],
    [MARK, 'it has no checksum'],
    [{ registryId, revision, crc: crcOf([registryId, revision]) }, 'it does not count saves of records'],
  ] as const) {
    writeFileSync(dir.mark, encode(mark));
    assert.throws(
      () => readHighWaterMark(dir),
      (error) => error instanceof OlderError && error.path === dir.mark && error.message === message,
    );
    await assert.rejects(readStore(dir.path), {
      code: 'STORE_OLDER',
      message: `${dir.mark} was written by an older vreg: ${message}`,
      hint: /^nothing was changed; /,
    });
    assert.equal(readFileSync(dir.mark, 'utf8'), encode(mark));
    assert.deepEqual(readdirSync(dir.path), ['registry.mark']);
  }
  writeFileSync(dir.mark, encode({ registryId, revision: revision + 1, crc: crcOf([registryId, revision]) }));
  assert.throws(() => readHighWaterMark(dir), DamageError);
});

test('a mark that cannot be read is named, and does not count as damaged', (t) => {
  const dir = openDataDir(tempDir(t));
  mkdirSync(dir.mark);
  assert.throws(() => readHighWaterMark(dir), {
    code: 'STORE_UNUSABLE',
    message: /cannot read .*registry\.mark \(EISDIR\)/,
    hint: /may read it/,
  });
});

test('the error about a damaged mark has both recovery options as a hint', async (t) => {
  const dir = openDataDir(tempDir(t));
  writeFileSync(dir.mark, 'x');
  await assert.rejects(readStore(dir.path), {
    code: 'STORE_DAMAGED',
    message: `${dir.mark} is damaged: it should name the registry and its last known revision`,
    hint: /vreg daemon restore FILE.*rm .*registry\.mark/,
  });
});

test('a mark that cannot be written at start is named, and leaves no draft', (t) => {
  const dir = openDataDir(tempDir(t));
  const disk = limitWrites(t);
  disk.next = [10, 0];
  assert.throws(() => new HighWaterMarkFile(dir, MARK), { code: 'EIO', path: dir.mark });
  disk.next = [10, 0];
  assert.throws(() => new HighWaterMarkFile(dir, MARK), { code: 'EIO', path: dir.mark });
  assert.deepEqual(
    readdirSync(dir.path).filter((name) => name !== 'registry.mark'),
    [],
  );
});

test('a database that is a link is refused, because its log would lie beside the target', (t) => {
  const dir = openDataDir(tempDir(t));
  const target = join(dir.path, 'elsewhere.db');
  symlinkSync(target, dir.database);
  const refusal = { code: 'STORE_UNUSABLE', message: /registry\.db: it is not a regular file/, hint: /--data-dir/ };
  assert.throws(() => databaseSize(dir), refusal);
  writeFileSync(target, 'x');
  assert.throws(() => databaseSize(dir), refusal);
});

test('a mark that is a pipe fails immediately, and a folder in the place of its temporary file is named and remains', (t) => {
  const dir = openDataDir(tempDir(t));
  execFileSync('mkfifo', [dir.mark]);
  assert.throws(() => readHighWaterMark(dir), { code: 'STORE_UNUSABLE', message: /registry\.mark \(it is a pipe\)/ });
  rmSync(dir.mark);
  const draft = `${dir.mark}.new`;
  mkdirSync(draft);
  assert.throws(() => new HighWaterMarkFile(dir, MARK), { code: 'EISDIR', path: draft });
  assert.ok(existsSync(draft));
});
