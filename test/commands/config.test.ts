import assert from 'node:assert/strict';
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { SETTING_KEYS } from '../../src/config/settings.ts';
import { Interrupted } from '../../src/exit.ts';
import { start, vreg } from '../helpers/cli.ts';
import { tempDir } from '../helpers/daemon.ts';
import { runVreg } from '../helpers/running.ts';

/** A home folder with this config file. */
function homeWith(t: TestContext, config?: unknown): { home: string; file: string; env: NodeJS.ProcessEnv } {
  const home = tempDir(t);
  const file = join(home, '.config/vreg/config.json');
  mkdirSync(join(home, '.config/vreg'), { recursive: true });
  if (config !== undefined) writeFileSync(file, typeof config === 'string' ? config : JSON.stringify(config));
  return { home, file, env: { VERS_INFRA_URL: '' } };
}

test('set writes a setting, get reads it, unset removes it', async (t) => {
  const { home, file, env } = homeWith(t);
  const run = (...argv: string[]) => vreg(['config', ...argv], { home, env });
  assert.deepEqual(await run('set', 'url', 'http://10.0.0.5:3000'), { code: 0, stdout: '', stderr: '' });
  assert.deepEqual(JSON.parse(readFileSync(file, 'utf8')), { url: 'http://10.0.0.5:3000' });
  assert.equal(statSync(file).mode & 0o777, 0o600);
  assert.deepEqual(await run('get', 'url'), { code: 0, stdout: 'http://10.0.0.5:3000\n', stderr: '' });
  assert.deepEqual(JSON.parse((await run('get', 'url', '--json')).stdout), {
    key: 'url',
    value: 'http://10.0.0.5:3000',
    origin: 'config file',
  });
  assert.deepEqual(await run('unset', 'url'), { code: 0, stdout: '', stderr: '' });
  assert.equal((await run('get', 'url')).stdout, 'http://127.0.0.1:3000\n');
});

for (const umask of [0, 0o022]) {
  test(`the folder of the config file is accessible to its owner only, with the umask 0${umask.toString(8)}`, async (t) => {
    const home = tempDir(t);
    const before = process.umask(umask);
    t.after(() => process.umask(before));
    for (const argv of ['config set output json', 'context add a --url http://a:1', 'config unset output']) {
      const config = join(home, argv.replaceAll(/\W/g, ''));
      assert.equal((await vreg(argv.split(' '), { home, env: { XDG_CONFIG_HOME: config } })).code, 0);
      assert.equal(statSync(join(config, 'vreg')).mode & 0o777, 0o700, argv);
    }
  });
}

test('set keeps all other content of the file', async (t) => {
  const contexts = { prod: { url: 'http://prod:3000' } };
  const { home, file, env } = homeWith(t, { contexts, timeout: '1s' });
  await vreg(['config', 'set', 'timeout', '2s'], { home, env });
  assert.deepEqual(JSON.parse(readFileSync(file, 'utf8')), { contexts, timeout: '2s' });
});

test('set warns when a variable overrides the file', async (t) => {
  const { home, env } = homeWith(t);
  const { code, stderr } = await vreg(['config', 'set', 'url', 'http://a:1'], {
    home,
    env: { ...env, VREG_URL: 'http://b:2' },
  });
  assert.equal(code, 0);
  assert.equal(stderr, 'vreg: url was saved, but VREG_URL overrides it with http://b:2\n');
});

const REFUSED: readonly [argv: string, message: RegExp][] = [
  ['set url nope', /^vreg: invalid url "nope"\nhint: use http:\/\/HOST:PORT/],
  ['set output xml', /^vreg: invalid output "xml"\nhint: one of: table, /],
  ['set port 70000', /^vreg: invalid port "70000"\nhint: use a number from 0/],
  ['set stale-after 5x', /^vreg: invalid stale-after "5x"\nhint: use a duration such as 90s/],
  ['set colour red', /^vreg: unknown setting "colour"\nhint: one of: url, /],
  ['set tmeout 5s', /^vreg: unknown setting "tmeout"; did you mean "timeout"\?\nhint: one of: url, /],
  ['get nope', /^vreg: unknown setting "nope".*\nhint: one of: url, /],
  ['unset nope', /^vreg: unknown setting "nope"/],
  ['set url', /^vreg: missing required argument 'value'\nhint: see the usage: vreg config set --help\n$/],
  ['nope', /^vreg: unknown command: config nope\nhint: list the commands: vreg config --help\n$/],
];

