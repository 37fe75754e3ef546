import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { loadAllCommands } from '../../src/commands.ts';
import { completionScript, SHELL_FILES, SHELLS } from '../../src/completion.ts';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { tempDir } from '../helpers/daemon.ts';
import { aVm } from '../helpers/vm.ts';

test('completion prints the script of one shell or writes the scripts of all shells', async (t) => {
  const dir = tempDir(t);
  assert.deepEqual(await vreg(['completion', '--write', dir]), { code: 0, stdout: '', stderr: '' });
  assert.deepEqual(readdirSync(dir).sort(), ['_vreg', 'vreg.bash', 'vreg.fish']);
  for (const [shell, file] of [
    ['bash', 'vreg.bash'],
    ['zsh', '_vreg'],
    ['fish', 'vreg.fish'],
  ] as const) {
    const { code, stdout } = await vreg(['completion', shell]);
    assert.equal(code, 0);
    assert.equal(stdout, readFileSync(join(dir, file), 'utf8'));
  }
  assert.deepEqual(await vreg(['completion']), {
    code: 5,
    stdout: '',
    stderr: 'vreg: no shell given\nhint: one of: bash, zsh, fish\n',
  });
  assert.equal((await vreg(['completion', 'tcsh'])).code, 5);
});

test('completion --values prints no errors', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a', name: 'x' }), aVm({ id: 'b', name: 'x' })]);
  assert.deepEqual(await vreg(['completion', '--values', 'ids'], { url }), { code: 0, stdout: 'b\na\n', stderr: '' });
  assert.deepEqual(await vreg(['completion', '--values', 'names'], { url }), { code: 0, stdout: 'x\n', stderr: '' });
  for (const env of [{}, { VREG_URL: 'nope' }, { VREG_OUTPUT: 'xml' }, { VREG_TOKEN_FILE: '/nonexistent' }]) {
    assert.deepEqual(await vreg(['completion', '--values', 'ids'], { env }), { code: 0, stdout: '', stderr: '' });
  }
});

const commands = await loadAllCommands();

for (const shell of SHELLS) {
  test(`the script for ${shell} in completions/ is up to date`, () => {
    const file = readFileSync(join(import.meta.dirname, '../../completions', SHELL_FILES[shell]), 'utf8');
    assert.ok(file === completionScript(shell, commands), `${SHELL_FILES[shell]} is out of date: npm run completions`);
  });
}
