/** Backs up the running registry, and restores it into a data dir. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { type IncomingMessage, request } from 'node:http';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import Database from 'libsql';
import { checkDatabase } from '../../daemon/store/check.ts';
import { openDataDir, readHighWaterMark } from '../../daemon/store/data-dir.ts';
import { crcOf } from '../../daemon/store/integrity.ts';
import type { VmList } from '../../src/protocol/api.ts';
import type { ErrorBody } from '../../src/protocol/errors.ts';
import type { VmEvent } from '../../src/protocol/events.ts';
import { cleanEnv, type Daemon, ENTRY, PROGRAM, type Ran, run, startDaemon, tempDir } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { isChange, readEvents } from '../helpers/stream.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

async function download(url: string): Promise<Buffer> {
  const answer = await fetch(`${url}/registry/backup`);
  assert.equal(answer.status, 200);
  const bytes = Buffer.from(await answer.arrayBuffer());
  assert.equal(answer.headers.get('content-length'), String(bytes.length));
  assert.equal(answer.headers.get('content-disposition'), 'attachment; filename="registry.db"');
  return bytes;
}

const files = (dir: string) => readdirSync(dir).sort();
const left = ({ dataDir }: Daemon) => files(dataDir).filter((name) => name.startsWith('.vreg-copy-'));

function restore(home: string, file: string): Promise<Ran> {
  const words = [...ENTRY, 'daemon', 'restore', file, '--yes', '--data-dir', join(home, 'data')];
  return run(PROGRAM, words, { env: cleanEnv(home) });
}

async function idsOf(url: string): Promise<string[]> {
  return ((await call(url, 'GET', '/registry/vms')).body as VmList).vms.map(({ id }) => id);
}

/** The data dir of a stopped daemon, and a backup that lacks the last VM. */
async function atRest(t: TestContext): Promise<{ home: string; dataDir: string; backup: string }> {
  const daemon = await startDaemon(t);
  for (const id of ['a', 'b']) await call(daemon.url, 'POST', '/registry/vms', { body: aVm({ id }) });
  const backup = join(daemon.home, 'backup.db');
  writeFileSync(backup, await download(daemon.url));
  await call(daemon.url, 'POST', '/registry/vms', { body: aVm({ id: 'later' }) });
  await daemon.end('SIGTERM');
  return { home: daemon.home, dataDir: daemon.dataDir, backup };
}

test('a backup under concurrent writes is intact and has exactly the changes up to one revision', async (t) => {
  const daemon = await startDaemon(t);
  const { url } = daemon;
  const reader = await readEvents(t, url, '/registry/events?since=0');
  let stop = false;
  const acknowledged = { count: 0 };
  const writer = async (me: number) => {
    for (let i = 0; !stop; i++) {
      const path = `/registry/vms/vm-${me}-${i % 40}`;
      const gone =
        i % 40 === 39 ? await call(url, 'DELETE', `/registry/vms/vm-${me}-${Math.floor(i / 40) % 39}`) : undefined;
      const { status } =
        gone ?? (await call(url, 'PUT', path, { body: aVm({ id: `vm-${me}-${i % 40}`, name: `n${i}` }) }));
      assert.ok(status === 200 || status === 201 || status === 404, `${status}`);
      acknowledged.count++;
    }
  };
  const writers = [0, 1, 2].map(writer);
  const copies: { bytes: Buffer; from: number }[] = [];
  for (let i = 0; i < 3; i++) {
    await until('more changes', () => acknowledged.count > (i + 1) * 60);
    const events = reader.told.filter(({ event }) => isChange(event));
    copies.push({ from: events.length, bytes: await download(url) });
  }
  stop = true;
  await Promise.all(writers);
  const health = await readEvents(t, url);
  await health.seen('synced');
  await until('all events', () => reader.told.at(-1)?.id === health.told[0]?.id);
  const changes = reader.told.map(({ event }) => event).filter(isChange);

  for (const [i, { bytes, from }] of copies.entries()) {
    const dir = openDataDir(join(daemon.home, `copy-${i}`));
    writeFileSync(dir.database, bytes);
    await checkDatabase(dir);
    const db = new Database(dir.database, { readonly: true });
    const [[revision]] = db.prepare('SELECT revision FROM state').raw().all() as [[number]];
    const rows = db.prepare('SELECT id, body FROM vms ORDER BY created').raw().all() as [string, string][];
    db.close();
    // It has all events that were received before the request.
    assert.ok(revision >= from && revision <= changes.length);
    const expected = new Map<string, string>();
    for (const { type, vm } of changes.slice(0, revision) as VmEvent[]) {
      if (type === 'deregistered') expected.delete(vm.id);
      else expected.set(vm.id, JSON.stringify({ ...vm, lastSeen: undefined }));
    }
    assert.deepEqual(rows, [...expected]);
  }
  await until('no copy to be left', () => left(daemon).length === 0);
});

