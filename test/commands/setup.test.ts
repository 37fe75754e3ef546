import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { parse } from 'jsonc-parser';
import { EXTENSION_FILE } from '../../src/setup/pi-extensions.ts';
import { vreg } from '../helpers/cli.ts';
import { cleanEnv, ENTRY, PROGRAM, run, tempDir } from '../helpers/daemon.ts';

/** A home folder, and `vreg setup` in it. */
function aHome(t: TestContext) {
  const home = tempDir(t);
  const bin = tempDir(t);
  writeFileSync(join(bin, 'vreg'), '');
  const env = { PATH: bin, VERS_AUTH_TOKEN: 'fleet-secret' };
  const setup = async (...args: string[]) => {
    const { code, stdout, stderr } = await vreg(['setup', ...args, '-o', 'json'], { home, env });
    const steps = code === 5 ? [] : (JSON.parse(stdout) as { part: string; action: string; path: string }[]);
    return { code, stderr, actions: steps.map(({ part, action }) => `${part} ${action}`), steps };
  };
  const write = (name: string, text: string) => {
    mkdirSync(dirname(join(home, name)), { recursive: true });
    writeFileSync(join(home, name), text);
  };
  return { home, setup, write, read: (name: string) => readFileSync(join(home, name), 'utf8') };
}

/** All files below a folder, with their contents. */
function filesIn(folder: string): Record<string, string> {
  const names = readdirSync(folder, { recursive: true, encoding: 'utf8' }).sort();
  const files = names.filter((name) => statSync(join(folder, name)).isFile());
  return Object.fromEntries(files.map((name) => [name, readFileSync(join(folder, name), 'utf8')]));
}

const EXTENSION = '.pi/agent/extensions/vreg-registry.js';

const HOOK = (name: string) => ({ hooks: [{ type: 'command', command: `vreg hook ${name}`, timeout: 10 }] });

test('setup claude adds the server, the skill and the hooks, and a second run changes nothing', async (t) => {
  const { home, setup, read } = aHome(t);
  assert.deepEqual((await setup('claude')).actions, ['mcp create', 'skill create', 'hooks create']);
  assert.deepEqual(JSON.parse(read('.claude.json')), {
    mcpServers: { registry: { type: 'stdio', command: 'vreg', args: ['mcp'] } },
  });
  assert.deepEqual(JSON.parse(read('.claude/settings.json')), {
    hooks: { SessionStart: [HOOK('start')], SessionEnd: [HOOK('stop')] },
  });
  assert.match(read('.claude/skills/registry/SKILL.md'), /^---\nname: registry\n/);
  const before = filesIn(home);
  assert.deepEqual((await setup('claude')).actions, ['mcp unchanged', 'skill unchanged', 'hooks unchanged']);
  assert.deepEqual(filesIn(home), before);
  assert.doesNotMatch(JSON.stringify(before), /fleet-secret/);
});

test('setup codex writes TOML and hooks', async (t) => {
  const { setup, read } = aHome(t);
  assert.deepEqual((await setup('codex')).actions, ['mcp create', 'skill create', 'hooks create']);
  assert.equal(
    read('.codex/config.toml'),
    '# Added by vreg setup.\n[mcp_servers.registry]\ncommand = "vreg"\nargs = ["mcp"]\n',
  );
  assert.deepEqual(JSON.parse(read('.codex/hooks.json')), { hooks: { SessionStart: [HOOK('start')] } });
  assert.match(read('.agents/skills/registry/SKILL.md'), /name: registry/);
});

test('setup pi writes the skill and the extension, and --remove removes them', async (t) => {
  const { home, setup, read } = aHome(t);
  const added = await setup('pi');
  assert.deepEqual(added.actions, ['skill create', 'hooks create']);
  assert.deepEqual(
    added.steps.map(({ path }) => path),
    [join(home, '.pi/agent/skills/registry/SKILL.md'), join(home, EXTENSION)],
  );
  assert.doesNotMatch(JSON.stringify(filesIn(home)), /fleet-secret/);
  assert.deepEqual((await setup('pi')).actions, ['skill unchanged', 'hooks unchanged']);
  // pi loads the file outside of the package.
  const loaded = createRequire(join(home, EXTENSION))(join(home, EXTENSION)) as unknown;
  assert.equal(typeof loaded, 'function');
  const edited = read(EXTENSION).replace('registry', 'mine');
  writeFileSync(join(home, EXTENSION), edited);
  assert.deepEqual((await setup('pi', '--only', 'hooks')).actions, ['hooks keep']);
  assert.deepEqual((await setup('pi', '--remove')).actions, ['skill remove', 'hooks keep']);
  assert.deepEqual(filesIn(home), { [EXTENSION]: edited });
  writeFileSync(join(home, EXTENSION), edited.replace('mine', 'registry'));
  assert.deepEqual((await setup('pi', '--remove')).actions, ['skill unchanged', 'hooks remove']);
  assert.deepEqual(readdirSync(home), []);
});

