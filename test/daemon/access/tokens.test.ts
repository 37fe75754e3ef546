import assert from 'node:assert/strict';
import test from 'node:test';
import { assertActive, isActive } from '../../../daemon/access/authenticator.ts';
import { enrol } from '../../../daemon/access/enrol.ts';
import type { Change, RecordChange, StoredHeartbeat } from '../../../daemon/store/store.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import type { Position } from '../../../src/protocol/position.ts';
import { anAuthenticator, credentialsWith } from '../../helpers/access.ts';
import { GatedStore } from '../../helpers/gated-store.ts';
import { MemoryStore } from '../../helpers/memory-store.ts';
import { aVm } from '../../helpers/vm.ts';

test('a token has 256 random bits, is shown once, and is stored as a hash', async () => {
  const { create, store, tokens } = anAuthenticator();
  const { token, ...info } = await create({ name: 'ops', scope: 'admin' });
  assert.match(token, /^vreg_[\w-]{43}$/);
  assert.notEqual((await create({ name: 'other', scope: 'read' })).token, token);
  const kept = JSON.stringify([...store.records.values()]);
  assert.ok(kept.includes('ops') && !kept.includes(token.slice(5)));
  assert.deepEqual(tokens.list[0], info);
  assert.ok(!JSON.stringify(tokens.list).includes('hash'));
});

test('tokens and their metadata survive a restart', async () => {
  const { create, store, authenticator, registry } = anAuthenticator();
  const { token } = await create({ name: 'agent', scope: 'heartbeat', role: 'worker', expiresIn: 3600 });
  authenticator.authenticate(credentialsWith(token));
  await registry.saveHeartbeats();
  const again = anAuthenticator({ store });
  const [info] = again.tokens.list;
  assert.deepEqual(
    [info?.name, info?.scope, info?.role, info?.lastUsedFrom, typeof info?.lastUsedAt, typeof info?.expiresAt],
    ['agent', 'heartbeat', 'worker', '192.0.2.1', 'string', 'string'],
  );
  assert.equal(again.authenticator.authenticate(credentialsWith(token)).name, 'agent');
});

test('a revoked token is refused immediately, its principals are revoked, and no later save restores it', async () => {
  const { create, tokens, authenticator, store, registry, clock } = anAuthenticator();
  const { token } = await create({ name: 'ops', scope: 'admin' });
  clock.pass(120_000);
  const principal = authenticator.authenticate(credentialsWith(token));
  const revoking = tokens.revoke('ops', 'test');
  assert.throws(() => authenticator.authenticate(credentialsWith(token)), { code: 'UNAUTHORIZED' });
  assert.equal(principal.revoked.aborted, true);
  await revoking;
  await registry.saveHeartbeats();
  assert.equal(anAuthenticator({ store }).tokens.named('ops'), undefined);
});

test('a name is free again once its token is revoked, and later saves do not affect its next token', async () => {
  const { create, tokens, store, registry } = anAuthenticator();
  await create({ name: 'ops', scope: 'admin' });
  await assert.rejects(create({ name: 'ops', scope: 'read' }), { code: 'CONFLICT' });
  await tokens.revoke('ops', 'test');
  await create({ name: 'ops', scope: 'read' });
  await registry.saveHeartbeats();
  assert.equal(anAuthenticator({ store }).tokens.named('ops')?.scope, 'read');
});

test('an expired token aborts its signal once, with the error to respond with, also for principals that are idle', async () => {
  const { create, tokens, authenticator, clock } = anAuthenticator();
  const { token } = await create({ name: 'brief', scope: 'read', expiresIn: 5 });
  const principal = authenticator.authenticate(credentialsWith(token));
  tokens.expire();
  assert.deepEqual([principal.revoked.aborted, isActive(principal)], [false, true]);
  clock.pass(5000);
  assert.equal(isActive(principal), false, 'before the next check of all tokens');
  assert.throws(() => assertActive(principal), { code: 'UNAUTHORIZED', message: /"brief" expired at/ });
  tokens.expire();
  tokens.expire();
  assert.match((principal.revoked.reason as Error).message, /"brief" expired at/);
});

