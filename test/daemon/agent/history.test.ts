/** The conclusions of an agent about one registry, restored registries, and two registries that respond in turn. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { adopt, type History, isAlternating, observe, positionsOf } from '../../../daemon/agent/history.ts';
import type { HistoryAnswer } from '../../../src/protocol/heartbeat.ts';

const LEASE = 300_000;
const INTERVAL = 60_000;

/** A registry as the agent sees it: the positions of its history, oldest first. */
class FakeHistory {
  readonly positions: string[];

  constructor(positions: readonly string[]) {
    this.positions = [...positions];
  }

  /** A copy of the first changes, as a backup has them. */
  copy(changes = this.positions.length): FakeHistory {
    return new FakeHistory(this.positions.slice(0, changes));
  }

  change(tag: string): this {
    this.positions.push(`${this.positions.length + 1}-${tag}`);
    return this;
  }

  get current(): string {
    return this.positions.at(-1)!;
  }

  /** As the registry compares; see history-claims.ts. */
  answer(position: string, left?: string): HistoryAnswer {
    const [own, before] = [this.positions.indexOf(position), left === undefined ? -1 : this.positions.indexOf(left)];
    const returned = before >= 0 && (own < 0 || before > own);
    return { history: own < 0 ? 'other' : 'same', ...(returned ? { returned } : {}) };
  }
}

class FakeAgent {
  history: History;
  now = 0;
  reports = 0;

  constructor(registry: FakeHistory) {
    this.history = adopt({}, registry.current, this.now);
    this.heartbeat(registry);
    this.now += LEASE;
  }

  /** Sends a heartbeat and makes the report that is due. @param reporting the registry that receives the report */
  heartbeat(registry: FakeHistory, reporting = registry): void {
    this.now += INTERVAL;
    const { position, leftPosition } = positionsOf(this.history, this.now);
    const answer = { ...registry.answer(position!, leftPosition), position: registry.current };
    const { due, after } = observe(this.history, answer, { at: this.now, lease: LEASE });
    this.history = after;
    if (due === undefined) return;
    this.reports++;
    this.history = adopt(this.history, reporting.current, this.now);
  }

  get isAlternating(): boolean {
    return isAlternating(this.history, this.now);
  }
}

const base = () => new FakeHistory([]).change('a').change('b').change('c').change('d');

test('an agent reports once after each restore, whatever it restores, and never finds two registries', () => {
  for (const changes of [[], ['x']]) {
    const registry = base();
    const agent = new FakeAgent(registry);
    registry.change('e');
    agent.heartbeat(registry);
    // The same revision, an earlier one, and a much earlier one.
    for (const [revision, reports] of [
      [5, 0],
      [4, 1],
      [2, 2],
    ] as const) {
      const restored = registry.copy(revision);
      for (const tag of changes) restored.change(`${tag}${revision}`);
      for (let n = 0; n < 5; n++) agent.heartbeat(restored);
      // A change after the same revision belongs to both histories until the next restore.
      assert.equal(agent.reports, reports, `${reports} reports after revision ${revision}, then ${changes}`);
    }
    assert.equal(agent.isAlternating, false);
  }
});

test('an operator who undoes a restore is not taken for two registries', () => {
  for (const changes of [[], ['x']]) {
    const registry = base();
    const restored = registry.copy(2);
    for (const tag of changes) restored.change(tag);
    const agent = new FakeAgent(registry);
    for (const each of [restored, registry]) for (let n = 0; n < 10; n++) agent.heartbeat(each);
    assert.equal(agent.isAlternating, false);
    assert.equal(agent.history.position, registry.current);
    assert.ok(agent.reports <= 2);
  }
});

for (const [what, changes] of [
  ['that both change', ['x']],
  ['of which one does not change', []],
] as const) {
  for (const turn of [1, 3, 20])
    test(`an agent finds two copies ${what}, each of which answers ${turn} heartbeats in a row`, () => {
      const one = base();
      const two = one.copy();
      one.change('e');
      for (const tag of changes) two.change(tag);
      const agent = new FakeAgent(one);
      const meet = (registry: FakeHistory) => {
        for (let n = 0; n < turn; n++) agent.heartbeat(registry);
      };
      for (const registry of [two, one, two, one]) meet(registry);
      assert.equal(agent.isAlternating, true);
      agent.reports = 0;
      const from = agent.now;
      for (let round = 0; round < 20; round++) {
        meet(two);
        one.change(`f${round}`);
        meet(one);
      }
      assert.ok(agent.reports <= 1 + (agent.now - from) / LEASE, 'at most one report per lease');
      assert.equal(agent.isAlternating, true);
      for (const registry of [two, one]) agent.heartbeat(registry);
      const { alternates, leftPosition } = positionsOf(agent.history, agent.now);
      assert.deepEqual([alternates, typeof leftPosition], [true, 'string']);
      for (let n = 0; n < 2; n++) agent.heartbeat(one);
      assert.equal(positionsOf(agent.history, agent.now).alternates, undefined, 'claims end with the alternation');
      for (let n = 0; n < 70; n++) agent.heartbeat(one);
      assert.equal(agent.isAlternating, false, 'it is over when one registry has answered for an hour');
    });
}

test('an agent finds two registries if heartbeats and reports reach different ones', () => {
  const one = base();
  const two = one.copy().change('x');
  one.change('e');
  const agent = new FakeAgent(one);
  let requests = 0;
  const next = () => [two, one][requests++ % 2]!;
  for (let n = 0; n < 12 && !agent.isAlternating; n++) {
    const before = agent.reports;
    const [first, second] = [next(), next()];
    agent.heartbeat(first, second);
    if (agent.reports === before) requests--;
  }
  assert.equal(agent.isAlternating, true);
  assert.ok(agent.reports <= 4);
});

test('forged answers and a clock that was set back do not delay reports for ever', () => {
  const agent = new FakeAgent(base());
  const at = agent.now - 10 * LEASE;
  const before = { ...agent.history, reportedAt: agent.now, switches: [agent.now - 1, agent.now] };
  const { due } = observe(before, { history: 'other', position: 'x' }, { at, lease: LEASE });
  assert.equal(due, 'report');
  const same = observe({ position: 'p' }, { history: 'same', position: undefined }, { at, lease: LEASE });
  assert.deepEqual(same, { due: undefined, after: { position: 'p' } });
});
