import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  copyFileSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { delimiter, join } from 'node:path';
import { text } from 'node:stream/consumers';
import test, { type TestContext } from 'node:test';
import { READMES } from '../src/help/docs.ts';
import { serveApp } from './helpers/app.ts';
import { seed } from './helpers/cli.ts';
import { BIN, cleanEnv, ENTRY, PROGRAM, type Ran, run, tempDir } from './helpers/daemon.ts';
import { call } from './helpers/http.ts';
import { readReadme, section, table } from './helpers/readme.ts';
import { unless } from './helpers/tools.ts';
import { aVm } from './helpers/vm.ts';

const ROOT = join(import.meta.dirname, '..');
const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };

/** A home where `vreg` on PATH is a symlink to the program, as `npm link` and `npm install -g` make it. */
function linked(t: TestContext, url: string): (shell: readonly string[], script: string) => Promise<Ran> {
  const home = tempDir(t);
  mkdirSync(join(home, 'bin'));
  symlinkSync(BIN, join(home, 'bin/vreg'));
  const env = cleanEnv(home, { PATH: `${join(home, 'bin')}${delimiter}${process.env.PATH}`, VERS_INFRA_URL: url });
  return ([program, ...args], script) => run(program!, [...args, '-c', script], { env, cwd: home });
}

test('the package holds the program, its completions, its READMEs, its licence and the files of the monitoring, and no sources', async (t) => {
  // Without its scripts: the build would change dist/ under the other tests.
  const argv = ['pack', '--dry-run', '--json', '--ignore-scripts'];
  const { code, stdout, stderr } = await run('npm', argv, { env: cleanEnv(tempDir(t)), cwd: ROOT });
  assert.equal(code, 0, stderr);
  const [packed] = JSON.parse(stdout) as { files: { path: string; mode: number }[] }[];
  const paths = packed!.files.map(({ path }) => path);
  const needed = [
    'package.json',
    'LICENSE',
    'bin/vreg.js',
    'bin/package.json',
    'dist/boot.cjs',
    'dist/hot.cjs',
    'dist/mcp.cjs',
    'dist/vreg.cjs',
  ];
  const alsoNeeded = [
    'dist/store-worker.cjs',
    'completions/vreg.bash',
    'completions/_vreg',
    'completions/vreg.fish',
    'dist/skills/registry/SKILL.md',
    'dist/pi/registry.js',
    'dist/pi/package.json',
  ];
  // All READMEs, so that the links between them work.
  for (const path of [...needed, ...alsoNeeded, ...READMES]) assert.ok(paths.includes(path), path);
  for (const path of paths) {
    assert.match(
      path,
      /^(bin\/(vreg\.js|package\.json)|dist\/[^/]+|dist\/man\/vreg[\w-]*\.1|dist\/skills\/registry\/SKILL\.md|dist\/pi\/(registry\.js|package\.json)|completions\/[^/]+|LICENSE|daemon\/observability\/(alerts\.yml|dashboard\.json)|([a-z]+\/)*README\.md|CHANGELOG\.md|package\.json)$/,
    );
  }
  assert.equal(packed!.files.find(({ path }) => path === 'bin/vreg.js')!.mode & 0o111, 0o111);
});

test('a build is skipped unless a source, the list of files or a dependency has changed', async (t) => {
  const root = tempDir(t);
  const at = (path: string) => join(root, path);
  for (const folder of ['src/commands', 'daemon', 'node_modules/esbuild']) mkdirSync(at(folder), { recursive: true });
  cpSync(join(ROOT, 'bin'), at('bin'), { recursive: true });
  writeFileSync(at('package.json'), '{ "type": "module" }');
  for (const path of ['package-lock.json', 'src/a.ts', 'src/commands/b.ts', 'daemon/c.ts']) writeFileSync(at(path), '');
  // A build ends at its first step.
  writeFileSync(at('node_modules/esbuild/index.js'), 'exports.build = () => process.exit(10);');
  /** Sets the time of a complete build to a minute ago, and that of all sources to an hour ago. */
  const setTimes = () => {
    const setAge = (path: string, seconds: number) => {
      const time = Date.now() / 1000 - seconds;
      utimesSync(at(path), time, time);
    };
    mkdirSync(at('dist'), { recursive: true });
    for (const path of readdirSync(root, { recursive: true, encoding: 'utf8' })) setAge(path, 3600);
    writeFileSync(at('dist/node-version'), process.version);
    setAge('dist/node-version', 60);
  };
  const changes: [change: () => void, code: number][] = [
    [() => {}, 0],
    [() => writeFileSync(at('README.md'), ''), 0],
    [() => writeFileSync(at('src/commands/b.ts'), 'changed'), 10],
    [() => writeFileSync(at('package-lock.json'), 'changed'), 10],
    [() => rmSync(at('src/a.ts')), 10],
    [() => rmSync(at('daemon/c.ts')), 10],
    [() => writeFileSync(at('dist/node-version'), 'v1.0.0'), 10],
  ];
  for (const [change, code] of changes) {
    setTimes();
    change();
    const ran = await run(process.execPath, ['bin/build.mjs', '--if-changed'], { env: cleanEnv(root), cwd: root });
    assert.equal(ran.code, code, `${change} ${ran.stderr}`);
  }
});

for (const bundle of ['dist/hot.cjs', 'dist/mcp.cjs', 'dist/vreg.cjs']) {
  test(`V8 accepts the code cache of ${bundle}, which is ASCII`, async (t) => {
    const script = `const bytes = require('node:fs').readFileSync('${bundle}');
const source = require('node:module').wrap(bytes.toString('latin1'));
const cachedData = require('node:fs').readFileSync('${bundle}.cache');
console.log(new (require('node:vm').Script)(source, { cachedData }).cachedDataRejected, bytes.every((byte) => byte < 128));`;
    const { stdout } = await run(process.execPath, ['-e', script], { env: cleanEnv(tempDir(t)), cwd: ROOT });
    assert.equal(stdout, 'false true\n');
  });
}

