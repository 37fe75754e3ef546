/** Seeded random numbers, so that a failure can be repeated: `VREG_SEED=<what the test printed>`. */
import { createHash } from 'node:crypto';
import type { TestContext } from 'node:test';

export interface Random {
  /** An integer from 0 up to, not including, the limit. */
  below(limit: number): number;
}

export function seeded(seed: string): Random {
  let drawn = 0;
  return {
    below: (limit) => createHash('sha256').update(`${seed}/${drawn++}`).digest().readUIntBE(0, 6) % limit,
  };
}

/** Random numbers of a seed that is new in each run, and told with the test's result. */
export function randomOf(t: TestContext): Random {
  const seed = process.env.VREG_SEED ?? String(Date.now());
  t.diagnostic(`VREG_SEED=${seed}`);
  return seeded(`${t.name}/${seed}`);
}
