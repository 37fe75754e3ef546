import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { vreg } from '../helpers/cli.ts';

test('completion prints the script of a shell', async () => {
  for (const [shell, file] of [
    ['bash', 'vreg.bash'],
    ['zsh', '_vreg'],
    ['fish', 'vreg.fish'],
  ] as const) {
    const stdout = readFileSync(join(import.meta.dirname, '../../completions', file), 'utf8');
    assert.deepEqual(await vreg(['completion', shell]), { code: 0, stdout, stderr: '' });
  }
});

test('completion without a shell, or with an unknown one, names the shells', async () => {
  assert.deepEqual(await vreg(['completion']), {
    code: 5,
    stdout: '',
    stderr: 'vreg: no shell given\nhint: one of: bash, zsh, fish\n',
  });
  assert.deepEqual(await vreg(['completion', 'tcsh']), {
    code: 5,
    stdout: '',
    stderr: 'vreg: unsupported shell "tcsh"\nhint: one of: bash, zsh, fish\n',
  });
});
