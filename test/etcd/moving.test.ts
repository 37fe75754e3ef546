/** Backups move a registry between the embedded store and etcd, in both directions. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdirSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { type IncomingMessage, request } from 'node:http';
import { join } from 'node:path';
import test from 'node:test';
import { pino } from 'pino';
import { serve } from '../../daemon/main.ts';
import { readProcesses } from '../../daemon/process/pid-file.ts';
import { AGE_HEADER } from '../../src/protocol/api.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { type Daemon, endAfter, startDaemon, tempDir } from '../helpers/daemon.ts';
import { startCluster, unlessEtcd } from '../helpers/etcd.ts';
import { startReplica } from '../helpers/etcd-registry.ts';
import { FLEET } from '../helpers/fleet.ts';
import { until } from '../helpers/until.ts';

const options = unlessEtcd();

/** A change in the history of a VM. */
interface Item {
  revision?: undefined;
  position?: undefined;
  type?: string;
  changes?: object;
}

/** Reads everything that a move must preserve, as a client. */
async function read({ vreg }: Pick<Daemon, 'vreg'>, env: NodeJS.ProcessEnv, ids: readonly string[]) {
  const { stdout, stderr } = await vreg(['ls', '-o', 'json'], { env });
  assert.equal(stderr, '');
  const { vms } = JSON.parse(stdout) as { vms: Vm[] };
  const changes: Item[][] = [];
  for (const id of ids) {
    const { code, stdout } = await vreg(['history', id, '-o', 'json'], { env });
    assert.equal(code, 0, stdout);
    const items = JSON.parse(stdout) as { history: object[] } | object[];
    const list = Array.isArray(items) ? items : items.history;
    changes.push(list.map((item): Item => ({ ...item, revision: undefined, position: undefined })));
  }
  const tokens = await vreg(['token', 'ls', '-o', 'json'], { env });
  assert.equal(tokens.code, 0, tokens.stderr);
  // The last use is saved within a minute, and reading the list is one.
  const infos = (JSON.parse(tokens.stdout) as object[]).map((token) => ({ ...token, lastUsedAt: undefined }));
  return { vms, changes, tokens: infos };
}

/** Registers, changes and removes VMs, and creates an access token. @returns the environment with it */
async function fill(daemon: Daemon): Promise<NodeJS.ProcessEnv> {
  await seed(daemon.url, FLEET);
  await daemon.vreg(['update', 'w1', '--name', 'two']);
  await daemon.vreg(['rm', 'n3', '--yes']);
  const created = await daemon.vreg(['token', 'create', 'ops', '--scope', 'admin', '-q']);
  assert.equal(created.code, 0, created.stderr);
  return { VERS_AUTH_TOKEN: created.stdout.trim() };
}

async function backUp({ home, vreg }: Daemon, env: NodeJS.ProcessEnv): Promise<string> {
  const file = join(home, 'backup.db');
  const result = await vreg(['backup', file, '--force'], { env });
  assert.equal(result.code, 0, result.stderr);
  return file;
}

test(
  'a backup restores into an empty prefix of etcd, with entries, order, times, history and tokens',
  options,
  async (t) => {
    const { url: store, endpoints } = await startCluster(t, { members: 1 });
    const embedded = await startDaemon(t);
    const env = await fill(embedded);
    const before = await read(embedded, env, ['w1', 'n3']);
    const file = await backUp(embedded, env);
    await embedded.end('SIGTERM');

    const restored = await vreg(['daemon', 'restore', file, '--store', store]);
    assert.deepEqual([restored.code, restored.stdout], [0, `${store}\n`], restored.stderr);
    const replica = await startDaemon(t, { args: ['--store', store] });
    assert.equal((await replica.vreg(['ls'])).code, 2, 'tokens are required');
    assert.deepEqual(await read(replica, env, ['w1', 'n3']), before);
    const positions = await replica.vreg(['history', 'w1', '-q'], { env });
    assert.equal(positions.stdout, 'none\nnone\n', 'the revisions of the data dir mean nothing in etcd');
    const changed = await replica.vreg(['update', 'w1', '--name', 'three'], { env });
    assert.equal(changed.code, 0, changed.stderr);
    const [latest] = (await read(replica, env, ['w1'])).changes[0]!;
    assert.deepEqual([latest?.type, latest?.changes], ['updated', { name: ['two', 'three'] }]);

    const again = await vreg(['daemon', 'restore', file, '--store', store]);
    assert.equal(again.code, 4);
    assert.match(
      again.stderr,
      /^vreg: .* is not empty: .*\nhint: nothing was changed; .*etcdctl del --prefix \/vreg\/v1\//,
    );
    assert.equal((await startReplica(t, endpoints)).registry.get('w1').name, 'three');
  },
);