for (const [what, name, text, removal] of [
  ['package', '.pi/agent/settings.json', '{"packages": ["npm:vreg@0.1.0"]}', 'run: pi remove npm:vreg@0.1.0'],
  [
    'package of the original registry',
    '.pi/agent/settings.json',
    '{"packages": [{"source": "git:github.com/hdresearch/vers-agent-services@main"}]}',
    'run: pi remove git:github.com/hdresearch/vers-agent-services@main',
  ],
  [
    'file',
    '.pi/agent/extensions/agent-services/index.ts',
    'register({ name: "registry_register" })',
    'remove it from ',
  ],
  [
    'folder with a package.json',
    '.pi/agent/extensions/mine/package.json',
    '{"pi": {"extensions": ["./none.ts", "../../../mine.ts"]}}',
    'remove it from ',
  ],
  [
    'folder with a package.json in the settings',
    '.pi/agent/settings.json',
    '{"extensions": ["../folder"]}',
    'remove it from ',
  ],
  ['package in a local folder', '.pi/agent/settings.json', '{"packages": ["../folder"]}', 'run: pi remove ../folder'],
  ['package that is a file', '.pi/agent/settings.json', '{"packages": ["../mine.ts"]}', 'run: pi remove ../mine.ts'],
  ['path in the settings', '.pi/agent/settings.json', '{"extensions": ["../mine.ts"]}', 'remove it from '],
  ['path below ~', '.pi/agent/settings.json', '{"extensions": ["~/.pi/mine.ts"]}', 'remove it from '],
] as const)
  test(`setup pi skips its extension beside another one, here as a ${what}, and says what to do`, async (t) => {
    const { home, setup, write } = aHome(t);
    write('.pi/mine.ts', `register({ name: 'registry_register' })`);
    write('.pi/folder/package.json', '{"pi": {"extensions": ["../mine.ts"]}}');
    write(name, text);
    const { code, actions, stderr } = await setup('pi');
    assert.deepEqual([code, actions], [4, ['skill create', 'hooks skip']]);
    assert.equal(existsSync(join(home, EXTENSION)), false);
    assert.match(stderr, /pi does not start with two extensions that have the tools of the registry/);
    assert.ok(stderr.includes(removal), stderr);
    assert.deepEqual((await setup('pi', '--only', 'skill')).code, 0);
  });

test('setup pi adds its extension beside one that pi does not load', async (t) => {
  const { setup, write } = aHome(t);
  const tool = `register({ name: 'registry_register' })`;
  write('.pi/agent/extensions/off.ts', tool);
  write('.pi/agent/settings.json', '{"extensions": ["-extensions/off.ts"]}');
  write('.pi/agent/extensions/.hidden.ts', tool);
  write('.pi/agent/extensions/mine/package.json', '{"pi": {"extensions": ["main.ts"]}}');
  write('.pi/agent/extensions/mine/main.ts', 'export default () => {};');
  write('.pi/agent/extensions/mine/index.ts', tool);
  assert.deepEqual((await setup('pi')).actions, ['skill create', 'hooks create']);
});

