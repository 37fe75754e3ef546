/** Runs one operation on many items concurrently and reports every failure. The worst failure determines the exit code. */
import type { Context } from '../command.ts';
import { type ErrorCode, VregError, withMessage } from '../protocol/errors.ts';
import type { Answer } from '../render.ts';

/** Concurrent requests: enough to hide network latency, few enough for a small daemon. */
const CONCURRENCY = 8;

/**
 * Runs `work` on every item and continues after failures.
 * @param concurrency maximum number of items in progress; 1 processes them in order
 * @returns results in the order of the items, and failures; the caller prints `done` and passes `failed` to {@link throwFailed}
 */
export async function each<T, R>(
  context: Context,
  items: readonly T[],
  work: (item: T) => Promise<R>,
  concurrency = CONCURRENCY,
): Promise<{ done: R[]; failed: Failed<T>[] }> {
  const results: ({ value: R } | { item: T; error: unknown })[] = new Array(items.length);
  const progress = context.showsProgress && items.length > CONCURRENCY ? progressBar(context, items.length) : undefined;
  let next = 0;
  const worker = async () => {
    while (next < items.length) {
      const index = next++;
      const item = items[index]!;
      results[index] = await work(item).then(
        (value) => ({ value }),
        (error: unknown) => ({ item, error }),
      );
      progress?.step();
    }
  };
  await Promise.all(Array.from({ length: Math.min(concurrency, items.length) }, worker));
  progress?.end();
  return {
    done: results.filter((result): result is { value: R } => 'value' in result).map(({ value }) => value),
    failed: results.filter((result): result is Failed<T> => 'error' in result),
  };
}

/** A progress bar on stderr; `end` erases it. */
function progressBar({ io }: Context, total: number): { step(): void; end(): void } {
  const width = Math.max(1, Math.min(40, io.width - 20));
  let done = 0;
  return {
    step: () => {
      done++;
      const filled = Math.round((done / total) * width);
      io.err(`\r[${'#'.repeat(filled)}${'.'.repeat(width - filled)}] ${done}/${total}`);
    },
    end: () => io.err('\r\u001b[K'),
  };
}

export interface Failed<T> {
  item: T;
  error: unknown;
}

/** Errors that concern one item. Other errors, such as a rejected token, affect all items alike and are reported once. */
const ITEM_ERRORS: readonly ErrorCode[] = [
  'NOT_FOUND',
  'INVALID',
  'CONFLICT',
  'PRECONDITION_FAILED',
  'USAGE',
  'OUTCOME_UNKNOWN',
];

/** An unknown outcome is the worst failure, because a script that repeats the batch could make the change twice. */
function severityOf({ code, exit }: VregError): number {
  return code === 'OUTCOME_UNKNOWN' ? Number.POSITIVE_INFINITY : exit;
}

/**
 * Reports the failures of a batch. Does nothing if there are none. Rethrows the failure if the batch had one item; otherwise
 * prints one line per failure and throws an error with the worst exit code.
 * @param total number of items in the batch
 */
export function throwFailed<T>(
  context: Context,
  total: number,
  failed: readonly Failed<T>[],
  nameOf: (item: T) => string,
): void {
  if (failed.length === 0) return;
  for (const { error } of failed) if (!(error instanceof VregError)) throw error;
  const errors = failed as readonly { item: T; error: VregError }[];
  const worst = errors.reduce((a, b) => (severityOf(b.error) > severityOf(a.error) ? b : a)).error;
  const counts = new Map<VregError, number>();
  for (const { error } of errors) counts.set(error, (counts.get(error) ?? 0) + 1);
  // An error that several items share, such as that of the request that sent them all, is not about one of them.
  const lineOf = (item: T, error: VregError) =>
    counts.get(error)! > 1 ? error.message : describe(nameOf(item), error);
  const lines = new Set(errors.map(({ item, error }) => lineOf(item, error)));
  const [first] = lines;
  const hint = worst.hint === undefined ? {} : { hint: worst.hint };
  const failures = errors.map(({ item, error }) => ({ name: nameOf(item), code: error.code, message: error.message }));
  if (total === 1) throw new VregError(worst.code, first!, { ...hint, cause: worst });
  // In JSON output the error object lists the failures, so stderr remains one JSON value.
  if (lines.size > 1 && context.format !== 'json') for (const line of lines) context.note(line);
  throw new VregError(worst.code, `${failed.length} of ${total} failed${lines.size > 1 ? '' : `: ${first}`}`, {
    ...hint,
    failures,
  });
}

/**
 * Runs `work` for each name, prints the results as one answer, and throws if any of them failed.
 * @param answerOf called only if at least one of them succeeded
 */
export async function printEach<R, T>(
  context: Context,
  names: readonly string[],
  work: (name: string) => Promise<R>,
  answerOf: (results: readonly R[]) => Answer<T>,
): Promise<void> {
  const { done, failed } = await each(context, names, work);
  if (done.length > 0) await context.print(answerOf(done));
  throwFailed(context, names.length, failed, (name) => name);
}

/** Adds the item's name to the error of an operation on one item. */
export function naming<R>(name: string, work: Promise<R>): Promise<R> {
  return work.catch((error: unknown) => {
    if (!(error instanceof VregError)) throw error;
    throw withMessage(error, describe(name, error));
  });
}

function describe(name: string, { code, message }: VregError): string {
  return ITEM_ERRORS.includes(code) && !message.includes(`"${name}"`) ? `${name}: ${message}` : message;
}
