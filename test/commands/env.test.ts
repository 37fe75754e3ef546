import assert from 'node:assert/strict';
import test, { after } from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { aVm } from '../helpers/vm.ts';

const FLEET = [
  aVm({ id: 'i', role: 'infra', address: '10.0.0.1', services: [{ name: 'api', port: 81, protocol: 'https' }] }),
  aVm({ id: 'v', address: '10.0.0.2', services: [{ name: 'a', port: 82 }] }),
  aVm({ id: 'w', address: '10.0.0.3' }),
  aVm({ id: 'p', role: 'golden', status: 'paused' }),
];

const { url } = await serveApp({ after });
await seed(url, FLEET);

function lines(prefix: string): string {
  return [
    `${prefix}VREG_INFRA_ID=i`,
    `${prefix}VREG_INFRA_ADDR=10.0.0.1`,
    `${prefix}VREG_INFRA_URL=https://10.0.0.1:81`,
    `${prefix}VREG_INFRA_ADDRS=10.0.0.1`,
    `${prefix}VREG_WORKER_ID=v`,
    `${prefix}VREG_WORKER_ADDR=10.0.0.2`,
    `${prefix}VREG_WORKER_URL=http://10.0.0.2:82`,
    `${prefix}VREG_WORKER_ADDRS='10.0.0.2 10.0.0.3'`,
    '',
  ].join('\n');
}

test('env prints the variables of each role that has live VMs', async () => {
  assert.deepEqual(await vreg(['env'], { url }), { code: 0, stdout: lines(''), stderr: '' });
  assert.equal((await vreg(['env', '--export'], { url })).stdout, lines('export '));
  assert.equal((await vreg(['env', 'infra', 'worker'], { url })).stdout, lines(''));
});

test('env omits the URL of a VM with several ports or none, with a warning', async (t) => {
  const { url } = await serveApp(t);
  const services = [
    { name: 'api', port: 81 },
    { name: 'ui', port: 82 },
  ];
  await seed(url, [
    aVm({ id: 'i', role: 'infra', address: '10.0.0.1', services }),
    aVm({ id: 'w', address: '10.0.0.2' }),
  ]);
  assert.deepEqual(await vreg(['env'], { url }), {
    code: 0,
    stdout: [
      'VREG_INFRA_ID=i\nVREG_INFRA_ADDR=10.0.0.1\nVREG_INFRA_ADDRS=10.0.0.1',
      'VREG_WORKER_ID=w\nVREG_WORKER_ADDR=10.0.0.2\nVREG_WORKER_ADDRS=10.0.0.2\n',
    ].join('\n'),
    stderr: [
      'vreg: VREG_INFRA_URL is omitted: VM "i" has several ports: api:81, ui:82',
      'vreg: VREG_WORKER_URL is omitted: VM "w" has no port: it is registered without services\n',
    ].join('\n'),
  });
});

test('--scheme decides the scheme of each URL', async () => {
  const { stdout } = await vreg(['env', '--scheme', 'ws', '--json'], { url });
  const { VREG_INFRA_URL, VREG_WORKER_URL } = JSON.parse(stdout) as Record<string, string>;
  assert.deepEqual([VREG_INFRA_URL, VREG_WORKER_URL], ['ws://10.0.0.1:81', 'ws://10.0.0.2:82']);
});

test('roles may be separated by commas', async () => {
  assert.equal((await vreg(['env', 'infra,worker'], { url })).stdout, lines(''));
});

test('--fish prints set -gx lines', async () => {
  const { stdout } = await vreg(['env', 'worker', '--fish'], { url });
  assert.ok(stdout.startsWith("set -gx VREG_WORKER_ID 'v'\nset -gx VREG_WORKER_ADDR '10.0.0.2'\n"));
});

test('--json prints one object, even if it is empty', async (t) => {
  const { url } = await serveApp(t);
  assert.equal((await vreg(['env', '--json'], { url })).stdout, '{}\n');
  assert.equal((await vreg(['env'], { url })).stdout, '');
  await seed(url, FLEET);
  const variables = JSON.parse((await vreg(['env', 'worker', '--json'], { url })).stdout) as Record<string, string>;
  assert.deepEqual(Object.keys(variables), [
    'VREG_WORKER_ID',
    'VREG_WORKER_ADDR',
    'VREG_WORKER_URL',
    'VREG_WORKER_ADDRS',
  ]);
  assert.equal(variables.VREG_WORKER_ADDRS, '10.0.0.2 10.0.0.3');
  assert.equal((await vreg(['env', 'worker', '-o', 'jsonpath={.VREG_WORKER_ADDR}'], { url })).stdout, '10.0.0.2\n');
});

for (const argv of ['golden', 'infra golden', 'golden --export', 'golden --json']) {
  test(`env ${argv} without a live VM prints nothing and exits with 3`, async () => {
    assert.deepEqual(await vreg(['env', ...argv.split(' ').filter((word) => word !== '--json')], { url }), {
      code: 3,
      stdout: '',
      stderr: 'vreg: no live golden VM (1 registered: 1 paused)\nhint: list registered VMs: vreg ls --role golden\n',
    });
    const result = await vreg(['env', ...argv.split(' ')], { url });
    assert.deepEqual([result.code, result.stdout], [3, '']);
  });
}

for (const [argv, message] of [
  ['wroker', /^vreg: invalid role "wroker"; did you mean "worker"\?\nhint: one of: infra, /],
  ['infra --export --fish', /^vreg: --fish cannot be combined with --export\nhint: omit one of them\n$/],
] as const) {
  test(`env ${argv} exits with 5`, async () => {
    const result = await vreg(['env', ...argv.split(' ')]);
    assert.deepEqual([result.code, result.stdout], [5, '']);
    assert.match(result.stderr, message);
  });
}

test('env works with the original registry', async (t) => {
  const { url } = await startPlainServer(t);
  await seed(url, FLEET);
  assert.equal((await vreg(['env', '--export'], { url })).stdout, lines('export '));
});