test('a backup of a replica restores into a data dir and into another prefix of etcd', options, async (t) => {
  const { url: store } = await startCluster(t, { members: 1 });
  const replica = await startDaemon(t, { args: ['--store', store, '--heartbeat-flush', '60s'] });
  const env = await fill(replica);
  await replica.vreg(['update', 'w2', '--status', 'paused'], { env });
  await replica.vreg(['register', 'last', '--role', 'worker', '--address', '10.0.0.9'], { env });
  const before = await read(replica, env, ['w1', 'w2', 'n3', 'last']);
  const file = await backUp(replica, env);
  assert.deepEqual(
    readdirSync(replica.dataDir).filter((name) => name.startsWith('.vreg-copy-')),
    [],
  );

  const home = tempDir(t);
  const restore = await vreg(['daemon', 'restore', file, '--data-dir', join(home, 'data'), '--yes']);
  assert.equal(restore.code, 0, restore.stderr);
  const embedded = await startDaemon(t, { home });
  assert.equal((await embedded.vreg(['ls'])).code, 2, 'tokens are required');
  assert.deepEqual(await read(embedded, env, ['w1', 'w2', 'n3', 'last']), before);
  const changed = await embedded.vreg(['rm', 'last', '--yes'], { env });
  assert.equal(changed.code, 0, changed.stderr);
  const removed = (await read(embedded, env, ['last'])).changes[0]!;
  assert.deepEqual(
    removed.map(({ type }) => type),
    ['deregistered', 'registered'],
  );

  const other = store.replace(/v1\/$/, 'v2/');
  const moved = await vreg(['daemon', 'restore', file, '--store', other]);
  assert.equal(moved.code, 0, moved.stderr);
  const second = await startDaemon(t, { args: ['--store', other] });
  assert.deepEqual(await read(second, env, ['w1', 'w2', 'n3', 'last']), before);
});

test('a registry that moved to etcd moves back to a data dir, with the changes made in etcd', options, async (t) => {
  const { url: store } = await startCluster(t, { members: 1 });
  const first = await startDaemon(t);
  const env = await fill(first);
  const old = await positionOf(first, env);
  const out = await backUp(first, env);
  await first.end('SIGTERM');
  const there = await vreg(['daemon', 'restore', out, '--store', store]);
  assert.equal(there.code, 0, there.stderr);
  const replica = await startDaemon(t, { args: ['--store', store] });
  const added = await replica.vreg(['register', 'in-etcd', '--role', 'worker', '--address', '10.0.0.9'], { env });
  assert.equal(added.code, 0, added.stderr);
  await replica.vreg(['update', 'w1', '--name', 'three'], { env });
  const ids = ['w1', 'n3', 'in-etcd'];
  const before = await read(replica, env, ids);
  const inEtcd = await positionOf(replica, env);
  const back = await backUp(replica, env);

  const home = tempDir(t);
  const restored = await vreg(['daemon', 'restore', back, '--data-dir', join(home, 'data'), '--yes']);
  assert.equal(restored.code, 0, restored.stderr);
  const last = await startDaemon(t, { home });
  assert.deepEqual(await read(last, env, ids), before);
  assert.deepEqual(
    before.changes[0]!.map(({ type }) => type),
    ['updated', 'updated', 'registered'],
  );
  // Neither position belongs to the new history, so a subscriber that resumes from one is reset.
  for (const position of [old, inEtcd]) {
    const headers = { authorization: `Bearer ${env.VERS_AUTH_TOKEN}` };
    const answer = await fetch(`${last.url}/registry/events?since=${position}`, { headers });
    const reader = answer.body!.getReader();
    const { value } = await reader.read();
    assert.match(Buffer.from(value!).toString(), /event: reset/);
    await reader.cancel();
  }
});

