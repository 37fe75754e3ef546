/** A disk that breaks while the daemon runs, or is read-only before it starts. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import test from 'node:test';
import type { ErrorBody } from '../../src/protocol/errors.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import { remount, smallDisk, unlessMountable } from '../helpers/crash/small-disk.ts';
import { breakDisk } from '../helpers/crash/strace.ts';
import { cleanEnv, type Daemon, ENTRY, PROGRAM, run, startDaemon } from '../helpers/daemon.ts';
import { AS_VREG_CLIENT, call } from '../helpers/http.ts';
import { fingerprint } from '../helpers/store.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

for (const [error, what] of [
  ['EROFS', 'becomes read-only'],
  ['EIO', 'breaks'],
] as const) {
  test(
    `if the disk ${what} under the daemon, only writes are refused, and they work again after the repair`,
    unless('strace'),
    async (t) => {
      let daemon: Daemon = await startDaemon(t, { args: ['--log-level', 'error'] });
      const headers = AS_VREG_CLIENT;
      const register = (id: string) => call(daemon.url, 'POST', '/registry/vms', { body: aVm({ id }), headers });
      const get = async (id: string) => (await call(daemon.url, 'GET', `/registry/vms/${id}`)).body as Vm;
      const { body: vm, headers: before } = await register('vm-1');
      const repair = await breakDisk(t, daemon, error);

      const refused = [
        await register('vm-2'),
        await call(daemon.url, 'PATCH', '/registry/vms/vm-1', { body: { name: 'new' }, headers }),
        await call(daemon.url, 'DELETE', '/registry/vms/vm-1', { headers }),
      ];
      for (const { status, headers, body } of refused) {
        const { error: message, code, hint } = body as ErrorBody;
        assert.deepEqual([status, code, headers.get('retry-after')], [503, 'STORE_FAILED', '5']);
        assert.match(message, /could not write to its disk: .*SQLITE_IOERR/);
        assert.match(hint!, /read-only/);
        assert.equal(headers.get('x-vreg-position'), before.get('x-vreg-position'), 'nothing changed');
      }
      assert.deepEqual(await get('vm-1'), vm);
      assert.equal((await call(daemon.url, 'GET', '/registry/vms/vm-2')).status, 404);
      assert.equal((await call(daemon.url, 'GET', '/registry/vms/vm-1/history')).status, 200);
      const heard = (await call(daemon.url, 'POST', '/registry/vms/vm-1/heartbeat')).body as Vm;
      await until('the warning about unsaved heartbeats', () => /heartbeats cannot be saved/.test(daemon.said()));
      const warnings = () => daemon.said().match(/heartbeats cannot be saved/g)?.length;
      assert.equal(warnings(), 1);

      await repair();
      const second = await register('vm-2');
      assert.deepEqual([second.status, second.headers.get('etag')?.slice(0, 3)], [201, '"2-'], 'it recovers by itself');
      assert.equal(warnings(), 1, 'it is logged once');
      await daemon.end('SIGTERM');
      daemon = await startDaemon(t, { home: daemon.home });
      assert.equal((await get('vm-1')).lastSeen, heard.lastSeen);
      assert.equal((await get('vm-2')).id, 'vm-2');
    },
  );
}

test(
  'a daemon with a broken disk stops on SIGTERM, and acknowledged changes are there when the disk works again',
  unless('strace'),
  async (t) => {
    const daemon = await startDaemon(t, { args: ['--log-level', 'error'] });
    const { body: vm } = await call(daemon.url, 'POST', '/registry/vms', { body: aVm() });
    await breakDisk(t, daemon, 'EIO');
    await call(daemon.url, 'POST', '/registry/vms/vm-1/heartbeat');
    assert.deepEqual(await daemon.end('SIGTERM'), { code: 0, signal: null });
    assert.match(daemon.said(), /heartbeats cannot be saved/);
    const again = await startDaemon(t, { home: daemon.home });
    assert.deepEqual((await call(again.url, 'GET', '/registry/vms/vm-1')).body, vm);
  },
);

test('a database that the disk cannot read does not count as damaged', unless('strace'), async (t) => {
  const daemon = await startDaemon(t);
  await call(daemon.url, 'POST', '/registry/vms', { body: aVm() });
  await daemon.end('SIGTERM');
  const file = join(daemon.dataDir, 'registry.db');
  const strace = ['-f', '-o', '/dev/null', '-P', file, '-e', 'inject=pread64,read:error=EIO'];
  const words = [...strace, PROGRAM, ...ENTRY, 'daemon', '--port', '0', '--data-dir', daemon.dataDir];
  const { code, stderr } = await run('strace', words, { env: cleanEnv(daemon.home) });
  assert.equal(code, 1);
  // A slow start also logs that the store is being loaded.
  assert.match(stderr, /^vreg: cannot open .*registry\.db: EIO.*\nhint: .*disk works.*\n$/m);
  await startDaemon(t, { home: daemon.home });
});

test(
  'a data dir on a read-only disk is an error with its cause and the next step, and works again when the disk is writable',
  unlessMountable(),
  async (t) => {
    const home = smallDisk(t);
    const first = await startDaemon(t, { home });
    const { body: vm } = await call(first.url, 'POST', '/registry/vms', { body: aVm() });
    const backup = join(home, 'backup.db');
    assert.equal((await first.vreg(['backup', backup])).code, 0);
    await first.end('SIGTERM');
    remount(home, 'ro');
    const before = fingerprint(home);
    for (const words of [
      ['daemon', '--port', '0'],
      ['daemon', 'restore', backup, '--yes'],
    ]) {
      const { code, stdout, stderr } = await run(PROGRAM, [...ENTRY, ...words, '--data-dir', first.dataDir], {
        env: cleanEnv(home),
      });
      assert.deepEqual([code, stdout], [1, ''], stderr);
      assert.match(
        stderr,
        /^vreg: cannot use the data dir .*\/data \(EROFS, from flag --data-dir\)\nhint: .*--data-dir\n$/,
      );
    }
    assert.deepEqual(fingerprint(home), before);
    remount(home, 'rw');
    const second = await startDaemon(t, { home });
    assert.deepEqual((await call(second.url, 'GET', '/registry/vms/vm-1')).body, vm);
  },
);
