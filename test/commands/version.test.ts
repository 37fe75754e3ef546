import assert from 'node:assert/strict';
import test from 'node:test';
import { vreg } from '../helpers/cli.ts';

test('version prints the version as text and as JSON', async () => {
  assert.deepEqual(await vreg(['version']), { code: 0, stdout: 'vreg 0.0.0\n', stderr: '' });
  for (const flag of ['-V', '--version']) {
    assert.deepEqual(await vreg([flag]), { code: 0, stdout: 'vreg 0.0.0\n', stderr: '' });
  }
  assert.deepEqual(JSON.parse((await vreg(['version', '--json'])).stdout), {
    version: '0.0.0',
    node: process.versions.node,
  });
});
