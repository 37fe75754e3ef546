import assert from 'node:assert/strict';
import test from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { vreg } from '../helpers/cli.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { aVm } from '../helpers/vm.ts';

test('conflicts shows both incarnations of each VM, and --clear clears the named VMs', async (t) => {
  const { url, registry } = await serveApp(t);
  for (const id of ['a', 'b']) {
    await registry.register(aVm({ id }));
    const token = `2.${'a'.repeat(32)}`;
    registry.heartbeat(id, { next: token, incarnation: 'one', address: '10.0.0.1', from: '192.0.2.1' });
    assert.throws(() =>
      registry.heartbeat(id, { spend: `1.${'a'.repeat(32)}`, next: token, incarnation: 'two', address: '10.0.0.2' }),
    );
  }
  const { stdout } = await vreg(['conflicts', 'a'], { url });
  assert.match(
    stdout,
    /^ID\tSTATE\tCOUNT\tHOLDER\tOTHER\tLAST\na\topen\t1\t10\.0\.0\.1 from 192\.0\.2\.1 \(one\)\t10\.0\.0\.2 \(two\)\t2026/,
  );
  assert.equal((await vreg(['conflicts', '-q'], { url })).stdout, 'b\na\n');
  assert.equal(JSON.parse((await vreg(['conflicts', '--json'], { url })).stdout).length, 2);
  assert.match((await vreg(['why', 'a'], { url })).stdout, /another incarnation claims to be this VM/);
  assert.match(
    (await vreg(['doctor'], { url, now: Date.now })).stdout,
    /^clones\twarn\tduplicates of b, a\t.*vreg conflicts/m,
  );
  const cleared = await vreg(['conflicts', 'a', '--clear'], { url });
  assert.deepEqual([cleared.code, cleared.stderr], [0, 'vreg: cleared 1 conflict\n']);
  assert.equal((await vreg(['conflicts', '-q'], { url })).stdout, 'b\n');
  await vreg(['conflicts', '--clear'], { url });
  assert.deepEqual(await vreg(['conflicts', '--json'], { url }), { code: 0, stdout: '[]\n', stderr: '' });
});

test('conflicts exits with 1 on the original registry', async (t) => {
  const { url } = await startPlainServer(t);
  const { code, stderr } = await vreg(['conflicts'], { url });
  assert.equal(code, 1);
  assert.match(stderr, /is not a vreg daemon: it does not support conflicts/);
});
