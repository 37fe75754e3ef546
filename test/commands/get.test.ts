import assert from 'node:assert/strict';
import test from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { call } from '../helpers/http.ts';
import { aVm } from '../helpers/vm.ts';

const FLEET = [aVm({ id: 'a' }), aVm({ id: 'b', role: 'infra' })];

test('JSON is the entry itself for one id, and an array in the order of the ids for several', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  const { body } = await call(url, 'GET', '/registry/vms/a');
  const { code, stdout, stderr } = await vreg(['get', 'a', '--json'], { url });
  assert.deepEqual([code, stderr], [0, '']);
  const { ageSeconds, ...vm } = JSON.parse(stdout) as Record<string, unknown>;
  assert.equal(typeof ageSeconds, 'number');
  assert.equal(JSON.stringify(vm), JSON.stringify({ ...(body as object), live: 'live' }));
  const both = JSON.parse((await vreg(['get', 'b', 'a', '--json'], { url })).stdout) as { id: string }[];
  assert.deepEqual(
    both.map(({ id }) => id),
    ['b', 'a'],
  );
});

for (const [format, stdout] of [
  ['tsv', /^ID\tNAME\t.*\na\tone\tworker\trunning\tlive\t.*\n$/],
  ['wide', /^ID\tNAME\t.*\tREGISTERED\tHEALTH\na\tone\t.*\n$/],
  ['name', /^a\n$/],
  ['ndjson', /^\{"id":"a",.*\}\n$/],
  ['yaml', /^id: a\nname: one\n/],
] as const) {
  test(`get -o ${format}`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, FLEET);
    const result = await vreg(['get', 'a', '-o', format], { url });
    assert.equal(result.code, 0);
    assert.match(result.stdout, stdout);
  });
}

test('an unknown id prints nothing on stdout, exits with 3 and is named in the error', async (t) => {
  const { url } = await serveApp(t);
  assert.deepEqual(await vreg(['get', 'nope'], { url }), {
    code: 3,
    stdout: '',
    stderr: 'vreg: nope: VM not found\nhint: list registered VMs: vreg ls\n',
  });
});

test('with --json an error is an object on stderr', async (t) => {
  const { url } = await serveApp(t);
  const { code, stdout, stderr } = await vreg(['get', 'nope', '--json'], { url });
  assert.deepEqual([code, stdout], [3, '']);
  assert.deepEqual(JSON.parse(stderr), {
    error: { code: 'NOT_FOUND', exit: 3, message: 'nope: VM not found', hint: 'list registered VMs: vreg ls' },
  });
});

test('get with several ids prints registered VMs and reports the others', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  const one = await vreg(['get', 'a', 'nope', 'b', '-q'], { url });
  assert.deepEqual(one, {
    code: 3,
    stdout: 'a\nb\n',
    stderr: 'vreg: 1 of 3 failed: nope: VM not found\nhint: list registered VMs: vreg ls\n',
  });
  const two = await vreg(['get', 'no', 'nope', 'b', '-q'], { url });
  assert.deepEqual(two, {
    code: 3,
    stdout: 'b\n',
    stderr:
      'vreg: no: VM not found\nvreg: nope: VM not found\nvreg: 2 of 3 failed\nhint: list registered VMs: vreg ls\n',
  });
});

test('an unreachable registry is reported once, regardless of the number of ids', async () => {
  const { code, stdout, stderr } = await vreg(['get', 'a', 'b', 'c']);
  assert.equal(code, 8);
  assert.equal(stdout, '');
  assert.match(
    stderr,
    /^vreg: 3 of 3 failed: cannot reach the registry at http:\/\/127\.0\.0\.1:1 \(ECONNREFUSED, from VERS_INFRA_URL\)\nhint: is it running\? try: vreg doctor\n$/,
  );
});

for (const id of ['', ' ', '.', '..']) {
  test(`"${id}" is rejected as an id`, async (t) => {
    const { url } = await serveApp(t);
    const { code, stdout, stderr } = await vreg(['get', id], { url });
    assert.deepEqual([code, stdout], [5, '']);
    assert.match(stderr, /invalid id ".*"\nhint: /);
  });
}

test('an id may contain any printable character', async (t) => {
  const { url } = await serveApp(t);
  const id = 'a/b?c=d#e %41 ü';
  await seed(url, [aVm({ id })]);
  assert.equal((await vreg(['get', id, '-q'], { url })).stdout, `${id}\n`);
});

test('show is an alias of get', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  assert.equal((await vreg(['show', 'a', '-q'], { url })).stdout, 'a\n');
});
