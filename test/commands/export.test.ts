import assert from 'node:assert/strict';
import test from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { FLEET, fleetOf } from '../helpers/fleet.ts';
import { startPlainServer } from '../helpers/original-server.ts';

for (const format of [[], ['-o', 'ndjson'], ['-o', 'json']]) {
  test(`import restores the output of export ${format.join(' ')} in another registry, in the same order`, async (t) => {
    const [from, to] = [await serveApp(t), await serveApp(t)];
    await seed(from.url, FLEET);
    const { stdout } = await vreg(['export', ...format], { url: from.url });
    const result = await vreg(['import', '-f', '-', '--yes', '-q'], { url: to.url, stdin: stdout });
    assert.deepEqual([result.code, result.stderr], [0, '']);
    assert.deepEqual(
      result.stdout.trimEnd().split('\n'),
      FLEET.map(({ id }) => id),
    );
    assert.deepEqual(await fleetOf(to.url), await fleetOf(from.url));
    const again = await vreg(['import', '-f', '-'], { url: to.url, stdin: stdout });
    assert.equal(again.code, 0);
    assert.match(again.stdout, /^ID\tACTION\tFIELDS\ni\tsame\t-\n/);
  });
}

test('an export of an empty registry is empty, or an empty array', async (t) => {
  const { url } = await serveApp(t);
  assert.deepEqual(await vreg(['export'], { url }), { code: 0, stdout: '', stderr: '' });
  assert.equal((await vreg(['export', '--json'], { url })).stdout, '[]\n');
  const result = await vreg(['import', '-f', '-', '--json'], { url, stdin: '[]' });
  assert.deepEqual([result.code, result.stdout], [0, '[]\n']);
});

test('export and import copy a fleet from a vreg daemon to the original registry and back', async (t) => {
  const [vregOne, plain, back] = [await serveApp(t), await startPlainServer(t), await serveApp(t)];
  await seed(vregOne.url, FLEET);
  for (const [from, to] of [
    [vregOne.url, plain.url],
    [plain.url, back.url],
  ]) {
    const { stdout } = await vreg(['export'], { url: from! });
    assert.equal((await vreg(['import', '-f', '-', '--yes'], { url: to!, stdin: stdout })).code, 0);
  }
  assert.deepEqual(await fleetOf(back.url), await fleetOf(vregOne.url));
});
