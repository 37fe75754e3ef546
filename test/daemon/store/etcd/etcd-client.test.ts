/** Servers that are no etcd, and a missing package. The client is also tested against real clusters in `test/etcd/`. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { EtcdClient } from '../../../../daemon/store/etcd/etcd-client.ts';
import { loadGrpc } from '../../../../daemon/store/etcd/grpc.ts';
import { MessageWriter } from '../../../../daemon/store/etcd/protobuf.ts';
import { type FakeEtcd, header, serveFakeEtcd, unimplemented } from '../../../helpers/fake-etcd.ts';

async function connect(t: TestContext, unary: FakeEtcd['unary']): Promise<EtcdClient> {
  const endpoint = await serveFakeEtcd(t, { unary });
  const client = await EtcdClient.open({ endpoints: [endpoint], prefix: '/vreg/v1/' });
  t.after(() => client.close());
  return client;
}

const version = (text: string) => () => new MessageWriter().message(1, header(1)).bytes(2, text);
const txn = () => new MessageWriter().message(1, header(1));

test('a server that refuses several compares in a transaction, as kine does, is unsupported', async (t) => {
  for (const refusal of [
    { code: 2, details: 'unsupported transaction: compare:<target:VERSION>' },
    { code: 3, details: 'etcdserver: unsupported operations in txn request' },
    unimplemented() as { code: number; details: string },
  ]) {
    const client = await connect(t, { 'KV/Txn': () => refusal, 'Maintenance/Status': version('3.5.13') });
    await assert.rejects(client.checkServer('/vreg/v1/probe'), { kind: 'unsupported' });
  }
});

test('a server older than 3.4, or without a version, is unsupported', async (t) => {
  for (const [text, isSupported] of [
    ['3.3.27', false],
    ['2.3.8', false],
    ['', false],
    ['3.4.0', true],
    ['3.10.1', true],
    ['4.0.0', true],
  ] as const) {
    const client = await connect(t, { 'KV/Txn': txn, 'Maintenance/Status': version(text) });
    const checked = client.checkServer('/vreg/v1/probe');
    if (isSupported) await checked;
    else await assert.rejects(checked, { kind: 'unsupported', message: /3\.4 or newer/ }, text);
  }
});

test('a server that tells its version to root only is supported, because older ones tell it everyone', async (t) => {
  const denied = () => ({ code: 7, details: 'etcdserver: permission denied' });
  const client = await connect(t, { 'KV/Txn': txn, 'Maintenance/Status': denied });
  await client.checkServer('/vreg/v1/probe');
});

test('an answer that is no message of the API is an error, and not taken for success', async (t) => {
  const broken = () => new MessageWriter().bytes(1, Buffer.of(0x08));
  const client = await connect(t, { 'KV/Txn': broken, 'KV/Range': broken });
  await assert.rejects(client.txn([], [{ type: 'put', key: 'a', value: 'b' }]), { kind: 'unknown' });
  await assert.rejects(client.range({ key: 'a' }, { timeoutMs: 200 }), { kind: 'unavailable' });
});

test('a write without an answer is not sent again, and a read is', async (t) => {
  const calls = { txn: 0, range: 0 };
  const client = await connect(t, {
    'KV/Txn': () => {
      calls.txn++;
      return { code: 14, details: 'etcdserver: request timed out' };
    },
    'KV/Range': () => {
      if (++calls.range < 3) return { code: 14, details: 'etcdserver: leader changed' };
      return new MessageWriter().message(1, header(7));
    },
  });
  await assert.rejects(client.txn([], [{ type: 'put', key: 'a', value: 'b' }]), { kind: 'unknown' });
  assert.equal((await client.range({ key: 'a' })).header.revision, 7);
  assert.deepEqual(calls, { txn: 1, range: 3 });
});

test('a write that no member has received is sent to the next one', async (t) => {
  const endpoint = await serveFakeEtcd(t, { unary: { 'KV/Txn': txn } });
  const client = await EtcdClient.open({ endpoints: ['127.0.0.1:1', endpoint], prefix: '/' }, { random: () => 0 });
  t.after(() => client.close());
  assert.equal((await client.txn([], [{ type: 'put', key: 'a', value: 'b' }])).header.revision, 1);
});

test('an unreachable cluster is named in the error', async (t) => {
  const client = await EtcdClient.open({ endpoints: ['127.0.0.1:1'], prefix: '/' });
  t.after(() => client.close());
  await assert.rejects(client.range({ key: 'a' }, { timeoutMs: 200 }), {
    kind: 'unavailable',
    message: /^127\.0\.0\.1:1: .*ECONNREFUSED/,
  });
});

test('without the package of gRPC, the error names the command that installs it', async () => {
  const missing = Object.assign(new Error('Cannot find package'), { code: 'ERR_MODULE_NOT_FOUND' });
  await assert.rejects(
    loadGrpc(() => Promise.reject(missing)),
    {
      code: 'STORE_UNUSABLE',
      message: 'the store in etcd requires the package @grpc/grpc-js',
      hint: 'install it beside vreg: npm install -g @grpc/grpc-js@1.14.7',
    },
  );
  await assert.rejects(
    loadGrpc(() => Promise.reject(new TypeError('other'))),
    TypeError,
  );
});
