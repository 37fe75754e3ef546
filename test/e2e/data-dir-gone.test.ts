/** A data dir that is removed, moved or replaced under the daemon: no change is acknowledged that the next start would not find. */
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

/** Something that happens to the data dir, the expected error, and how to undo it, if that is possible. */
interface Mishap {
  apply(dir: string): void;
  message: RegExp;
  undo?(dir: string): void;
}

function move(name: string): Mishap {
  const [from, to] = [(dir: string) => join(dir, name), (dir: string) => join(dir, '..', 'elsewhere')];
  return {
    apply: (dir) => renameSync(from(dir), to(dir)),
    message: name === 'registry.db-wal' ? /registry\.db-wal is missing/ : /registry\.db is missing/,
    undo: (dir) => renameSync(to(dir), from(dir)),
  };
}

function replace(name: string): Mishap {
  return {
    apply: (dir) => {
      copyFileSync(join(dir, name), join(dir, 'copy'));
      renameSync(join(dir, name), join(dir, 'aside'));
      renameSync(join(dir, 'copy'), join(dir, name));
    },
    message: new RegExp(`${name} was replaced by another file`),
    undo: (dir) => renameSync(join(dir, 'aside'), join(dir, name)),
  };
}

const MISHAPS: Readonly<Record<string, Mishap>> = {
  'data dir was removed': {
    apply: (dir) => rmSync(dir, { recursive: true }),
    message: /registry\.db is missing/,
  },
  'data dir was moved': move('.'),
  'database was moved': move('registry.db'),
  'log was moved': move('registry.db-wal'),
  'database was replaced by a copy': replace('registry.db'),
  'log was replaced by a copy': replace('registry.db-wal'),
};

async function assertRefusesWrites(daemon: Daemon, message: RegExp): Promise<void> {
  const probe = async (path: string) => (await fetch(daemon.url + path)).text();
  await until('the probe to report the store', async () => (await probe('/readyz')) === 'unreadable');
  assert.equal(await probe('/livez'), 'ok');
  const token = { body: { name: 'ops', scope: 'admin' } };
  for (const { status, headers, body } of [
    await register(daemon, 'b'),
    await call(daemon.url, 'DELETE', '/registry/vms/a'),
    await call(daemon.url, 'POST', '/registry/tokens', token),
  ]) {
    const { error, code, hint } = body as ErrorBody;
    assert.deepEqual([status, code, headers.get('retry-after')], [503, 'STORE_FAILED', '5']);
    assert.match(error, message);
    assert.match(hint!, /put the files back, .*vreg daemon restore FILE/);
  }
}

for (const [what, { apply, message, undo }] of Object.entries(MISHAPS)) {
  test(`after the ${what} under the daemon, writes are refused, reads and heartbeats work${undo ? ', and writes work again when it is back' : ''}`, async (t) => {
    const daemon = await startDaemon(t, { args: ['--log-level', 'error'] });
    assert.equal((await register(daemon, 'a')).status, 201);
    apply(daemon.dataDir);
    await assertRefusesWrites(daemon, message);
    assert.equal((await call(daemon.url, 'POST', '/registry/vms/a/heartbeat')).status, 200);
    assert.equal((await call(daemon.url, 'GET', '/registry/vms/a/history')).status, 200);
    assert.deepEqual(await idsOf(daemon), ['a']);
    await until('the warning about unsaved heartbeats', () => /heartbeats cannot be saved/.test(daemon.said()));
    if (!undo) return;
    undo(daemon.dataDir);
    assert.equal((await register(daemon, 'b')).status, 201);
    await daemon.end('SIGKILL');
    const again = await startDaemon(t, { home: daemon.home });
    assert.deepEqual(await idsOf(again), ['b', 'a']);
    assert.equal(daemon.said().match(/heartbeats cannot be saved/g)?.length, 1, 'it is logged once');
  });
}

/** A daemon whose data dir was removed, and a second daemon in a new data dir of the same name. */
async function twoDaemons(t: TestContext): Promise<[Daemon, Daemon]> {
  const first = await startDaemon(t);
  await register(first, 'a');
  rmSync(first.dataDir, { recursive: true });
  return [first, await startDaemon(t, { home: first.home })];
}

test('when it stops, a daemon whose data dir was removed does not touch the files of a second daemon there', async (t) => {
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
