/** Answers of a busy cluster. Restores are also tested against real clusters in `test/etcd/moving.test.ts`. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { status } from '@grpc/grpc-js';
import { MessageWriter } from '../../../../daemon/store/etcd/protobuf.ts';
import { restoreIntoEtcd } from '../../../../daemon/store/etcd/restore-cluster.ts';
import type { BackupContents } from '../../../../daemon/store/moving.ts';
import { header, serveFakeEtcd } from '../../../helpers/fake-etcd.ts';

const EMPTY: BackupContents = {
  vms: [],
  revision: 0,
  positions: [{ revision: 0, tag: '' }],
  records: [],
  listened: 0,
  registryId: 'r1',
  history: new Map(),
};
/** Milliseconds for which the cluster is busy: ten attempts without pauses take less. */
const BUSY = 300;

test('a restore pauses between its attempts while the cluster has too many requests', async (t) => {
  let busyUntil: number | undefined;
  let transactions = 0;
  const endpoint = await serveFakeEtcd(t, {
    unary: {
      'Maintenance/Status': () => new MessageWriter().message(1, header(1)).bytes(2, '3.5.13'),
      'KV/Range': () => new MessageWriter().message(1, header(1)),
      'KV/Txn': () => {
        // The first transaction checks the server.
        if (transactions++ > 0) busyUntil ??= performance.now() + BUSY;
        if (performance.now() < (busyUntil ?? 0))
          return { code: status.RESOURCE_EXHAUSTED, details: 'etcdserver: too many requests' };
        return new MessageWriter().message(1, header(2)).flag(2, true);
      },
    },
  });
  await restoreIntoEtcd({ endpoints: [endpoint], prefix: '/vreg/v1/' }, EMPTY, `etcd://${endpoint}/vreg/v1/`);
  assert.ok(transactions > 3, 'the check, and two transactions of which one was refused');
});
