import assert from 'node:assert/strict';
import test from 'node:test';
import { POSITION_HEADER } from '../../../src/protocol/api.ts';
import { serveApp } from '../../helpers/app.ts';
import { call } from '../../helpers/http.ts';
import { aVm } from '../../helpers/vm.ts';

test('minPosition is met by the current history, refused for another one, and names a malformed position', async (t) => {
  const { url } = await serveApp(t);
  const { headers } = await call(url, 'POST', '/registry/vms', { body: aVm() });
  const position = String(headers.get(POSITION_HEADER));
  for (const path of ['/registry/vms', '/registry/vms/vm-1', '/registry/discover/worker', '/registry/vms/vm-1/why'])
    assert.equal((await call(url, 'GET', `${path}?minPosition=${position}`)).status, 200, path);
  const other = await call(url, 'GET', `/registry/vms?minPosition=7-${'0'.repeat(16)}`);
  assert.deepEqual([other.status, fieldOf(other.body)], [412, 'minPosition']);
  const malformed = await call(url, 'GET', '/registry/vms?minPosition=later');
  assert.deepEqual([malformed.status, fieldOf(malformed.body)], [400, 'minPosition']);
});

function fieldOf(body: unknown): string | undefined {
  return (body as { field?: string }).field;
}