for (const [settings, loads] of [
  [{ extensions: ['!extensions/own.ts'] }, false],
  [{ extensions: ['!**/own.*'] }, false],
  [{ extensions: ['!own.ts', '+extensions/own.ts'] }, true],
  [{ extensions: ['!*.js'] }, true],
  [{ extensions: ['-extensions/own.ts', '+./extensions/own.ts'] }, false],
  [{ extensions: ['!own.ts', '../mine.ts', '!mine.ts'] }, false],
  [{ extensions: ['!own.ts', '../mine.ts', '*.js'] }, false],
  [{ extensions: ['!own.ts', '../mine.ts', '*.ts'] }, true],
  [{ extensions: ['-extensions/own.ts'], packages: ['../globs'] }, true],
  [{ extensions: ['!own.ts'], packages: [{ source: '../globs', extensions: ['!src/**'] }] }, false],
  [{ extensions: ['!own.ts'], packages: [{ source: '../globs', extensions: ['src/?/main.ts'] }] }, true],
  [{ extensions: ['!own.ts'], packages: [{ source: 'npm:vreg', extensions: ['-dist/pi/registry.js'] }] }, false],
  [{ extensions: ['!own.ts'], packages: [{ source: 'npm:vreg', extensions: ['dist/**'] }] }, true],
  [
    {
      extensions: ['!own.ts'],
      packages: [{ source: 'git:github.com/hdresearch/vers-agent-services', extensions: ['!extensions/agent-*'] }],
    },
    false,
  ],
] as const)
  test(`setup pi evaluates patterns as pi does: ${JSON.stringify(settings)} ${loads ? 'loads' : 'excludes'} the other extension`, async (t) => {
    const { setup, write } = aHome(t);
    const tool = `register({ name: 'registry_register' })`;
    for (const name of ['mine.ts', 'agent/extensions/own.ts', 'globs/src/a/main.ts', 'globs/lib/off.ts'])
      write(`.pi/${name}`, tool);
    write('.pi/globs/package.json', '{"pi": {"extensions": ["./src/**/*.ts", "./lib/*.ts", "!off.ts"]}}');
    write('.pi/agent/settings.json', JSON.stringify(settings));
    const { actions } = await setup('pi');
    assert.deepEqual(actions, ['skill create', `hooks ${loads ? 'skip' : 'create'}`]);
  });

test('setup pi adds its extension beside a package whose extensions are excluded', async (t) => {
  const { setup, write } = aHome(t);
  write(
    '.pi/agent/settings.json',
    '{"packages": ["npm:@me/vreg", "npm:other", {"source": "npm:vreg", "extensions": []}]}',
  );
  assert.deepEqual((await setup('pi')).actions, ['skill create', 'hooks create']);
  assert.deepEqual((await setup('pi')).actions, ['skill unchanged', 'hooks unchanged']);
});

test('setup accepts files whose line endings were converted', async (t) => {
  for (const program of ['claude', 'codex', 'pi'] as const) {
    const { home, setup, write } = aHome(t);
    await setup(program);
    for (const [name, text] of Object.entries(filesIn(home))) write(name, text.replaceAll('\n', '\r\n'));
    const before = filesIn(home);
    assert.equal((await setup(program)).code, 0);
    assert.deepEqual(filesIn(home), before);
    assert.equal((await setup(program, '--remove')).code, 0);
    assert.deepEqual(readdirSync(home), [], program);
  }
});

test('setup adds its table to a file with carriage returns, and removes it', async (t) => {
  const { setup, write, read } = aHome(t);
  const text = 'model = "gpt-5"\r\n';
  write('.codex/config.toml', text);
  await setup('codex', '--only', 'mcp');
  assert.doesNotMatch(read('.codex/config.toml'), /[^\r]\n/);
  await setup('codex', '--remove');
  assert.equal(read('.codex/config.toml'), text);
});

test('setup pi refuses --only mcp, and says what pi has instead', async (t) => {
  const { code, stdout, stderr } = await vreg(['setup', 'pi', '--only', 'mcp'], { home: tempDir(t) });
  assert.deepEqual([code, stdout], [5, '']);
  assert.match(stderr, /pi has no MCP servers, so --only mcp adds nothing/);
  assert.match(stderr, /vreg setup pi --only hooks/);
});

const TOML = `# my config
model = "gpt-5"   # the good one

[mcp_servers.other]
command = "other"
args = [ "a",  "b" ]
`;
const SETTINGS = `{
    // mine
    "model": "opus",
    "hooks": {
        "SessionStart": [
            {"matcher": "startup", "hooks": [{"type": "command", "command": "date"}]}
        ]
    }
}
`;

