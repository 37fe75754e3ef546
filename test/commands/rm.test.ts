import assert from 'node:assert/strict';
import test from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { call } from '../helpers/http.ts';
import { aVm } from '../helpers/vm.ts';

async function entry(url: string, id: string): Promise<Record<string, unknown>> {
  return (await call(url, 'GET', `/registry/vms/${id}`)).body as Record<string, unknown>;
}

const BEFORE = aVm({ id: 'a' });

const REFUSED: readonly [argv: string, code: number, message: RegExp][] = [
  ['rm nope --yes', 3, /^vreg: nope: VM not found\n/],
  ['rm --yes', 5, /^vreg: no VM given\nhint: pass ids, or select VMs with --role, --selector, --stale or --all\n/],
];

for (const [argv, code, message] of REFUSED) {
  test(`vreg ${argv} exits with ${code}`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, [BEFORE]);
    const result = await vreg(argv.split(' '), { url });
    assert.deepEqual([result.code, result.stdout], [code, '']);
    assert.match(result.stderr, message);
  });
}

test('rm removes a VM whose id is given twice once', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [BEFORE]);
  assert.deepEqual(await vreg(['rm', 'a', 'a', '--yes', '-q'], { url }), { code: 0, stdout: 'a\n', stderr: '' });
});

const UNASKED =
  'vreg: cannot ask for confirmation without a terminal: Remove VM a from the registry?\nhint: pass --yes\n';

test('rm without a terminal exits with 7 and removes nothing', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [BEFORE]);
  assert.deepEqual(await vreg(['rm', 'a'], { url }), { code: 7, stdout: '', stderr: UNASKED });
  assert.equal((await entry(url, 'a')).id, 'a');
});

for (const [answer, code] of [
  ['y', 0],
  ['Yes', 0],
  [' yes ', 0],
  ['n', 7],
  ['', 7],
  ['yess', 7],
] as const) {
  test(`rm takes the answer "${answer}" as ${code === 0 ? 'yes' : 'no'}`, async (t) => {
    const { url, store } = await serveApp(t);
    await seed(url, [BEFORE]);
    const result = await vreg(['rm', 'a'], { url, tty: true, answers: [answer], env: { NO_COLOR: '1' } });
    const asked = `Remove VM a from the registry? [y/N] ${answer}\n`;
    const no = 'vreg: aborted: nothing was changed\nhint: answer y, or pass --yes\n';
    assert.deepEqual(result, {
      code,
      stdout: code === 0 ? 'ID   DELETED\na    true\n' : '',
      stderr: code === 0 ? asked : asked + no,
    });
    assert.equal(store.vms.size, code === 0 ? 0 : 1);
  });
}

test('the prompt shows the number and the first ids', async (t) => {
  const { url } = await serveApp(t);
  const result = await vreg(['rm', 'a', 'b', 'c', 'd', 'e'], { url, answers: ['n'] });
  assert.ok(result.stderr.startsWith('Remove 5 VMs (a, b, c and 2 more) from the registry? [y/N] '));
});

for (const command of ['rm', 'deregister', 'delete']) {
  test(`${command} --yes removes VMs without a prompt and prints them`, async (t) => {
    const { url, store } = await serveApp(t);
    await seed(url, [BEFORE, aVm({ id: 'b' })]);
    assert.deepEqual(JSON.parse((await vreg([command, 'a', '-y', '--json'], { url })).stdout), {
      id: 'a',
      deleted: true,
    });
    assert.deepEqual(await vreg([command, 'a', 'b', '--yes', '-q'], { url }), {
      code: 3,
      stdout: 'b\n',
      stderr: 'vreg: 1 of 2 failed: a: VM not found\nhint: list registered VMs: vreg ls\n',
    });
    assert.equal(store.vms.size, 0);
  });
}

test('an invalid output format is an error before anything is removed', async (t) => {
  const { url, store } = await serveApp(t);
  await seed(url, [BEFORE]);
  const result = await vreg(['rm', 'a', '--yes'], { url, env: { VREG_OUTPUT: 'xml' } });
  assert.equal(result.code, 5);
  assert.match(result.stderr, /^vreg: invalid output "xml" \(from VREG_OUTPUT\)\nhint: one of: table, /);
  assert.equal(store.vms.size, 1);
});
