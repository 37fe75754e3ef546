/**
 * Compares the registry with a plain model of its rules: a list of VMs, a list of pending changes, and the durable state.
 * After any mix of writes, heartbeats, time steps, disk failures and restarts, both must give the same answers.
 */
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import type { Gap } from '../../../daemon/clock.ts';
import { warmingOf } from '../../../daemon/registry/explain.ts';
import { Registry } from '../../../daemon/registry/registry.ts';
import { MAX_LAG, type Snapshot } from '../../../daemon/registry/vm-snapshot.ts';
import { type ErrorCode, VregError } from '../../../src/protocol/errors.ts';
import type { Registration, Role, Status, Vm, VmUpdate } from '../../../src/protocol/vm.ts';
import { FakeClock } from '../../helpers/clock.ts';
import { GatedStore } from '../../helpers/gated-store.ts';
import { aVm } from '../../helpers/vm.ts';

const STALE_AFTER = 1000;
const IDS = ['a', 'b', 'c'];
const ROLES: readonly Role[] = ['worker', 'infra'];
const STATUSES: readonly Status[] = ['running', 'paused', 'stopped'];

type Step =
  | { do: 'register'; id: string; role: Role; status: Status }
  | { do: 'update'; id: string; update: VmUpdate }
  | { do: 'remove' | 'heartbeat'; id: string }
  | { do: 'release'; count: number }
  | { do: 'pass'; ms: number }
  | { do: 'miss'; ms: number }
  | { do: 'setWall'; ms: number }
  | { do: 'refuse'; id: string }
  | { do: 'fail' | 'save' | 'failToSave' | 'restart' };

interface LastSeen {
  lastSeen: number;
  heardAt: number;
}

interface ModelVm extends LastSeen {
  vm: Registration & { registeredAt: string };
}

interface Pending {
  id: string;
  /** The VM after the change; undefined if it is removed. */
  after: ModelVm | undefined;
  outcome: Promise<ErrorCode | 'ok'>;
}

/** The rules without any optimization. */
class Model {
  /** Oldest registration first. */
  committed: ModelVm[] = [];
  pending: Pending[] = [];
  revision = 0;
  /** Durable signs of life. */
  durable = new Map<string, LastSeen>();
  listened = 0;
  /** The gaps that were saved. */
  gaps: Gap[] = [];

  get(id: string): ModelVm | undefined {
    return this.committed.find(({ vm }) => vm.id === id);
  }

  /** The VM including pending changes. */
  decided(id: string): ModelVm | undefined {
    const last = this.pending.findLast((change) => change.id === id);
    return last ? last.after : this.get(id);
  }

  commit({ id, after }: Pending): void {
    this.revision++;
    const index = this.committed.findIndex(({ vm }) => vm.id === id);
    if (!after) {
      this.committed.splice(index, 1);
      this.durable.delete(id);
      return;
    }
    const { lastSeen, heardAt } = after;
    this.durable.set(id, { lastSeen, heardAt });
    this.listened = Math.max(this.listened, heardAt);
    const before = this.committed[index];
    if (!before) this.committed.push(after);
    else if (before.heardAt > heardAt) this.committed[index] = { vm: after.vm, ...lastSeenOf(before) };
    else this.committed[index] = after;
  }

  save(listened: number): void {
    for (const vm of this.committed) this.durable.set(vm.vm.id, lastSeenOf(vm));
    this.listened = Math.max(this.listened, listened);
  }

  restart(): void {
    this.pending = [];
    this.committed = this.committed.map(({ vm }) => ({ vm, ...this.durable.get(vm.id)! }));
  }
}

const lastSeenOf = ({ lastSeen, heardAt }: LastSeen): LastSeen => ({ lastSeen, heardAt });
const jsonOf = ({ vm, lastSeen }: ModelVm) => JSON.stringify({ ...vm, lastSeen: new Date(lastSeen).toISOString() });

class Run {
  readonly clock = new FakeClock();
  readonly store = new GatedStore();
  readonly model = new Model();
  registry = this.open();
  /** The lists by their stamps, since the last restart. */
  readonly stamped = new Map<string, string>();

  open(): Registry {
    return new Registry({ store: this.store, clock: this.clock, staleAfter: STALE_AFTER }, this.store.contents());
  }

