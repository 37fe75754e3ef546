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
  test(`update ${argv.join(' ')} changes only these fields`, async (t) => {
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
  ['update a --role infra', 5, /^vreg: --role cannot be combined with ids\nhint: .*cannot be changed\n$/],
  ['update', 5, /^vreg: nothing to change\nhint: pass --name, /],
  ['update --name x', 5, /^vreg: no VM given\nhint: pass ids, /],
  ['update nope --name x', 3, /^vreg: nope: VM not found\nhint: list registered VMs: vreg ls\n$/],
  ['update nope --meta x=1', 3, /^vreg: nope: VM not found\n/],
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

for (const alias of ['set', 'patch']) {
  test(`${alias} is an alias of update`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, [BEFORE]);
    assert.equal((await vreg([alias, 'a', '--name', 'x', '-q'], { url })).stdout, 'a\n');
  });
}
