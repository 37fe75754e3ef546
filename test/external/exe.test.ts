/** The single executable of `npm run build:exe`, which VREG_BIN names. `.ci/run` also runs test/e2e with it. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { cleanEnv, PROGRAM, type Ran, run, startDaemon, tempDir } from '../helpers/daemon.ts';

const ROOT = join(import.meta.dirname, '../..');
/** The version of Node that the executable contains. */
const NODE_MAJOR = 26;
const options = {
  skip: process.env.VREG_BIN
    ? false
    : `needs a single executable of Node ${NODE_MAJOR}: npm run build:exe, then set VREG_BIN=dist/exe/vreg`,
};

const vreg = (home: string, args: readonly string[], env: NodeJS.ProcessEnv = {}, program = PROGRAM) =>
  run(program, args, { env: cleanEnv(home, env), cwd: home });

/** Runs a command that opens a store: it fails only because there is no such backup. */
const restore = (home: string, nativeDir: string) =>
  vreg(home, [
    'daemon',
    'restore',
    'no-such-file',
    '--yes',
    '--data-dir',
    join(home, 'data'),
    '--native-dir',
    nativeDir,
  ]);

const isUnpacked = ({ code, stderr }: Ran) => code === 5 && stderr.includes('no-such-file');

/** The only file in the folder. */
function addonIn(folder: string): string {
  const names = readdirSync(folder);
  assert.equal(names.length, 1, String(names));
  assert.match(names[0]!, /^libsql-[0-9a-f]{16}\.node$/);
  return join(folder, names[0]!);
}

test('a copy of the executable runs anywhere, without Node on the PATH and without a warning', options, async (t) => {
  const home = tempDir(t);
  const copy = join(home, 'anything');
  copyFileSync(PROGRAM, copy);
  const { version } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string };
  assert.deepEqual(await vreg(home, ['--version'], { PATH: '' }, copy), {
    code: 0,
    signal: null,
    stdout: `vreg ${version}\n`,
    stderr: '',
  });
});

test('it prints the completion scripts and the manual pages of the package', options, async (t) => {
  const home = tempDir(t);
  for (const [shell, file] of [
    ['bash', 'vreg.bash'],
    ['zsh', '_vreg'],
    ['fish', 'vreg.fish'],
  ] as const)
    assert.equal(
      (await vreg(home, ['completion', shell])).stdout,
      readFileSync(join(ROOT, 'completions', file), 'utf8'),
    );
  assert.equal((await vreg(home, ['help', '--write-man', join(home, 'man')])).code, 0);
  assert.deepEqual(readdirSync(join(home, 'man')).sort(), readdirSync(join(ROOT, 'dist/man')).sort());
});

test('the file with licences names Node and each package whose library is in the executable', options, () => {
  const parts = readFileSync(join(PROGRAM, '../LICENSES.txt'), 'utf8').split(`\n${'='.repeat(80)}\n\n`);
  const names = parts.map((part) => part.split(' ', 1)[0]!);
  const { dependencies } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { dependencies: object };
  for (const name of ['Node.js', `@libsql/linux-${process.arch}-gnu`, '@grpc/grpc-js', ...Object.keys(dependencies)])
    assert.ok(names.includes(name), name);
  const packages = parts.map((part) => part.split('\n', 1)[0]);
  assert.equal(new Set(packages).size, packages.length);
  for (const part of parts) assert.match(part, /licen[cs]e|copyright/i);
});

test('each bundle comes from its code cache', options, async (t) => {
  const home = tempDir(t);
  const preload = join(home, 'preload.cjs');
  writeFileSync(
    preload,
    `const vm = require('node:vm');
     vm.Script = class extends vm.Script {
       constructor(code, options) {
         super(code, options);
         console.error(options.filename, this.cachedDataRejected ? 'is compiled' : 'comes from its cache');
       }
     };`,
  );
  for (const [bundle, args] of [
    ['hot', ['version']],
    ['vreg', ['config', 'list']],
  ] as const) {
    const { stderr } = await vreg(home, args, { NODE_OPTIONS: `--require=${preload}` });
    assert.equal(stderr, `dist/${bundle}.cjs comes from its cache\n`);
  }
});

