import assert from 'node:assert/strict';
import test from 'node:test';
import { OwnWrites } from '../../../../daemon/store/etcd/own-writes.ts';

test('a replica recognizes its transactions, except those whose outcome is unknown', () => {
  const writes = new OwnWrites('a');
  const [first, second] = [writes.next(), writes.next()];
  writes.failed(first);
  assert.deepEqual(
    [first, second, 'b.2', 'ab.2'].map((write) => writes.isOwn(write)),
    [false, true, false, false],
  );
});

test('a transaction whose outcome is unknown is forgotten when one arrives that was sent later', () => {
  const writes = new OwnWrites('a');
  const [failed, concurrent] = [writes.next(), writes.next()];
  writes.failed(failed);
  const isForgotten = () => writes.isOwn(failed);
  writes.arrived(failed);
  assert.ok(!isForgotten(), 'it is forgotten with the next one');
  writes.arrived(concurrent);
  assert.ok(!isForgotten(), 'both may have the same fence');
  writes.arrived('b.9');
  assert.ok(!isForgotten(), 'another replica has another fence');
  writes.arrived(writes.next());
  assert.ok(isForgotten());
});