async function positionOf({ url }: Daemon, env: NodeJS.ProcessEnv): Promise<string> {
  const answer = await fetch(`${url}/registry/vms`, { headers: { authorization: `Bearer ${env.VERS_AUTH_TOKEN}` } });
  await answer.arrayBuffer();
  return answer.headers.get('x-vreg-position')!;
}

test('a truncated backup of a replica is refused by both engines', options, async (t) => {
  const { url: store, etcdctl } = await startCluster(t, { members: 1 });
  const replica = await startDaemon(t, { args: ['--store', store] });
  const file = await backUp(replica, await fill(replica));
  truncateSync(file, statSync(file).size - 5000);
  const other = store.replace(/v1\/$/, 'v2/');
  for (const to of [
    ['--store', other],
    ['--data-dir', join(tempDir(t), 'data'), '--yes'],
  ]) {
    const { code, stdout, stderr } = await vreg(['daemon', 'restore', file, ...to]);
    assert.deepEqual([code, stdout], [1, '']);
    assert.match(
      stderr,
      /^vreg: cannot restore .*backup\.db: .*damaged.*\nhint: nothing was changed; try an older backup\n$/,
    );
  }
  assert.equal(await etcdctl('get', '--prefix', '--keys-only', '/vreg/v2/'), '');
});

test('a backup while etcd cannot be reached is refused with the reason', options, async (t) => {
  const { url: store, members } = await startCluster(t, { members: 1 });
  const replica = await startDaemon(t, { args: ['--store', store] });
  await members[0]!.kill();
  await until('an answer with its age', async () =>
    (await fetch(`${replica.url}/registry/vms`)).headers.has(AGE_HEADER),
  );
  const answer = await fetch(`${replica.url}/registry/backup`);
  assert.deepEqual([answer.status, answer.headers.get('retry-after')], [503, '5']);
  const { error } = (await answer.json()) as { error: string };
  assert.equal(error, 'the registry cannot be backed up: etcd cannot be reached');
});

test('a replica refuses a registry whose restore was interrupted', options, async (t) => {
  const { endpoints, etcdctl } = await startCluster(t, { members: 1 });
  const meta = JSON.stringify({ schema: 1, registryId: 'x', tag: '0'.repeat(16), restoring: 'restore-1' });
  await etcdctl('put', '/vreg/v1/s/meta', `${meta}\n`);
  await assert.rejects(startReplica(t, endpoints), { code: 'STORE_UNUSABLE', message: /restore .* is not complete/ });
});

test('a replica whose cluster is restored from a snapshot starts again in the same process', options, async (t) => {
  const cluster = await startCluster(t, { members: 1 });
  const replica = await startDaemon(t, { args: ['--store', cluster.url] });
  await seed(replica.url, [FLEET[0]!]);
  const snapshot = await cluster.snapshot();
  await seed(replica.url, FLEET.slice(1));
  const position = await positionOf(replica, {});
  await cluster.restore(snapshot);
  await until('the restored list', async () => {
    const { stdout } = await replica.vreg(['ls', '-q']);
    return stdout === `${FLEET[0]!.id}\n`;
  });
  assert.match(replica.said(), /etcd was restored from a backup.*starts again, with the contents of etcd/);
  // It is expected, so that its cause is not a place in the code.
  assert.doesNotMatch(replica.said(), /"stack"/);
  assert.deepEqual([replica.child.exitCode, replica.child.signalCode], [null, null]);
  const answer = await fetch(`${replica.url}/registry/events?since=${position}`);
  const reader = answer.body!.getReader();
  const { value } = await reader.read();
  assert.match(Buffer.from(value!).toString(), /event: reset/);
  await reader.cancel();
  // Nothing of the other history was written to the cluster.
  const keys = await cluster.etcdctl('get', '--prefix', '--keys-only', '/vreg/v1/s/vm/');
  assert.equal(keys.trim(), `/vreg/v1/s/vm/${FLEET[0]!.id}`);
  await seed(replica.url, [FLEET[1]!]);
});