test('a client that disconnects during a download leaves no file and no log line', async (t) => {
  const daemon = await startLargeDaemon(t);
  const asked = request(`${daemon.url}/registry/backup`, { agent: false }).end();
  const [answer] = (await once(asked, 'response')) as [IncomingMessage];
  answer.on('error', () => {});
  await once(answer, 'data');
  answer.pause();
  assert.equal(left(daemon).length, 1);
  assert.equal(statSync(join(daemon.dataDir, left(daemon)[0]!)).mode & 0o777, 0o700);
  asked.destroy();
  await until('the copy to be removed', () => left(daemon).length === 0);

  // The same before the copy is complete.
  const early = request(`${daemon.url}/registry/backup`, { agent: false }).end();
  early.on('error', () => {});
  await until('the copy to be started', () => left(daemon).length === 1);
  early.destroy();
  await until('the copy to be removed', () => left(daemon).length === 0);
  assert.equal((await call(daemon.url, 'GET', '/health')).status, 200);
  await daemon.end('SIGTERM');
  const wrong = daemon
    .said()
    .split('\n')
    .filter((line) => line && (JSON.parse(line) as { level: number }).level >= 40);
  assert.deepEqual(wrong, []);
});

test('a download ends when its token is revoked', async (t) => {
  const daemon = await startLargeDaemon(t, { env: { VERS_AUTH_TOKEN: 's3cret' } });
  const { stdout } = await daemon.vreg(['token', 'create', 'ops', '--scope', 'admin']);
  const headers = { authorization: `Bearer ${stdout.trim()}` };
  const asked = request(`${daemon.url}/registry/backup`, { agent: false, headers }).end();
  const [answer] = (await once(asked, 'response')) as [IncomingMessage];
  assert.equal(answer.statusCode, 200);
  await once(answer, 'data');
  answer.pause();
  assert.equal((await daemon.vreg(['token', 'revoke', 'ops', '--yes'])).code, 0);
  await until('the copy to be removed', () => left(daemon).length === 0);
  const failed = once(answer, 'error');
  answer.resume();
  assert.match(String(await failed), /aborted/);
});

/** A daemon whose backups do not fit into socket buffers, so that a download stays open while the client does not read. */
async function startLargeDaemon(t: TestContext, { env = {} }: { env?: NodeJS.ProcessEnv } = {}): Promise<Daemon> {
  const daemon = await startDaemon(t, { env });
  const metadata = { blob: 'x'.repeat(900_000) };
  const headers = { authorization: `Bearer ${env.VERS_AUTH_TOKEN}` };
  for (let i = 0; i < 16; i++) {
    const body = aVm({ id: `vm-${i}`, metadata });
    assert.equal((await call(daemon.url, 'POST', '/registry/vms', { body, headers })).status, 201);
  }
  return daemon;
}

test('a second concurrent backup is refused with Retry-After, and leaves no file', async (t) => {
  const daemon = await startDaemon(t);
  await call(daemon.url, 'POST', '/registry/vms', { body: aVm() });
  const answers = await Promise.all([1, 2].map(() => fetch(`${daemon.url}/registry/backup`)));
  const [made, refused] = answers.sort((a, b) => a.status - b.status) as [Response, Response];
  assert.equal(made.status, 200);
  await made.arrayBuffer();
  const body = (await refused.json()) as ErrorBody;
  assert.deepEqual([refused.status, body.code, refused.headers.get('retry-after')], [503, 'BUSY', '5']);
  assert.match(body.error, /another backup is in progress/);
  assert.match(body.hint!, /retry/);
  await until('no copy to be left', () => left(daemon).length === 0);
  await download(daemon.url);
});