test('NODE_OPTIONS sets the memory limit of a large registry', options, async (t) => {
  const home = tempDir(t);
  const preload = join(home, 'preload.cjs');
  writeFileSync(preload, `console.error(require('node:v8').getHeapStatistics().heap_size_limit >> 20);`);
  const limits = [200, 400].map(async (megabytes) => {
    const { stderr } = await vreg(home, ['version'], {
      NODE_OPTIONS: `--require=${preload} --max-old-space-size=${megabytes}`,
    });
    return Number(stderr);
  });
  const [small, large] = await Promise.all(limits);
  assert.equal(large! - small!, 200);
});

test('arguments of Node are arguments of vreg', options, async (t) => {
  const { code, stdout, stderr } = await vreg(tempDir(t), ['--eval', '1']);
  assert.deepEqual([code, stdout], [5, '']);
  assert.match(stderr, /unknown option/);
});

test('the word that starts a check of the store is an unknown command for users', options, async (t) => {
  const home = tempDir(t);
  for (const more of [[], ['check'], ['check', home], ['serve', home, 'no-such-addon']]) {
    const { code, stdout, stderr } = await vreg(home, ['__store-worker', ...more]);
    assert.deepEqual([code, stdout], [5, '']);
    assert.match(stderr, /^vreg: unknown command: __store-worker\nhint: .*\n$/);
  }
});

test('a unit starts the executable itself and gives the registry a folder for its library', options, async (t) => {
  const { stdout } = await vreg(tempDir(t), ['daemon', 'unit', 'serve', '--', '--port', '80']);
  assert.ok(stdout.includes(`\nExecStart=${PROGRAM} daemon serve --port 80\n`), stdout);
  assert.match(stdout, /\nCacheDirectory=vreg\nCacheDirectoryMode=0700\n/);
});

test('a client unpacks nothing; the daemon unpacks its library into a private folder, once', options, async (t) => {
  const home = tempDir(t);
  await vreg(home, ['ls']);
  const cache = join(home, '.cache');
  assert.equal(existsSync(cache), false);
  const env = { VREG_NATIVE_DIR: undefined };
  const first = await startDaemon(t, { home, env });
  const folder = join(cache, 'vreg');
  const addon = addonIn(folder);
  assert.deepEqual(
    [folder, addon].map((path) => statSync(path).mode & 0o777),
    [0o700, 0o500],
  );
  const { ino } = statSync(addon);
  await first.end();
  await startDaemon(t, { home, env });
  assert.equal(statSync(addon).ino, ino);
});

test('a library that was changed or truncated is unpacked again', options, async (t) => {
  const home = tempDir(t);
  const folder = join(home, 'native');
  assert.ok(isUnpacked(await restore(home, folder)));
  const addon = addonIn(folder);
  const content = readFileSync(addon);
  const changed = Buffer.from(content);
  changed[changed.length >> 1]! ^= 1;
  for (const damaged of [changed, content.subarray(0, 1000), Buffer.alloc(0)]) {
    rmSync(addon);
    writeFileSync(addon, damaged, { mode: 0o500 });
    assert.ok(isUnpacked(await restore(home, folder)));
    assert.ok(readFileSync(addonIn(folder)).equals(content));
  }
});

test(
  'a new library replaces those of other versions and unfinished ones if they are older than a day',
  options,
  async (t) => {
    const home = tempDir(t);
    const folder = join(home, 'native');
    mkdirSync(folder, { mode: 0o700 });
    const add = (name: string, hours: number) => {
      const path = join(folder, name);
      writeFileSync(path, '');
      const time = Date.now() / 1000 - 3600 * hours;
      utimesSync(path, time, time);
    };
    const recent = ['libsql-00000000000000aa.node', 'libsql-00000000000000bb.node.4711.new'];
    for (const name of recent) add(name, 23);
    for (const name of ['libsql-00000000000000cc.node', 'libsql-00000000000000dd.node.4712.new', 'notes.txt'])
      add(name, 25);
    assert.ok(isUnpacked(await restore(home, folder)));
    const kept = [...recent, 'notes.txt'];
    const names = readdirSync(folder);
    assert.deepEqual(names.filter((name) => kept.includes(name)).sort(), kept);
    assert.equal(names.length, kept.length + 1);
  },
);

test('processes that start together unpack one complete library', options, async (t) => {
  const native = join(tempDir(t), 'native');
  await Promise.all(Array.from({ length: 4 }, () => startDaemon(t, { env: { VREG_NATIVE_DIR: native } })));
  addonIn(native);
});

