/** The checker of histories: it must reject every anomaly that a registry could show, and accept each correct history. */
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { History, type Operation, type Result } from './helpers/linearizability.ts';

/** Executes operations one after the other. */
function sequence(...operations: [Operation, Result][]): History {
  const history = new History();
  for (const [operation, result] of operations) history.start('k', operation)(result);
  return history;
}

const isAccepted = (history: History) => history.violations().length === 0;

const create = (value: string): Operation => ({ kind: 'create', value });
const update = (from: string, value: string): Operation => ({ kind: 'update', from, value });
const remove = (from: string): Operation => ({ kind: 'delete', from });
const read: Operation = { kind: 'read' };
const sees = (value: string | null): Result => ({ value });

test('a correct sequence of operations is accepted', () => {
  const history = sequence(
    [read, sees(null)],
    [create('a'), 'done'],
    [create('b'), 'refused'],
    [update('a', 'c'), 'done'],
    [update('a', 'd'), 'refused'],
    [read, sees('c')],
    [remove('a'), 'refused'],
    [remove('c'), 'done'],
    [read, sees(null)],
    [create('e'), 'done'],
    [read, sees('e')],
  );
  assert.ok(isAccepted(history));
});

for (const [anomaly, history] of [
  [
    'a zombie, which comes back after its deletion',
    sequence([create('a'), 'done'], [remove('a'), 'done'], [read, sees('a')]),
  ],
  [
    'a zombie of a refused create',
    sequence([create('a'), 'done'], [create('b'), 'refused'], [remove('a'), 'done'], [read, sees('b')]),
  ],
  ['two creates of one key', sequence([create('a'), 'done'], [create('b'), 'done'])],
  ['a refused create of an absent key', sequence([create('a'), 'refused'])],
  ['a stale read', sequence([create('a'), 'done'], [update('a', 'b'), 'done'], [read, sees('a')])],
  ['a read of an absent key after its create', sequence([create('a'), 'done'], [read, sees(null)])],
  ['a lost update', sequence([create('a'), 'done'], [update('a', 'b'), 'done'], [update('a', 'c'), 'done'])],
  ['a lost create', sequence([create('a'), 'done'], [create('b'), 'done'], [read, sees('b')])],
  [
    'an update that is refused although it was executed',
    sequence([create('a'), 'done'], [update('a', 'b'), 'refused'], [read, sees('b')]),
  ],
  ['a deletion that had no effect', sequence([create('a'), 'done'], [remove('a'), 'done'], [create('b'), 'refused'])],
  [
    'an unknown create that was executed, and a later read without it',
    sequence([create('a'), 'unknown'], [read, sees('a')], [read, sees(null)]),
  ],
] as const) {
  test(`${anomaly} is rejected`, () => assert.ok(!isAccepted(history)));
}

test('an operation with an unknown outcome may have been executed, be executed later, or never', () => {
  assert.ok(isAccepted(sequence([create('a'), 'unknown'], [read, sees('a')])));
  assert.ok(isAccepted(sequence([create('a'), 'unknown'], [read, sees(null)], [read, sees('a')])));
  assert.ok(
    isAccepted(sequence([create('a'), 'unknown'], [read, sees(null)], [create('b'), 'done'], [read, sees('b')])),
  );
  assert.ok(
    isAccepted(sequence([create('a'), 'done'], [remove('a'), 'unknown'], [read, sees('a')], [read, sees(null)])),
  );
});

test('concurrent operations may take effect in any order, and later ones only afterwards', () => {
  for (const value of ['a', 'b', null]) {
    const history = new History();
    const first = history.start('k', create('a'));
    const second = history.start('k', create('b'));
    const reading = history.start('k', read);
    first(value === 'b' ? 'refused' : 'done');
    reading(sees(value));
    second(value === 'b' ? 'done' : 'refused');
    assert.ok(isAccepted(history), String(value));
    history.start('k', read)(sees(value === 'b' ? 'a' : 'b'));
    assert.ok(!isAccepted(history), String(value));
  }
});

test('an operation that failed must not have been executed', () => {
  assert.ok(isAccepted(sequence([create('a'), 'never'], [read, sees(null)], [create('b'), 'done'])));
  assert.ok(!isAccepted(sequence([create('a'), 'never'], [read, sees('a')])));
});

test('an operation that was never ended has an unknown outcome', () => {
  const history = new History();
  history.start('k', create('a'));
  history.start('k', read)(sees('a'));
  assert.ok(isAccepted(history));
  assert.equal(history.count('unknown'), 1);
});

test('each key is checked by itself', () => {
  const history = new History();
  history.start('good', create('a'))('done');
  history.start('bad', create('a'))('done');
  history.start('bad', read)(sees(null));
  assert.deepEqual(
    history.violations().map(({ key }) => key),
    ['bad'],
  );
});

interface Step {
  kind: string;
  /** True if the client never gets the result. */
  isLost: boolean;
  /** Turns from the start to the execution, and from there to the end. */
  delay: number;
}

const steps = fc.array(
  fc.record({ kind: fc.constantFrom('create', 'update', 'delete', 'read'), isLost: fc.boolean(), delay: fc.nat(3) }),
  { maxLength: 40 },
);

/** A register that executes each operation at some time between its start and its end. */
function simulate(plan: readonly Step[]): History {
  const history = new History();
  let value: string | null = null;
  let lastSeen = 'none';
  const open: { runAt: number; run(): void; endAt: number; end(): void }[] = [];
  for (const [turn, { kind, isLost, delay }] of plan.entries()) {
    const next = `v${turn}`;
    const operation: Operation =
      kind === 'create'
        ? create(next)
        : kind === 'update'
          ? update(lastSeen, next)
          : kind === 'delete'
            ? remove(lastSeen)
            : read;
    const end = history.start('k', operation);
    let result: Result = 'unknown';
    const run = () => {
      if (operation.kind === 'read') result = sees(value);
      else {
        const holds: boolean = operation.kind === 'create' ? value === null : value === operation.from;
        if (holds) value = operation.kind === 'delete' ? null : operation.value;
        result = holds ? 'done' : 'refused';
      }
      lastSeen = value ?? lastSeen;
    };
    open.push({ runAt: turn + delay, run, endAt: turn + 2 * delay, end: () => end(isLost ? 'unknown' : result) });
    for (const each of open) if (each.runAt === turn) each.run();
    for (const each of open) if (each.endAt === turn) each.end();
  }
  return history;
}

test('each history of a simulated register is accepted', () => {
  fc.assert(fc.property(steps, (plan) => isAccepted(simulate(plan))));
});