  async take(step: Step): Promise<void> {
    const { clock, store, model, registry } = this;
    switch (step.do) {
      case 'register': {
        const vm = { ...aVm({ id: step.id, role: step.role, status: step.status }), registeredAt: this.wall() };
        const refusal = model.decided(step.id) ? 'CONFLICT' : undefined;
        return this.write(step.id, { vm, ...this.now() }, registry.register(aVm(vm)), refusal);
      }
      case 'update': {
        const before = model.decided(step.id);
        const seen = step.update.status === 'running' ? this.now() : before;
        const after = before && { vm: { ...before.vm, ...step.update } as ModelVm['vm'], ...lastSeenOf(seen!) };
        return this.write(step.id, after, registry.update(step.id, step.update), before ? undefined : 'NOT_FOUND');
      }
      case 'remove': {
        const refusal = model.decided(step.id) ? undefined : 'NOT_FOUND';
        return this.write(step.id, undefined, registry.deregister(step.id), refusal);
      }
      case 'refuse': {
        store.refusal = new VregError('BUSY', 'the queue is full');
        const outcome = await outcomeOf(registry.register(aVm({ id: step.id })));
        store.refusal = undefined;
        assert.equal(outcome, model.decided(step.id) ? 'CONFLICT' : 'BUSY');
        return;
      }
      case 'heartbeat': {
        const vm = model.get(step.id);
        if (vm) {
          Object.assign(vm, this.now());
          registry.heartbeat(step.id);
        } else assert.throws(() => registry.heartbeat(step.id), { code: 'NOT_FOUND' });
        return;
      }
      case 'release': {
        const done = model.pending.splice(0, step.count);
        for (const change of done) model.commit(change);
        await store.release(step.count);
        for (const { outcome } of done) assert.equal(await outcome, 'ok');
        return;
      }
      case 'fail': {
        const failed = model.pending.splice(0);
        store.fail(new VregError('STORE_FULL', 'the disk is full'));
        for (const { outcome } of failed) assert.equal(await outcome, 'STORE_FULL');
        return;
      }
      case 'save':
        model.save(clock.heard);
        model.gaps = [...clock.gaps];
        return registry.saveHeartbeats();
      case 'failToSave':
        store.heartbeatsFailure = new VregError('STORE_FULL', 'the disk is full');
        await assert.rejects(registry.saveHeartbeats(), { code: 'STORE_FULL' });
        store.heartbeatsFailure = undefined;
        return;
      case 'restart':
        store.fail(new Error('killed'));
        model.restart();
        clock.heard = store.contents().listened;
        clock.gaps = [...model.gaps];
        // As the real clock: the time between two runs is a gap.
        clock.gap = clock.heard > 0 ? { endedAt: clock.heard, certainFrom: clock.heard } : undefined;
        assert.equal(clock.heard, model.listened);
        this.registry = this.open();
        this.stamped.clear();
        return;
      case 'pass':
        return clock.pass(step.ms);
      case 'miss':
        clock.heard += 1;
        clock.miss(step.ms);
        return;
      case 'setWall':
        // No two signs of life have the same time, because the real clock has a resolution below a microsecond.
        clock.heard += 1;
        clock.wall += step.ms;
        return;
    }
  }

  /** Asserts that the registry and the model give the same answers. */
  compare(): void {
    const { clock, model, registry } = this;
    const isLive = ({ vm, heardAt }: ModelVm) => vm.status === 'running' && clock.heard - heardAt <= STALE_AFTER;
    const newestFirst = model.committed.toReversed();
    assert.deepEqual(
      registry.list({}).map(({ json }) => json),
      newestFirst.map(jsonOf),
    );
    assert.deepEqual(
      registry.list({ status: 'running' }).map(({ json }) => json),
      newestFirst.filter(isLive).map(jsonOf),
    );
    for (const role of ROLES) {
      assert.deepEqual(
        registry.discover(role).map(({ json }) => json),
        model.committed.filter((each) => each.vm.role === role && isLive(each)).map(jsonOf),
      );
    }
    for (const role of ROLES) {
      const offered = model.committed.filter((each) => each.vm.role === role && isLive(each));
      assert.deepEqual(
        registry.discover(role, { strict: true }).map(({ json }) => json),
        offered
          .filter(({ lastSeen, heardAt }) => {
            const silence = clock.wall - lastSeen;
            return silence >= 0 && silence <= STALE_AFTER && !clock.mayHaveWaited(heardAt);
          })
          .map(jsonOf),
      );
      // A VM is uncertain if it was not heard since the last gap and the time after it, for the rest of its lease.
      const uncertain = offered.filter(({ heardAt }) => clock.gap !== undefined && heardAt <= clock.gap.certainFrom);
      const left = uncertain.map(({ heardAt }) => Math.max(1, Math.ceil((heardAt + STALE_AFTER - clock.heard) / 1000)));
      const warming = warmingOf(registry.discover(role), clock, STALE_AFTER);
      assert.deepEqual(warming?.seconds, left.length > 0 ? Math.max(...left) : undefined);
    }
    this.compareLists(newestFirst, isLive);
    for (const id of IDS) assert.equal(registry.has(id), model.get(id) !== undefined);
    assert.equal(registry.revision, model.revision);
    assert.equal(registry.list({}).length, model.committed.length);
  }