test('an expired token stays expired when the wall clock is set back, also after a restart', async () => {
  const { create, store, tokens, authenticator, registry, clock } = anAuthenticator();
  const { token } = await create({ name: 'brief', scope: 'read', expiresIn: 5 });
  const { token: used } = await create({ name: 'used', scope: 'read', expiresIn: 5 });
  const before = authenticator.authenticate(credentialsWith(token));
  clock.wall += 60_000;
  const refused = (secret: string, by = authenticator) =>
    assert.throws(() => by.authenticate(credentialsWith(secret)), { code: 'UNAUTHORIZED', message: /expired at/ });
  refused(used);
  clock.wall -= 60_000;
  refused(used);
  clock.wall += 60_000;
  tokens.expire();
  clock.wall -= 60_000;
  refused(token);
  assert.equal(isActive(before), false);
  await registry.saveHeartbeats();
  const again = anAuthenticator({ store });
  for (const secret of [token, used]) refused(secret, again.authenticator);
  assert.ok(!JSON.stringify(again.tokens.list).includes('hasExpired'));
});

test('a token stored with the key bornOf counts as enrolled, and its next save uses enrolledBy', async () => {
  const { create, store, registry, tokens } = anAuthenticator();
  // The length of the lease is saved with the first heartbeats.
  await registry.saveHeartbeats();
  await create({ name: 'image', scope: 'enrol' });
  const enroller = tokens.named('image')!;
  const { secret } = await enrol(registry, tokens, { enroller, registration: aVm({ id: 'w' }), from: '', write: {} });
  await registry.saveHeartbeats();
  const key = 'token image/w';
  const saved = store.records.get(key)!;
  store.records.set(key, { ...saved, body: saved.body.replace('"enrolledBy"', '"bornOf"') });
  const restarted = anAuthenticator({ store });
  assert.equal(restarted.tokens.named('image/w')?.info.enrolledBy, 'image');
  restarted.authenticator.authenticate(credentialsWith(secret));
  await restarted.registry.saveHeartbeats();
  const { bornOf, enrolledBy } = JSON.parse(store.records.get(key)!.body) as Record<string, string>;
  assert.deepEqual([bornOf, enrolledBy], [undefined, 'image']);
});

test('only one of two concurrent creations with the same name succeeds', async () => {
  const { create } = anAuthenticator();
  const made = await Promise.allSettled([
    create({ name: 'ops', scope: 'admin' }),
    create({ name: 'ops', scope: 'admin' }),
  ]);
  assert.deepEqual(made.map(({ status }) => status).sort(), ['fulfilled', 'rejected']);
});

class FullDisk extends MemoryStore {
  full = false;

  override async saveHeartbeats(
    heartbeats: Iterable<StoredHeartbeat>,
    listened: number,
    records?: readonly RecordChange[],
  ): Promise<void> {
    if (this.full) throw new VregError('STORE_FULL', 'the disk is full');
    await super.saveHeartbeats(heartbeats, listened, records);
  }

  override async commit(change: Change): Promise<Position> {
    if (this.full) throw new VregError('STORE_FULL', 'the disk is full');
    return super.commit(change);
  }
}

test('on a full disk no token is created, and a revoked token is refused immediately and deleted when there is space', async () => {
  const store = new FullDisk();
  const { create, tokens, authenticator, registry } = anAuthenticator({ store });
  const { token } = await create({ name: 'ops', scope: 'admin' });
  store.full = true;
  await assert.rejects(create({ name: 'new', scope: 'read' }), { code: 'STORE_FULL' });
  assert.equal(tokens.named('new'), undefined);
  await assert.rejects(tokens.revoke('ops', 'test'), { code: 'STORE_FULL' });
  assert.throws(() => authenticator.authenticate(credentialsWith(token)), { code: 'UNAUTHORIZED' });
  store.full = false;
  await registry.saveHeartbeats();
  assert.deepEqual(anAuthenticator({ store }).tokens.list, []);
});

test('a repeated revocation fails until it is durable', async () => {
  const store = new FullDisk();
  const { create, tokens } = anAuthenticator({ store });
  await create({ name: 'ops', scope: 'admin' });
  store.full = true;
  for (let i = 0; i < 2; i++)
    await assert.rejects(tokens.revoke('ops', 'test'), {
      code: 'STORE_FULL',
      message: /^revoked ops, but a restart may undo it/,
    });
  store.full = false;
  assert.deepEqual(await tokens.revoke('ops', 'test'), ['ops']);
  assert.deepEqual(await tokens.revoke('ops', 'test'), []);
  assert.deepEqual(anAuthenticator({ store }).tokens.list, []);
});

test('a name that is used again after a failed revocation is not deleted by the next revocation', async () => {
  const store = new FullDisk();
  const { create, tokens } = anAuthenticator({ store });
  await create({ name: 'ops', scope: 'admin' });
  store.full = true;
  await assert.rejects(tokens.revoke('ops', 'test'), { code: 'STORE_FULL' });
  store.full = false;
  await create({ name: 'ops', scope: 'read' });
  await tokens.revokeEnrolledBy('ops', 'test');
  assert.deepEqual(
    anAuthenticator({ store }).tokens.list.map(({ scope }) => scope),
    ['read'],
  );
});

