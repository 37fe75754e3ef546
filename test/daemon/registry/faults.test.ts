/**
 * A store that fails at each change in turn. Changes that were not acknowledged are not visible, acknowledged changes are
 * not lost, a failed change succeeds when it is repeated, and no revision is skipped.
 */
import assert from 'node:assert/strict';
import test from 'node:test';
import { Registry } from '../../../daemon/registry/registry.ts';
import { type ErrorCode, VregError } from '../../../src/protocol/errors.ts';
import { FakeClock } from '../../helpers/clock.ts';
import { GatedStore } from '../../helpers/gated-store.ts';
import { findGaps } from '../../helpers/journal.ts';
import { aVm } from '../../helpers/vm.ts';

/** The expected registry: names by id, oldest registration first. */
type Model = Map<string, string>;

interface Change {
  send(registry: Registry): Promise<unknown>;
  /** The effect once the change is acknowledged. */
  apply(model: Model): unknown;
}

const register = (id: string, name = id): Change => ({
  send: (registry) => registry.register(aVm({ id, name })),
  apply: (model) => model.set(id, name),
});
const replace = (id: string, name: string): Change => ({
  send: (registry) => registry.replace(aVm({ id, name })),
  apply: (model) => model.set(id, name),
});
const update = (id: string, name: string): Change => ({
  send: (registry) => registry.update(id, { name }),
  apply: (model) => model.set(id, name),
});
const remove = (id: string): Change => ({
  send: (registry) => registry.deregister(id),
  apply: (model) => model.delete(id),
});

/** Rounds of changes that are sent at once, so that later changes are decided on pending ones. */
const ROUNDS: readonly (readonly Change[])[] = [
  [register('a'), register('b'), register('c')],
  [update('a', 'a2'), remove('b'), register('d'), update('a', 'a3')],
  [replace('c', 'c2'), register('b', 'b2'), update('d', 'd2'), remove('b'), replace('e', 'e1')],
  [remove('a'), register('a', 'a4'), remove('d')],
];

class Life {
  readonly store = new GatedStore();
  readonly clock = new FakeClock();
  readonly registry = this.#open();
  readonly model: Model = new Map();
  acknowledged = 0;

  #open(): Registry {
    return new Registry({ store: this.store, clock: this.clock, staleAfter: 1000 }, this.store.contents());
  }

  /** Sends all changes at once. The store commits the first `taken` and fails the rest. @returns the failed changes */
  async send(changes: readonly Change[], taken: number, code: ErrorCode): Promise<Change[]> {
    const sent = changes.map((change) => change.send(this.registry));
    const outcomes = Promise.allSettled(sent);
    assert.equal(this.store.waiting, changes.length);
    await this.store.release(taken);
    this.store.fail(new VregError(code, 'the disk fails'));
    const refused: Change[] = [];
    for (const [index, outcome] of (await outcomes).entries()) {
      if (outcome.status === 'fulfilled') {
        assert.ok(index < taken);
        changes[index]!.apply(this.model);
        this.acknowledged++;
      } else {
        assert.equal((outcome.reason as VregError).code, code);
        refused.push(changes[index]!);
      }
    }
    assert.equal(refused.length, changes.length - taken);
    this.check();
    return refused;
  }

  /** Asserts that memory, disk and a restarted registry have exactly the acknowledged changes and revisions. */
  check(): void {
    for (const registry of [this.registry, this.#open()]) {
      const found = registry.list({}).map(({ vm }) => [vm.id, vm.name]);
      assert.deepEqual(found.reverse(), [...this.model]);
      assert.equal(registry.revision, this.acknowledged);
    }
    const journal = this.store.journal.map(({ item }) => item);
    assert.deepEqual(findGaps(journal, this.acknowledged), []);
  }
}

for (const code of ['STORE_FULL', 'STORE_FAILED', 'INTERNAL'] as const) {
  test(`a store that fails with ${code} at each change in turn loses no acknowledged change, shows no failed one and skips no revision`, async () => {
    for (const [bad, { length }] of ROUNDS.entries()) {
      for (let taken = 0; taken < length; taken++) {
        const life = new Life();
        for (const [index, round] of ROUNDS.entries()) {
          const refused = await life.send(round, index === bad ? taken : round.length, code);
          if (refused.length > 0) await life.send(refused, refused.length, code);
        }
        assert.deepEqual([...life.model.keys()], ['c', 'e', 'a']);
      }
    }
  });
}

test('a store with a full queue refuses only the next change: the changes before and after it are acknowledged', async () => {
  for (const [bad, { length }] of ROUNDS.entries()) {
    for (let nth = 0; nth < length; nth++) {
      const life = new Life();
      for (const round of ROUNDS.slice(0, bad)) await life.send(round, round.length, 'INTERNAL');
      const [before, refused] = [ROUNDS[bad]!.slice(0, nth), ROUNDS[bad]![nth]!];
      const sent = before.map((change) => change.send(life.registry));
      life.store.refusal = new VregError('BUSY', 'the queue is full');
      await assert.rejects(refused.send(life.registry), { code: 'BUSY' });
      life.store.refusal = undefined;
      await life.store.release();
      await Promise.all(sent);
      for (const change of before) change.apply(life.model);
      life.acknowledged += before.length;
      life.check();
      await life.send(ROUNDS[bad]!.slice(nth), length - nth, 'INTERNAL');
    }
  }
});

test('heartbeats that the store refuses repeatedly are saved once it accepts them', async () => {
  const life = new Life();
  await life.send(ROUNDS[0]!, 3, 'INTERNAL');
  const lastSeen = (id: string) => life.store.vms.get(id)!.lastSeen;
  for (const code of ['STORE_FULL', 'STORE_FAILED', 'INTERNAL'] as const) {
    for (const id of ['a', 'b', 'c']) {
      life.clock.pass(10);
      life.registry.heartbeat(id);
      life.store.heartbeatsFailure = new VregError(code, 'the disk fails');
      await assert.rejects(life.registry.saveHeartbeats(), { code });
    }
    assert.ok(!life.registry.unsaved.isEmpty);
    life.store.heartbeatsFailure = undefined;
    await life.registry.saveHeartbeats();
    assert.ok(life.registry.unsaved.isEmpty);
    for (const id of ['a', 'b', 'c']) assert.equal(lastSeen(id), life.registry.get(id).seen.lastSeen);
  }
  assert.equal(life.registry.revision, 3, 'a heartbeat is no change');
});
