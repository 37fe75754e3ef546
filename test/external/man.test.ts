/** Manual pages in the real man(1). */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { loadAllCommands } from '../../src/commands.ts';
import { vreg } from '../helpers/cli.ts';
import { run, tempDir } from '../helpers/daemon.ts';
import { unless } from '../helpers/tools.ts';

test('every command has a manual page that man renders without a warning', unless('man'), async (t) => {
  const dir = tempDir(t);
  assert.equal((await vreg(['help', '--write-man', dir])).code, 0);
  const commands = await loadAllCommands();
  const pages = readdirSync(dir).sort();
  assert.deepEqual(pages, ['vreg.1', ...commands.map(({ name }) => `vreg-${name}.1`)].sort());
  const env = { PATH: process.env.PATH, HOME: dir, LANG: 'C.UTF-8', MANWIDTH: '80', MANROFFSEQ: '', PAGER: 'cat' };
  for (const page of pages) {
    const { code, stdout, stderr } = await run('man', ['--warnings', '-E', 'UTF-8', '-l', join(dir, page)], { env });
    assert.deepEqual([code, stderr], [0, ''], page);
    for (const title of ['NAME', 'SYNOPSIS', 'EXIT STATUS']) assert.match(stdout, new RegExp(`^${title}$`, 'm'), page);
  }
});