for (const [argv, message] of REFUSED) {
  test(`config ${argv} exits with 5`, async (t) => {
    const { home, env } = homeWith(t);
    const { code, stdout, stderr } = await vreg(['config', ...argv.split(' ')], { home, env });
    assert.deepEqual([code, stdout], [5, '']);
    assert.match(stderr, message);
  });
}

test('get of an unset setting prints nothing, exits with 3 and names the default', async (t) => {
  const { home, env } = homeWith(t);
  assert.deepEqual(await vreg(['config', 'get', 'id'], { home, env }), {
    code: 3,
    stdout: '',
    stderr: 'vreg: id is not set (default: the host name; variable VREG_ID)\nhint: set it: vreg config set id VALUE\n',
  });
});

test('list prints every setting, and --show-origin the origin of each value', async (t) => {
  const { home, env } = homeWith(t, { timeout: '1s', role: 'golden', output: 'tsv' });
  const result = await vreg(['config', 'list', '--show-origin', '--timeout', '3s'], {
    home,
    env: { ...env, VERS_AGENT_ROLE: 'infra' },
  });
  const lines = result.stdout.trimEnd().split('\n');
  assert.equal(lines[0], 'KEY\tVALUE\tORIGIN');
  assert.deepEqual(
    lines.slice(1).map((line) => line.split('\t')[0]),
    SETTING_KEYS,
  );
  assert.ok(lines.includes('timeout\t3s\tflag --timeout'));
  assert.ok(lines.includes('role\tinfra\tVERS_AGENT_ROLE'));
  assert.ok(lines.includes('output\ttsv\tconfig file'));
  assert.ok(lines.includes('port\t3000\tdefault'));
  assert.ok(lines.includes('socket\t-\tnot set'));
  const plain = await vreg(['config', 'ls'], { home, env });
  assert.ok(plain.stdout.startsWith('KEY\tVALUE\n'));
  const rows = JSON.parse((await vreg(['config', 'list', '--json'], { home, env })).stdout) as unknown[];
  assert.deepEqual(rows[0], { key: 'url', value: 'http://127.0.0.1:3000', origin: 'default' });
});

test('path prints the path of the file, in XDG_CONFIG_HOME or in ~/.config', async (t) => {
  const { home, file } = homeWith(t);
  assert.equal((await vreg(['config', 'path'], { home })).stdout, `${file}\n`);
  const env = { XDG_CONFIG_HOME: '/etc/xdg' };
  assert.equal((await vreg(['config', 'path'], { home, env })).stdout, '/etc/xdg/vreg/config.json\n');
});

const EDITS: readonly [name: string, editor: string, code: number, message: RegExp][] = [
  ['leaves a valid file', 'sed -i s/1s/2s/', 0, /^$/],
  [
    'leaves invalid JSON',
    'sed -i s/}/,/',
    5,
    /^vreg: the config file .* is not a JSON object: it ends too early \(line 1, column 17\)\nhint: fix it: vreg config edit\n$/,
  ],
  ['leaves an invalid value', 'sed -i s/1s/soon/', 5, /^vreg: invalid timeout "soon" \(in .*\)\nhint: /],
  [
    'leaves an unknown setting',
    'sed -i s/timeout/tmeout/',
    5,
    /^vreg: unknown setting "tmeout" \(in .*\); did you mean "timeout"\?\nhint: /,
  ],
  ['fails', 'false', 5, /^vreg: the editor "false" exited with 1\nhint: /],
];

for (const [name, editor, code, message] of EDITS) {
  test(`edit exits with ${code} if the editor ${name}`, async (t) => {
    const { home, env } = homeWith(t, { timeout: '1s' });
    const result = await vreg(['config', 'edit'], { home, env: { ...env, EDITOR: editor } });
    assert.deepEqual([result.code, result.stdout], [code, '']);
    assert.match(result.stderr, message);
  });
}

