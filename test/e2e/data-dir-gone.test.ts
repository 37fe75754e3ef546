/** A data dir that is removed, moved or replaced under the daemon: nothing is acknowledged that a start would not find. */
import assert from 'node:assert/strict';
import { copyFileSync, existsSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import type { VmList } from '../../src/protocol/api.ts';
import type { ErrorBody } from '../../src/protocol/errors.ts';
import { type Daemon, startDaemon } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const register = ({ url }: Daemon, id: string) => call(url, 'POST', '/registry/vms', { body: aVm({ id }) });
const idsOf = async ({ url }: Daemon) =>
  ((await call(url, 'GET', '/registry/vms')).body as VmList).vms.map(({ id }) => id);

/** What has happened to the data dir, which file is named, and what puts it back where that can be. */
interface Mishap {
  befall(dir: string): void;
  named: RegExp;
  undo?(dir: string): void;
}

function move(name: string): Mishap {
  const [from, to] = [(dir: string) => join(dir, name), (dir: string) => join(dir, '..', 'elsewhere')];
  return {
    befall: (dir) => renameSync(from(dir), to(dir)),
    named: name === 'registry.db-wal' ? /registry\.db-wal is gone/ : /registry\.db is gone/,
    undo: (dir) => renameSync(to(dir), from(dir)),
  };
}

function replace(name: string): Mishap {
  return {
    befall: (dir) => {
      copyFileSync(join(dir, name), join(dir, 'copy'));
      renameSync(join(dir, name), join(dir, 'aside'));
      renameSync(join(dir, 'copy'), join(dir, name));
    },
    named: new RegExp(`${name} is another file than the one that is open`),
    undo: (dir) => renameSync(join(dir, 'aside'), join(dir, name)),
  };
}

const MISHAPS: Readonly<Record<string, Mishap>> = {
  'data dir was removed': {
    befall: (dir) => rmSync(dir, { recursive: true }),
    named: /registry\.db is gone/,
  },
  'data dir was moved': move('.'),
  'database was moved': move('registry.db'),
  'log was moved': move('registry.db-wal'),
  'database was replaced by a copy': replace('registry.db'),
  'log was replaced by a copy': replace('registry.db-wal'),
};

async function assertRefusesWrites(daemon: Daemon, named: RegExp): Promise<void> {
  const token = { body: { name: 'ops', scope: 'admin' } };
  for (const { status, headers, body } of [
    await register(daemon, 'b'),
    await call(daemon.url, 'DELETE', '/registry/vms/a'),
    await call(daemon.url, 'POST', '/registry/tokens', token),
  ]) {
    const { error, code, hint } = body as ErrorBody;
    assert.deepEqual([status, code, headers.get('retry-after')], [503, 'STORE_FAILED', '5']);
    assert.match(error, named);
    assert.match(hint!, /put its data dir back .*vreg daemon restore FILE/);
  }
}

for (const [what, { befall, named, undo }] of Object.entries(MISHAPS)) {
  test(`where the ${what} under the daemon, writes are refused, reads and heartbeats go on${undo ? ', and all is well when it is back' : ''}`, async (t) => {
    const daemon = await startDaemon(t, { args: ['--log-level', 'error'] });
    assert.equal((await register(daemon, 'a')).status, 201);
    befall(daemon.dataDir);
    await assertRefusesWrites(daemon, named);
    assert.equal((await call(daemon.url, 'POST', '/registry/vms/a/heartbeat')).status, 200);
    assert.equal((await call(daemon.url, 'GET', '/registry/vms/a/history')).status, 200);
    assert.deepEqual(await idsOf(daemon), ['a']);
    await until('the daemon to say that beats wait', () => /heartbeats cannot be saved/.test(daemon.said()));
    if (!undo) return;
    undo(daemon.dataDir);
    assert.equal((await register(daemon, 'b')).status, 201);
    await daemon.end('SIGKILL');
    const again = await startDaemon(t, { home: daemon.home });
    assert.deepEqual(await idsOf(again), ['b', 'a']);
    assert.equal(daemon.said().match(/heartbeats cannot be saved/g)?.length, 1, 'it is said once');
  });
}

/** A daemon whose folder was removed, and another in a new one of the same name. */
async function twoDaemons(t: TestContext): Promise<[Daemon, Daemon]> {
  const first = await startDaemon(t);
  await register(first, 'a');
  rmSync(first.dataDir, { recursive: true });
  return [first, await startDaemon(t, { home: first.home })];
}

test('a daemon whose folder was made anew by another leaves the files of that one alone when it ends', async (t) => {
  const [first, second] = await twoDaemons(t);
  await register(second, 'b');
  const info = readFileSync(join(second.dataDir, 'daemon.json'), 'utf8');
  assert.equal((await register(first, 'c')).status, 503);
  assert.deepEqual(await first.end('SIGTERM'), { code: 0, signal: null });
  assert.equal(readFileSync(join(second.dataDir, 'daemon.json'), 'utf8'), info);
  assert.equal((await register(second, 'd')).status, 201);
  await second.end('SIGKILL');
  assert.ok(existsSync(join(second.dataDir, 'registry.db-wal')));
  assert.deepEqual(await idsOf(await startDaemon(t, { home: second.home })), ['d', 'b']);
});