for (const [program, files] of [
  [
    'claude',
    { '.claude.json': '{"numStartups":3,"mcpServers":{"x":{"command":"x"}}}', '.claude/settings.json': SETTINGS },
  ],
  ['codex', { '.codex/config.toml': TOML, '.codex/hooks.json': '{\r\n\t"hooks": {\r\n\t\t"Stop": []\r\n\t}\r\n}\r\n' }],
] as const)
  test(`setup ${program} leaves all other entries as they are, and --remove removes only what it has added`, async (t) => {
    const { home, setup, write, read } = aHome(t);
    for (const [name, text] of Object.entries(files)) write(name, text);
    const before = filesIn(home);
    assert.equal((await setup(program)).code, 0);
    if (program === 'codex') assert.ok(read('.codex/config.toml').startsWith(TOML));
    else
      assert.match(
        read('.claude/settings.json'),
        /\/\/ mine\n {4}"model": "opus",.*"command": "date".*vreg hook start/s,
      );
    const removed = await setup(program, '--remove');
    assert.deepEqual([removed.code, removed.actions], [0, ['mcp change', 'skill remove', 'hooks change']]);
    const after = filesIn(home);
    for (const name of Object.keys(before))
      assert.equal(after[name]!.replace(/\s/g, ''), before[name]!.replace(/\s/g, ''), name);
    if (program === 'codex') assert.equal(after['.codex/config.toml'], TOML);
    assert.deepEqual(Object.keys(after), Object.keys(before));
    assert.deepEqual((await setup(program, '--remove')).actions, [
      'mcp unchanged',
      'skill unchanged',
      'hooks unchanged',
    ]);
  });

test('--remove leaves the home folder and that of the program, also if their variables end with a slash', async (t) => {
  const base = tempDir(t);
  const [home, folder] = [`${base}/home/`, `${base}/claude/`];
  mkdirSync(home);
  for (const [env, left] of [
    [{}, home],
    [{ CLAUDE_CONFIG_DIR: folder }, folder],
  ] as const)
    for (const flags of [[], ['--remove']]) {
      const { code } = await vreg(['setup', 'claude', '--only', 'skill', ...flags], { home, env });
      assert.equal(code, 0);
      if (flags.length > 0) assert.deepEqual(readdirSync(left), []);
    }
});

test('setup keeps what somebody has edited, also when it removes, and exits with 4', async (t) => {
  const { home, setup, write, read } = aHome(t);
  await setup('claude');
  await setup('codex', '--only', 'mcp');
  write('.claude/skills/registry/SKILL.md', `${read('.claude/skills/registry/SKILL.md')}one more line\n`);
  write('.claude/settings.json', read('.claude/settings.json').replaceAll(/vreg hook (\w+)/g, 'vreg hook $1 -v'));
  write('.claude.json', '{"mcpServers": {"registry": {"command": "/opt/vreg", "args": ["mcp", "--read-only"]}}}');
  write('.codex/config.toml', read('.codex/config.toml').replace('["mcp"]', '["mcp", "--read-only"]'));
  const edited = filesIn(home);
  for (const flags of [[], ['--remove']]) {
    const claude = await setup('claude', ...flags);
    assert.deepEqual([claude.code, claude.actions], [4, ['mcp keep', 'skill keep', 'hooks keep']]);
    assert.match(claude.stderr, /somebody has edited what vreg setup would change, so it was kept/);
    assert.match(claude.stderr, flags.length === 0 ? /then run vreg setup again/ : /delete the edited file/);
    assert.equal((await setup('codex', '--only', 'mcp', ...flags)).code, 4);
    assert.deepEqual(filesIn(home), edited);
  }
});

test('setup exits with 4 also if it keeps one entry of a file and changes another one', async (t) => {
  const { setup, write, read } = aHome(t);
  const mine = { hooks: [{ type: 'command', command: 'vreg hook start --role infra' }] };
  write('.claude/settings.json', JSON.stringify({ hooks: { SessionStart: [mine] } }));
  const hooks = () => (JSON.parse(read('.claude/settings.json')) as { hooks: object }).hooks;
  const added = await setup('claude', '--only', 'hooks');
  assert.deepEqual([added.code, added.actions], [4, ['hooks change']]);
  assert.match(added.stderr, /somebody has edited .*settings\.json/);
  assert.deepEqual(hooks(), { SessionStart: [mine], SessionEnd: [HOOK('stop')] });
  const removed = await setup('claude', '--only', 'hooks', '--remove');
  assert.deepEqual([removed.code, removed.actions], [4, ['hooks change']]);
  assert.deepEqual(hooks(), { SessionStart: [mine] });
});

test('--remove removes a hook that is there twice', async (t) => {
  const { home, setup, write } = aHome(t);
  write('.claude/settings.json', JSON.stringify({ hooks: { SessionStart: [HOOK('start'), HOOK('start')] } }));
  assert.deepEqual((await setup('claude', '--only', 'hooks', '--remove')).actions, ['hooks change']);
  assert.deepEqual(filesIn(home), { '.claude/settings.json': '{}' });
});