test('a start removes the unfinished backups of a killed daemon and nothing else, and HEAD makes no backup', async (t) => {
  const home = tempDir(t);
  const data = join(home, 'data');
  const cut = join(data, '.vreg-copy-aB3_x9');
  mkdirSync(join(cut, 'registry.db.x7Yz_1'), { recursive: true });
  writeFileSync(join(cut, 'registry.db'), 'half');
  const others = ['.vreg-copy-monday', 'backup-202601', 'backup-monday', 'backup-weekly'];
  for (const name of ['.vreg-copy-monday', 'backup-monday', 'backup-weekly']) mkdirSync(join(data, name));
  writeFileSync(join(data, '.vreg-copy-monday', 'precious'), '');
  writeFileSync(join(data, 'backup-202601'), 'an older backup');
  const daemon = await startDaemon(t, { home });
  const theirs = () => files(data).filter((name) => /^\.vreg-|^backup-/.test(name));
  assert.deepEqual(theirs(), others);
  assert.equal((await fetch(`${daemon.url}/registry/backup`, { method: 'HEAD' })).status, 200);
  await until('no copy to be left', () => theirs().length === others.length);
});

test('the next daemon serves the restored backup, and the previous files are kept', async (t) => {
  const { home, dataDir, backup } = await atRest(t);
  chmodSync(backup, 0o444);
  const { code, stdout, stderr } = await restore(home, backup);
  assert.deepEqual([code, stdout], [0, `${dataDir}\n`]);
  const [, kept] = /the old registry is kept in (\S+)/.exec(stderr) ?? [];
  assert.ok(existsSync(join(kept!, 'registry.db')) && existsSync(join(kept!, 'registry.mark')));
  assert.equal(statSync(join(dataDir, 'registry.db')).mode & 0o777, 0o600);
  assert.deepEqual(
    files(dataDir).filter((name) => name.startsWith('restore-')),
    [],
  );
  const again = await startDaemon(t, { home });
  assert.deepEqual(await idsOf(again.url), ['b', 'a']);
  assert.equal((await call(again.url, 'POST', '/registry/vms', { body: aVm({ id: 'c' }) })).status, 201);
  const { body } = await call(again.url, 'GET', '/registry/vms/a/history');
  assert.equal((body as { count: number }).count, 1);
});

test('a restore into a new data dir creates the registry, and keeps no previous files', async (t) => {
  const { backup } = await atRest(t);
  const home = tempDir(t);
  const { code, stderr } = await restore(home, backup);
  assert.deepEqual([code, stderr], [0, '']);
  const daemon = await startDaemon(t, { home });
  assert.deepEqual(await idsOf(daemon.url), ['b', 'a']);
});

