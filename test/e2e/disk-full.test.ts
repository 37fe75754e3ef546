import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { appendFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import type { ErrorBody } from '../../src/protocol/errors.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import { startDaemon } from '../helpers/daemon.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

/** Mounts a disk of 4 MB. @returns why that cannot be, if it cannot */
function mountSmallDisk(home: string): string | undefined {
  const { status, stderr, error } = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'vreg-test', home]);
  return status === 0 ? undefined : `cannot mount a small disk: ${error?.message ?? String(stderr).trim()}`;
}

/** The `skip` option of a test that needs such a disk. In CI nothing may be missing, so there the test runs, and fails. */
function unlessMountable(): { skip: string | false } {
  if (process.env.CI) return { skip: false };
  const home = mkdtempSync(join(tmpdir(), 'vreg-test-'));
  const skip = mountSmallDisk(home) ?? false;
  if (skip === false) spawnSync('umount', [home]);
  rmSync(home, { recursive: true });
  return { skip };
}

/** A disk of 4 MB with a data dir's home on it. */
function smallDisk(t: TestContext): string {
  const home = mkdtempSync(join(tmpdir(), 'vreg-test-'));
  t.after(() => {
    // Lazily, since the daemon may still be there.
    spawnSync('umount', ['-l', home]);
    rmSync(home, { recursive: true });
  });
  assert.equal(mountSmallDisk(home), undefined);
  return home;
}

/** Leaves not a byte on the disk of a folder. @returns what makes room again */
function fill(dir: string): () => void {
  const file = join(dir, 'ballast');
  const block = Buffer.alloc(4096, 1);
  assert.throws(
    () => {
      for (;;) appendFileSync(file, block);
    },
    { code: 'ENOSPC' },
  );
  return () => rmSync(file);
}

test(
  'a full disk refuses writes, serves reads and heartbeats, loses nothing, and recovers by itself',
  unlessMountable(),
  async (t) => {
    const home = smallDisk(t);
    let daemon = await startDaemon(t, { home, args: ['--log-level', 'error'] });
    const ask = async <T>(method: string, path: string, body?: object) => {
      const response = await fetch(`${daemon.url}${path}`, { method, ...(body ? { body: JSON.stringify(body) } : {}) });
      return { status: response.status, headers: response.headers, body: (await response.json()) as T };
    };
    const register = (id: string) => ask<Vm & ErrorBody>('POST', '/registry/vms', aVm({ id }));
    const get = async (id: string) => (await ask<Vm>('GET', `/registry/vms/${id}`)).body;
    const assertRefusing = async () => {
      const { status, headers, body } = await register('vm-2');
      assert.deepEqual([status, body.code, headers.get('retry-after')], [507, 'STORE_FULL', '5']);
      assert.match(body.hint!, /free space/);
      for (const [method, change] of [
        ['PATCH', { status: 'running', name: 'new' }],
        ['DELETE', undefined],
      ] as const) {
        assert.equal((await ask(method, '/registry/vms/vm-1', change)).status, 507);
      }
      assert.equal((await ask('GET', '/registry/vms/vm-2')).status, 404);
    };

    const { body: vm } = await register('vm-1');
    const makeRoom = fill(home);
    await assertRefusing();
    assert.deepEqual(await get('vm-1'), vm, 'a change that failed is nowhere to be seen');
    const heard = await ask<{ lastSeen: string }>('POST', '/registry/vms/vm-1/heartbeat');
    assert.equal(heard.status, 200);
    assert.equal((await get('vm-1')).lastSeen, heard.body.lastSeen);
    await until('the daemon to say that beats wait', () => /heartbeats cannot be saved/.test(daemon.said()));

    // Neither a crash nor a stop changes that; the beat that could not be saved is lost with the crash.
    await daemon.end('SIGKILL');
    daemon = await startDaemon(t, { home, args: ['--log-level', 'error'] });
    assert.deepEqual(await get('vm-1'), vm);
    await assertRefusing();
    assert.deepEqual(await daemon.end(), { code: 0, signal: null });
    daemon = await startDaemon(t, { home });
    await assertRefusing();
    assert.deepEqual(await get('vm-1'), vm);

    const again = await ask<{ lastSeen: string }>('POST', '/registry/vms/vm-1/heartbeat');
    await until('the daemon to say that beats wait', () => /heartbeats cannot be saved/.test(daemon.said()));
    makeRoom();
    assert.equal((await register('vm-2')).status, 201, 'it recovers without being told');
    await until('the beats to be saved', () => /heartbeats are durable again/.test(daemon.said()));
    await daemon.end('SIGKILL');
    daemon = await startDaemon(t, { home });
    assert.deepEqual(await get('vm-1'), { ...vm, lastSeen: again.body.lastSeen });
    assert.equal((await get('vm-2')).id, 'vm-2');
  },
);
