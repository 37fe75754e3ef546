/** `export`, `import`, `backup` and `daemon restore`: a fleet moves. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import type { Vm } from '../../src/protocol/vm.ts';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { BIN, cleanEnv, run, startDaemon, tempDir } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { stub } from '../helpers/stub.ts';
import { aVm } from '../helpers/vm.ts';

const FLEET = [
  aVm({ id: 'i', name: 'main', role: 'infra', services: [{ name: 'api', port: 80, healthPath: '/h', extra: [1] }] }),
  aVm({ id: 'w1', metadata: { task: 'x', deep: { a: [1, null] } } }),
  aVm({ id: 'w2', status: 'paused' }),
  aVm({ id: 'w3', status: 'stopped', name: 'ünï "q" \u202e' }),
  ...Array.from({ length: 20 }, (_, index) => aVm({ id: `n${index}` })),
];

/** Entries as registered, oldest first: what a move must keep. */
async function fleetOf(url: string): Promise<unknown[]> {
  const { vms } = (await call(url, 'GET', '/registry/vms')).body as { vms: Vm[] };
  return vms.reverse().map(({ registeredAt: _at, lastSeen: _seen, ...vm }) => vm);
}

for (const format of [[], ['-o', 'ndjson'], ['-o', 'json']]) {
  test(`what export ${format.join(' ')} prints, import brings to another registry as it was, in its order`, async (t) => {
    const [from, to] = [await serveApp(t), await serveApp(t)];
    await seed(from.url, FLEET);
    const { stdout } = await vreg(['export', ...format], { url: from.url });
    const told = await vreg(['import', '-f', '-', '--yes', '-q'], { url: to.url, stdin: stdout });
    assert.deepEqual([told.code, told.stderr], [0, '']);
    assert.deepEqual(
      told.stdout.trimEnd().split('\n'),
      FLEET.map(({ id }) => id),
    );
    assert.deepEqual(await fleetOf(to.url), await fleetOf(from.url));
    const again = await vreg(['import', '-f', '-'], { url: to.url, stdin: stdout });
    assert.equal(again.code, 0);
    assert.match(again.stdout, /^ID\tACTION\tFIELDS\ni\tsame\t-\n/);
  });
}

test('an export of nothing is nothing, or an empty array', async (t) => {
  const { url } = await serveApp(t);
  assert.deepEqual(await vreg(['export'], { url }), { code: 0, stdout: '', stderr: '' });
  assert.equal((await vreg(['export', '--json'], { url })).stdout, '[]\n');
  const told = await vreg(['import', '-f', '-', '--json'], { url, stdin: '[]' });
  assert.deepEqual([told.code, told.stdout], [0, '[]\n']);
});

test('a fleet moves between a vreg daemon and the original registry, both ways', async (t) => {
  const [vregOne, plain, back] = [await serveApp(t), await startPlainServer(t), await serveApp(t)];
  await seed(vregOne.url, FLEET);
  for (const [from, to] of [
    [vregOne.url, plain.url],
    [plain.url, back.url],
  ]) {
    const { stdout } = await vreg(['export'], { url: from! });
    assert.equal((await vreg(['import', '-f', '-', '--yes'], { url: to!, stdin: stdout })).code, 0);
  }
  assert.deepEqual(await fleetOf(back.url), await fleetOf(vregOne.url));
});

test("the original server's data/registry.json is read as it is", async (t) => {
  const { url } = await serveApp(t);
  const file = join(tempDir(t), 'registry.json');
  const times = { registeredAt: '2025-06-01T00:00:00.000Z', lastSeen: '2025-06-02T00:00:00.000Z' };
  const vms = FLEET.slice(0, 3).map((vm) => ({ ...vm, ...times }));
  writeFileSync(file, JSON.stringify({ vms }, null, 2));
  assert.deepEqual(await vreg(['import', '-f', file, '--yes', '-q'], { url }), {
    code: 0,
    stdout: 'i\nw1\nw2\n',
    stderr: '',
  });
  assert.deepEqual(await fleetOf(url), FLEET.slice(0, 3));
});

const THERE = [aVm({ id: 'same' }), aVm({ id: 'other', name: 'old', metadata: { a: 1, b: 2 } })];
const FILE = JSON.stringify([
  aVm({ id: 'same' }),
  aVm({ id: 'other', name: 'new', address: '10.0.0.9', metadata: { b: 2, a: 1 } }),
  aVm({ id: 'fresh' }),
]);

