/** The history of three replicas on etcd, with more faults than `test/etcd/history.test.ts`. `VREG_SEED=N` uses another seed. */
import test from 'node:test';
import { unlessEtcd } from '../helpers/etcd.ts';
import { assertLinearizable, fenced, runHistory } from '../helpers/etcd-history.ts';

test('the history of two minutes of faults is linearizable', unlessEtcd(), async (t) => {
  await assertLinearizable(t, await runHistory(t, fenced, 120_000));
});
