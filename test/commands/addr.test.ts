import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { tempDir } from '../helpers/daemon.ts';
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

test('--max-stale accepts a cached answer up to that age, and none that is dated in the future', async (t) => {
  const dir = tempDir(t);
  const folder = join(dir, 'by-role/infra');
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'addr'), '10.0.0.1\n');
  writeFileSync(join(folder, 'url'), 'wss://10.0.0.1:81\n');
  // The commands of a test run at three minutes past midnight.
  const now = Date.parse('2026-01-01T00:03:00.000Z') / 1000;
  for (const [at, code, message] of [
    [now, 0, /^$/],
    [now - 60, 0, /^$/],
    [now - 61, 10, /cached answer is .* old\nhint: /],
    [now + 1, 10, /cached answer is dated 1s in the future\nhint: check the clock/],
    [now + 86_400, 10, /cached answer is dated .* in the future\nhint: check the clock/],
  ] as const) {
    writeFileSync(join(folder, 'at'), `${at}\n`);
    for (const [command, answer] of [
      ['addr', '10.0.0.1\n'],
      ['url', 'wss://10.0.0.1:81\n'],
    ] as const) {
      const { stdout, stderr, ...result } = await vreg([command, 'infra', '--max-stale', '1m'], {
        env: { VREG_RUN_DIR: dir },
      });
      assert.deepEqual([result.code, stdout], [code, code === 0 ? answer : ''], `${command} at ${at - now}`);
      assert.match(stderr, message);
    }
  }
});
