import assert from 'node:assert/strict';
import {
  chmodSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { repairTokenFile, writeTokenFile } from '../../../daemon/agent/token-file.ts';
import { tempDir } from '../../helpers/daemon.ts';

function tokenFile(t: TestContext) {
  const dir = tempDir(t);
  const warnings: string[] = [];
  const log = { info: () => {}, warn: (_fields: object, message: string) => void warnings.push(message) };
  return {
    path: join(dir, 'token'),
    warnings,
    keep: () => writeTokenFile(dir, 'own', log),
    mend: () => repairTokenFile(dir, 'own', log),
  };
}

test('a token file that is gone, holds something else, or leads elsewhere is written again', (t) => {
  const { path, warnings, mend } = tokenFile(t);
  const elsewhere = join(tempDir(t), 'elsewhere');
  writeFileSync(elsewhere, 'own\n', { mode: 0o600 });
  for (const spoil of [
    () => {},
    () => unlinkSync(path),
    () => writeFileSync(path, 'of another\n'),
    () => {
      unlinkSync(path);
      symlinkSync(elsewhere, path);
    },
  ]) {
    spoil();
    mend();
    assert.equal(readFileSync(path, 'utf8'), 'own\n');
    assert.deepEqual([lstatSync(path).isFile(), statSync(path).mode & 0o777], [true, 0o600]);
  }
  assert.deepEqual(warnings, []);
});

test('a token file that others could read is closed, and told; one that is as it should be stays', (t) => {
  const { path, warnings, keep, mend } = tokenFile(t);
  keep();
  const { ino } = statSync(path);
  mend();
  assert.equal(statSync(path).ino, ino);
  chmodSync(path, 0o644);
  mend();
  assert.equal(statSync(path).mode & 0o777, 0o600);
  assert.equal(warnings.length, 1);
  assert.match(
    warnings[0]!,
    /was readable by others \(mode 0644\) and has been restricted to its owner; .*: vreg token revoke$/,
  );
});

test('a token file that cannot be written is told, and no end', (t) => {
  const { path, warnings, mend } = tokenFile(t);
  mkdirSync(path);
  mend();
  assert.match(warnings.join(), /^cannot write this VM's token to .*EISDIR/);
});
