/**
 * A store that fails at each change in turn. What was not acknowledged is nowhere to be seen, what was is not lost, the
 * same change works when it is tried again, and no revision is left out.
 */
import assert from 'node:assert/strict';
import test from 'node:test';
import { Registry } from '../../../daemon/registry/registry.ts';
import { type ErrorCode, VregError } from '../../../src/protocol/errors.ts';
import { FakeClock } from '../../helpers/clock.ts';
import { GatedStore } from '../../helpers/gated-store.ts';
import { findGaps } from '../../helpers/journal.ts';
import { aVm } from '../../helpers/vm.ts';

/** What is registered: names by id, oldest registration first. */
type Model = Map<string, string>;

interface Change {
  ask(registry: Registry): Promise<unknown>;
  /** What is so when it is acknowledged. */
  happen(model: Model): unknown;
}

const register = (id: string, name = id): Change => ({
  ask: (registry) => registry.register(aVm({ id, name })),
  happen: (model) => model.set(id, name),
});
const replace = (id: string, name: string): Change => ({
  ask: (registry) => registry.replace(aVm({ id, name })),
  happen: (model) => model.set(id, name),
});
const update = (id: string, name: string): Change => ({
  ask: (registry) => registry.update(id, { name }),
  happen: (model) => model.set(id, name),
});
const remove = (id: string): Change => ({
  ask: (registry) => registry.deregister(id),
  happen: (model) => model.delete(id),
});

/** Changes that are asked for at once, so that the later ones are decided on the earlier ones, round by round. */
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

  /** Asks for all at once; the store takes so many, and fails the rest. @returns those that were refused */
  async take(changes: readonly Change[], taken: number, code: ErrorCode): Promise<Change[]> {
    const asked = changes.map((change) => change.ask(this.registry));
    const outcomes = Promise.allSettled(asked);
    assert.equal(this.store.waiting, changes.length);
    await this.store.release(taken);
    this.store.fail(new VregError(code, 'the disk fails'));
    const refused: Change[] = [];
    for (const [index, outcome] of (await outcomes).entries()) {
      if (outcome.status === 'fulfilled') {
        assert.ok(index < taken);
        changes[index]!.happen(this.model);
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

  /** Memory, disk, and what a start would read are what was acknowledged, and so are the revisions. */
  check(): void {
    for (const registry of [this.registry, this.#open()]) {
      const found = registry.list({}).map(({ vm }) => [vm.id, vm.name]);
      assert.deepEqual(found.reverse(), [...this.model]);
      assert.equal(registry.revision, this.acknowledged);
    }
    const journal = this.store.journal.map(({ item }) => item).reverse();
    assert.deepEqual(findGaps(journal, this.acknowledged), []);
  }
}

for (const code of ['STORE_FULL', 'STORE_FAILED', 'INTERNAL'] as const) {
  test(`a store that fails with ${code} at each change in turn loses nothing, shows nothing that failed, and leaves no revision out`, async () => {
    for (const [bad, { length }] of ROUNDS.entries()) {
      for (let taken = 0; taken < length; taken++) {
        const life = new Life();
        for (const [index, round] of ROUNDS.entries()) {
          const refused = await life.take(round, index === bad ? taken : round.length, code);
          if (refused.length > 0) await life.take(refused, refused.length, code);
        }
        assert.deepEqual([...life.model.keys()], ['c', 'e', 'a']);
      }
    }
  });
}

test('a store that takes no more refuses that change alone: those before it and after it are acknowledged', async () => {
  for (const [bad, { length }] of ROUNDS.entries()) {
    for (let nth = 0; nth < length; nth++) {
      const life = new Life();
      for (const round of ROUNDS.slice(0, bad)) await life.take(round, round.length, 'INTERNAL');
      const [before, refused] = [ROUNDS[bad]!.slice(0, nth), ROUNDS[bad]![nth]!];
      const asked = before.map((change) => change.ask(life.registry));
      life.store.refusal = new VregError('BUSY', 'too many wait');
      await assert.rejects(refused.ask(life.registry), { code: 'BUSY' });
      life.store.refusal = undefined;
      await life.store.release();
      await Promise.all(asked);
      for (const change of before) change.happen(life.model);
      life.acknowledged += before.length;
      life.check();
      await life.take(ROUNDS[bad]!.slice(nth), length - nth, 'INTERNAL');
    }
  }
});

test('beats that the store refuses, again and again, are saved when it takes them', async () => {
  const life = new Life();
  await life.take(ROUNDS[0]!, 3, 'INTERNAL');
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
  assert.equal(life.registry.revision, 3, 'a beat is no change');
});
