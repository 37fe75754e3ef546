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
    repair: () => repairTokenFile(dir, 'own', log),
  };
}

test('a token file that is missing, has another text or is a link is written again', (t) => {
  const { path, warnings, repair } = tokenFile(t);
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
    repair();
    assert.equal(readFileSync(path, 'utf8'), 'own\n');
    assert.deepEqual([lstatSync(path).isFile(), statSync(path).mode & 0o777], [true, 0o600]);
  }
  assert.deepEqual(warnings, []);
});

test('a token file that others can read is restricted with a warning; an intact one remains unchanged', (t) => {
  const { path, warnings, keep, repair } = tokenFile(t);
  keep();
  const { ino } = statSync(path);
  repair();
  assert.equal(statSync(path).ino, ino);
  chmodSync(path, 0o644);
  repair();
  assert.equal(statSync(path).mode & 0o777, 0o600);
  assert.equal(warnings.length, 1);
  assert.match(
    warnings[0]!,
    /could be read by other users \(mode 0644\) and has been restricted to its owner; .*: vreg token revoke$/,
  );
});

test('a failure to write the token file is only logged', (t) => {
  const { path, warnings, repair } = tokenFile(t);
  mkdirSync(path);
  repair();
  assert.match(warnings.join(), /^cannot write this VM's token to .*EISDIR/);
});