test('edit creates a missing file with mode 0600, and prefers VISUAL to EDITOR', async (t) => {
  const { home, file, env } = homeWith(t);
  assert.equal((await vreg(['config', 'edit'], { home, env: { ...env, VISUAL: 'true', EDITOR: 'false' } })).code, 0);
  assert.equal(readFileSync(file, 'utf8'), '{}\n');
  assert.equal(statSync(file).mode & 0o777, 0o600);
});

test('set and unset can repair a file with invalid values', async (t) => {
  const { home, env } = homeWith(t, { output: 'xml', timeout: 'soon' });
  assert.equal((await vreg(['config', 'list'], { home, env })).code, 5);
  assert.equal((await vreg(['config', 'set', 'output', 'json'], { home, env })).code, 0);
  assert.equal((await vreg(['config', 'unset', 'timeout'], { home, env })).code, 0);
  assert.equal((await vreg(['config', 'list'], { home, env })).code, 0);
});

test('unset removes an unknown key, which prevents other commands from reading the file', async (t) => {
  const { home, file, env } = homeWith(t, { tmeout: '1s', role: 'infra' });
  const before = await vreg(['config', 'list'], { home, env });
  assert.equal(before.code, 5);
  assert.match(before.stderr, /^vreg: unknown setting "tmeout" \(in .*config\.json, line 1, column 2\); did you mean/);
  assert.deepEqual(await vreg(['config', 'unset', 'tmeout'], { home, env }), { code: 0, stdout: '', stderr: '' });
  assert.deepEqual(JSON.parse(readFileSync(file, 'utf8')), { role: 'infra' });
});

test('edit reports an invalid value in a context with its place', async (t) => {
  const { home, env } = homeWith(t, { contexts: { a: { url: 'http://a:1' } } });
  const { code, stderr } = await vreg(['config', 'edit'], { home, env: { ...env, EDITOR: 'sed -i s,http://,a,' } });
  assert.equal(code, 5);
  assert.match(stderr, /^vreg: invalid url "aa:1" \(in .*config\.json, line 1, column 25\)\nhint: /);
});

test('changes by concurrent processes lose nothing and leave no lock', async (t) => {
  const { home, file } = homeWith(t, { role: 'infra' });
  const numbers = Array.from({ length: 8 }, (_, index) => index);
  const keys = ['timeout', 'interval', 'stale-after'] as const;
  const commands = [
    ...numbers.map((n) => `context add c${n} --url http://c${n}:1`),
    ...keys.map((key) => `config set ${key} 7s`),
    'context add used --url http://used:1 --use',
    'config unset role',
  ];
  const results = await Promise.all(
    commands.map((argv) => runVreg(argv.split(' '), { home, env: { XDG_CONFIG_HOME: '' } })),
  );
  for (const { code, stderr } of results) assert.deepEqual([code, stderr], [0, '']);
  const { contexts, ...rest } = JSON.parse(readFileSync(file, 'utf8')) as { contexts: object };
  assert.deepEqual(Object.keys(contexts).sort(), [...numbers.map((n) => `c${n}`), 'used']);
  assert.deepEqual(rest, { context: 'used', ...Object.fromEntries(keys.map((key) => [key, '7s'])) });
  assert.deepEqual(readdirSync(join(home, '.config/vreg')), ['config.json']);
});

test('the lock of a killed process is removed, and waiting for a lock can be interrupted', async (t) => {
  const { home, file, env } = homeWith(t, {});
  mkdirSync(`${file}.lock`);
  const interrupt = new AbortController();
  const waiting = start(['config', 'set', 'timeout', '1s'], { home, env, signal: interrupt.signal });
  interrupt.abort(new Interrupted('SIGINT'));
  assert.equal((await waiting.result).code, 130);
  utimesSync(`${file}.lock`, 1, 1);
  assert.deepEqual(await vreg(['config', 'set', 'timeout', '1s'], { home, env }), { code: 0, stdout: '', stderr: '' });
  assert.deepEqual(readdirSync(join(home, '.config/vreg')), ['config.json']);
});

test('a config file that is a symbolic link stays one', async (t) => {
  const { home, file, env } = homeWith(t);
  const target = join(home, 'dotfiles.json');
  writeFileSync(target, '{"role": "infra"}');
  symlinkSync(target, file);
  assert.equal((await vreg(['config', 'set', 'timeout', '1s'], { home, env })).code, 0);
  assert.deepEqual(JSON.parse(readFileSync(target, 'utf8')), { role: 'infra', timeout: '1s' });
  assert.equal(readlinkSync(file), target);
});

