import assert from 'node:assert/strict';
import test from 'node:test';
import type { Conflict } from '../../src/protocol/heartbeat.ts';
import { serveApp } from '../helpers/app.ts';
import { vreg } from '../helpers/cli.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { json, stub } from '../helpers/stub.ts';
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
    /^ID\tSTATE\tCOUNT\tHOLDER\tOTHER\tLIVE\tLAST\na\topen\t1\t10\.0\.0\.1 from 192\.0\.2\.1 \(one\)\t10\.0\.0\.2 \(two\)\tgone\t2026/,
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

test('conflicts of a VM and tree --clones list its clones and their clones, and the tree tells siblings apart', async (t) => {
  const conflict = (id: string, at: number, rebornAs?: string): Conflict => ({
    id,
    state: rebornAs === undefined ? 'open' : 'reborn',
    ...(rebornAs === undefined ? {} : { rebornAs }),
    count: 1,
    holder: { incarnation: 'one', at: '2026-01-01T00:00:00.000Z' },
    other: { incarnation: `i${at}`, address: `10.0.0.${at}`, at: '2026-01-01T00:00:00.000Z' },
    firstAt: `2026-01-01T00:00:0${at}.000Z`,
    lastAt: `2026-01-01T00:00:0${at}.000Z`,
  });
  // Newest first, as the registry sends them.
  const conflicts = [
    conflict('b', 5),
    conflict('c1', 4),
    conflict('a', 3, 'c2'),
    conflict('c1', 2, 'd1'),
    conflict('a', 1, 'c1'),
  ];
  const url = await stub(t, ({ url: path }, response) => {
    const headers = { 'x-vreg-version': '0.1.0' };
    if (path!.startsWith('/registry/vms/c1')) return json(response, 200, aVm({ id: 'c1', status: 'paused' }), headers);
    if (path!.startsWith('/registry/vms/')) return json(response, 404, { error: 'VM not found' }, headers);
    json(response, 200, { status: 'ok', uptime: 1, conflicts, count: conflicts.length }, headers);
  });
  const { stdout } = await vreg(['tree', 'a', '--clones'], { url, tty: true, env: { NO_COLOR: '1' } });
  assert.deepEqual(
    stdout.split('\n').map((line) => /^[│├└─ ]*\S+/.exec(line)?.[0]),
    ['ID', '├─ c1', '│  ├─ d1', '│  └─ -', '└─ c2', undefined],
  );
  const { stdout: text } = await vreg(['conflicts', 'a', '-o', 'json'], { url });
  assert.deepEqual(
    (JSON.parse(text) as (Conflict & { live: string })[]).map(({ other, live }) => [other.incarnation, live]),
    [
      ['i4', 'gone'],
      ['i3', 'gone'],
      ['i2', 'gone'],
      ['i1', 'paused'],
    ],
  );
});

test('conflicts exits with 1 on the original registry', async (t) => {
  const { url } = await startPlainServer(t);
  const { code, stderr } = await vreg(['conflicts'], { url });
  assert.equal(code, 1);
  assert.match(stderr, /is not a vreg daemon: it does not support conflicts/);
});
