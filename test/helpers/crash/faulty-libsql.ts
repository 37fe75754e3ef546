/**
 * libsql with a disk behind it that fails when it is told to. Each call that can reach the disk counts as one; what is
 * to fail never gets to the library.
 */
import type { TestContext } from 'node:test';
import Database from 'libsql';

type Method = (this: unknown, ...args: unknown[]) => unknown;

/** Calls that run SQL. `prepare` reads the schema only, and `pragma` runs its SQL through a statement. */
const OF_STATEMENTS = ['run', 'get', 'all', 'iterate'] as const;

export class FaultyDisk {
  /** SQL of the calls so far, by number; `(statement)` where it is not known. */
  readonly calls: string[] = [];
  #fails: (call: number, sql: string) => boolean = () => false;
  #code = 'SQLITE_IOERR_WRITE';
  #isAside = false;

  /** @param code as SQLite has it, e.g. `SQLITE_FULL` @param fails whether this call, counted from 0, is to fail */
  fail(code: string, fails: (call: number, sql: string) => boolean): void {
    this.#code = code;
    this.#fails = fails;
  }

  heal(): void {
    this.#fails = () => false;
  }

  /** Does something that counts for nothing and cannot fail: a look at what is there. */
  aside<T>(look: () => T): T {
    this.#isAside = true;
    try {
      return look();
    } finally {
      this.#isAside = false;
    }
  }

  /** @throws the error of the disk when it is this call's turn */
  pass(sql: string): void {
    if (this.#isAside) return;
    const call = this.calls.push(sql) - 1;
    if (this.#fails(call, sql)) throw Object.assign(new Error('the disk fails'), { code: this.#code });
  }
}

/** Puts a disk behind libsql in this process until the test ends. */
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
  for (const name of OF_STATEMENTS) {
    const real = statements[name]!;
    t.mock.method(statements, name, function (this: object, ...args: unknown[]) {
      disk.pass(texts.get(this) ?? '(statement)');
      return real.apply(this, args);
    });
  }
  return disk;
}