test('the program runs without its code caches', async (t) => {
  const dir = tempDir(t);
  for (const name of ['boot.cjs', 'hot.cjs', 'vreg.cjs']) copyFileSync(join(ROOT, 'dist', name), join(dir, name));
  for (const argv of [['version'], ['config', 'list']]) {
    const { code, stderr } = await run(process.execPath, [join(dir, 'boot.cjs'), ...argv], { env: cleanEnv(dir) });
    assert.deepEqual([code, stderr], [0, '']);
  }
});

test('the program is executable, and runs through a symlink', async (t) => {
  assert.equal(statSync(BIN).mode & 0o111, 0o111);
  const told = await linked(t, 'http://127.0.0.1:1')(['sh'], 'vreg version');
  assert.deepEqual(told, { code: 0, signal: null, stdout: `vreg ${version}\n`, stderr: '' });
});

/** Serves 1,500 VMs, whose list is more than a pipe holds. */
async function serveMany(t: TestContext): Promise<string> {
  const { url } = await serveApp(t);
  const vms = Array.from({ length: 1500 }, (_, index) => aVm({ id: `vm-${index}` }));
  assert.equal((await call(url, 'POST', '/registry/import', { body: { vms } })).status, 200);
  return url;
}

test('a reader that closes early ends the program quietly', unless('bash'), async (t) => {
  // There is something left to write when head has gone.
  const url = await serveMany(t);
  const shell = linked(t, url);
  for (const flags of ['-q', '--json', '-o yaml', '-o ndjson', '-o table']) {
    const told = await shell(['bash', '-o', 'pipefail'], `vreg ls ${flags} | head -1 >/dev/null`);
    assert.deepEqual(told, { code: 0, signal: null, stdout: '', stderr: '' }, flags);
  }
});

test('a reader that begins late receives the entire output of a hot command', async (t) => {
  const url = await serveMany(t);
  const child = spawn(PROGRAM!, [...ENTRY, 'ls', '--json', '-v'], {
    env: cleanEnv(tempDir(t), { VERS_INFRA_URL: url }),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  // The request has been logged, so the program writes the answer.
  await once(child.stderr, 'data');
  const read = text(child.stdout);
  assert.deepEqual([(await once(child, 'close'))[0], (JSON.parse(await read) as unknown[]).length], [0, 1500]);
});

test('a failure to write the output is an error without a stack trace', async (t) => {
  const told = await linked(t, 'http://127.0.0.1:1')(['sh'], 'vreg version >/dev/full');
  assert.deepEqual([told.code, told.stdout], [1, '']);
  assert.match(told.stderr, /^vreg: cannot write the answer \(ENOSPC\)\nhint: .*\n$/);
});

for (const shell of ['dash', 'bash', 'zsh']) {
  test(
    `under set -eu a script in ${shell} gets one address, or exits with the code of vreg and prints nothing`,
    unless(shell),
    async (t) => {
      const { url } = await serveApp(t);
      const run = linked(t, url);
      const script = 'set -eu; INFRA=$(vreg addr infra 2>/dev/null) || exit; echo "<$INFRA>"';
      assert.deepEqual(await run([shell], script), { code: 3, signal: null, stdout: '', stderr: '' });
      await seed(url, [aVm({ role: 'infra', address: '10.0.0.1' })]);
      assert.deepEqual(await run([shell], script), { code: 0, signal: null, stdout: '<10.0.0.1>\n', stderr: '' });
      const loop = 'set -eu; for id in $(vreg ls -q); do vreg get "$id" -o name; done';
      assert.deepEqual(await run([shell], loop), { code: 0, signal: null, stdout: 'vm-1\n', stderr: '' });
    },
  );
}

test('an interrupted wait ends with 130', unless('bash'), async (t) => {
  const { url } = await serveApp(t);
  const script =
    'vreg addr infra --wait 1h -v 2>log & pid=$!; until grep -q 200 log 2>/dev/null; do sleep 0.05; done; kill -INT $pid; wait $pid';
  // A shell without job control starts its background with SIGINT ignored, so it gets some.
  const { code, stdout } = await linked(t, url)(['bash', '-m'], script);
  assert.deepEqual([code, stdout], [130, '']);
});

interface Locked {
  dev?: boolean;
  devOptional?: boolean;
  optional?: boolean;
  integrity?: string;
  hasInstallScript?: boolean;
}

test('the operating manual counts the dependencies and gives a reason for each, and none has an install script', () => {
  const { packages } = JSON.parse(readFileSync(join(ROOT, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, Locked>;
  };
  const production = Object.entries(packages).filter(([path, { dev, devOptional }]) => path && !dev && !devOptional);
  assert.deepEqual(
    production.filter(([, { hasInstallScript, integrity }]) => hasInstallScript || !integrity),
    [],
  );
  const builds = production.filter(([, { optional }]) => optional).length;
  const made = section(readReadme('daemon/README.md'), '## Dependencies');
  assert.ok(
    made.includes(`${production.length - builds} packages and ${builds} platform-specific builds`),
    `${production.length}, ${builds}`,
  );
  const { dependencies } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { dependencies: object };
  const rows = table(made).split('\n').slice(2);
  const named = rows.flatMap((row) => [...row.split('|')[1]!.matchAll(/`([@\w/-]+)`/g)].map(([, name]) => name));
  assert.deepEqual(named.sort(), Object.keys(dependencies).sort());
});
