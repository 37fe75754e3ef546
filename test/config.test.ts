import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, closeSync, mkdirSync, openSync, symlinkSync, writeFileSync } from 'node:fs';
import { userInfo } from 'node:os';
import { dirname, join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { envNameOf, SETTING_KEYS, type SettingKey, settingOf } from '../src/config/settings.ts';
import { Config } from '../src/config.ts';
import { VregError } from '../src/protocol/errors.ts';
import { vreg } from './helpers/cli.ts';
import { tempDir } from './helpers/daemon.ts';
import { unless } from './helpers/tools.ts';

function configOf(
  t: TestContext,
  file: unknown,
  env: NodeJS.ProcessEnv = {},
  flags: Record<string, unknown> = {},
): Config {
  const home = tempDir(t);
  mkdirSync(join(home, 'vreg'));
  if (file !== undefined) {
    writeFileSync(join(home, 'vreg/config.json'), typeof file === 'string' ? file : JSON.stringify(file));
  }
  const config = new Config({ XDG_CONFIG_HOME: home, HOME: home, ...env });
  config.setFlags(flags);
  return config;
}

/** The error's message and hint, for one look at both. */
function refusal(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    assert.ok(error instanceof VregError, String(error));
    assert.equal(error.exit, 5);
    return `${error.message}\n${error.hint}`;
  }
  throw new Error('it was not refused');
}

test('precedence is flag, VREG_*, VERS_*, context, config file, default', (t) => {
  const file = { context: 'prod', contexts: { prod: { url: 'http://context:1' } }, url: 'http://file:1' };
  const env: NodeJS.ProcessEnv = { VREG_URL: 'http://vreg:1', VERS_INFRA_URL: 'http://vers:1' };
  const find = (text: unknown, variables: NodeJS.ProcessEnv, flags = {}) =>
    configOf(t, text, variables, flags).find('url');
  assert.deepEqual(find(file, env, { url: 'http://flag:1' }), { value: 'http://flag:1', origin: 'flag --url' });
  assert.deepEqual(find(file, env), { value: 'http://vreg:1', origin: 'VREG_URL' });
  assert.deepEqual(find(file, { ...env, VREG_URL: '' }), { value: 'http://vers:1', origin: 'VERS_INFRA_URL' });
  assert.deepEqual(find(file, {}), { value: 'http://context:1', origin: 'context prod' });
  assert.deepEqual(find({ ...file, context: undefined }, {}), { value: 'http://file:1', origin: 'config file' });
  assert.deepEqual(find({}, {}), { value: 'http://127.0.0.1:3000', origin: 'default' });
  assert.deepEqual(find(undefined, {}), { value: 'http://127.0.0.1:3000', origin: 'default' });
});

/** Writes `~/.vers/agent-services.json` of a new home folder. */
function sharedFile(t: TestContext, content: unknown, mode = 0o600): { HOME: string; path: string } {
  const HOME = tempDir(t);
  const path = join(HOME, '.vers/agent-services.json');
  mkdirSync(join(HOME, '.vers'));
  writeFileSync(path, typeof content === 'string' ? content : JSON.stringify(content), { mode });
  return { HOME, path };
}

test('~/.vers/agent-services.json sets the URL after the config file and before the default', (t) => {
  const { HOME } = sharedFile(t, { url: 'http://shared:1', other: 1 });
  const file = { context: 'prod', contexts: { prod: { url: 'http://context:1' } }, url: 'http://file:1' };
  const find = (text: unknown, env: NodeJS.ProcessEnv = {}) => configOf(t, text, { HOME, ...env }).find('url');
  assert.deepEqual(find({}), { value: 'http://shared:1', origin: '~/.vers/agent-services.json' });
  assert.equal(find(file)?.origin, 'context prod');
  assert.equal(find({ url: 'http://file:1' })?.origin, 'config file');
  assert.equal(find({}, { VERS_VM_REGISTRY_URL: 'http://vm:1' })?.origin, 'VERS_VM_REGISTRY_URL');
  const both = { VERS_VM_REGISTRY_URL: 'http://vm:1', VERS_INFRA_URL: 'http://infra:1' };
  assert.equal(find({}, both)?.origin, 'VERS_INFRA_URL');
  for (const content of [{}, { token: 'x' }])
    assert.equal(find({}, { HOME: sharedFile(t, content).HOME })?.origin, 'default');
});