for (const [program, name, texts] of [
  [
    'claude',
    '.claude.json',
    ['{}', '{}\n', '{}\r\n', '{\n  "mcpServers": {}\n}\n', '{"mcpServers":{}}', '', '\n', '\ufeff{}'],
  ],
  [
    'claude',
    '.claude/settings.json',
    ['{}', '{}\n', '{"hooks": {}}', '{\n  "hooks": {\n    "SessionEnd": []\n  }\n}\n', ''],
  ],
  ['codex', '.codex/hooks.json', ['{}\n', '{"hooks": {"SessionStart": []}}\n']],
  ['codex', '.codex/config.toml', ['', '\n', '\r\n', '# mine\n', '[mcp_servers]\n']],
] as const)
  for (const text of texts)
    test(`--remove leaves ${name} if it was there before, here as ${JSON.stringify(text)}`, async (t) => {
      const { setup, write, read, home } = aHome(t);
      write(name, text);
      assert.equal((await setup(program)).code, 0);
      assert.equal((await setup(program, '--remove')).code, 0);
      assert.deepEqual(Object.keys(filesIn(home)), [name]);
      if (name.endsWith('.toml') || text.trim() === '{}') assert.equal(read(name), text);
      else assert.deepEqual(JSON.parse(read(name).replace('\ufeff', '')), {});
    });

for (const text of ['{ }', '{\n}\n', '{"mcpServers": {}}'])
  test(`--remove without a setup changes nothing, here in ${JSON.stringify(text)}`, async (t) => {
    const { setup, write, read } = aHome(t);
    write('.claude.json', text);
    const { code, actions } = await setup('claude', '--only', 'mcp', '--remove');
    assert.deepEqual([code, actions, read('.claude.json')], [0, ['mcp unchanged'], text]);
  });

for (const [what, text] of [
  ['one line', '{"a":1,"hooks":{"SessionStart":[{"matcher":"x","hooks":[]}]},"mcpServers":{"x":{"args":[1,2]}}}'],
  ['lines with values of their own layout', SETTINGS],
  [
    'comments and commas at the end',
    '{\n\t"a": [1,2], // mine\n\t"hooks": { /* mine */\n\t\t"SessionStart": [ {"matcher":"x"}, ],\n\t},\n}',
  ],
  ['carriage returns', '{\r\n   "a": {"b":1},\r\n   "mcpServers": { "x": {} }\r\n}\r\n'],
] as const)
  test(`setup changes nothing else in a file, and --remove restores each of its characters: ${what}`, async (t) => {
    const { setup, write, read } = aHome(t);
    for (const name of ['.claude.json', '.claude/settings.json']) write(name, text);
    assert.equal((await setup('claude')).code, 0);
    for (const name of ['.claude.json', '.claude/settings.json']) {
      const [longest] = text.split(/[{}[\],]/).sort((a, b) => b.length - a.length);
      assert.ok(read(name).includes(longest!), read(name));
      assert.notEqual(read(name), text);
    }
    assert.equal((await setup('claude', '--remove')).code, 0);
    for (const name of ['.claude.json', '.claude/settings.json']) assert.equal(read(name), text);
  });

test('setup adds its server to a file of one line with a megabyte, and changes nothing else in it', async (t) => {
  const { setup, write, read } = aHome(t);
  const text = JSON.stringify({ projects: Array.from({ length: 10_000 }, (_, id) => ({ id, name: 'x'.repeat(80) })) });
  write('.claude.json', text);
  assert.equal((await setup('claude', '--only', 'mcp')).code, 0);
  assert.ok(read('.claude.json').startsWith(text.slice(0, -1)));
});

for (const [program, name] of [
  ['claude', '.claude/settings.json'],
  ['codex', '.codex/config.toml'],
  ['pi', '.pi/agent/skills/registry/SKILL.md'],
] as const)
  test(`setup ${program} refuses a pipe in place of a file, which it would wait for, and names it`, async (t) => {
    const { home } = aHome(t);
    mkdirSync(dirname(join(home, name)), { recursive: true });
    execFileSync('mkfifo', [join(home, name)]);
    const { code, stderr } = await run(PROGRAM, [...ENTRY, 'setup', program], { env: cleanEnv(home) });
    assert.equal(code, 5);
    assert.equal(stderr, `vreg: ${join(home, name)} is a pipe instead of a file\nhint: remove or rename it\n`);
  });