for (const argv of ['config set timeout 1s', 'config unset timeout', 'context add a --url http://a:1', 'config edit']) {
  test(`vreg ${argv} in an unwritable folder exits with 5 and names the file`, async (t) => {
    const { home, env } = homeWith(t);
    const blocked = join(home, 'blocked');
    writeFileSync(blocked, '');
    for (const XDG_CONFIG_HOME of [blocked, '/proc/none']) {
      const result = await vreg(argv.split(' '), { home, env: { ...env, XDG_CONFIG_HOME, EDITOR: 'true' } });
      assert.deepEqual([result.code, result.stdout], [5, '']);
      assert.match(
        result.stderr,
        /^vreg: cannot write the config file \S+\/vreg\/config\.json \(\w+\)\nhint: check the owner/,
      );
    }
  });
}

const BROKEN = '{"url": ';

for (const argv of ['ls', 'config list', 'config get url', 'config set url http://a:1', 'config unset url']) {
  test(`with an invalid config file, vreg ${argv} reports it and changes nothing`, async (t) => {
    const { home, file, env } = homeWith(t, BROKEN);
    assert.deepEqual(await vreg(argv.split(' '), { home, env }), {
      code: 5,
      stdout: '',
      stderr: `vreg: the config file ${file} is not a JSON object: it ends too early (line 1, column 9)\nhint: fix it: vreg config edit\n`,
    });
    assert.equal(readFileSync(file, 'utf8'), BROKEN);
  });
}

for (const argv of [
  '--help',
  'ls --help',
  'help',
  'help ls',
  'help exit-codes',
  'version',
  '--version',
  'config path',
  'completion bash',
  'config edit',
  '',
]) {
  test(`with an invalid config file, vreg ${argv} works`, async (t) => {
    const { home, file, env } = homeWith(t, BROKEN);
    const fixed = { ...env, EDITOR: `printf '{}' >`, VREG_OUTPUT: 'xml', VREG_TIMEOUT: 'soon' };
    const { code, stdout, stderr } = await vreg(argv.split(' ').filter(Boolean), { home, env: fixed });
    assert.deepEqual([code, stderr], [0, '']);
    assert.equal(readFileSync(file, 'utf8'), argv === 'config edit' ? '{}' : BROKEN);
    assert.ok(stdout !== '' || argv === 'config edit');
  });
}

for (const [content, argv, message] of [
  [
    '{"contexts": 5}',
    'context add q --url http://q',
    /^vreg: "contexts" is not an object \(in .*, line 1, column 14\)/,
  ],
  [
    '{"contexts": {"a": 5}}',
    'context add q --url http://q',
    /^vreg: "a" is not an object \(in .*, line 1, column 20\)/,
  ],
  ['{"contexts": {"a": "xy"}}', 'context add a --url http://q', /^vreg: "a" is not an object \(in .*column 20\)/],
  ['{"urll": "x"}', 'context add q --url http://q', /^vreg: unknown setting "urll" \(in .*, line 1, column 2\)/],
  ['{"urll": "x"}', 'config set url http://q', /^vreg: unknown setting "urll" \(in .*, line 1, column 2\)/],
  ['{"contexts": []}', 'config set url http://q', /^vreg: "contexts" is not an object/],
  ['{"contexts": []}', 'config unset url', /^vreg: "contexts" is not an object/],
  ['{"urll": "x", "rol": "y"}', 'config unset urll', /^vreg: unknown setting "rol"/],
] as const) {
  test(`vreg ${argv} does not change a file that contains ${content}`, async (t) => {
    const { home, file, env } = homeWith(t, content);
    const { code, stderr } = await vreg(argv.split(' '), { home, env });
    assert.equal(code, 5);
    assert.match(stderr, message);
    assert.equal(readFileSync(file, 'utf8'), content);
  });
}

test('set replaces a value of the wrong type', async (t) => {
  const { home, file, env } = homeWith(t, { url: {}, role: 'infra' });
  assert.equal((await vreg(['config', 'set', 'url', 'http://a:1'], { home, env })).code, 0);
  assert.deepEqual(JSON.parse(readFileSync(file, 'utf8')), { url: 'http://a:1', role: 'infra' });
});