test('the token in ~/.vers/agent-services.json is used with its URL only, and variables override it', (t) => {
  const { HOME } = sharedFile(t, { url: 'http://shared:1', token: 'of-shared\n' });
  const own = join(HOME, 'token');
  writeFileSync(own, 'of-file', { mode: 0o600 });
  const token = (text: object, env: NodeJS.ProcessEnv = {}) => configOf(t, text, { HOME, ...env }).clientToken();
  assert.deepEqual(token({}), { value: 'of-shared', origin: '~/.vers/agent-services.json' });
  assert.equal(token({ 'token-file': own })?.value, 'of-shared');
  assert.equal(token({}, { VERS_AUTH_TOKEN: 'of-vers' })?.value, 'of-vers');
  assert.equal(token({}, { VREG_TOKEN_FILE: own })?.value, 'of-file');
  assert.equal(token({ url: 'http://file:1' }), undefined);
  assert.equal(token({}, { VERS_INFRA_URL: 'http://infra:1' }), undefined);
  assert.equal(configOf(t, {}, { HOME }).token(), undefined, 'it is not the token of a daemon');
});

test('~/.vers/agent-services.json is refused if it is broken, or if other users can read its token', (t) => {
  const fault = (content: unknown, mode?: number) => {
    const { HOME, path } = sharedFile(t, content, mode);
    return refusal(() => configOf(t, {}, { HOME }).clientToken()).replaceAll(path, 'PATH');
  };
  assert.equal(
    fault('{\n"url"}'),
    'the file PATH is not a JSON object: unexpected "}" (line 2, column 6)\ncorrect or remove it',
  );
  assert.match(fault({ url: 'nope' }), /^invalid url "nope" \(from ~\/\.vers\/agent-services\.json\)\n/);
  assert.match(
    fault({ url: 'http://a:1', token: 'a b' }),
    /^the token \(from ~\/\.vers\/agent-services\.json\) contains/,
  );
  assert.equal(
    fault({ url: 'http://a:1', token: 'x' }, 0o644),
    'the token in PATH can be read by other users (mode 0644)\nchmod 600 PATH',
  );
});

test('a token in ~/.vers/agent-services.json that is not needed is not checked', (t) => {
  const { HOME } = sharedFile(t, { url: 'http://shared:1', token: 'x' }, 0o644);
  assert.equal(configOf(t, {}, { HOME, VREG_TOKEN: 'own' }).clientToken()?.value, 'own');
  assert.equal(configOf(t, {}, { HOME, VREG_URL: 'http://a:1' }).clientToken(), undefined);
});

test('null and "" in ~/.vers/agent-services.json count as absent, and other types are refused with their place', (t) => {
  for (const value of [null, '']) {
    const { HOME } = sharedFile(t, { url: value, token: value });
    assert.equal(configOf(t, {}, { HOME }).find('url')?.origin, 'default');
    assert.equal(configOf(t, {}, { HOME }).clientToken(), undefined);
  }
  for (const [content, message] of [
    ['{"url": 5}', '"url" is not a string (in PATH, line 1, column 9)'],
    ['{"url": "http://a:1",\n "token": {}}', '"token" is not a string (in PATH, line 2, column 11)'],
  ] as const) {
    const { HOME, path } = sharedFile(t, content);
    const fault = refusal(() => configOf(t, {}, { HOME }).clientToken()).replace(path, 'PATH');
    assert.equal(fault, `${message}\ncorrect or remove it`);
  }
});

