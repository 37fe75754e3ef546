import assert from 'node:assert/strict';
import { cpSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import type { ErrorBody } from '../../src/protocol/errors.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import { newWriters } from '../helpers/crash/crash.ts';
import { findFaults, findLosses, listAll, readLeft } from '../helpers/crash/crash-run.ts';
import { fill, smallDisk, unlessMountable } from '../helpers/crash/small-disk.ts';
import { cleanEnv, ENTRY, PROGRAM, run, startDaemon, tempDir } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { randomOf } from '../helpers/random.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

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
      assert.match(body.hint!, /free up space/);
      for (const [method, change] of [
        ['PATCH', { status: 'running', name: 'new' }],
        ['DELETE', undefined],
      ] as const) {
        assert.equal((await ask(method, '/registry/vms/vm-1', change)).status, 507);
      }
      assert.equal((await ask('GET', '/registry/vms/vm-2')).status, 404);
    };

    const positionOf = async () => (await ask('GET', '/registry/vms/vm-1')).headers.get('x-vreg-position');
    const { body: vm, headers } = await register('vm-1');
    const position = headers.get('x-vreg-position');
    assert.match(position!, /^1-[0-9a-f]{16}$/);
    const freeSpace = fill(home);
    await assertRefusing();
    assert.deepEqual(await get('vm-1'), vm, 'a change that failed is not visible');
    const heard = await ask<{ lastSeen: string }>('POST', '/registry/vms/vm-1/heartbeat');
    assert.equal(heard.status, 200);
    assert.equal((await get('vm-1')).lastSeen, heard.body.lastSeen);
    await until('the warning about unsaved heartbeats', () => /heartbeats cannot be saved/.test(daemon.said()));

    // Neither a crash nor a stop changes that. The heartbeat that could not be saved is lost in the crash.
    await daemon.end('SIGKILL');
    daemon = await startDaemon(t, { home, args: ['--log-level', 'error'] });
    assert.deepEqual(await get('vm-1'), vm);
    await assertRefusing();
    assert.equal(await positionOf(), position, 'refused changes take no position');
    assert.deepEqual(await daemon.end(), { code: 0, signal: null });
    daemon = await startDaemon(t, { home });
    await assertRefusing();
    assert.deepEqual(await get('vm-1'), vm);

    const again = await ask<{ lastSeen: string }>('POST', '/registry/vms/vm-1/heartbeat');
    await until('the warning about unsaved heartbeats', () => /heartbeats cannot be saved/.test(daemon.said()));
    freeSpace();
    assert.equal((await register('vm-2')).status, 201, 'it recovers by itself');
    await until('the heartbeats to be saved', () => /heartbeats are durable again/.test(daemon.said()));
    await daemon.end('SIGKILL');
    daemon = await startDaemon(t, { home });
    assert.deepEqual(await get('vm-1'), { ...vm, lastSeen: again.body.lastSeen });
    assert.equal((await get('vm-2')).id, 'vm-2');
  },
);

