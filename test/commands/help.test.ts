import assert from 'node:assert/strict';
import test from 'node:test';
import { GLOBAL_FLAGS } from '../../src/command.ts';
import { BRANCHES } from '../../src/commands.ts';
import { EXPRESSION_FORMATS, envNameOf, OUTPUT_FORMATS, SETTING_KEYS, settingOf } from '../../src/config/settings.ts';
import { EXIT_MEANING } from '../../src/protocol/errors.ts';
import { vreg } from '../helpers/cli.ts';

const TOPICS = ['exit-codes', 'environment', 'formatting', 'recipes'];

async function help(...words: string[]): Promise<string> {
  const { code, stdout, stderr } = await vreg(['help', ...words]);
  assert.deepEqual([code, stderr], [0, '']);
  return stdout;
}

test('every form of asking for help prints the same text to stdout', async () => {
  const program = await vreg(['--help']);
  assert.deepEqual([program.code, program.stderr], [0, '']);
  assert.match(program.stdout, /^Usage: vreg COMMAND \[ARGS\] \[FLAGS\]$/m);
  for (const argv of [[], ['-h'], ['help'], ['--help', 'ls'], ['--url', 'http://a:1']]) {
    assert.deepEqual(await vreg(argv), program, argv.join(' '));
  }
  const ls = await vreg(['ls', '--help']);
  assert.match(ls.stdout, /^Usage: vreg ls \[FLAGS\]$/m);
  for (const argv of [
    ['ls', '-h'],
    ['help', 'ls'],
    ['help', 'list'],
    ['list', '--help'],
  ]) {
    assert.deepEqual(await vreg(argv), ls, argv.join(' '));
  }
  const set = await vreg(['config', 'set', '--help']);
  assert.match(set.stdout, /^Usage: vreg config set KEY VALUE \[FLAGS\]$/m);
  assert.deepEqual(await vreg(['help', 'config', 'set']), set);
  assert.match((await vreg(['config'])).stdout, /^Usage: vreg config COMMAND \[FLAGS\]$/m);
  assert.match((await vreg(['daemon', '--help'])).stdout, /^Usage: vreg daemon \[COMMAND\] \[FLAGS\]$/m);
});

for (const topic of TOPICS) {
  test(`help ${topic} fits 80 columns and is listed in vreg --help and vreg help --help`, async () => {
    for (const line of (await help(topic)).split('\n')) assert.ok(line.length <= 80, `${line.length}: ${line}`);
    assert.ok((await help()).includes(topic));
    assert.ok((await help('help')).includes(topic));
  });
}

test('help exit-codes lists each code with its meaning', async () => {
  const text = await help('exit-codes');
  for (const [code, meaning] of Object.entries(EXIT_MEANING))
    assert.match(text, new RegExp(`^ +${code}  ${meaning.replace(/[()]/g, '\\$&')}$`, 'm'));
  assert.match(text, /^ +128\+n {2}ended by signal n$/m);
});

test('help environment lists every variable that vreg reads', async () => {
  const names = (await help('environment'))
    .split('\n')
    .filter((line) => /^[A-Z]/.test(line))
    .flatMap((line) => line.split(', '));
  const expected = SETTING_KEYS.flatMap((key) => [envNameOf(key), ...(settingOf(key).sharedVariables ?? [])]);
  for (const name of [...expected, 'VREG_TOKEN', 'VERS_AUTH_TOKEN', 'VREG_CONTEXT', 'NO_COLOR', 'FORCE_COLOR']) {
    assert.ok(names.includes(name), name);
  }
});

test('help formatting lists every output format', async () => {
  const text = await help('formatting');
  for (const format of [...OUTPUT_FORMATS, ...EXPRESSION_FORMATS])
    assert.match(text, new RegExp(`^  .*\\b${format}\\b`, 'm'));
});

test('each recipe has a title, and its commands exist', async () => {
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

test('help for an unknown command exits with 5', async () => {
  const { code, stdout, stderr } = await vreg(['help', 'lss']);
  assert.deepEqual([code, stdout], [5, '']);
  assert.equal(stderr, 'vreg: no help for "lss"; did you mean "ls"?\nhint: list the commands: vreg help\n');
  assert.equal((await vreg(['help', 'ls', 'more'])).code, 5);
});

test('help COMMAND prints the same as COMMAND --help, for subcommands and aliases as well', async () => {
  for (const words of [['ls'], ['list'], ['context'], ['context', 'add'], ['daemon', 'restore']]) {
    assert.equal(
      await help(...words),
      (await vreg([...words, '--help'])).stdout.replaceAll('vreg list', 'vreg ls'),
      words.join(' '),
    );
  }
});

test('help for an unknown topic exits with 5 and suggests the nearest one', async () => {
  assert.deepEqual(await vreg(['help', 'recpies']), {
    code: 5,
    stdout: '',
    stderr: 'vreg: no help for "recpies"; did you mean "recipes"?\nhint: list the commands: vreg help\n',
  });
});

test('the help of a command lists its own flags and points to the global ones in one line', async () => {
  const text = await help('ls');
  assert.match(text, /^Global flags \(-u, -c, -o, -q, -v and others\): vreg --help$/m);
  assert.match(text, /^ {2}--role ROLE /m);
  assert.doesNotMatch(text, /--no-headers|--url|VREG_TOKEN_FILE/);
  const program = await help();
  for (const { flags } of GLOBAL_FLAGS) assert.ok(program.includes(flags.replace(/ <.*/, '')), flags);
});

test('vreg --help groups its commands: look, change, script, operate, set up', async () => {
  const titles = (await help()).match(/^[A-Z][a-z ]+:$/gm);
  assert.deepEqual(titles, [
    'Look at the fleet:',
    'Change the fleet:',
    'Use in scripts:',
    'Operate the registry:',
    'Set up:',
    'Global flags:',
    'Examples:',
  ]);
});

for (const [argv, message] of [
  ['lss --help', 'unknown command: lss; did you mean "ls"?\nhint: list the commands: vreg --help'],
  ['-h nope', 'unknown command: nope\nhint: list the commands: vreg --help'],
  ['--url http://a:1 nope -h', 'unknown command: nope\nhint: list the commands: vreg --help'],
  [
    'config lits --help',
    'unknown command: config lits; did you mean "list"?\nhint: list the commands: vreg config --help',
  ],
  [
    'daemon --help agnet',
    'unknown command: daemon agnet; did you mean "agent"?\nhint: list the commands: vreg daemon --help',
  ],
] as const) {
  test(`vreg ${argv} exits with 5`, async () => {
    assert.deepEqual(await vreg(argv.split(' ')), { code: 5, stdout: '', stderr: `vreg: ${message}\n` });
  });
}