test('a pipe instead of the config file or ~/.vers/agent-services.json is refused', unless('mkfifo'), (t) => {
  const HOME = tempDir(t);
  const paths = [join(HOME, '.vers/agent-services.json'), join(HOME, '.config/vreg/config.json')];
  for (const path of paths) {
    mkdirSync(dirname(path), { recursive: true });
    assert.equal(spawnSync('mkfifo', ['-m', '600', path]).status, 0);
    assert.match(
      refusal(() => new Config({ HOME }).find('url')),
      / is a pipe instead of a file\nremove or rename it$/,
    );
  }
});

test('a config file that no editor can correct is refused with a next step that helps, also by config edit', async (t) => {
  for (const [kind, make, message] of [
    ['a folder', (path: string) => mkdirSync(path), / is a folder instead of a file\nhint: remove or rename it\n/],
    ['a device', (path: string) => symlinkSync('/dev/null', path), / is a device instead of a file\nhint: remove/],
    ['a link to itself', (path: string) => symlinkSync(path, path), / \(ELOOP\)\nhint: remove or rename it\n/],
  ] as const) {
    const HOME = tempDir(t);
    const path = join(HOME, '.config/vreg/config.json');
    mkdirSync(dirname(path), { recursive: true });
    make(path);
    for (const argv of [['ls'], ['config', 'list'], ['config', 'set', 'url', 'http://a:1'], ['config', 'edit']]) {
      const { code, stderr } = await vreg(argv, { env: { HOME, EDITOR: 'false' } });
      assert.deepEqual([code, message.test(stderr)], [5, true], `${kind}, ${argv.join(' ')}: ${stderr}`);
    }
  }
});

test('an unknown context names the flag or the variable, also without a config file', (t) => {
  const HOME = tempDir(t);
  const byFlag = new Config({ HOME });
  byFlag.setFlags({ context: 'q' });
  assert.match(
    refusal(() => byFlag.find('url')),
    /^unknown context "q" \(from flag --context\)\n/,
  );
  const byVariable = new Config({ HOME, VREG_CONTEXT: 'q' });
  assert.match(
    refusal(() => byVariable.find('url')),
    /^unknown context "q" \(from VREG_CONTEXT\)\n/,
  );
});

test('PORT sets the port of the daemon, after the flag and VREG_PORT and before the config file', (t) => {
  const find = (env: NodeJS.ProcessEnv, flags = {}) => configOf(t, { port: 1 }, env, flags).find('port');
  assert.deepEqual(find({ PORT: '3' }), { value: '3', origin: 'PORT' });
  assert.deepEqual(find({ PORT: '3', VREG_PORT: '2' }), { value: '2', origin: 'VREG_PORT' });
  assert.deepEqual(find({ PORT: '3', VREG_PORT: '2' }, { port: '4' }), { value: '4', origin: 'flag --port' });
  assert.deepEqual(find({ PORT: '' }), { value: '1', origin: 'config file' });
  assert.match(
    refusal(() => find({ PORT: 'x' })),
    /^invalid port "x" \(from PORT\)\n/,
  );
});

test('VREG_CONTEXT selects the context; settings that it lacks come from the rest of the file', (t) => {
  const file = { context: 'a', contexts: { a: { url: 'http://a:1' }, b: { url: 'http://b:1' } }, timeout: '1s' };
  const config = configOf(t, file, { VREG_CONTEXT: 'b' });
  assert.equal(config.get('url'), 'http://b:1');
  assert.equal(config.get('timeout'), '1s');
});

/** A value of each setting that is acceptable, and is not its default. */
function someValue(key: SettingKey): string {
  const { choices, default: preset } = settingOf(key);
  if (choices) return choices.find((choice) => choice !== preset)!;
  return (
    {
      url: 'http://x:1',
      timeout: '7s',
      'stale-after': '7s',
      interval: '7s',
      'heartbeat-flush': '7s',
      'public-url': 'https://x.example',
      port: '7',
      'mass-loss': '7%',
      'max-body': '7',
      'max-vms': '7',
      'max-connections': '7',
      'trust-proxy': '7.7.7.7',
      'cors-origin': 'https://x.example',
    }[key as string] ?? 'x'
  );
}

