/**
 * The recorded history of three replicas must be linearizable, and no acknowledged change may be lost. A naive client, which takes
 * each failure for "not executed", must be caught. `test/long` runs more of them.
 */
import assert from 'node:assert/strict';
import test from 'node:test';
import { unlessEtcd } from '../helpers/etcd.ts';
import { assertLinearizable, fenced, naive, runHistory } from '../helpers/etcd-history.ts';

const options = unlessEtcd();

test('the history of three replicas is linearizable while members are killed and stopped', options, async (t) => {
  await assertLinearizable(t, await runHistory(t, fenced, 30_000));
});

test('the checker catches a naive client, whose changes are executed twice or reported wrongly', options, async (t) => {
  let caught = 0;
  // A fault hits few operations, so that one run may catch nothing.
  for (let round = 0; round < 4 && caught === 0; round++) {
    const { history, cluster } = await runHistory(t, naive, 15_000);
    caught = history.violations().length;
    t.diagnostic(`${history.size} operations, ${caught} keys that are not linearizable`);
    await cluster.stop();
  }
  assert.ok(caught > 0);
});