for (const text of [
  '// mine\n{}\n',
  '{ "mcpServers": { /* mine */ }, }\n',
  '{\n  // mine\n  "mcpServers": { "a": {} },\n}\n',
  '{\n  "numStartups": 3 // mine\n}\n',
  '{\n  "numStartups": 3, // mine\n}\n',
  '{\n  "mcpServers": {\n    "a": {} // mine\n  },\n  "numStartups": 3\n}\n',
  '{ "mcpServers": { // mine\n } }',
  '{ "mcpServers": /* mine */ {} }',
])
  test(`--remove leaves comments and valid JSON: ${JSON.stringify(text)}`, async (t) => {
    const { setup, write, read } = aHome(t);
    const content = () => parse(read('.claude.json'), [], { allowTrailingComma: true }) as object;
    write('.claude.json', text);
    const before = content();
    const only = ['claude', '--only', 'mcp'];
    assert.equal((await setup(...only)).code, 0);
    const { code, actions } = await setup(...only, '--remove');
    assert.deepEqual([code, actions], [0, ['mcp change']]);
    assert.match(read('.claude.json'), /mine/);
    const { mcpServers = {}, ...rest } = content() as { mcpServers?: object };
    assert.deepEqual({ mcpServers, ...rest }, { mcpServers: {}, ...before });
    assert.equal((await setup(...only)).code, 0);
  });

test('setup replaces an unedited skill of an older version', async (t) => {
  const { setup, write, read } = aHome(t);
  await setup('pi', '--only', 'skill');
  const { createHash } = await import('node:crypto');
  const old = '---\nname: registry\n---\nold\n';
  const digest = createHash('sha256').update(old).digest('hex');
  write('.pi/agent/skills/registry/SKILL.md', `${old}<!-- vreg setup: sha256 ${digest} -->\n`);
  assert.deepEqual((await setup('pi', '--only', 'skill')).actions, ['skill change']);
  assert.doesNotMatch(read('.pi/agent/skills/registry/SKILL.md'), /^old$/m);
});

test('--dry-run writes nothing, and --only and the variables of the programs choose the files', async (t) => {
  const { home, setup } = aHome(t);
  assert.deepEqual((await setup('claude', '--dry-run')).actions, ['mcp create', 'skill create', 'hooks create']);
  assert.deepEqual(readdirSync(home), []);
  const { stdout } = await vreg(['setup', 'codex', '--only', 'mcp,hooks', '-q'], {
    home,
    env: { CODEX_HOME: join(home, 'c') },
  });
  assert.deepEqual(stdout.split('\n'), [join(home, 'c/config.toml'), join(home, 'c/hooks.json'), '']);
});

test('setup warns if vreg is not on the PATH, and names the next step', async (t) => {
  const home = tempDir(t);
  const path = join(home, 'bin');
  const setup = ['setup', 'claude', '--only', 'mcp'];
  const { code, stderr } = await vreg(setup, { home, env: { PATH: path } });
  assert.equal(code, 0);
  assert.match(stderr, /^vreg: vreg is not on the PATH, so claude cannot start it: put it .*npm install -g vreg\n$/);
  mkdirSync(path);
  writeFileSync(join(path, 'vreg'), '');
  assert.equal((await vreg(setup, { home, env: { PATH: path } })).stderr, '');
});

test('setup pi expands ~ in PI_CODING_AGENT_DIR, as pi does, and --remove leaves that folder', async (t) => {
  const home = tempDir(t);
  const env = { PI_CODING_AGENT_DIR: '~/mine' };
  const only = ['setup', 'pi', '--only', 'hooks', '-q'];
  const { stdout } = await vreg(only, { home, env });
  assert.equal(stdout, `${join(home, 'mine/extensions', EXTENSION_FILE)}\n`);
  assert.equal((await vreg([...only, '--remove'], { home, env })).code, 0);
  assert.deepEqual(filesIn(home), {});
  assert.ok(existsSync(join(home, 'mine')));
});