for (const key of SETTING_KEYS) {
  test(`${key} is read from ${envNameOf(key)}, the variables that it shares and the file`, (t) => {
    const value = someValue(key);
    assert.deepEqual(configOf(t, {}, { [envNameOf(key)]: value }).find(key), { value, origin: envNameOf(key) });
    assert.deepEqual(configOf(t, { [key]: value }).find(key), { value, origin: 'config file' });
    const { sharedVariables = [] } = settingOf(key);
    for (const name of sharedVariables)
      assert.deepEqual(configOf(t, {}, { [name]: value }).find(key), { value, origin: name });
  });
}

test('a numeric setting in the file may be a number or a string', (t) => {
  assert.equal(configOf(t, { port: 3001 }).get('port'), '3001');
});

const BAD: readonly [key: SettingKey, value: string, accepted: RegExp][] = [
  ['url', 'localhost:3000', /http:\/\/HOST:PORT/],
  ['url', 'ftp://x', /http:\/\/HOST:PORT/],
  ['output', 'xml', /one of: table, wide, json/],
  ['timeout', '5x', /90s, 5m/],
  ['role', 'boss', /one of: infra, /],
  ['port', '-1', /0 \(any free port\) to 65535/],
  ['port', '65536', /65535/],
  ['stale-after', '0s', /greater than 0/],
  ['log-level', 'loud', /one of: debug, /],
  ['log-format', 'xml', /one of: pretty, json/],
  ['interval', 'often', /90s/],
  ['on-exit', 'explode', /one of: stopped, deregister, keep/],
  ['trust-proxy', 'my-proxy', /one of: loopback, linklocal, uniquelocal/],
  ['trust-proxy', '10.0.0.0/0', /10\.1\.0\.0\/16/],
  ['trust-proxy', '10.0.0.5/33', /comma-separated addresses/],
  ['cors-origin', 'https://dash.example/', /https:\/\/dash\.example/],
  ['cors-origin', '*', /https:\/\/dash\.example/],
  ['cors-origin', 'dash.example', /https:\/\/dash\.example/],
];

for (const [key, value, accepted] of BAD) {
  test(`${key} = ${value} is refused, and the error names the setting, its origin and the accepted values`, (t) => {
    const origins: readonly [Config, string][] = [
      [
        configOf(t, {}, {}, { [key.replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase())]: value }),
        `flag --${key}`,
      ],
      [configOf(t, {}, { [envNameOf(key)]: value }), envNameOf(key)],
      [configOf(t, { [key]: value }), 'config file'],
      [configOf(t, { context: 'c', contexts: { c: { [key]: value } } }), 'context c'],
    ];
    for (const [config, origin] of origins) {
      const said = refusal(() => config.find(key));
      assert.ok(said.startsWith(`invalid ${key}`), said);
      assert.ok(said.includes(`"${value}"`) && said.includes(`(from ${origin})`), said);
      assert.match(said, accepted);
    }
  });
}

const BROKEN: readonly [text: string, why: string, place: string][] = [
  ['', ': it ends too early', 'line 1, column 1'],
  ['{', ': it ends too early', 'line 1, column 2'],
  ['null', '', 'line 1, column 1'],
  ['\n  []', '', 'line 2, column 3'],
  ['"x"', '', 'line 1, column 1'],
  ['{"url": "http://x:1"', ': it ends too early', 'line 1, column 21'],
  ['{\n  "url": }', ': unexpected "}"', 'line 2, column 10'],
  ['{\r\n  "url": "http://x:1",\r\n}', ': unexpected "}"', 'line 3, column 1'],
  ['{\n  "url": "http://x:1"\n  "role": "infra"\n}', ': unexpected "\\""', 'line 3, column 3'],
  ['{"url": "http://x:1\n"}', ': unexpected end of line', 'line 1, column 20'],
  ['{\n  "port": 3000,\n  "role": worker\n}', ': unexpected "w"', 'line 3, column 11'],
  ['// my settings\n{}', ': unexpected "/"', 'line 1, column 1'],
  ["{'url': 1}", `: unexpected "'"`, 'line 1, column 2'],
  ['{} x', ': unexpected "x"', 'line 1, column 4'],
];