for (const [ifExists, action] of [
  [[], 'conflict'],
  [['--if-exists', 'update'], 'change'],
  [['--if-exists', 'ignore'], 'skip'],
] as const) {
  test(`--dry-run ${ifExists.join(' ')} says what would be done, and does nothing`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, THERE);
    const before = await fleetOf(url);
    assert.deepEqual(await vreg(['import', '-f', '-', '--dry-run', ...ifExists], { url, stdin: FILE }), {
      code: 0,
      stdout: `ID\tACTION\tFIELDS\nsame\tsame\t-\nother\t${action}\tname,address\nfresh\tadd\t-\n`,
      stderr: '',
    });
    assert.deepEqual(await fleetOf(url), before);
  });
}

test('an entry that is there and differs is exit 4, and nothing is changed', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, THERE);
  const before = await fleetOf(url);
  assert.deepEqual(await vreg(['import', '-f', '-', '--yes'], { url, stdin: FILE }), {
    code: 4,
    stdout: '',
    stderr:
      'vreg: 1 of 3 entries are already registered with other fields: other (name, address)\nhint: nothing was changed; see --dry-run, then pass --if-exists update or ignore\n',
  });
  assert.deepEqual(await fleetOf(url), before);
});

test('--if-exists update changes it, ignore leaves it; both add what is new', async (t) => {
  for (const [what, name] of [
    ['update', 'new'],
    ['ignore', 'old'],
  ]) {
    const { url } = await serveApp(t);
    await seed(url, THERE);
    const told = await vreg(['import', '-f', '-', '--yes', '-q', '--if-exists', what!], { url, stdin: FILE });
    assert.equal(told.code, 0);
    const names = Object.fromEntries(((await fleetOf(url)) as Vm[]).map((vm) => [vm.id, vm.name]));
    assert.deepEqual(names, { same: 'one', other: name, fresh: 'one' });
  }
});

test('import asks with the counts; with nobody to ask it is exit 7', async (t) => {
  const { url, store } = await serveApp(t);
  await seed(url, THERE);
  const argv = ['import', '-f', '-', '--if-exists', 'update'];
  const told = await vreg(argv, { url, stdin: FILE, answers: ['n'] });
  assert.equal(told.code, 7);
  assert.match(told.stderr, /^Add 1, change 1 of 3 entries\? \[y\/N\] n\n/);
  assert.equal((await vreg(argv, { url, stdin: FILE })).code, 7);
  assert.equal(store.vms.size, 2);
});

test('the original registry gives a role once, which is said', async (t) => {
  const { url } = await startPlainServer(t);
  await seed(url, [aVm({ id: 'a' })]);
  const stdin = JSON.stringify(aVm({ id: 'a', role: 'infra', name: 'new' }));
  const told = await vreg(['import', '-f', '-', '--yes', '--if-exists', 'update'], { url, stdin });
  assert.deepEqual([told.code, told.stderr], [0, 'vreg: a keeps the role worker: this registry cannot change roles\n']);
});

const BROKEN: readonly [name: string, text: string, message: RegExp][] = [
  [
    'no JSON',
    'hello',
    /^vreg: .*registry\.json is not JSON: .*\nhint: use one entry, an array, or one entry per line\n$/,
  ],
  [
    'a line that is none',
    `${JSON.stringify(aVm())}\n{nope\n`,
    /^vreg: .*: line 2 is not JSON: .*\nhint: nothing was registered; /,
  ],
  [
    'an entry without a role',
    '[{"id":"a","name":"a","address":"a","registeredBy":"a"}]',
    /^vreg: .*: entry 1: role .*\nhint: nothing was registered/,
  ],
  ['an entry that is none', '{"vms":[7]}', /^vreg: .*: entry 1: .*\nhint: /],
  [
    'one id twice',
    JSON.stringify([aVm({ id: 'a' }), aVm({ id: 'a' })]),
    /^vreg: entry 2: duplicate id "a"\nhint: nothing was changed; /,
  ],
];

for (const [name, text, message] of BROKEN) {
  test(`a file with ${name} is exit 5, and nothing is changed`, async (t) => {
    const { url, store } = await serveApp(t);
    const file = join(tempDir(t), 'registry.json');
    writeFileSync(file, text);
    const told = await vreg(['import', '-f', file, '--yes'], { url });
    assert.deepEqual([told.code, told.stdout], [5, '']);
    assert.match(told.stderr, message);
    assert.equal(store.vms.size, 0);
  });
}

test('import without a file, or with one that is not there, is exit 5', async () => {
  assert.match((await vreg(['import'])).stderr, /^vreg: --file is required\nhint: for example: vreg import -f /);
  const told = await vreg(['import', '-f', '/nonexistent/x']);
  assert.deepEqual(
    [told.code, told.stderr],
    [5, 'vreg: cannot read /nonexistent/x (ENOENT)\nhint: check its path and mode\n'],
  );
});

