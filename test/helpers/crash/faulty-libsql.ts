/**
 * Puts a faulty disk behind libsql. Each call that can reach the disk has a number, and a call that is to fail does not reach
 * the library.
 */
import type { TestContext } from 'node:test';
import Database from 'libsql';

type Method = (this: unknown, ...args: unknown[]) => unknown;

/** Methods of a statement that run SQL. `prepare` only reads the schema, and `pragma` uses a statement. */
const STATEMENT_METHODS = ['run', 'get', 'all', 'iterate'] as const;

export class FaultyDisk {
  /** SQL of the calls so far, by number; `(statement)` if it is unknown. */
  readonly calls: string[] = [];
  #fails: (call: number, sql: string) => boolean = () => false;
  #code = 'SQLITE_IOERR_WRITE';
  #isSuspended = false;

  /** @param code of SQLite, such as `SQLITE_FULL` @param fails whether the call with this number, from 0, fails */
  fail(code: string, fails: (call: number, sql: string) => boolean): void {
    this.#code = code;
    this.#fails = fails;
  }

  heal(): void {
    this.#fails = () => false;
  }

  /** Runs an inspection whose calls are not counted and never fail. */
  suspend<T>(inspect: () => T): T {
    this.#isSuspended = true;
    try {
      return inspect();
    } finally {
      this.#isSuspended = false;
    }
  }

  /** Counts a call. @throws the error of the disk if the call is to fail */
  pass(sql: string): void {
    if (this.#isSuspended) return;
    const call = this.calls.push(sql) - 1;
    if (this.#fails(call, sql)) throw Object.assign(new Error('the disk fails'), { code: this.#code });
  }
}

/** Puts a faulty disk behind libsql in this process until the test ends. */
export function faultyDisk(t: TestContext): FaultyDisk {
  const disk = new FaultyDisk();
  const texts = new WeakMap<object, string>();
  const { exec, prepare } = Database.prototype as unknown as Record<string, Method>;
  t.mock.method(Database.prototype, 'exec', function (this: unknown, sql: string) {
    disk.pass(sql);
    return exec!.call(this, sql);
  });
  t.mock.method(Database.prototype, 'prepare', function (this: unknown, sql: string) {
    const statement = prepare!.call(this, sql) as object;
    texts.set(statement, sql);
    return statement;
  });
  const memory = new Database(':memory:');
  const statements = Object.getPrototypeOf(memory.prepare('SELECT 1')) as Record<string, Method>;
  memory.close();
  for (const name of STATEMENT_METHODS) {
    const real = statements[name]!;
    t.mock.method(statements, name, function (this: object, ...args: unknown[]) {
      disk.pass(texts.get(this) ?? '(statement)');
      return real.apply(this, args);
    });
  }
  return disk;
}