for (const [text, why, place] of BROKEN) {
  test(`a config file that contains ${JSON.stringify(text)} is refused with the place of the fault`, (t) => {
    const config = configOf(t, text);
    assert.equal(
      refusal(() => config.find('url')),
      `the config file ${config.path} is not a JSON object${why} (${place})\nfix it: vreg config edit`,
    );
  });
}

test('a config file with a byte order mark or another encoding is refused with the place', (t) => {
  for (const [bytes, why] of [
    [Buffer.from('\ufeff{}'), 'begins with a byte order mark, which JSON does not allow (line 1, column 1)'],
    [Buffer.from('\ufeff{}', 'utf16le'), 'is not UTF-8 text (line 1, column 1)'],
    [Buffer.from('{\n "role": "\xe9"}', 'latin1'), 'is not UTF-8 text (line 2, column 11)'],
  ] as const) {
    const config = configOf(t, '');
    writeFileSync(config.path, bytes);
    assert.equal(
      refusal(() => config.find('url')),
      `the config file ${config.path} ${why}\nfix it: vreg config edit`,
    );
  }
});

const WRONG_KEYS: readonly [text: string, message: RegExp][] = [
  [
    '{\n  "tmeout": "5s"\n}',
    /^unknown setting "tmeout" \(in .*config\.json, line 2, column 3\); did you mean "timeout"\?\n/,
  ],
  [
    '{"colour": "red"}',
    /^unknown setting "colour" \(in .*config\.json, line 1, column 2\)\ncorrect or remove it: vreg config edit$/,
  ],
  ['{"contextes": {}}', /^unknown setting "contextes" \(in .*, line 1, column 2\); did you mean "contexts"\?/],
  ['{"contexts": {"a": {\n"token": "x"}}}', /^unknown setting "token" \(in .*, line 2, column 1\)/],
  ['{"contexts": []}', /^"contexts" is not an object \(in .*, line 1, column 14\)/],
  ['{"contexts": {"a": "http://a:1"}}', /^"a" is not an object \(in .*, line 1, column 20\)/],
  ['{"context": 1}', /^"context" is not a string \(in .*, line 1, column 13\)/],
  ['{"role": {"x": 1}}', /^"role" is not a string, a number or a boolean \(in .*, line 1, column 10\)/],
  ['{"timeout": null}', /^"timeout" is not a string, a number or a boolean \(in .*, line 1, column 13\)/],
];

for (const [text, message] of WRONG_KEYS) {
  test(`a config file that contains ${JSON.stringify(text)} is refused with the place of the key`, (t) => {
    assert.match(
      refusal(() => configOf(t, text).find('url')),
      message,
    );
  });
}

test('the error about an invalid value in the config file contains its place', (t) => {
  const ofFile = configOf(t, '{\n  "timeout": "1s",\n  "timeout": "soon"\n}');
  assert.match(
    refusal(() => ofFile.find('timeout')),
    /^invalid timeout "soon" \(from config file\) in .*config\.json, line 3, column 14\nuse a duration/,
  );
  const ofContext = configOf(t, '{"context": "c", "contexts": {"c": {\n "role": "infar"}}}');
  assert.match(
    refusal(() => ofContext.find('role')),
    /^invalid role "infar" \(from context c\) in .*config\.json, line 2, column 10; did you mean "infra"\?\n/,
  );
});

test('an empty or relative HOME is replaced by the home folder of the password database', () => {
  const { homedir } = userInfo();
  for (const env of [{}, { HOME: '' }, { HOME: 'x' }, { HOME: './x' }]) {
    assert.equal(new Config(env).path, join(homedir, '.config/vreg/config.json'));
    assert.equal(new Config(env).stateDir, join(homedir, '.local/state/vreg'));
  }
});