test('a restore is refused while the daemon runs, even if the mark is damaged, and the daemon is not disturbed', async (t) => {
  const daemon = await startDaemon(t);
  await call(daemon.url, 'POST', '/registry/vms', { body: aVm() });
  const backup = join(daemon.home, 'backup.db');
  writeFileSync(backup, await download(daemon.url));
  await until('no copy to be left', () => left(daemon).length === 0);
  const before = files(daemon.dataDir);
  for (const damage of [false, true]) {
    if (damage) writeFileSync(join(daemon.dataDir, 'registry.mark'), 'damaged');
    const { code, stderr } = await restore(daemon.home, backup);
    assert.equal(code, 4, stderr);
    assert.match(stderr, /another process is using the data dir/);
    assert.match(stderr, /hint: stop it \(vreg daemon stop serve/);
    assert.deepEqual(files(daemon.dataDir), before);
  }
  assert.equal((await call(daemon.url, 'PATCH', '/registry/vms/vm-1', { body: { name: 'two' } })).status, 200);
});

test('a file that is not an intact backup is refused, and nothing is changed', async (t) => {
  const { home, dataDir, backup } = await atRest(t);
  const bytes = readFileSync(backup);
  const name = (what: string) => join(home, `${what}.db`);
  writeFileSync(name('empty'), '');
  writeFileSync(name('text'), 'no database at all\n'.repeat(100));
  writeFileSync(name('cut'), bytes.subarray(0, Math.floor(bytes.length / 2)));
  const flipped = Buffer.from(bytes);
  const at = flipped.indexOf('"name":"one"');
  flipped[at + 9] = flipped[at + 9]! ^ 1;
  writeFileSync(name('flipped'), flipped);
  for (const [what, sql] of [
    ['tableless', 'CREATE TABLE a (b); DROP TABLE a;'],
    ['foreign', 'CREATE TABLE a (b); INSERT INTO a VALUES (1);'],
  ] as const) {
    const db = new Database(name(what));
    db.exec(sql);
    db.close();
  }
  const before = [files(dataDir), readFileSync(join(dataDir, 'registry.db'))];
  for (const [what, expected] of [
    ['cut', 1],
    ['flipped', 1],
    ['empty', 5],
    ['text', 5],
    ['tableless', 5],
    ['foreign', 5],
  ] as const) {
    const { code, stderr } = await restore(home, name(what));
    assert.equal(code, expected, what);
    assert.match(stderr, new RegExp(`cannot restore .*${what}\\.db: `));
    assert.match(stderr, /hint: nothing was changed/);
  }
  for (const what of [name('missing'), home]) assert.equal((await restore(home, what)).code, 5);
  assert.deepEqual([files(dataDir), readFileSync(join(dataDir, 'registry.db'))], before);
  const again = await startDaemon(t, { home });
  assert.deepEqual(await idsOf(again.url), ['later', 'b', 'a']);
});

test('a backup of a newer vreg is refused as such, and a data dir of a newer vreg can be replaced by a backup', async (t) => {
  const { home, dataDir, backup } = await atRest(t);
  const newer = join(home, 'newer.db');
  for (const file of [newer, join(dataDir, 'registry.db')]) {
    if (file === newer) copyFileSync(backup, newer);
    const program = `new (require('libsql'))(process.argv[1]).exec('PRAGMA user_version = 99')`;
    const { code } = await run(process.execPath, ['-e', program, file], {
      env: process.env,
      cwd: import.meta.dirname,
    });
    assert.equal(code, 0);
  }
  const refused = await restore(home, newer);
  assert.equal(refused.code, 1);
  assert.match(
    refused.stderr,
    /cannot restore .*newer\.db: it was written by a newer vreg: .* version 99.*\nhint: .*upgrade vreg/,
  );
  await assert.rejects(startDaemon(t, { home }), /registry\.db was written by a newer vreg/);
  const { code, stderr } = await restore(home, backup);
  assert.equal(code, 0, stderr);
  assert.deepEqual(await idsOf((await startDaemon(t, { home })).url), ['b', 'a']);
});

for (const [what, damage] of [
  ['database is damaged', (dir: string) => writeFileSync(join(dir, 'registry.db'), 'x'.repeat(8192))],
  ['database is empty', (dir: string) => writeFileSync(join(dir, 'registry.db'), '')],
  ['mark is damaged', (dir: string) => writeFileSync(join(dir, 'registry.mark'), 'x')],
  [
    'mark is ahead, as after a loss',
    (dir: string) => {
      const { registryId, saves } = readHighWaterMark(openDataDir(dir))!;
      const crc = crcOf([registryId, 99, saves]);
      writeFileSync(join(dir, 'registry.mark'), JSON.stringify({ registryId, revision: 99, saves, crc }));
    },
  ],
] as const) {
  test(`a restore works if the ${what}`, async (t) => {
    const { home, dataDir, backup } = await atRest(t);
    damage(dataDir);
    await assert.rejects(startDaemon(t, { home }));
    const { code, stderr } = await restore(home, backup);
    assert.equal(code, 0, stderr);
    const again = await startDaemon(t, { home });
    assert.deepEqual(await idsOf(again.url), ['b', 'a']);
  });
}

test('a copy of the database of a stopped daemon is a backup', async (t) => {
  const { home, dataDir } = await atRest(t);
  const copy = join(home, 'copy.db');
  copyFileSync(join(dataDir, 'registry.db'), copy);
  assert.equal((await restore(home, copy)).code, 0);
  const again = await startDaemon(t, { home });
  assert.deepEqual(await idsOf(again.url), ['later', 'b', 'a']);
});
