import assert from 'node:assert/strict';
import { chmodSync, cpSync, lstatSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { Identity } from '../../../daemon/agent/identity.ts';
import { tempDir } from '../../helpers/daemon.ts';

test('a beat spends the token that the last one named, and its file is for nobody else', (t) => {
  const dir = tempDir(t);
  const identity = Identity.open(dir, 'vm-1');
  assert.equal(identity.isKnown, false);
  const first = identity.beat();
  assert.match(first.next!, /^1\.[0-9a-f]{32}$/);
  assert.equal(first.spend, undefined);
  identity.accepted();
  const second = identity.beat();
  assert.equal(second.spend, first.next);
  assert.match(second.next!, /^2\./);
  const [file] = readdirSync(dir);
  assert.equal(statSync(join(dir, file!)).mode & 0o777, 0o600);
});

test('a beat whose answer was lost is said again as it was, also by the next process', (t) => {
  const dir = tempDir(t);
  const identity = Identity.open(dir, 'vm-1');
  const { next } = identity.beat();
  assert.equal(identity.beat().next, next);
  const again = Identity.open(dir, 'vm-1');
  assert.deepEqual([again.isKnown, again.beat().next], [true, next]);
  assert.notEqual(again.incarnation, identity.incarnation);
});

test('two copies of a state name different tokens next', (t) => {
  const [one, two] = [tempDir(t), tempDir(t)];
  const original = Identity.open(one, 'vm-1');
  original.beat();
  original.accepted();
  cpSync(one, two, { recursive: true });
  const [a, b] = [original.beat(), Identity.open(two, 'vm-1').beat()];
  assert.equal(a.spend, b.spend);
  assert.notEqual(a.next, b.next);
});

test('a clone that was reborn is the other VM from then on, also after a restart, and knows its parent', (t) => {
  const dir = tempDir(t);
  const reborn = Identity.open(dir, 'vm-1').rebornAs('vm-2');
  assert.deepEqual([reborn.id, reborn.parent, reborn.isKnown], ['vm-2', 'vm-1', false]);
  const again = Identity.open(dir, 'vm-1');
  assert.deepEqual([again.id, again.parent], ['vm-2', 'vm-1']);
});

test('the registry that answers is the same, an older copy of it, or another', (t) => {
  const identity = Identity.open(tempDir(t), 'vm-1');
  assert.equal(identity.meets({ registryId: 'r', revision: 7 }), 'same');
  assert.equal(identity.meets({ registryId: 'r', revision: 9 }), 'same');
  assert.equal(identity.beat().revision, 9);
  assert.equal(identity.meets({ registryId: 'r', revision: 8 }), 'rolled back');
  assert.equal(identity.meets({ registryId: 'r', revision: 8 }), 'same');
  assert.equal(identity.meets({ registryId: 'other', revision: 1 }), 'another registry');
  assert.equal(identity.meets({}), 'same', 'the original registry says nothing');
});

test('a damaged state is told, and the VM is one that has lost it', (t) => {
  const dir = tempDir(t);
  Identity.open(dir, 'vm-1').beat();
  const path = join(dir, readdirSync(dir)[0]!);
  writeFileSync(path, readFileSync(path, 'utf8').slice(0, 9));
  const told: string[] = [];
  const identity = Identity.open(dir, 'vm-1', { onTrouble: (message) => void told.push(message) });
  assert.equal(identity.isKnown, false);
  assert.match(told.join(), new RegExp(`${path} is damaged`));
});

for (const mode of [0o604, 0o640, 0o666]) {
  test(`a state that others can read (${mode.toString(8)}) is closed to them, and that is told once`, (t) => {
    const dir = tempDir(t);
    const { next } = Identity.open(dir, 'vm-1').beat();
    const path = join(dir, readdirSync(dir)[0]!);
    chmodSync(path, mode);
    const told: string[] = [];
    const open = () => Identity.open(dir, 'vm-1', { onTrouble: (message) => void told.push(message) });
    assert.equal(open().beat().next, next);
    assert.equal(statSync(path).mode & 0o777, 0o600);
    open();
    assert.equal(told.length, 1);
    assert.match(
      told[0]!,
      new RegExp(`^${path} can be read by others \\(mode 0${mode.toString(8)}\\); it is closed now`),
    );
  });
}

test('what somebody put in the place of the next state is not written into', (t) => {
  const dir = tempDir(t);
  const identity = Identity.open(dir, 'vm-1');
  identity.beat();
  const path = join(dir, readdirSync(dir)[0]!);
  const elsewhere = join(tempDir(t), 'theirs');
  writeFileSync(elsewhere, 'theirs', { mode: 0o644 });
  symlinkSync(elsewhere, `${path}.new`);
  identity.accepted();
  assert.equal(readFileSync(elsewhere, 'utf8'), 'theirs');
  assert.deepEqual([lstatSync(path).isFile(), statSync(path).mode & 0o777], [true, 0o600]);
});