  /** Asserts that cached lists are those of the model, and that a stamp identifies everything in a list but `lastSeen`. */
  compareLists(newestFirst: readonly ModelVm[], isLive: (vm: ModelVm) => boolean): void {
    const { clock, registry } = this;
    for (const role of [undefined, ...ROLES]) {
      const listed = newestFirst.filter(({ vm }) => role === undefined || vm.role === role);
      const live = listed.filter(isLive).reverse();
      const all = registry.snapshot(role);
      this.compareSnapshot(all, listed);
      const pages = registry.registeredBefore(Number.POSITIVE_INFINITY, role);
      assert.deepEqual(
        [...pages].map(({ json }) => json),
        listed.map(jsonOf),
      );
      if (role !== undefined) {
        const offered = registry.liveSnapshot(role);
        this.compareSnapshot(offered, live);
        assert.deepEqual(
          warmingOf(offered, clock, STALE_AFTER),
          warmingOf(registry.discover(role), clock, STALE_AFTER),
        );
      }
      const declared = JSON.stringify([role, listed.map(({ vm }) => vm), live.map(({ vm }) => vm.id)]);
      const stamp = `${role} ${registry.stamp(role)}`;
      assert.equal(this.stamped.get(stamp) ?? declared, declared);
      this.stamped.set(stamp, declared);
    }
  }

  compareSnapshot(snapshot: Snapshot, expected: readonly ModelVm[]): void {
    const { heard } = this.clock;
    const parts = snapshot.parts.map((part) => {
      const encoded = part.acquire(heard);
      encoded.readers--;
      assert.equal(encoded.bytes.length, part.size);
      return encoded.bytes.toString();
    });
    const entries = JSON.parse(`[${parts.join('').slice(1)}]`) as Vm[];
    const declared = expected.map((each) => JSON.parse(jsonOf(each)) as Vm);
    // `lastSeen` may lag by a second of listening time.
    const withoutTime = (vm: Vm) => ({ ...vm, lastSeen: undefined });
    assert.deepEqual(entries.map(withoutTime), declared.map(withoutTime));
    for (const [index, { heardAt }] of expected.entries())
      if (heardAt <= heard - MAX_LAG) assert.equal(entries[index]!.lastSeen, declared[index]!.lastSeen);
    assert.equal(snapshot.count, expected.length);
    assert.equal(snapshot.size, Math.max(0, parts.join('').length - 1));
  }

  /** Asserts that the store has exactly the state that is durable in the model. */
  compareStore(): void {
    const { store, model } = this;
    const { vms, revision } = store.contents();
    assert.equal(revision, model.revision);
    assert.deepEqual(
      vms.map(({ id, seen }) => ({ id, ...seen })),
      model.committed.map(({ vm }) => ({ id: vm.id, ...model.durable.get(vm.id)! })),
    );
  }

  private async write(
    id: string,
    after: ModelVm | undefined,
    written: Promise<unknown>,
    refusal: ErrorCode | undefined,
  ): Promise<void> {
    const outcome = outcomeOf(written);
    if (refusal) assert.equal(await outcome, refusal);
    else this.model.pending.push({ id, after, outcome });
  }

  private now(): LastSeen {
    return { lastSeen: this.clock.wall, heardAt: this.clock.heard };
  }

  private wall(): string {
    return new Date(this.clock.wall).toISOString();
  }
}

function outcomeOf(written: Promise<unknown>): Promise<ErrorCode | 'ok'> {
  return written.then(
    () => 'ok' as const,
    (error: VregError) => error.code,
  );
}

const id = fc.constantFrom(...IDS);
const update: fc.Arbitrary<VmUpdate> = fc.oneof(
  fc.constantFrom(...STATUSES).map((status) => ({ status })),
  fc.constantFrom('x', 'y').map((name) => ({ name })),
);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant('register' as const),
      id,
      role: fc.constantFrom(...ROLES),
      status: fc.constantFrom(...STATUSES),
    }),
  },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('update' as const), id, update }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant('remove' as const), id }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('heartbeat' as const), id }) },
  { weight: 8, arbitrary: fc.record({ do: fc.constant('release' as const), count: fc.integer({ min: 1, max: 4 }) }) },
  {
    weight: 5,
    arbitrary: fc.record({ do: fc.constant('pass' as const), ms: fc.constantFrom(1, 499, 500, 1000, 1001) }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('miss' as const), ms: fc.constantFrom(10, 60_000) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('setWall' as const), ms: fc.constantFrom(-60_000, 60_000) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('refuse' as const), id }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constantFrom('fail' as const, 'save' as const, 'failToSave' as const, 'restart' as const),
    }),
  },
);

test('any mix of writes, heartbeats, time steps, disk failures and restarts gives the answers of the model', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60, size: 'max' }), async (steps) => {
      const run = new Run();
      for (const each of steps) {
        await run.take(each);
        run.compare();
        run.compareStore();
      }
      await run.take({ do: 'release', count: Number.POSITIVE_INFINITY });
      await run.take({ do: 'save' });
      run.compareStore();
      await run.take({ do: 'restart' });
      run.compare();
    }),
    { numRuns: 1000 },
  );
});
