import assert from 'node:assert/strict';
import test from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { aVm } from '../helpers/vm.ts';

const FLEET = [
  aVm({ id: 'old', role: 'infra', address: '10.0.0.1', services: [{ name: 'api', port: 8080 }] }),
  aVm({ id: 'new', role: 'infra', address: '10.0.0.2' }),
];

test('url has the port of the registry, or that of a named service', async (t) => {
  const {
    url,
    at: { port },
  } = await serveApp(t);
  await seed(url, FLEET);
  const run = async (...more: string[]) => (await vreg(['url', 'infra', ...more], { url })).stdout;
  assert.equal(await run(), `http://10.0.0.1:${port}\n`);
  assert.equal(await run('--service', 'api'), 'http://10.0.0.1:8080\n');
  assert.equal(await run('--scheme', 'wss', '--path', 'x'), `wss://10.0.0.1:${port}/x\n`);
  assert.deepEqual(JSON.parse(await run('--json')), { id: 'old', url: `http://10.0.0.1:${port}` });
});
