/**
 * Records the operations of concurrent clients, and checks that each key behaved like one register: there is an order of the
 * operations, compatible with their real-time order, in which each has the result that its client saw. The search is that of
 * Wing and Gong with the memo of Lowe ("Testing for linearizability", 2017).
 */

export type Operation =
  /** Puts the value if the key is absent. */
  | { kind: 'create'; value: string }
  /** Puts the value if the key has the value `from`. */
  | { kind: 'update'; from: string; value: string }
  /** Removes the key if it has the value `from`. */
  | { kind: 'delete'; from: string }
  /** Reads the value; null if the key is absent. */
  | { kind: 'read' };

/**
 * `done`: executed; `refused`: its condition did not hold; `never`: it failed, and was certainly not executed; `unknown`: executed
 * at any later time, or never. A read has the value as its result.
 */
export type Result = 'done' | 'refused' | 'never' | 'unknown' | { value: string | null };

export type RecordedOperation = Operation & {
  /** Position of its start among all starts and ends. */
  start: number;
  /** Infinity if its outcome is unknown. */
  end: number;
  result: Result;
};

/** Values must be unique: no two operations put the same one. All operations are recorded in one process. */
export class History {
  #ticks = 0;
  readonly #keys = new Map<string, RecordedOperation[]>();

  /** Records the start of an operation. @returns a function that records its end; without a call, its outcome is unknown */
  start(key: string, operation: Operation): (result: Result) => void {
    const recorded: RecordedOperation = {
      ...operation,
      start: this.#ticks++,
      end: Number.POSITIVE_INFINITY,
      result: 'unknown',
    };
    const operations = this.#keys.get(key);
    if (operations) operations.push(recorded);
    else this.#keys.set(key, [recorded]);
    return (result) => {
      recorded.result = result;
      if (result !== 'unknown') recorded.end = this.#ticks++;
    };
  }

  get size(): number {
    return [...this.#keys.values()].reduce((sum, operations) => sum + operations.length, 0);
  }

  count(result: Result): number {
    return [...this.#keys.values()].flat().filter((operation) => operation.result === result).length;
  }

  /** The keys that did not behave like a register, with their operations as JSON. */
  violations(): { key: string; operations: string }[] {
    return [...this.#keys]
      .filter(([, operations]) => !isLinearizable(operations))
      .map(([key, operations]) => ({ key, operations: JSON.stringify(operations) }));
  }
}

/** Operations per key at most: the search could take exponential time with more. */
export const MAX_OPERATIONS = 120;

/** Checks the operations on one key, which is absent at first. */
export function isLinearizable(operations: readonly RecordedOperation[]): boolean {
  if (operations.length > MAX_OPERATIONS) throw new Error(`${operations.length} operations on one key are too many`);
  const sorted = operations
    // A read without an answer says nothing.
    .filter(({ kind, result }) => result !== 'never' && (kind !== 'read' || result !== 'unknown'))
    .sort((a, b) => a.start - b.start);
  const required = sorted.reduce((mask, { result }, index) => (result === 'unknown' ? mask : mask | bit(index)), 0n);
  /** States of the search from which it has failed. */
  const failed = new Set<string>();
  const search = (done: bigint, value: string | null): boolean => {
    if ((done & required) === required) return true;
    const state = `${done.toString(36)} ${value}`;
    if (failed.has(state)) return false;
    failed.add(state);
    const isPending = (index: number) => (done & bit(index)) === 0n;
    // An operation cannot take effect after one that started when it had ended.
    const firstEnd = sorted.reduce(
      (first, { end }, index) => (isPending(index) ? Math.min(first, end) : first),
      Infinity,
    );
    for (const [index, operation] of sorted.entries()) {
      if (operation.start > firstEnd) break;
      if (!isPending(index)) continue;
      const next = execute(operation, value);
      if (next !== undefined && search(done | bit(index), next)) return true;
    }
    return false;
  };
  return search(0n, null);
}

function bit(index: number): bigint {
  return 1n << BigInt(index);
}

/** @returns the value after the operation; undefined if its result contradicts the value before */
function execute(operation: RecordedOperation, before: string | null): string | null | undefined {
  const { result } = operation;
  if (operation.kind === 'read') return typeof result === 'object' && result.value === before ? before : undefined;
  const holds = operation.kind === 'create' ? before === null : before === operation.from;
  // An unknown operation whose condition does not hold has no effect. The search also tries to leave it out.
  if (result === 'refused') return holds ? undefined : before;
  if (!holds) return undefined;
  return operation.kind === 'delete' ? null : operation.value;
}
