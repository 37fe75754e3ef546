import assert from 'node:assert/strict';
import test from 'node:test';
import { startDaemon } from '../helpers/daemon.ts';

test('an acknowledged registration survives kill -9', async (t) => {
  const first = await startDaemon(t);
  const registered = await first.vreg(['register', 'vm-1', '--role', 'infra', '-q']);
  assert.deepEqual(registered, { code: 0, signal: null, stdout: 'vm-1\n', stderr: '' });
  await first.end('SIGKILL');
  const second = await startDaemon(t, { home: first.home });
  const { stdout } = await second.vreg(['addr', 'infra']);
  assert.equal(stdout, 'vm-1.vm.vers.sh\n');
});
