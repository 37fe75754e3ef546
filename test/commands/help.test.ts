import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { GLOBAL_FLAGS } from '../../src/command.ts';
import { BRANCHES, loadAllCommands } from '../../src/commands.ts';
import { EXPRESSION_FORMATS, envNameOf, OUTPUT_FORMATS, SETTING_KEYS, settingOf } from '../../src/config/settings.ts';
import { EXIT_MEANING } from '../../src/protocol/errors.ts';
import { vreg } from '../helpers/cli.ts';
import { run, tempDir } from '../helpers/daemon.ts';
import { unless } from '../helpers/tools.ts';

const TOPICS = ['exit-codes', 'environment', 'formatting', 'recipes'];

async function help(...words: string[]): Promise<string> {
  const { code, stdout, stderr } = await vreg(['help', ...words]);
  assert.deepEqual([code, stderr], [0, '']);
  return stdout;
}

for (const topic of TOPICS) {
  test(`help ${topic} fits 80 columns, and is named by vreg --help and vreg help --help`, async () => {
    for (const line of (await help(topic)).split('\n')) assert.ok(line.length <= 80, `${line.length}: ${line}`);
    assert.ok((await help()).includes(topic));
    assert.ok((await help('help')).includes(topic));
  });
}

test('exit-codes has each code with its meaning', async () => {
  const text = await help('exit-codes');
  for (const [code, meaning] of Object.entries(EXIT_MEANING))
    assert.match(text, new RegExp(`^ +${code}  ${meaning.replace(/[()]/g, '\\$&')}$`, 'm'));
  assert.match(text, /^ +128\+n {2}ended by signal n$/m);
});

test('environment has every variable that is read', async () => {
  const names = (await help('environment'))
    .split('\n')
    .filter((line) => /^[A-Z]/.test(line))
    .flatMap((line) => line.split(', '));
  const expected = SETTING_KEYS.flatMap((key) => [envNameOf(key), settingOf(key).vers]).filter(
    (name) => name !== undefined,
  );
  for (const name of [...expected, 'VREG_TOKEN', 'VERS_AUTH_TOKEN', 'VREG_CONTEXT', 'NO_COLOR', 'FORCE_COLOR']) {
    assert.ok(names.includes(name), name);
  }
});

test('formatting has every format', async () => {
  const text = await help('formatting');
  for (const format of [...OUTPUT_FORMATS, ...EXPRESSION_FORMATS])
    assert.match(text, new RegExp(`^  .*\\b${format}\\b`, 'm'));
});

test('each recipe says what it is for, and its commands are in the tree', async () => {
  const lines = (await help('recipes')).trimEnd().split('\n');
  const names = BRANCHES.flatMap(({ name, aliases = [] }) => [name, ...aliases]);
  assert.ok(lines.length >= 12);
  assert.match(lines[0]!, /^\S/);
  for (const line of lines.filter((text) => text.startsWith('  '))) {
    const words = [...line.matchAll(/\bvreg ([a-z]+)/g)].map(([, word]) => word!);
    assert.ok(words.length > 0, line);
    for (const word of words) assert.ok(names.includes(word), `${word} in ${line}`);
  }
});

test('help of a command is its --help, subcommands and aliases included', async () => {
  for (const words of [['ls'], ['list'], ['context'], ['context', 'add'], ['daemon', 'restore']]) {
    assert.equal(
      await help(...words),
      (await vreg([...words, '--help'])).stdout.replaceAll('vreg list', 'vreg ls'),
      words.join(' '),
    );
  }
});

test('help on what there is not is exit 5, with the nearest word', async () => {
  assert.deepEqual(await vreg(['help', 'recpies']), {
    code: 5,
    stdout: '',
    stderr: 'vreg: no help for "recpies"; did you mean "recipes"?\nhint: list the commands: vreg help\n',
  });
});

test('every flag of every command stands in the help of each', async () => {
  const text = await help('why');
  for (const { flags } of GLOBAL_FLAGS) assert.ok(text.includes(flags.replace(/ <.*/, '')), flags);
});

test('every command has a manual page that man renders without a word of complaint', unless('man'), async (t) => {
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
