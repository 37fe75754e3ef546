import assert from 'node:assert/strict';
import test from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { call } from '../helpers/http.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { aVm } from '../helpers/vm.ts';

test('history shows who changed what, newest first, even after the VM was removed', async (t) => {
  const { url, store } = await serveApp(t, { token: 'a-secret-token' });
  const run = (argv: readonly string[]) => vreg(argv, { url, env: { VERS_AUTH_TOKEN: 'a-secret-token' } });
  const headers = { authorization: 'Bearer a-secret-token' };
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'a', name: 'one' }), headers });
  await call(url, 'POST', '/registry/vms/a/heartbeat', { headers });
  await call(url, 'PATCH', '/registry/vms/a', { body: { name: 'two', metadata: { n: 1 } }, headers });
  await call(url, 'PATCH', '/registry/vms/a', { body: { status: 'paused' }, headers });
  await call(url, 'DELETE', '/registry/vms/a', { headers });
  const { code, stdout } = await run(['history', 'a']);
  assert.equal(code, 0);
  const [titles, ...rows] = stdout.trimEnd().split('\n');
  assert.equal(titles, 'POSITION\tWHEN\tWHAT\tWHO\tCHANGES');
  assert.deepEqual(
    rows.map((row) => row.split('\t')).map(([position, , what, , changes]) => [position, what, changes]),
    [
      [store.positionAt(4), 'deregistered', 'name: two, role: worker, address: vm-1.vm.vers.sh'],
      [store.positionAt(3), 'status', 'status: running -> paused'],
      [store.positionAt(2), 'updated', 'name: one -> two, metadata: null -> {"n":1}'],
      [store.positionAt(1), 'registered', 'name: one, role: worker, address: vm-1.vm.vers.sh'],
    ],
  );
  assert.ok(rows.every((row) => row.split('\t')[3] !== ''));
  assert.doesNotMatch(stdout, /a-secret-token/);
  assert.equal((await run(['history', 'a', '--limit', '1', '-q'])).stdout, `${store.positionAt(4)}\n`);
  const first = JSON.parse((await run(['history', 'a', '--json'])).stdout) as { changes: unknown; by: string }[];
  assert.deepEqual(first[1]!.changes, { status: ['running', 'paused'] });
});

test('history and describe show a dash for an update that changed nothing', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a', name: 'one' })]);
  await call(url, 'PATCH', '/registry/vms/a', { body: { name: 'one' } });
  assert.match((await vreg(['history', 'a'], { url })).stdout, /\tupdated\tanonymous\t-\n/);
  assert.match((await vreg(['describe', 'a'], { url })).stdout, / updated +anonymous +-\n/);
});

test('on a terminal history shows the changes instead of the positions', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a', name: 'one' })]);
  await call(url, 'PATCH', '/registry/vms/a', { body: { status: 'paused' } });
  const { stdout } = await vreg(['history', 'a'], { url, tty: true, width: 80, env: { NO_COLOR: '1' } });
  const [titles, change] = stdout.split('\n');
  assert.match(titles!, /^WHEN +WHAT +WHO +CHANGES$/);
  assert.match(change!, /status: running -> paused$/);
});

test('history of an unknown VM exits with 3 and names it', async (t) => {
  const { url } = await serveApp(t);
  const result = await vreg(['history', 'nope'], { url });
  assert.deepEqual([result.code, result.stdout], [3, '']);
  assert.match(result.stderr, /^vreg: nope: .*\nhint: /);
});

test('history exits with 1 on the original registry and names the missing feature', async (t) => {
  const { url } = await startPlainServer(t);
  await seed(url, [aVm({ id: 'a' })]);
  const result = await vreg(['history', 'a'], { url });
  assert.deepEqual([result.code, result.stdout], [1, '']);
  assert.match(
    result.stderr,
    /^vreg: the registry at http:\S+ is not a vreg daemon: it does not support \w+\nhint: replace it with vreg daemon/,
  );
});

for (const limit of ['0', '-1', 'x', '10001']) {
  test(`history --limit ${limit} exits with 5`, async () => {
    assert.deepEqual(await vreg(['history', 'a', `--limit=${limit}`]), {
      code: 5,
      stdout: '',
      stderr: `vreg: invalid --limit "${limit}"\nhint: use a whole number from 1 to 10000\n`,
    });
  });
}
