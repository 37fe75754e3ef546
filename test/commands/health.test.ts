import assert from 'node:assert/strict';
import test from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { vreg } from '../helpers/cli.ts';

test('health prints ok, and JSON has the uptime', async (t) => {
  const { url } = await serveApp(t);
  assert.deepEqual(await vreg(['health'], { url }), { code: 0, stdout: 'ok\n', stderr: '' });
  const { status, uptime } = JSON.parse((await vreg(['health', '--json'], { url })).stdout) as Record<string, unknown>;
  assert.equal(status, 'ok');
  assert.equal(typeof uptime, 'number');
});

test('health of an unreachable registry exits with 8', async () => {
  const { code, stdout, stderr } = await vreg(['health']);
  assert.deepEqual([code, stdout], [8, '']);
  assert.match(
    stderr,
    /^vreg: cannot reach the registry at .* from VERS_INFRA_URL\)\nhint: is it running\? try: vreg doctor/,
  );
});
