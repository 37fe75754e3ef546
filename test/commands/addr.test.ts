import assert from 'node:assert/strict';
import test from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { aVm } from '../helpers/vm.ts';

const FLEET = [
  aVm({ id: 'old', role: 'infra', address: '10.0.0.1', services: [{ name: 'api', port: 8080 }] }),
  aVm({ id: 'new', role: 'infra', address: '10.0.0.2' }),
];

test('addr prints one address and a newline', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  for (const more of [[], ['-o', 'tsv'], ['-o', 'table'], ['-o', 'name'], ['--no-headers']]) {
    for (const tty of [true, false]) {
      assert.deepEqual(await vreg(['addr', 'infra', ...more], { url, tty }), {
        code: 0,
        stdout: '10.0.0.1\n',
        stderr: '',
      });
    }
  }
});

test('addr in JSON has the id of the VM and its address', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  const { stdout } = await vreg(['addr', 'infra', '--json'], { url });
  assert.deepEqual(JSON.parse(stdout), { id: 'old', address: '10.0.0.1' });
});

test('--pick chooses among several', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  const pick = async (which: string) => (await vreg(['addr', 'infra', '--pick', which], { url })).stdout;
  assert.equal(await pick('first'), '10.0.0.1\n');
  assert.equal(await pick('newest'), '10.0.0.2\n');
  assert.match(await pick('random'), /^10\.0\.0\.[12]\n$/);
  assert.deepEqual(await vreg(['addr', 'infra', '--pick', 'frist'], { url }), {
    code: 5,
    stdout: '',
    stderr: 'vreg: invalid --pick "frist"; did you mean "first"?\nhint: one of: first, newest, random\n',
  });
});