test('setup follows links, and keeps the mode of a file', async (t) => {
  const { home, setup, write } = aHome(t);
  write('dotfiles/settings.json', '{}\n');
  chmodSync(join(home, 'dotfiles/settings.json'), 0o640);
  mkdirSync(join(home, '.claude'));
  symlinkSync('../dotfiles/settings.json', join(home, '.claude/settings.json'));
  assert.equal((await setup('claude', '--only', 'hooks')).code, 0);
  assert.ok(lstatSync(join(home, '.claude/settings.json')).isSymbolicLink());
  assert.equal(statSync(join(home, 'dotfiles/settings.json')).mode & 0o777, 0o640);
  assert.match(readFileSync(join(home, 'dotfiles/settings.json'), 'utf8'), /vreg hook start/);
});

test('setup follows a chain of links whose last file does not exist yet', async (t) => {
  const { home, setup } = aHome(t);
  mkdirSync(join(home, '.claude'));
  symlinkSync('../link.json', join(home, '.claude/settings.json'));
  symlinkSync('file.json', join(home, 'link.json'));
  assert.equal((await setup('claude', '--only', 'hooks')).code, 0);
  assert.ok(lstatSync(join(home, 'link.json')).isSymbolicLink());
  assert.match(readFileSync(join(home, 'file.json'), 'utf8'), /vreg hook start/);
});

test('setup accepts integers of 64 bits in TOML, which Codex accepts', async (t) => {
  const { setup, write, read } = aHome(t);
  const text = 'a = 9007199254740993\n[mcp_servers.b]\nn = -9223372036854775808\n';
  write('.codex/config.toml', text);
  assert.equal((await setup('codex', '--only', 'mcp')).code, 0);
  assert.ok(read('.codex/config.toml').startsWith(text));
  assert.equal((await setup('codex', '--only', 'mcp', '--remove')).code, 0);
  assert.equal(read('.codex/config.toml'), text);
});

test('setup refuses an invalid file, names it, and changes no file at all', async (t) => {
  for (const [program, name, text, message = ''] of [
    ['claude', '.claude/settings.json', '{"hooks": {'],
    ['claude', '.claude/settings.json', '{"hooks": {"SessionStart": 1}}'],
    ['claude', '.claude/settings.json', '{"hooks": null}'],
    ['claude', '.claude.json', '[]'],
    ['claude', '.claude.json', '{"mcpServers": "x"}'],
    ['claude', '.claude.json', '{"mcpServers": {"a": 1}, "mcpServers": {}}', ' twice'],
    ['claude', '.claude/settings.json', '{"hooks": {"SessionEnd": [], "SessionEnd": []}}', ' twice'],
    ['codex', '.codex/hooks.json', '{"hooks": []}'],
    ['claude', '.claude.json', `{"a": ${'['.repeat(50_000)}${']'.repeat(50_000)}}`, 'is nested too deeply'],
    ['codex', '.codex/config.toml', 'model = \n'],
    [
      'codex',
      '.codex/config.toml',
      'mcp_servers = { other = { command = "x" } }\n',
      'mcp_servers is no table of its own',
    ],
  ] as const) {
    const { home, setup, write } = aHome(t);
    write(name, text);
    const { code, stderr } = await setup(program);
    assert.equal(code, 5, `${name}: ${text}`);
    assert.ok(stderr.includes(join(home, name)), stderr);
    assert.ok(stderr.includes(message), stderr);
    assert.deepEqual(filesIn(home), { [name]: text });
  }
});