test('a folder in which other users could replace the library is refused', options, async (t) => {
  const home = tempDir(t);
  const folder = join(home, 'native');
  mkdirSync(folder);
  const faults: [reason: RegExp, fault: () => void][] = [
    [/other users may write to it/, () => chmodSync(folder, 0o770)],
  ];
  if (process.geteuid?.() === 0)
    faults.push([
      /another user owns it/,
      () => {
        chmodSync(folder, 0o700);
        chownSync(folder, 12345, 12345);
      },
    ]);
  for (const [reason, fault] of faults) {
    fault();
    const { code, stdout, stderr } = await restore(home, folder);
    assert.deepEqual([code, stdout], [5, '']);
    assert.match(stderr, reason);
    assert.match(stderr, /\nhint: .* or choose another folder with --native-dir\n$/);
    assert.deepEqual(readdirSync(folder), []);
  }
});

test('a backup works after a new version has replaced the executable', options, async (t) => {
  const home = tempDir(t);
  const program = join(home, 'vreg');
  copyFileSync(PROGRAM, program);
  const daemon = await startDaemon(t, { home, through: ['sh', '-c', `shift; exec ${program} "$@"`, 'sh'] });
  linkSync(program, `${program}.new`);
  rmSync(program);
  renameSync(`${program}.new`, program);
  assert.equal((await daemon.vreg(['backup', join(home, 'backup.db')])).code, 0);
});

test(
  'a backup works after the folder of the library was deleted, or names the folder if it cannot be used',
  options,
  async (t) => {
    const home = tempDir(t);
    const native = join(home, 'cache', 'vreg');
    const daemon = await startDaemon(t, { home, env: { VREG_NATIVE_DIR: native } });
    rmSync(join(home, 'cache'), { recursive: true });
    assert.equal((await daemon.vreg(['backup', join(home, 'backup.db')])).code, 0);
    addonIn(native);
    rmSync(native, { recursive: true });
    writeFileSync(native, 'not a folder');
    const { code, stderr } = await daemon.vreg(['backup', join(home, 'another.db')]);
    assert.equal(code, 8);
    assert.ok(stderr.includes(`cannot unpack the SQLite library into ${native}: E`), stderr);
    assert.match(stderr, /\nhint: choose a writable folder .* with --native-dir or VREG_NATIVE_DIR\n$/);
  },
);

/** Runs a command that opens a store, with its folder on a new file system that has these mount options. */
function restoreOn(t: TestContext, mountOptions: string, prepare = ''): { status: number | null; stderr: string } {
  const home = tempDir(t);
  const native = join(home, 'native');
  mkdirSync(native, { mode: 0o700 });
  const script = `
    set -e
    mount -t tmpfs -o mode=0700 tmpfs "$2"
    ${prepare}
    mount -o remount,${mountOptions} "$2"
    exec "$1" daemon restore no-such-file --yes --data-dir "$3" --native-dir "$2"`;
  const args = ['-rm', 'sh', '-c', script, 'sh', PROGRAM, native, join(home, 'data')];
  return spawnSync('unshare', args, { env: cleanEnv(home), encoding: 'utf8' });
}

/** A mount needs a namespace of its own, which many containers do not permit. */
const withMounts = () => {
  if (options.skip) return options;
  const { status, stderr } = spawnSync('unshare', ['-rm', 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt'], {
    encoding: 'utf8',
  });
  return { skip: status === 0 ? false : `this machine does not permit mounts: ${stderr}` };
};

for (const [mountOptions, reason] of [
  ['noexec', 'its file system forbids programs (noexec)'],
  ['ro', 'EROFS'],
] as const) {
  test(`a folder on a file system that is mounted with ${mountOptions} is one clear error`, withMounts(), (t) => {
    const { status, stderr } = restoreOn(t, mountOptions);
    assert.equal(status, 5);
    const [error, hint, ...more] = stderr.split('\n');
    assert.ok(error!.startsWith('vreg: cannot unpack the SQLite library into /'), stderr);
    assert.ok(error!.endsWith(`: ${reason}`), stderr);
    assert.match(hint!, /^hint: .* with --native-dir or VREG_NATIVE_DIR$/);
    assert.deepEqual(more, ['']);
  });
}

test('a read-only folder that contains the library is used as it is', withMounts(), (t) => {
  const prepare = '"$1" daemon restore no-such-file --yes --data-dir "$3" --native-dir "$2" 2>/dev/null || true';
  const { status, stderr } = restoreOn(t, 'ro', prepare);
  assert.equal(status, 5);
  assert.match(stderr, /no-such-file/);
});