test('a backup of a running daemon is restored, and what was there is kept', async (t) => {
  const { home, dataDir, end, ...daemon } = await startDaemon(t);
  await seed(daemon.url, FLEET);
  const before = await fleetOf(daemon.url);
  const file = join(home, 'backup.db');
  const told = await daemon.vreg(['backup', file]);
  assert.deepEqual([told.code, told.stdout, told.stderr], [0, `${file}\n`, '']);
  assert.equal(statSync(file).mode & 0o777, 0o600);
  await daemon.vreg(['rm', 'i', 'w1', '--yes']);
  const env = cleanEnv(home);
  const restore = (...more: string[]) =>
    run(process.execPath, [BIN, 'daemon', 'restore', file, '--data-dir', dataDir, ...more], { env });
  const running = await restore('--yes');
  assert.deepEqual([running.code, running.stdout], [4, ''], running.stderr);
  assert.match(running.stderr, /^vreg: .*\nhint: /);
  await end('SIGTERM');
  assert.equal((await restore()).code, 7);
  const restored = await restore('--yes');
  assert.deepEqual([restored.code, restored.stdout], [0, `${dataDir}\n`]);
  const [, kept] = /^vreg: the old registry is kept in (\S+)\n$/.exec(restored.stderr)!;
  assert.ok(readdirSync(kept!).length > 0);
  const after = await startDaemon(t, { home });
  assert.deepEqual(await fleetOf(after.url), before);
});

test('a file that is no backup is not restored', async (t) => {
  const { home, dataDir, end, url } = await startDaemon(t);
  await seed(url, FLEET);
  await end('SIGTERM');
  const file = join(home, 'no-backup');
  writeFileSync(file, 'hello'.repeat(1000));
  const told = await run(process.execPath, [BIN, 'daemon', 'restore', file, '--data-dir', dataDir, '--yes'], {
    env: cleanEnv(home),
  });
  assert.deepEqual([told.code, told.stdout], [1, '']);
  assert.match(told.stderr, /cannot restore .*\nhint: nothing was changed; name a file that vreg backup wrote\n$/);
  const again = await startDaemon(t, { home });
  assert.equal((await fleetOf(again.url)).length, FLEET.length);
});

test('backup does not replace a file unless it is told to, and leaves no part behind', async (t) => {
  const { home, ...daemon } = await startDaemon(t);
  const file = join(home, 'kept');
  writeFileSync(file, 'mine');
  const told = await daemon.vreg(['backup', file]);
  assert.deepEqual(
    [told.code, told.stderr],
    [4, `vreg: ${file} already exists\nhint: choose another name, or pass --force\n`],
  );
  assert.equal(readFileSync(file, 'utf8'), 'mine');
  assert.equal((await daemon.vreg(['backup', file, '--force'])).code, 0);
  assert.match(readFileSync(file, 'latin1'), /^SQLite format 3/);
  const nowhere = await daemon.vreg(['backup', join(home, 'no/such/folder')]);
  assert.deepEqual([nowhere.code, nowhere.stdout], [5, '']);
  assert.match(nowhere.stderr, /^vreg: cannot write .* \(ENOENT\)\nhint: check its folder/);
  assert.deepEqual(
    readdirSync(home).filter((name) => name.endsWith('.part')),
    [],
  );
});

test('a backup that breaks off leaves nothing, and is exit 8', async (t) => {
  const url = await stub(t, (request, response) => {
    response.setHeader('x-vreg-version', '0.0.0');
    if (request.url === '/health') return void response.end('{"status":"ok"}');
    response.write('SQLite');
    setImmediate(() => response.destroy());
  });
  const dir = tempDir(t);
  const told = await vreg(['backup', join(dir, 'file')], { url });
  assert.deepEqual([told.code, told.stdout], [8, '']);
  assert.match(told.stderr, /^vreg: the connection to .* broke during the backup\nhint: .*try again\n$/);
  assert.deepEqual(readdirSync(dir), []);
});

test('the original registry has no backups: exit 1, and no file', async (t) => {
  const { url } = await startPlainServer(t);
  const file = join(tempDir(t), 'file');
  const told = await vreg(['backup', file], { url });
  assert.deepEqual([told.code, told.stdout], [1, '']);
  assert.match(told.stderr, /is not a vreg daemon: it has no backups\nhint: /);
  assert.equal(existsSync(file), false);
});
