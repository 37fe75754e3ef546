import assert from 'node:assert/strict';
import test from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { call } from '../helpers/http.ts';
import { aVm } from '../helpers/vm.ts';

async function entry(url: string, id: string): Promise<Record<string, unknown>> {
  return (await call(url, 'GET', `/registry/vms/${id}`)).body as Record<string, unknown>;
}

for (const [command, status] of [
  ['pause', 'paused'],
  ['resume', 'running'],
  ['stop', 'stopped'],
] as const) {
  test(`${command} sets the status of registered VMs to ${status}`, async (t) => {
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

test('an unknown id exits with 3', async (t) => {
  const { url } = await serveApp(t);
  const { code, stdout, stderr } = await vreg(['pause', 'nope'], { url });
  assert.deepEqual([code, stdout], [3, '']);
  assert.match(stderr, /^vreg: nope: VM not found\n/);
});
