import assert from 'node:assert/strict';
import test from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { call } from '../helpers/http.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { aVm } from '../helpers/vm.ts';

const FAMILY = [
  aVm({ id: 'golden', role: 'golden' }),
  aVm({ id: 'a', parentId: 'golden' }),
  aVm({ id: 'b', parentId: 'golden' }),
  aVm({ id: 'a1', parentId: 'a' }),
  aVm({ id: 'lone', parentId: 'gone' }),
];
const column = (text: string) =>
  text
    .split('\n')
    .slice(1, -1)
    .map((line) => line.split(/ {3,}|\t/)[0]);

test('tree draws the descendants of each VM in a table, and prints plain ids otherwise', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FAMILY);
  const drawn = await vreg(['tree', '-o', 'table'], { url });
  assert.deepEqual(
    drawn.stdout
      .split('\n')
      .slice(1, -1)
      .map((line) => /^[│├└─ ]*\w+/.exec(line)?.[0]),
    ['golden', '├─ a', '│  └─ a1', '└─ b', 'lone'],
  );
  const piped = await vreg(['tree'], { url });
  assert.deepEqual(column(piped.stdout), ['golden', 'a', 'a1', 'b', 'lone']);
  assert.match(piped.stdout, /\tPARENT\n.*\t-\n.*\tgolden\n/);
  assert.equal((await vreg(['tree', 'a', '-q'], { url })).stdout, 'a\na1\n');
  const { stdout } = await vreg(['tree', 'golden', '--json'], { url });
  assert.deepEqual(
    (JSON.parse(stdout) as { id: string }[]).map(({ id }) => id),
    ['golden', 'a', 'a1', 'b'],
  );
});

test('tree shows the children of an unregistered parent, exits with 3 for an unknown id and with 0 for an empty registry', async (t) => {
  const { url } = await serveApp(t);
  assert.equal((await vreg(['tree'], { url })).code, 0);
  await seed(url, FAMILY);
  assert.equal((await vreg(['tree', 'gone', '-q'], { url })).stdout, 'lone\n');
  assert.equal((await vreg(['tree', 'nobody'], { url })).code, 3);
});

test("VMs that are each other's parents are shown once each", async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'x', parentId: 'y' }), aVm({ id: 'y', parentId: 'x' })]);
  assert.equal((await vreg(['tree', '-q'], { url })).stdout, 'x\ny\n');
});

test('register --parent sets the parent of a VM', async (t) => {
  const { url } = await serveApp(t);
  const { code } = await vreg(['register', 'child', '--parent', 'golden'], { url });
  assert.equal(code, 0);
  const { body } = await call(url, 'GET', '/registry/vms/child');
  assert.equal((body as { parentId: string }).parentId, 'golden');
  assert.equal((await vreg(['register', 'own', '--parent', 'own'], { url })).code, 5);
});

test('3000 generations of clones do not overflow the stack', async (t) => {
  const { url, registry } = await serveApp(t);
  const line = Array.from({ length: 3000 }, (_, index) => `vm-${index}`);
  for (const [index, id] of line.entries())
    await registry.register(aVm({ id, ...(index > 0 ? { parentId: line[index - 1]! } : {}) }));
  assert.equal((await vreg(['tree', 'vm-0', '-q'], { url })).stdout, `${line.join('\n')}\n`);
});

test('on a terminal a deep tree shows the last levels, so that each id stays visible and no row is longer', async (t) => {
  const { url, registry } = await serveApp(t);
  const line = Array.from({ length: 1000 }, (_, index) => `vm-${index}`);
  for (const [index, id] of line.entries())
    await registry.register(aVm({ id, ...(index > 0 ? { parentId: line[index - 1]! } : {}) }));
  const { stdout } = await vreg(['tree'], { url, tty: true, width: 80, env: { NO_COLOR: '1' } });
  const lines = stdout.split('\n').slice(1, -1);
  assert.deepEqual(
    lines.map((text) => /vm-\d+/.exec(text)?.[0]),
    line,
  );
  assert.match(lines[8]!, /^ {21}└─ vm-8 /);
  // The table measures every character of a row, so rows that grew with the depth would take seconds.
  for (const [level, row] of lines.entries()) if (level > 8) assert.match(row, /^… {20}└─ vm-\d+ /);
});

test('tree lists the VMs of the original registry, which has no parents', async (t) => {
  const { url } = await startPlainServer(t);
  await seed(url, [aVm({ id: 'a' }), aVm({ id: 'b' })]);
  assert.equal((await vreg(['tree', '-q'], { url })).stdout, 'a\nb\n');
  assert.equal((await vreg(['tree', 'b', '-q'], { url })).stdout, 'b\n');
  assert.equal((await vreg(['tree', 'c'], { url })).code, 3);
});
