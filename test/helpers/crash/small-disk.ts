/** A disk so small that a test can fill it, and one that a test can make read-only. Both need the right to mount. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { appendFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';

/** @returns why that cannot be, if it cannot */
function mount(home: string, options: string): string | undefined {
  const { status, stderr, error } = spawnSync('mount', ['-t', 'tmpfs', '-o', options, 'vreg-test', home]);
  return status === 0 ? undefined : `cannot mount a small disk: ${error?.message ?? String(stderr).trim()}`;
}

/** The `skip` option of a test that needs such a disk. In CI nothing may be missing, so there the test runs, and fails. */
export function unlessMountable(): { skip: string | false } {
  if (process.env.CI) return { skip: false };
  const home = mkdtempSync(join(tmpdir(), 'vreg-test-'));
  const skip = mount(home, 'size=1m') ?? false;
  if (skip === false) spawnSync('umount', [home]);
  rmSync(home, { recursive: true });
  return { skip };
}

/** A disk with a data dir's home on it. @param megabytes of room */
export function smallDisk(t: TestContext, megabytes = 4): string {
  const home = mkdtempSync(join(tmpdir(), 'vreg-test-'));
  t.after(() => {
    // Lazily, since the daemon may still be there.
    spawnSync('umount', ['-l', home]);
    rmSync(home, { recursive: true });
  });
  assert.equal(mount(home, `size=${megabytes}m`), undefined);
  return home;
}

/** Makes a small disk read-only, or writable again; nobody may have a file of it open for writing. */
export function remount(home: string, how: 'ro' | 'rw'): void {
  const { status, stderr } = spawnSync('mount', ['-o', `remount,${how}`, home]);
  assert.equal(status, 0, String(stderr));
}

/** Leaves not a byte on the disk of a folder. @returns what makes room again */
export function fill(dir: string): () => void {
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