test('setup accepts a file without content, and one that begins with a byte order mark', async (t) => {
  for (const [text, mark, left] of [
    ['', '', '{}'],
    ['\n', '', '{}'],
    ['\ufeff', '\ufeff', '\ufeff{}'],
    ['\ufeff{"numStartups": 3}\n', '\ufeff', '\ufeff{"numStartups":3}'],
  ] as const) {
    const { home, setup, write, read } = aHome(t);
    write('.claude.json', text);
    const only = ['claude', '--only', 'mcp'];
    assert.deepEqual((await setup(...only, '--remove')).actions, ['mcp unchanged']);
    assert.deepEqual((await setup(...only)).actions, ['mcp change']);
    assert.ok(read('.claude.json').startsWith(`${mark}{`));
    assert.match(read('.claude.json'), /"mcpServers": \{/);
    assert.deepEqual((await setup(...only)).actions, ['mcp unchanged']);
    assert.equal((await setup(...only, '--remove')).code, 0);
    const after = filesIn(home)['.claude.json'];
    assert.equal(after!.replace(/[ \n]/g, ''), left, JSON.stringify(text));
  }
});

test('setup refuses a file in another encoding, which a change would damage', async (t) => {
  const { home, setup } = aHome(t);
  const file = join(home, '.claude.json');
  for (const bytes of [Buffer.from('{"name": "caf\xe9"}', 'latin1'), Buffer.from('\ufeff{}', 'utf16le')]) {
    writeFileSync(file, bytes);
    const { code, stderr } = await setup('claude');
    assert.equal(code, 5);
    assert.ok(stderr.includes(`${file} is not encoded in UTF-8`), stderr);
    assert.deepEqual(readFileSync(file), bytes);
    assert.deepEqual(readdirSync(home), ['.claude.json']);
  }
});

test('setup prints the files that it has changed before one that it cannot write', async (t) => {
  const { home, setup, read } = aHome(t);
  // A link to a folder that does not exist and cannot be created.
  mkdirSync(join(home, '.claude'));
  symlinkSync('/proc/vreg/settings.json', join(home, '.claude/settings.json'));
  const args = ['setup', 'claude', '-o', 'tsv'];
  const { code, stdout, stderr } = await vreg(args, { home });
  assert.equal(code, 5);
  assert.ok(stderr.includes(`cannot write ${join(home, '.claude/settings.json')} (ENOENT)`), stderr);
  const skill = join(home, '.claude/skills/registry/SKILL.md');
  assert.equal(stdout, `PART\tACTION\tFILE\nmcp\tcreate\t${join(home, '.claude.json')}\nskill\tcreate\t${skill}\n`);
  assert.match(read('.claude.json'), /"registry"/);
  assert.deepEqual((await setup('claude', '--dry-run')).actions, ['mcp unchanged', 'skill unchanged', 'hooks create']);
});

test('--project changes the files in the folder of the project', async (t) => {
  const [home, project] = [tempDir(t), tempDir(t)];
  for (const [program, files] of [
    ['claude', ['.mcp.json', '.claude/skills/registry/SKILL.md', '.claude/settings.json']],
    ['codex', ['.codex/config.toml', '.agents/skills/registry/SKILL.md', '.codex/hooks.json']],
    ['pi', ['.pi/skills/registry/SKILL.md', '.pi/extensions/vreg-registry.js']],
  ] as const) {
    const ran = await run(PROGRAM, [...ENTRY, 'setup', program, '--project'], { env: cleanEnv(home), cwd: project });
    assert.equal(ran.code, 0, ran.stderr);
    for (const file of files) assert.ok(existsSync(join(project, file)), file);
  }
  // pi would load the extension of the project and that of the user.
  const both = await run(PROGRAM, [...ENTRY, 'setup', 'pi', '--only', 'hooks'], { env: cleanEnv(home), cwd: project });
  assert.equal(both.code, 4);
  assert.match(both.stderr, /first run: vreg setup pi --project --only hooks --remove; to use the other one/);
  assert.deepEqual(readdirSync(home), []);
});

test('runs at the same time leave complete files and no temporary ones', async (t) => {
  const home = tempDir(t);
  writeFileSync(join(home, '.claude.json'), '{"numStartups":3}', { mode: 0o600 });
  const ran = await Promise.all(
    Array.from({ length: 6 }, () => run(PROGRAM, [...ENTRY, 'setup', 'claude'], { env: cleanEnv(home) })),
  );
  for (const { code, stderr } of ran) assert.equal(code, 0, stderr);
  const files = filesIn(home);
  assert.deepEqual(Object.keys(files), ['.claude.json', '.claude/settings.json', '.claude/skills/registry/SKILL.md']);
  assert.deepEqual(Object.keys(JSON.parse(files['.claude.json']!) as object), ['numStartups', 'mcpServers']);
  assert.deepEqual(JSON.parse(files['.claude/settings.json']!), {
    hooks: { SessionStart: [HOOK('start')], SessionEnd: [HOOK('stop')] },
  });
  assert.equal(statSync(join(home, '.claude.json')).mode & 0o777, 0o600);
  const again = await run(PROGRAM, [...ENTRY, 'setup', 'claude', '--dry-run', '-o', 'tsv'], { env: cleanEnv(home) });
  assert.doesNotMatch(again.stdout, /\t(create|change|keep)\t/);
});

test('setup refuses an unknown program and an unknown part', async (t) => {
  const { setup } = aHome(t);
  assert.match((await setup('cursor')).stderr, /invalid program \\"cursor\\"/);
  assert.match((await setup('pi', '--only', 'hook')).stderr, /invalid --only \\"hook\\"; did you mean/);
});
