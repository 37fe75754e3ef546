/** Seeded random numbers. To repeat a failure, set `VREG_SEED` to the value that the test printed. */
import { createHash } from 'node:crypto';
import type { TestContext } from 'node:test';

export interface Random {
  /** @returns an integer from 0 to limit - 1 */
  below(limit: number): number;
}

export function seeded(seed: string): Random {
  let drawn = 0;
  return {
    below: (limit) => createHash('sha256').update(`${seed}/${drawn++}`).digest().readUIntBE(0, 6) % limit,
  };
}

/** Random numbers from a seed that is new in each run and printed with the result of the test. */
export function randomOf(t: TestContext): Random {
  const seed = process.env.VREG_SEED ?? String(Date.now());
  t.diagnostic(`VREG_SEED=${seed}`);
  return seeded(`${t.name}/${seed}`);
}
