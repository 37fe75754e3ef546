/** Kills the daemon just before each system call that changes the disk: during its first start, a change, the stop, and a restore. */
import assert from 'node:assert/strict';
import { cpSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import type { Vm } from '../../src/protocol/vm.ts';
import { listAll, readLeft, startQuietDaemon } from '../helpers/crash/crash-run.ts';
import { killAt, STEPS } from '../helpers/crash/strace.ts';
import { cleanEnv, type Daemon, ENTRY, PROGRAM, run, startDaemon, tempDir } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { findGaps } from '../helpers/journal.ts';
import { unless } from '../helpers/tools.ts';
import { aVm } from '../helpers/vm.ts';

/** More calls than there are of any kind, so that a test that never ends fails. */
const TOO_MANY = 200;

const FILES = [
  'registry.db',
  'registry.db-wal',
  'registry.db-journal',
  'registry.mark',
  'registry.mark.new',
  'daemon.json',
  'daemon.json.new',
];

/** Starts a daemon, registers a VM and stops it. @returns the VM if it was acknowledged, and whether the daemon was killed */
async function runOnce(
  t: TestContext,
  home: string,
  calls: string,
  nth: number,
): Promise<{ vms: Vm[]; killed: boolean }> {
  const dataDir = join(home, 'data');
  const paths = [dataDir, ...FILES.map((name) => join(dataDir, name))];
  const vms: Vm[] = [];
  let daemon: Daemon;
  try {
    daemon = await startDaemon(t, { home, through: killAt(calls, nth, paths) });
  } catch (error) {
    assert.match((error as Error).message, /ended with SIGKILL/);
    return { vms, killed: true };
  }
  const { body, status } = await call(daemon.url, 'POST', '/registry/vms', { body: aVm() }).catch(() => ({
    body: undefined,
    status: 0,
  }));
  if (status === 201) vms.push(body as Vm);
  const { code, signal } = await daemon.end('SIGTERM');
  if (signal === null) assert.deepEqual([code, status], [0, 201], daemon.said());
  else assert.equal(signal, 'SIGKILL');
  return { vms, killed: signal !== null };
}

test(
  'a daemon that is killed before any step of its first run has lost nothing, and starts again',
  unless('strace'),
  async (t) => {
    let kills = 0;
    for (const [kind, calls] of Object.entries(STEPS)) {
      for (let nth = 1; ; nth++) {
        const what = `${kind} ${nth}`;
        assert.ok(nth < TOO_MANY, what);
        const home = tempDir(t);
        const { vms, killed } = await runOnce(t, home, calls, nth);
        if (killed) kills++;
        const daemon = await startQuietDaemon(t, home);
        const found = await listAll(daemon);
        // A VM that was not acknowledged may be there: the kill came before the response.
        assert.deepEqual(vms.length > 0 ? found : [], vms, what);
        const next = await call(daemon.url, 'POST', '/registry/vms', { body: aVm({ id: 'next' }) });
        assert.equal(next.status, 201, what);
        assert.match(next.headers.get('etag') ?? '', new RegExp(`^"${found.length + 1}-[0-9a-f]{16}"$`), what);
        await daemon.end('SIGKILL');
        const { journal, revision } = readLeft(t, daemon.dataDir);
        assert.deepEqual(findGaps(journal, revision), [], what);
        rmSync(home, { recursive: true });
        if (!killed) break;
      }
    }
    t.diagnostic(`${kills} kills`);
    assert.ok(kills > 20, `${kills} kills`);
  },
);

test(
  'a restore that is killed before any of its steps leaves the old registry, the new one, or an error, never an empty registry, and can be repeated',
  unless('strace'),
  async (t) => {
    const first = await startDaemon(t);
    await call(first.url, 'POST', '/registry/vms', { body: aVm({ id: 'old' }) });
    const backup = join(first.home, 'backup.db');
    assert.equal((await first.vreg(['backup', backup])).code, 0);
    await call(first.url, 'POST', '/registry/vms', { body: aVm({ id: 'later' }) });
    await first.end('SIGTERM');
    const found = new Map<string, number>();
    for (const [kind, calls] of Object.entries(STEPS)) {
      for (let nth = 1; ; nth++) {
        const what = `${kind} ${nth}`;
        assert.ok(nth < TOO_MANY, what);
        const home = tempDir(t);
        const dataDir = join(home, 'data');
        cpSync(first.dataDir, dataDir, { recursive: true });
        const restore = [PROGRAM, ...ENTRY, 'daemon', 'restore', backup, '--yes', '--data-dir', dataDir];
        const [strace, ...words] = killAt(calls, nth);
        const { code, signal, stderr } = await run(strace!, [...words, ...restore], { env: cleanEnv(home) });
        if (signal === null) assert.equal(code, 0, stderr);
        const outcome = await startQuietDaemon(t, home).then(
          async (daemon) => {
            const ids = (await listAll(daemon)).map(({ id }) => id).join();
            await daemon.end('SIGKILL');
            return ids;
          },
          (error: Error) => {
            assert.match(error.message, /registry\.db is damaged: .*\n?hint: .*vreg daemon restore FILE/s, what);
            return 'an error';
          },
        );
        assert.ok(['old', 'later,old', 'an error'].includes(outcome), `${what}: ${outcome}`);
        found.set(outcome, (found.get(outcome) ?? 0) + 1);
        const [program, ...again] = restore;
        const second = await run(program!, again, { env: cleanEnv(home) });
        assert.equal(second.code, 0, second.stderr);
        const daemon = await startQuietDaemon(t, home);
        assert.deepEqual(
          (await listAll(daemon)).map(({ id }) => id),
          ['old'],
          what,
        );
        await daemon.end('SIGKILL');
        rmSync(home, { recursive: true });
        if (signal === null) {
          assert.equal(outcome, 'old');
          break;
        }
      }
    }
    t.diagnostic(JSON.stringify(Object.fromEntries(found)));
    assert.equal(found.size, 3, 'kills came before, during, and after the exchange');
  },
);