test('relative and empty XDG paths are ignored', () => {
  for (const path of ['', 'x', './x', '../x', '~/x']) {
    const config = new Config({ HOME: '/home/a', XDG_CONFIG_HOME: path, XDG_STATE_HOME: path, XDG_RUNTIME_DIR: path });
    assert.equal(config.path, '/home/a/.config/vreg/config.json');
    assert.equal(config.stateDir, '/home/a/.local/state/vreg');
    assert.equal(config.runDir, undefined);
  }
});

test('the config file is not read for a setting that a flag or variable sets', (t) => {
  assert.equal(configOf(t, '{', { VERS_INFRA_URL: 'http://x:1' }).get('url'), 'http://x:1');
  assert.equal(configOf(t, '{', {}, { url: 'http://x:1' }).get('url'), 'http://x:1');
});

test('the token is read from a file that only its owner can read', (t) => {
  const file = join(tempDir(t), 'token');
  writeFileSync(file, ' s3cret\n', { mode: 0o600 });
  assert.deepEqual(configOf(t, {}, { VREG_TOKEN_FILE: file }).token(), {
    value: 's3cret',
    origin: `${file}, VREG_TOKEN_FILE`,
  });
  for (const mode of [0o640, 0o604, 0o660, 0o644]) {
    chmodSync(file, mode);
    const said = refusal(() => configOf(t, { 'token-file': file }).token());
    assert.equal(
      said,
      `the token file ${file} can be read by other users (mode 0${mode.toString(8)}, from config file)\nchmod 600 ${file}`,
    );
  }
  // systemd guards what it hands over by the folder, and gives it mode 0440.
  const CREDENTIALS_DIRECTORY = join(file, '..');
  assert.equal(configOf(t, {}, { VREG_TOKEN_FILE: file, CREDENTIALS_DIRECTORY }).token()?.value, 's3cret');
});

test('a file that others can read is refused when its path only begins with that of the credentials', (t) => {
  const dir = tempDir(t);
  const [credentials, loose] = [join(dir, 'credentials'), join(dir, 'loose')];
  mkdirSync(credentials);
  writeFileSync(loose, 's3cret');
  chmodSync(loose, 0o644);
  writeFileSync(join(credentials, 'token'), 's3cret', { mode: 0o440 });
  symlinkSync(loose, join(credentials, 'link'));
  const token = (file: string) =>
    configOf(t, {}, { CREDENTIALS_DIRECTORY: credentials }, { tokenFile: file }).token()?.value;
  for (const file of [`${credentials}/../loose`, `${credentials}//./../loose`, `${credentials}/link`])
    assert.match(
      refusal(() => token(file)),
      /can be read by other users/,
    );
  assert.equal(token(`${credentials}/./token`), 's3cret');
  const gone = configOf(t, {}, { CREDENTIALS_DIRECTORY: join(dir, 'gone') }, { tokenFile: loose });
  assert.match(
    refusal(() => gone.token()),
    /can be read by other users/,
  );
});

test('the token comes from the systemd credential if neither a flag nor a variable sets it', (t) => {
  const CREDENTIALS_DIRECTORY = tempDir(t);
  const write = (name: string, text: string) => {
    writeFileSync(join(CREDENTIALS_DIRECTORY, name), text, { mode: 0o640 });
    return join(CREDENTIALS_DIRECTORY, name);
  };
  const token = (file: object, env: NodeJS.ProcessEnv = {}, flags = {}) =>
    configOf(t, file, { CREDENTIALS_DIRECTORY, ...env }, flags).token()?.value;
  assert.equal(token({}), undefined);
  write('token', 'handed-over\n');
  const other = write('other', 'other');
  assert.equal(token({}), 'handed-over');
  assert.equal(token({ 'token-file': other }), 'handed-over');
  assert.equal(token({}, { VERS_AUTH_TOKEN: 'variable' }), 'variable');
  assert.equal(token({}, { VREG_TOKEN_FILE: other }), 'other');
  assert.equal(token({}, {}, { tokenFile: other }), 'other');
  write('token', '');
  assert.match(
    refusal(() => token({})),
    /^the token file .*token is empty \(from systemd credential token\)\n/,
  );
});

