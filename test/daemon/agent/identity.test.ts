import assert from 'node:assert/strict';
import { chmodSync, cpSync, lstatSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { Identity } from '../../../daemon/agent/identity.ts';
import { tempDir } from '../../helpers/daemon.ts';

const LEASE = 300_000;
const [A, B] = [`7-${'a'.repeat(16)}`, `5-${'b'.repeat(16)}`];

test('a heartbeat spends the token that the last one named, and only the owner can read the file', (t) => {
  const dir = tempDir(t);
  const identity = Identity.open(dir, 'vm-1', { now: () => 7 });
  assert.equal(identity.hasToken, false);
  const first = identity.nextProof();
  assert.match(first.next!, /^7\.[0-9a-f]{32}$/);
  assert.equal(first.spend, undefined);
  identity.confirmProof();
  const second = identity.nextProof();
  assert.equal(second.spend, first.next);
  assert.match(second.next!, /^8\./);
  const [file] = readdirSync(dir);
  assert.equal(statSync(join(dir, file!)).mode & 0o777, 0o600);
});

test('the numbers of tokens grow across the loss of the state, a damaged state and a takeover', (t) => {
  const dir = tempDir(t);
  const numbers: number[] = [];
  let now = 1_000_000;
  const send = (where: string, act: (identity: Identity) => void = () => {}) => {
    now += 1000;
    const identity = Identity.open(where, 'vm-1', { now: () => now, onWarning: () => {} });
    act(identity);
    numbers.push(Number.parseInt(identity.nextProof().next!, 10));
    identity.confirmProof();
  };
  for (let times = 0; times < 3; times++) send(dir);
  send(dir, (identity) => identity.takeOver());
  writeFileSync(join(dir, readdirSync(dir)[0]!), '{');
  send(dir);
  send(tempDir(t));
  assert.deepEqual(
    numbers,
    [...new Set(numbers)].sort((a, b) => a - b),
  );
});

test('a heartbeat without an answer is repeated unchanged, also by the next process', (t) => {
  const dir = tempDir(t);
  const identity = Identity.open(dir, 'vm-1');
  const { next } = identity.nextProof();
  assert.equal(identity.nextProof().next, next);
  const again = Identity.open(dir, 'vm-1');
  assert.deepEqual([again.hasToken, again.nextProof().next], [true, next]);
  assert.notEqual(again.incarnation, identity.incarnation);
});

test('two copies of a state name different next tokens', (t) => {
  const [one, two] = [tempDir(t), tempDir(t)];
  const original = Identity.open(one, 'vm-1');
  original.nextProof();
  original.confirmProof();
  cpSync(one, two, { recursive: true });
  const [a, b] = [original.nextProof(), Identity.open(two, 'vm-1').nextProof()];
  assert.equal(a.spend, b.spend);
  assert.notEqual(a.next, b.next);
});

test('a clone keeps its new id after a restart and knows its parent', (t) => {
  const dir = tempDir(t);
  const reborn = Identity.open(dir, 'vm-1').rebirth('vm-2');
  assert.deepEqual([reborn.id, reborn.parent, reborn.hasToken], ['vm-2', 'vm-1', false]);
  const again = Identity.open(dir, 'vm-1');
  assert.deepEqual([again.id, again.parent], ['vm-2', 'vm-1']);
});

test('the identity remembers positions across restarts, and ignores what earlier states have instead', (t) => {
  const dir = tempDir(t);
  const identity = Identity.open(dir, 'vm-1');
  assert.deepEqual([identity.positions, identity.knowsRegistry], [{}, false]);
  identity.nextProof();
  assert.equal(identity.observe({ position: A }, LEASE), 'compare');
  identity.adopt(A);
  assert.equal(identity.observe({ history: 'other', position: B }, LEASE), undefined, 'the next heartbeat decides');
  assert.equal(identity.observe({ history: 'other', position: B }, LEASE), 'report');
  identity.adopt(B);
  assert.deepEqual(Identity.open(dir, 'vm-1').positions, { position: B, leftPosition: A });
  const path = join(dir, readdirSync(dir)[0]!);
  writeFileSync(path, JSON.stringify({ vm: 'vm-1', registry: { id: 'r', revision: 7 } }));
  const old = Identity.open(dir, 'vm-1');
  assert.deepEqual([old.positions, old.knowsRegistry], [{}, true]);
  assert.equal(old.observe({ position: A }, LEASE), 'compare');
  writeFileSync(path, JSON.stringify({ vm: 'vm-1', registry: { position: 7 } }));
  const warnings: string[] = [];
  Identity.open(dir, 'vm-1', { onWarning: (message) => void warnings.push(message) });
  assert.match(warnings.join(), /is damaged/);
});

test('a damaged state is reported, and the VM starts without one', (t) => {
  const dir = tempDir(t);
  Identity.open(dir, 'vm-1').nextProof();
  const path = join(dir, readdirSync(dir)[0]!);
  writeFileSync(path, readFileSync(path, 'utf8').slice(0, 9));
  const warnings: string[] = [];
  const identity = Identity.open(dir, 'vm-1', { onWarning: (message) => void warnings.push(message) });
  assert.equal(identity.hasToken, false);
  assert.match(warnings.join(), new RegExp(`${path} is damaged`));
});

for (const mode of [0o604, 0o640, 0o666]) {
  test(`a state that others can read (${mode.toString(8)}) is restricted to its owner, with one warning`, (t) => {
    const dir = tempDir(t);
    const { next } = Identity.open(dir, 'vm-1').nextProof();
    const path = join(dir, readdirSync(dir)[0]!);
    chmodSync(path, mode);
    const warnings: string[] = [];
    const open = () => Identity.open(dir, 'vm-1', { onWarning: (message) => void warnings.push(message) });
    assert.equal(open().nextProof().next, next);
    assert.equal(statSync(path).mode & 0o777, 0o600);
    open();
    assert.equal(warnings.length, 1);
    assert.match(
      warnings[0]!,
      new RegExp(`^${path} could be read by other users \\(mode 0${mode.toString(8)}\\) and has been restricted`),
    );
  });
}

test('a link in place of the next state is not written through', (t) => {
  const dir = tempDir(t);
  const identity = Identity.open(dir, 'vm-1');
  identity.nextProof();
  const path = join(dir, readdirSync(dir)[0]!);
  const elsewhere = join(tempDir(t), 'other');
  writeFileSync(elsewhere, 'other', { mode: 0o644 });
  symlinkSync(elsewhere, `${path}.new`);
  identity.confirmProof();
  assert.equal(readFileSync(elsewhere, 'utf8'), 'other');
  assert.deepEqual([lstatSync(path).isFile(), statSync(path).mode & 0o777], [true, 0o600]);
});