test(
  'a disk that fills up repeatedly under 16 writers loses no acknowledged change, and every refusal is a 507',
  unlessMountable(),
  async (t) => {
    const random = randomOf(t);
    const home = smallDisk(t, 16);
    const socketPath = join(tempDir(t), 'vreg.sock');
    const start = () => startDaemon(t, { home, args: ['--log-level', 'silent', '--socket', socketPath] });
    let daemon = await start();
    const writers = newWriters(16, random);
    let [acknowledged, refused] = [0, 0];
    const stop = new AbortController();
    t.after(() => stop.abort());
    const writing = Promise.all(
      writers.map((writer) =>
        writer.runAcrossRestarts(
          { socketPath },
          stop.signal,
          () => acknowledged++,
          (status, body) => {
            refused++;
            assert.deepEqual([status, body.code], [507, 'STORE_FULL']);
            assert.match(body.error, /disk of the registry is full/);
          },
        ),
      ),
    );
    writing.catch(() => {});
    const more = async (what: string, count: () => number) => {
      const before = count();
      await Promise.race([writing, until(what, () => count() > before + 100)]);
    };
    for (const restarts of [false, true, false]) {
      await more('acknowledgements', () => acknowledged);
      const freeSpace = fill(home);
      await more('refusals', () => refused);
      if (restarts) {
        await daemon.end('SIGKILL');
        assert.deepEqual(findFaults(readLeft(t, daemon.dataDir), writers), []);
        daemon = await start();
        await more('refusals', () => refused);
      }
      assert.ok((await listAll(daemon)).length > 0, 'reads still work');
      const copy = await fetch(`${daemon.url}/registry/backup`);
      const { error, code, hint } = (await copy.json()) as ErrorBody;
      assert.deepEqual([copy.status, code, copy.headers.get('retry-after')], [507, 'STORE_FULL', '5'], error);
      assert.match(hint!, /free up space/);
      assert.deepEqual(
        readdirSync(daemon.dataDir).filter((name) => name.startsWith('.vreg-copy-')),
        [],
      );
      freeSpace();
    }
    await more('acknowledgements', () => acknowledged);
    stop.abort();
    await writing;
    const vms = await listAll(daemon);
    assert.deepEqual(findLosses(writers, vms), []);
    await daemon.end('SIGKILL');
    assert.deepEqual(findFaults(readLeft(t, daemon.dataDir), writers), []);
    t.diagnostic(`${acknowledged} changes were acknowledged, ${refused} refused`);
  },
);

test(
  'a store of an earlier vreg on a full disk serves reads, and its first change upgrades it',
  unlessMountable(),
  async (t) => {
    const home = smallDisk(t);
    cpSync(join(import.meta.dirname, '../data/3e95f1a/data-dir'), join(home, 'data'), { recursive: true });
    const freeSpace = fill(home);
    const daemon = await startDaemon(t, { home, args: ['--log-level', 'error'] });
    const { secrets } = JSON.parse(readFileSync(join(import.meta.dirname, '../data/3e95f1a/expected.json'), 'utf8'));
    const headers = { authorization: `Bearer ${secrets.admin}` };
    const rename = () =>
      fetch(`${daemon.url}/registry/vms/worker-1`, { method: 'PATCH', headers, body: '{"name":"upgraded"}' });
    const list = await fetch(`${daemon.url}/registry/vms`, { headers });
    assert.equal(list.status, 200);
    assert.match(list.headers.get('x-vreg-position')!, /^36-[0-9a-f]{16}$/);
    const refused = await rename();
    assert.deepEqual(
      [refused.status, refused.headers.get('x-vreg-position')],
      [507, list.headers.get('x-vreg-position')],
    );
    freeSpace();
    const renamed = await until('space for the upgrade', async () => {
      const response = await rename();
      return response.status === 200 ? response : undefined;
    });
    assert.match(renamed.headers.get('x-vreg-position')!, /^37-[0-9a-f]{16}$/);
  },
);

test(
  'a restored backup on a full disk serves reads, and accepts changes when there is space again',
  unlessMountable(),
  async (t) => {
    const home = smallDisk(t);
    const first = await startDaemon(t, { home });
    const { body: vm } = await call(first.url, 'POST', '/registry/vms', { body: aVm() });
    const backup = join(tempDir(t), 'backup.db');
    assert.equal((await first.vreg(['backup', backup])).code, 0);
    assert.deepEqual(await first.end(), { code: 0, signal: null });
    const { code, stderr } = await run(
      PROGRAM,
      [...ENTRY, 'daemon', 'restore', backup, '--yes', '--data-dir', first.dataDir],
      { env: cleanEnv(home) },
    );
    assert.equal(code, 0, stderr);
    const freeSpace = fill(home);
    const daemon = await startDaemon(t, { home, args: ['--log-level', 'error'] });
    assert.deepEqual((await call(daemon.url, 'GET', '/registry/vms')).body, { vms: [vm], count: 1 });
    const register = () => call(daemon.url, 'POST', '/registry/vms', { body: aVm({ id: 'vm-2' }) });
    assert.equal((await register()).status, 507);
    freeSpace();
    await until('space for a change', async () => (await register()).status === 201);
  },
);