test('a token file that is missing or empty is refused', (t) => {
  const file = join(tempDir(t), 'token');
  assert.match(
    refusal(() => configOf(t, {}, {}, { tokenFile: file }).token()),
    /^cannot read the token file .*\(ENOENT, from flag --token-file\)\n/,
  );
  const contexts = { prod: { 'token-file': file } };
  for (const [content, env, origin] of [
    [{}, { VREG_TOKEN_FILE: file }, 'VREG_TOKEN_FILE'],
    [{ 'token-file': file }, {}, 'config file'],
    [{ context: 'prod', contexts }, {}, 'context prod'],
  ] as const) {
    assert.match(
      refusal(() => configOf(t, content, env).token()),
      new RegExp(`\\(ENOENT, from ${origin}\\)\n`),
    );
  }
  writeFileSync(file, '\n', { mode: 0o600 });
  assert.match(
    refusal(() => configOf(t, {}, {}, { tokenFile: file }).token()),
    /^the token file .* is empty \(from flag --token-file\)\nwrite/,
  );
});

test(
  'a token file that is a folder, a device, too large or a pipe without a writer is refused without blocking',
  unless('mkfifo'),
  (t) => {
    const dir = tempDir(t);
    const pipe = join(dir, 'pipe');
    assert.equal(spawnSync('mkfifo', ['-m', '600', pipe]).status, 0);
    const large = join(dir, 'large');
    writeFileSync(large, 'x'.repeat(1_048_577), { mode: 0o600 });
    for (const [tokenFile, why] of [
      [pipe, /is a pipe without a writer \(from flag --token-file\)\n/],
      [dir, /is neither a file nor a pipe \(from flag --token-file\)\n/],
      ['/dev/zero', /is neither a file nor a pipe \(from flag --token-file\)\n/],
      [large, /is larger than 1048576 bytes \(from flag --token-file\)\n/],
    ] as const)
      assert.match(
        refusal(() => configOf(t, {}, {}, { tokenFile }).token()),
        why,
      );
  },
);

test('a token is read from a pipe, also when it comes late and in pieces', unless('mkfifo'), (t) => {
  const pipe = join(tempDir(t), 'pipe');
  assert.equal(spawnSync('mkfifo', ['-m', '600', pipe]).status, 0);
  // Opened for both, since for writing alone it would wait for a reader.
  const end = openSync(pipe, 'r+');
  const writer = spawn('sh', ['-c', 'sleep 0.4; printf s3; sleep 0.05; echo cret'], {
    stdio: ['ignore', end, 'ignore'],
  });
  closeSync(end);
  t.after(() => writer.kill());
  assert.equal(configOf(t, {}, {}, { tokenFile: pipe }).token()?.value, 's3cret');
});

test('for the token file, a flag overrides the variables, which override the config file', (t) => {
  const file = join(tempDir(t), 'token');
  writeFileSync(file, 'of-file', { mode: 0o600 });
  const env = { VERS_AUTH_TOKEN: 'of-vers' };
  assert.equal(configOf(t, {}, env, { tokenFile: file }).token()?.value, 'of-file');
  assert.equal(configOf(t, { 'token-file': file }, env).token()?.value, 'of-vers');
  assert.equal(configOf(t, {}, { ...env, VREG_TOKEN: 'of-vreg' }).token()?.value, 'of-vreg');
  assert.equal(configOf(t, {}).token(), undefined);
});

test('for a flag with an optional value, true means the flag alone and false means unset', (t) => {
  assert.equal(configOf(t, {}, { VREG_TRUST_PROXY: 'true' }).get('trust-proxy'), 'loopback');
  assert.equal(configOf(t, { 'trust-proxy': true }).get('trust-proxy'), 'loopback');
  assert.equal(configOf(t, {}, { VREG_TRUST_PROXY: 'false' }).get('trust-proxy'), undefined);
  assert.equal(configOf(t, {}, { VREG_TRUST_PROXY: '10.0.0.5, fd00::/8' }).get('trust-proxy'), '10.0.0.5, fd00::/8');
});
