import assert from 'node:assert/strict';
import test from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { call } from '../helpers/http.ts';
import { aVm } from '../helpers/vm.ts';

async function entry(url: string, id: string): Promise<Record<string, unknown>> {
  return (await call(url, 'GET', `/registry/vms/${id}`)).body as Record<string, unknown>;
}

const BEFORE = aVm({ id: 'a', services: [{ name: 's', port: 1 }], metadata: { keep: 1, change: 'x', drop: true } });

const CHANGES: readonly [argv: readonly string[], changed: Record<string, unknown>][] = [
  [['--name', 'new'], { name: 'new' }],
  [['--address', '10.0.0.9'], { address: '10.0.0.9' }],
  [['--status', 'stopped'], { status: 'stopped' }],
  [
    ['--service', 'b:2/h', '--service', 'c:3'],
    {
      services: [
        { name: 'b', port: 2, healthPath: '/h' },
        { name: 'c', port: 3 },
      ],
    },
  ],
  [['--meta', 'change=2', '--meta', 'add="y"'], { metadata: { keep: 1, change: 2, drop: true, add: 'y' } }],
  [['--unset-meta', 'drop'], { metadata: { keep: 1, change: 'x' } }],
  [
    ['--meta', 'add=1', '--unset-meta', 'drop', '--unset-meta', 'never'],
    { metadata: { keep: 1, change: 'x', add: 1 } },
  ],
  [
    ['--name', 'new', '--status', 'paused', '--meta', 'keep=0'],
    { name: 'new', status: 'paused', metadata: { ...BEFORE.metadata, keep: 0 } },
  ],
];

for (const [argv, changed] of CHANGES) {
  test(`update ${argv.join(' ')} changes that and nothing else`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, [BEFORE]);
    const before = await entry(url, 'a');
    const { code, stdout, stderr } = await vreg(['update', 'a', ...argv, '--json'], { url });
    assert.deepEqual([code, stderr], [0, '']);
    const after = await entry(url, 'a');
    assert.deepEqual(after, { ...before, ...changed });
    assert.deepEqual(JSON.parse(stdout), after);
  });
}

const REFUSED: readonly [argv: string, code: number, message: RegExp][] = [
  ['update a', 5, /^vreg: nothing to change\nhint: pass --name, /],
  ['update a --name=', 5, /^vreg: name cannot be empty\nhint: /],
  ['update a --status on', 5, /^vreg: invalid --status "on"\nhint: one of: /],
  ['update a --role infra', 5, /^vreg: unknown option '--role'/],
  ['update', 5, /^vreg: missing required argument 'id'\nhint: see the usage: vreg update --help\n$/],
  ['update nope --name x', 3, /^vreg: nope: VM not found\nhint: list registered VMs: vreg ls\n$/],
  ['update nope --meta x=1', 3, /^vreg: nope: VM not found\n/],
  ['pause nope', 3, /^vreg: nope: VM not found\n/],
  ['rm nope --yes', 3, /^vreg: nope: VM not found\n/],
  ['rm --yes', 5, /^vreg: missing required argument 'id'\n/],
];

for (const [argv, code, message] of REFUSED) {
  test(`vreg ${argv} is exit ${code}`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, [BEFORE]);
    const told = await vreg(argv.split(' '), { url });
    assert.deepEqual([told.code, told.stdout], [code, '']);
    assert.match(told.stderr, message);
  });
}

for (const [command, status] of [
  ['pause', 'paused'],
  ['resume', 'running'],
  ['stop', 'stopped'],
] as const) {
  test(`${command} declares VMs ${status}, those that are there`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, [aVm({ id: 'a', status: 'paused' }), aVm({ id: 'b' })]);
    const one = JSON.parse((await vreg([command, 'a', '--json'], { url })).stdout) as { status: string };
    assert.equal(one.status, status);
    assert.deepEqual(await vreg([command, 'a', 'nope', 'b', '-q'], { url }), {
      code: 3,
      stdout: 'a\nb\n',
      stderr: 'vreg: 1 of 3 failed: nope: VM not found\nhint: list registered VMs: vreg ls\n',
    });
    assert.equal((await entry(url, 'b')).status, status);
  });
}

for (const alias of ['set', 'patch']) {
  test(`${alias} is update`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, [BEFORE]);
    assert.equal((await vreg([alias, 'a', '--name', 'x', '-q'], { url })).stdout, 'a\n');
  });
}

const UNASKED =
  'vreg: cannot ask for confirmation without a terminal: Remove VM a from the registry?\nhint: pass --yes\n';

test('rm asks; with nobody to ask it is exit 7 and removes nothing', async (t) => {
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
  test(`rm takes the answer "${answer}" as a ${code === 0 ? 'yes' : 'no'}`, async (t) => {
    const { url, store } = await serveApp(t);
    await seed(url, [BEFORE]);
    const told = await vreg(['rm', 'a'], { url, tty: true, answers: [answer], env: { NO_COLOR: '1' } });
    const asked = `Remove VM a from the registry? [y/N] ${answer}\n`;
    const no = 'vreg: aborted: nothing was changed\nhint: answer y, or pass --yes\n';
    assert.deepEqual(told, {
      code,
      stdout: code === 0 ? 'ID   DELETED\na    true\n' : '',
      stderr: code === 0 ? asked : asked + no,
    });
    assert.equal(store.vms.size, code === 0 ? 0 : 1);
  });
}

test('the question names the number and the first ids', async (t) => {
  const { url } = await serveApp(t);
  const told = await vreg(['rm', 'a', 'b', 'c', 'd', 'e'], { url, answers: ['n'] });
  assert.ok(told.stderr.startsWith('Remove 5 VMs (a, b, c and 2 more) from the registry? [y/N] '));
});

for (const command of ['rm', 'deregister', 'delete']) {
  test(`${command} --yes removes without a question, and prints what it did`, async (t) => {
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

test('a format that is not possible is told before anything is removed', async (t) => {
  const { url, store } = await serveApp(t);
  await seed(url, [BEFORE]);
  const told = await vreg(['rm', 'a', '--yes'], { url, env: { VREG_OUTPUT: 'xml' } });
  assert.equal(told.code, 5);
  assert.match(told.stderr, /^vreg: invalid output "xml" \(from VREG_OUTPUT\)\nhint: one of: table, /);
  assert.equal(store.vms.size, 1);
});