test(
  'a registry that starts again in its process is found meanwhile by vreg daemon status and stop',
  options,
  async (t) => {
    const cluster = await startCluster(t, { members: 1 });
    const dataDir = join(tempDir(t), 'data');
    const log = pino({ level: 'silent' });
    const start = () =>
      serve(
        {
          dataDir,
          etcd: { url: cluster.url, flushInterval: 1000 },
          staleAfter: 300_000,
          massLoss: 1,
          allowHosts: [],
          limits: { maxBody: 1_000_000, maxVms: 10_000, isMaxVmsSet: false, maxConnections: 100 },
          corsOrigins: [],
          version: '0.0.0',
          tcp: { host: '127.0.0.1', port: 0 },
        },
        log,
      );
    const pids = () => readProcesses(dataDir, 'serve').map(({ pid }) => pid);
    const first = await start();
    endAfter(t, () => first.close());
    const snapshot = await cluster.snapshot();
    await seed(first.urls[0]!, [FLEET[0]!]);
    await cluster.restore(snapshot);
    await first.outdated;
    await first.close();
    assert.deepEqual(pids(), [process.pid]);
    const second = await start();
    endAfter(t, () => second.close());
    assert.deepEqual(pids(), [process.pid]);
    await second.close();
    assert.deepEqual(pids(), []);
  },
);

test('a replica that starts again waits for etcd, and then uses the token of a reload', options, async (t) => {
  const cluster = await startCluster(t, { members: 1 });
  const file = join(tempDir(t), 'token');
  writeFileSync(file, 'first-token-of-the-test', { mode: 0o600 });
  const replica = await startDaemon(t, { args: ['--store', cluster.url, '--token-file', file] });
  const snapshot = await cluster.snapshot();
  const vm = { id: 'later', name: 'later', role: 'worker', address: '10.0.0.9', registeredBy: 'test' };
  const headers = { authorization: 'Bearer first-token-of-the-test', 'content-type': 'application/json' };
  const created = await fetch(`${replica.url}/registry/vms`, { method: 'POST', headers, body: JSON.stringify(vm) });
  assert.equal(created.status, 201);
  // The replica closes when it has responded to this request, so that etcd is away when it starts again.
  const pending = request(`${replica.url}/registry/vms`, {
    method: 'POST',
    headers: { ...headers, expect: '100-continue' },
  });
  pending.flushHeaders();
  await once(pending, 'continue');
  await cluster.restore(snapshot);
  await until('the notice', async () => /etcd was restored from a backup/.test(replica.said()));
  await cluster.members[0]!.kill();
  pending.end(JSON.stringify({ ...vm, id: 'last' }));
  const [response] = (await once(pending, 'response')) as [IncomingMessage];
  response.resume();
  assert.equal(response.statusCode, 503);
  await until('the attempt', async () => /etcd does not answer .*; trying again/.test(replica.said()));
  writeFileSync(file, 'second-token-of-the-test');
  replica.child.kill('SIGHUP');
  await cluster.members[0]!.restart();
  await until('the reload', async () => /reloaded the token/.test(replica.said()));
  const statuses = [];
  for (const name of ['first', 'second']) {
    const authorization = `Bearer ${name}-token-of-the-test`;
    statuses.push((await fetch(`${replica.url}/registry/vms`, { headers: { authorization } })).status);
  }
  assert.deepEqual(statuses, [401, 200]);
});
