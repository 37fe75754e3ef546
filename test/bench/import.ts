/** Import of a fleet into an empty registry. */
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { MAX_IMPORT, PATHS } from '../../src/protocol/api.ts';
import { batches, nthVm } from './fleet.ts';
import { Load, requestOf } from './load.ts';
import { median, type Row } from './row.ts';

/** A larger fleet is imported once, because that takes long enough for a precise figure. */
const MAX_REPEATED = 10_000;

export const IMPORT_ROWS: readonly Row[] = [
  {
    name: 'import',
    group: 'store',
    isPerFleet: true,
    async measure(lab) {
      const turns = lab.vms <= MAX_REPEATED ? lab.options.turns : 1;
      const rates: number[] = [];
      for (let turn = 0; turn < turns; turn++) {
        const daemon = await lab.startDaemon(mkdtempSync(join(lab.home, 'import-')));
        try {
          const bodies = batches(lab.vms, MAX_IMPORT).map((numbers) =>
            requestOf('POST', PATHS.import, {}, JSON.stringify({ vms: numbers.map((n) => nthVm(n)) })),
          );
          const load = await Load.open(daemon, 1);
          const { seconds } = await load.run({ next: () => bodies.shift() });
          load.close();
          rates.push(lab.vms / seconds);
        } finally {
          await daemon.end();
        }
      }
      return [{ name: 'import', unit: '1/s', vreg: median(rates), goal: '≥ 5000/s' }];
    },
  },
];
