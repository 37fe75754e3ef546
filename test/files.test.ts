import assert from 'node:assert/strict';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { createFolder, folderRisk, looseMode, readIfThere, syncPath, writeAtomically } from '../src/files.ts';
import { tempDir } from './helpers/daemon.ts';

test('an atomic write replaces the file and leaves no draft behind', (t) => {
  const dir = tempDir(t);
  const path = join(dir, 'file');
  writeAtomically(path, 'first\n', { mode: 0o600, sync: true });
  assert.equal(readFileSync(path, 'utf8'), 'first\n');
  assert.equal(statSync(path).mode & 0o777, 0o600);
  writeAtomically(path, Buffer.from('second\n'));
  assert.equal(readIfThere(path), 'second\n');
  assert.deepEqual(readdirSync(dir), ['file']);
});

test('an atomic write keeps the mode of the replaced file when asked to', (t) => {
  const path = join(tempDir(t), 'file');
  writeFileSync(path, 'first');
  chmodSync(path, 0o666);
  writeAtomically(path, 'second', { keepMode: true });
  assert.equal(statSync(path).mode & 0o777, 0o666);
  writeAtomically(path, 'third', { mode: 0o640 });
  assert.equal(statSync(path).mode & 0o777, 0o640);
});

test('an atomic write does not follow a link that a draft left behind', (t) => {
  const dir = tempDir(t);
  const [path, other] = [join(dir, 'file'), join(dir, 'other')];
  writeFileSync(other, 'untouched');
  symlinkSync(other, `${path}.new`);
  writeAtomically(path, 'text');
  assert.equal(readFileSync(other, 'utf8'), 'untouched');
  assert.equal(readFileSync(path, 'utf8'), 'text');
});

test('a failed atomic write changes nothing and removes only its own temporary file', (t) => {
  const dir = tempDir(t);
  const path = join(dir, 'folder');
  mkdirSync(join(path, 'full'), { recursive: true });
  assert.throws(() => writeAtomically(path, 'text'), { syscall: 'rename' });
  assert.deepEqual(readdirSync(dir), ['folder']);
  const draft = join(dir, 'file.new');
  mkdirSync(draft);
  assert.throws(() => writeAtomically(join(dir, 'file'), 'text'), { code: 'EISDIR', path: draft });
  assert.ok(existsSync(draft));
  assert.throws(() => writeAtomically(join(dir, 'missing', 'file'), 'text'), { code: 'ENOENT' });
});

test('files and folders can be synced, and a missing file has no text', (t) => {
  const dir = tempDir(t);
  syncPath(dir);
  assert.throws(() => syncPath(join(dir, 'missing')), { code: 'ENOENT' });
  assert.equal(readIfThere(join(dir, 'missing')), undefined);
});

test('a mode is loose when group or others have any permission', () => {
  assert.equal(looseMode(0o100600), undefined);
  assert.equal(looseMode(0o100700), undefined);
  assert.equal(looseMode(0o100640), '0640');
  assert.equal(looseMode(0o100601), '0601');
});

test('a folder is a risk when others can write there without the sticky bit, or own it', () => {
  const uid = process.geteuid!();
  assert.equal(folderRisk({ mode: 0o40755, uid }), undefined);
  assert.equal(folderRisk({ mode: 0o41777, uid: 0 }), undefined);
  assert.deepEqual(folderRisk({ mode: 0o40775, uid }), { mode: '0775' });
  assert.deepEqual(folderRisk({ mode: 0o40700, uid: 12_345 }), { uid: 12_345 });
});

test('a folder is created with its missing parents, and an existing one remains unchanged', (t) => {
  const dir = tempDir(t);
  const path = join(dir, 'a', 'b');
  assert.deepEqual(createFolder(path, 0o700), [join(dir, 'a'), path]);
  assert.equal(statSync(path).mode & 0o777, 0o700);
  assert.deepEqual(createFolder(path, 0o700), []);
  writeFileSync(join(dir, 'file'), '');
  assert.throws(() => createFolder(join(dir, 'file')), { code: 'EEXIST' });
  assert.throws(() => createFolder(join(dir, 'file', 'c')), { code: 'ENOTDIR' });
});

test('a folder that the system never creates is an error and no endless loop', {
  skip: !existsSync('/proc/self'),
}, () => {
  assert.throws(() => createFolder('/proc/no-such-process/a'), { code: 'ENOENT' });
});
