import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { after, before } from 'node:test';
import { flipOneBit, makeSpecimen, type Specimen } from '../helpers/crash/damage.ts';
import { randomOf } from '../helpers/random.ts';

let root: string;
let specimen: Specimen;
before(async () => {
  root = mkdtempSync(join(tmpdir(), 'vreg-test-'));
  specimen = await makeSpecimen(root);
});
after(() => rmSync(root, { recursive: true, force: true }));

for (const [file, as, flips] of [
  ['registry.db', 'closed', 300],
  ['registry.db', 'killed', 100],
  ['registry.db-wal', 'killed', 100],
] as const) {
  test(`each of ${flips} flipped bits in ${file} (${as}) is an error or harmless, also to later changes`, async (t) => {
    const random = randomOf(t);
    let refused = 0;
    for (let n = 0; n < flips; n++) if (await flipOneBit(t, { specimen, as, file, random, andChange: true })) refused++;
    t.diagnostic(`${refused} of ${flips} were refused`);
  });
}