test('a registry stays open if the first token could not be saved', async () => {
  const store = new FullDisk();
  const { create, authenticator, registry } = anAuthenticator({ store });
  store.full = true;
  await assert.rejects(create({ name: 'ops', scope: 'admin' }), { code: 'STORE_FULL' });
  assert.equal(authenticator.isOpen, true);
  store.full = false;
  await registry.saveHeartbeats();
  assert.equal(anAuthenticator({ store }).authenticator.isOpen, true);
});

test('the last use is saved at most once per minute', async () => {
  const { create, authenticator, clock, registry } = anAuthenticator();
  const { token } = await create({ name: 'ops', scope: 'admin' });
  authenticator.authenticate(credentialsWith(token));
  assert.equal(registry.unsaved.records.isEmpty, false);
  await registry.saveHeartbeats();
  clock.pass(59_999);
  authenticator.authenticate(credentialsWith(token));
  assert.equal(registry.unsaved.records.isEmpty, true);
  clock.pass(1);
  authenticator.authenticate(credentialsWith(token, { address: '192.0.2.7' }));
  assert.equal(registry.unsaved.records.isEmpty, false);
});

test("the token of an enrolled VM is durable with the VM's registration and deleted with its removal", async () => {
  const { create, store, registry, tokens } = anAuthenticator();
  // The length of the lease is saved with the first heartbeats.
  await registry.saveHeartbeats();
  await create({ name: 'image', scope: 'enrol' });
  const enroller = tokens.named('image')!;
  const { secret } = await enrol(registry, tokens, { enroller, registration: aVm({ id: 'w' }), from: '', write: {} });
  assert.equal(anAuthenticator({ store }).tokens.find(secret)?.name, 'image/w');
  const { revoked } = tokens.ofVm('w')!;
  await registry.deregister('w');
  assert.equal(revoked.aborted, true);
  assert.equal(store.records.has('token image/w'), false);
  assert.equal(registry.unsaved.records.isEmpty, true, 'nothing waits for the next save');
});

test('creating and revoking a token does not depend on the save of heartbeats', async () => {
  const store = new GatedStore();
  const { create, tokens } = anAuthenticator({ store });
  store.heartbeatsFailure = new VregError('STORE_FULL', 'the disk is full');
  await store.settle(create({ name: 'ops', scope: 'admin' }));
  assert.ok(store.records.has('token ops'));
  await store.settle(tokens.revoke('ops', 'test'));
  assert.ok(!store.records.has('token ops'));
});

test('a change of tokens has a revision, but is in no history and no event', async () => {
  const { create, tokens, registry, store } = anAuthenticator();
  await registry.register(aVm({ id: 'ops' }));
  const { mark } = registry.events;
  await create({ name: 'ops', scope: 'admin' });
  await tokens.revoke('ops', 'test');
  assert.deepEqual([registry.revision, store.revision], [3, 3]);
  assert.deepEqual(registry.events.after(mark), []);
  assert.equal((await registry.history('ops', 10)).length, 1);
});

/** A VM that is removed and enrols again before the removal is durable. Both commits are pending. */
async function enrolledAgain() {
  const store = new GatedStore();
  const setup = anAuthenticator({ store });
  const { create, tokens, registry } = setup;
  await store.settle(create({ name: 'image', scope: 'enrol' }));
  const enroller = tokens.named('image')!;
  const enrolAs = (name: string) =>
    enrol(registry, tokens, { enroller, registration: aVm({ id: 'w', name }), from: undefined, write: {} });
  const first = enrolAs('one');
  await store.release();
  const { secret } = await first;
  await registry.saveHeartbeats();
  const removed = registry.deregister('w', {});
  const again = enrolAs('two');
  void again.catch(() => {});
  assert.equal(store.waiting, 2);
  return { ...setup, store, old: tokens.find(secret)!, removed, again };
}

test("a use of a removed VM's token does not overwrite the VM's next token", async () => {
  const { store, registry, tokens, old, removed, again } = await enrolledAgain();
  tokens.used(old, '192.0.2.1');
  await store.release(1);
  await removed;
  assert.equal(registry.unsaved.records.isEmpty, true);
  await store.release();
  const { secret } = await again;
  const restarted = anAuthenticator({ store });
  assert.equal(restarted.authenticator.authenticate(credentialsWith(secret)).name, 'image/w');
});

