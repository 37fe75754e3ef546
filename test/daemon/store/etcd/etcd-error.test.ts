import assert from 'node:assert/strict';
import test from 'node:test';
import {
  classify,
  EtcdError,
  toEtcdError,
  toEtcdOpenError,
  toEtcdRuntimeError,
} from '../../../../daemon/store/etcd/etcd-error.ts';

/** Texts of etcd 3.4 (etcdserver/api/v3rpc/rpctypes/error.go), kine and grpc-js. */
const CASES = [
  [8, 'etcdserver: mvcc: database space exceeded', 'no-space'],
  [8, 'etcdserver: too many requests', 'busy'],
  [8, 'Received message larger than max (6042919 vs 4194304)', 'too-large'],
  [3, 'etcdserver: request is too large', 'too-large'],
  [3, 'etcdserver: too many operations in txn request', 'too-large'],
  [3, 'etcdserver: duplicate key given in txn request', 'refused'],
  [3, 'etcdserver: authentication failed, invalid user ID or password', 'denied'],
  [3, 'etcdserver: user name is empty', 'denied'],
  [3, 'etcdserver: revision of auth store is old', 'unauthenticated'],
  [5, 'etcdserver: requested lease not found', 'not-found'],
  [7, 'etcdserver: permission denied', 'denied'],
  [9, 'etcdserver: authentication is not enabled', 'refused'],
  [11, 'etcdserver: mvcc: required revision has been compacted', 'compacted'],
  [11, 'etcdserver: mvcc: required revision is a future revision', 'future'],
  [12, 'unknown service etcdserverpb.KV', 'unsupported'],
  [2, 'unsupported transaction: compare:<>', 'unsupported'],
  [3, 'etcdserver: unsupported operations in txn request', 'unsupported'],
  [16, 'etcdserver: invalid auth token', 'unauthenticated'],
] as const;

for (const [code, text, kind] of CASES) {
  test(`"${text}" is classified as ${kind}, of a write as well as of a read`, () => {
    assert.deepEqual([classify(code, text, true), classify(code, text, false)], [kind, kind]);
  });
}

test('a write without an answer has an unknown outcome, and a read can be sent again', () => {
  for (const [code, text] of [
    [1, 'Cancelled on client'],
    [2, 'Stream removed'],
    [4, 'Deadline exceeded after 1.500s,LB pick: 0.001s,remote_addr=127.0.0.1:2379'],
    [13, 'Received RST_STREAM with code 2'],
    [14, 'etcdserver: request timed out'],
    [14, 'etcdserver: leader changed'],
    [14, 'read ECONNRESET'],
  ] as const)
    assert.deepEqual([classify(code, text, true), classify(code, text, false)], ['unknown', 'unavailable'], text);
});

test('a write that no connection has taken was certainly not executed', () => {
  for (const [code, text] of [
    [14, 'No connection established. Last error: connect ECONNREFUSED 127.0.0.1:1'],
    [14, 'Name resolution failed for target dns:a:2379'],
    [4, 'Deadline exceeded after 1.500s,metadata filters: 0.001s,Waiting for LB pick'],
  ] as const)
    assert.equal(classify(code, text, true), 'unavailable', text);
});

test('an error names the member and omits the internal state of gRPC', () => {
  for (const state of [
    'LB pick: 0.001s,remote_addr=127.0.0.1:2379',
    'name resolution: 0.008s,time to current attempt start: 0.001s',
    'time to current attempt start: 0.001s,LB pick: 0.001s',
  ]) {
    const details = `Deadline exceeded after 1.500s,${state}`;
    const error = toEtcdError({ code: 4, details, message: `4 DEADLINE_EXCEEDED: ${details}` }, 'a:2379', true);
    assert.deepEqual(
      [error.message, error.endpoint, error.isTimeout, error.grpcCode],
      ['a:2379: Deadline exceeded after 1.500s', 'a:2379', true, 4],
    );
  }
});

test('an error of the connection is the one of the system', () => {
  const details = 'No connection established. Last error: Error: connect ECONNREFUSED 10.0.0.1:2379. Resolution note: ';
  const error = toEtcdError({ code: 14, details, message: details }, 'a:2379', true);
  assert.deepEqual([error.message, error.kind], ['a:2379: connect ECONNREFUSED 10.0.0.1:2379', 'unavailable']);
});

test('each kind has an error for requests and one for the start, with a next step', () => {
  const kinds = [...new Set(CASES.map(([, , kind]) => kind)), 'unknown', 'unavailable'] as const;
  const statuses = kinds.map((kind) => {
    const error = new EtcdError(kind, 'a:2379: reason');
    const runtime = toEtcdRuntimeError('store the change', error);
    const open = toEtcdOpenError(error);
    assert.ok(runtime.hint && open.hint, kind);
    assert.equal(open.code, 'STORE_UNUSABLE');
    return [kind, runtime.status] as const;
  });
  const statusOf = Object.fromEntries(statuses);
  assert.deepEqual(
    [statusOf['no-space'], statusOf.unavailable, statusOf.unknown, statusOf['too-large']],
    [507, 503, 503, 413],
  );
});

test('an unknown outcome has no Retry-After, because clients would send the write to the next replica', () => {
  const { code, exit, retryAfter } = toEtcdRuntimeError('store the change', new EtcdError('unknown', 'a:2379: reason'));
  assert.deepEqual([code, exit, retryAfter], ['OUTCOME_UNKNOWN', 6, undefined]);
});
