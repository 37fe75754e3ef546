import assert from 'node:assert/strict';
import test from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { aVm } from '../helpers/vm.ts';

const FLEET = [
  aVm({ id: 'old', role: 'infra', address: '10.0.0.1', services: [{ name: 'api', port: 8080 }] }),
  aVm({ id: 'new', role: 'infra', address: '10.0.0.2' }),
];

test('url has the only port of the VM, and the scheme and path of the flags', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  const run = async (...more: string[]) => (await vreg(['url', 'infra', ...more], { url })).stdout;
  assert.equal(await run(), 'http://10.0.0.1:8080\n');
  assert.equal(await run('--service', 'api'), 'http://10.0.0.1:8080\n');
  assert.equal(await run('--scheme', 'wss', '--path', 'x'), 'wss://10.0.0.1:8080/x\n');
  assert.deepEqual(JSON.parse(await run('--json')), { id: 'old', url: 'http://10.0.0.1:8080' });
});

const PORTS = [
  { name: 'api', port: 8080, protocol: 'https' },
  { name: 'ui', port: 8081 },
];

test('url of a VM with several ports exits with 5 and names them, unless a service is named', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a', address: 'fd00::1', services: PORTS })]);
  assert.deepEqual(await vreg(['url', 'worker'], { url }), {
    code: 5,
    stdout: '',
    stderr: 'vreg: VM "a" has several ports: api:8080, ui:8081\nhint: name the service: --service NAME\n',
  });
  assert.equal((await vreg(['url', 'worker', '--service', 'api'], { url })).stdout, 'https://[fd00::1]:8080\n');
  assert.equal((await vreg(['url', 'worker', '--service', 'ui'], { url })).stdout, 'http://[fd00::1]:8081\n');
});

test('url of a VM without a port exits with 5, and never uses the port of the registry', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' })]);
  for (const more of [[], ['--scheme', 'https'], ['--pick', 'newest']]) {
    const { code, stdout, stderr } = await vreg(['url', 'worker', ...more], { url });
    assert.deepEqual([code, stdout], [5, '']);
    assert.match(stderr, /^vreg: VM "a" has no port: it is registered without services\nhint: /);
  }
});