test("the token of a removed VM is deleted even if the VM's next enrolment fails", async () => {
  const { store, registry, removed, again } = await enrolledAgain();
  await store.release(1);
  await removed;
  store.fail(new VregError('STORE_FULL', 'the disk is full'));
  await assert.rejects(again, { code: 'STORE_FULL' });
  await store.settle(registry.saveHeartbeats());
  assert.equal(store.records.has('token image/w'), false);
});

test('the token of a VM stays if the removal of the VM and its next enrolment both fail', async () => {
  const { store, registry, old, removed, again } = await enrolledAgain();
  store.fail(new VregError('STORE_FULL', 'the disk is full'));
  await assert.rejects(removed, { code: 'STORE_FULL' });
  await assert.rejects(again, { code: 'STORE_FULL' });
  await registry.saveHeartbeats();
  assert.equal(anAuthenticator({ store }).tokens.ofVm('w')?.stored.hash, old.stored.hash);
});

/** A VM that repeats its enrolment, because the response to the first one was lost. The repetition is pending. */
async function repeatedEnrolment() {
  const store = new GatedStore();
  const setup = anAuthenticator({ store });
  const { create, tokens, registry } = setup;
  await store.settle(create({ name: 'image', scope: 'enrol' }));
  const enroller = tokens.named('image')!;
  const enrolOnce = () =>
    enrol(registry, tokens, { enroller, registration: aVm({ id: 'w' }), from: '192.0.2.1', write: {} });
  const first = await store.settle(enrolOnce());
  const again = enrolOnce();
  void again.catch(() => {});
  return { ...setup, store, first, again };
}

for (const name of ['image', 'image/w']) {
  test(`the revocation of ${name} cancels a repeated enrolment and revokes the token of the first one`, async () => {
    const { store, tokens, first, again } = await repeatedEnrolment();
    const { revoked } = tokens.ofVm('w')!;
    const revoking = tokens.revoke(name, 'test');
    assert.equal(revoked.aborted, true);
    assert.equal(tokens.find(first.secret), undefined);
    assert.ok((await store.settle(revoking)).includes('image/w'));
    await assert.rejects(again, { code: 'UNAUTHORIZED' });
    assert.equal(tokens.ofVm('w'), undefined);
    assert.equal(anAuthenticator({ store }).tokens.ofVm('w'), undefined);
  });

  test(`the revocation of ${name} is durable even if the repeated enrolment cannot be saved`, async () => {
    const { store, tokens, registry, again } = await repeatedEnrolment();
    const revoking = tokens.revoke(name, 'test');
    store.fail(new VregError('STORE_FULL', 'the disk is full'));
    await assert.rejects(revoking, { code: 'STORE_FULL' });
    await assert.rejects(again, { code: 'STORE_FULL' });
    await store.settle(registry.saveHeartbeats());
    assert.equal(anAuthenticator({ store }).tokens.ofVm('w'), undefined);
  });
}

/** A VM whose enrolment is pending, in front of a store that accepts no other commits. */
async function pendingEnrolment() {
  const store = new GatedStore();
  const setup = anAuthenticator({ store });
  const { create, tokens, registry } = setup;
  await store.settle(create({ name: 'image', scope: 'enrol' }));
  const enroller = tokens.named('image')!;
  const enrolling = enrol(registry, tokens, { enroller, registration: aVm({ id: 'w' }), from: undefined, write: {} });
  void enrolling.catch(() => {});
  store.refusal = new VregError('BUSY', 'too many queued changes');
  return { ...setup, store, enrolling };
}

test('a revocation that the store refuses still deletes the token of an enrolment that is committed later', async () => {
  const { store, tokens, registry, enrolling } = await pendingEnrolment();
  await assert.rejects(tokens.revoke('image', 'test'), { code: 'BUSY' });
  await registry.saveHeartbeats();
  await store.release();
  await assert.rejects(enrolling, { code: 'UNAUTHORIZED' });
  store.refusal = undefined;
  await store.settle(registry.saveHeartbeats());
  assert.equal(anAuthenticator({ store }).tokens.ofVm('w'), undefined);
});

test('the token of an enrolment in progress stays durable if the store refuses the removal of its VM', async () => {
  const { store, registry, enrolling } = await pendingEnrolment();
  await assert.rejects(registry.deregister('w'), { code: 'BUSY' });
  await store.release();
  const { secret } = await enrolling;
  await registry.saveHeartbeats();
  assert.equal(anAuthenticator({ store }).tokens.find(secret)?.name, 'image/w');
});
