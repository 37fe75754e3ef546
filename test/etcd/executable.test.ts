/** The single executable contains the client of etcd: it loads nothing from node_modules. `.ci/run` runs this after the build. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { POSITION_HEADER } from '../../src/protocol/api.ts';
import { startDaemon } from '../helpers/daemon.ts';
import { startCluster, unlessEtcd } from '../helpers/etcd.ts';
import { call } from '../helpers/http.ts';
import { aVm } from '../helpers/vm.ts';

const options = process.env.VREG_BIN
  ? unlessEtcd()
  : { skip: 'needs a single executable: npm run build:exe, then set VREG_BIN=dist/exe/vreg' };

test('replicas of the executable share a cluster, and its check passes', options, async (t) => {
  const { url } = await startCluster(t);
  const [a, b] = await Promise.all([1, 2].map(() => startDaemon(t, { args: ['--store', url], env: { PATH: '' } })));
  const registered = await call(a!.url, 'POST', '/registry/vms', { body: aVm({ role: 'infra', address: '10.0.0.1' }) });
  assert.equal(registered.status, 201);
  const position = registered.headers.get(POSITION_HEADER);
  const read = await fetch(`${b!.url}/registry/discover/infra?minPosition=${position}`);
  assert.match(await read.text(), /"10\.0\.0\.1"/);
  const check = await a!.vreg(['daemon', 'check', '--store', url]);
  assert.equal(check.code, 0, check.stderr);
  assert.match(check.stdout, /^members\tok\t3 of 3 members answer/m);
  assert.equal((await a!.end()).code, 0, a!.said());
});
