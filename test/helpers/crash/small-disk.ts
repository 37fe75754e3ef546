/** Disks that a test can fill or make read-only. They need the permission to mount. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { appendFileSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';

/** @returns the reason if the mount fails */
function mount(home: string, options: string): string | undefined {
  const { status, stderr, error } = spawnSync('mount', ['-t', 'tmpfs', '-o', options, 'vreg-test', home]);
  return status === 0 ? undefined : `cannot mount a small disk: ${error?.message ?? String(stderr).trim()}`;
}

/** @returns the `skip` option of a test that needs such a disk. In CI the test always runs, and fails without the permission. */
export function unlessMountable(): { skip: string | false } {
  if (process.env.CI) return { skip: false };
  const home = mkdtempSync(join(tmpdir(), 'vreg-test-'));
  const skip = mount(home, 'size=1m') ?? false;
  if (skip === false) spawnSync('umount', [home]);
  rmSync(home, { recursive: true });
  return { skip };
}

/** Mounts a small disk. @returns its folder */
export function smallDisk(t: TestContext, megabytes = 4): string {
  const home = mkdtempSync(join(tmpdir(), 'vreg-test-'));
  t.after(() => {
    // Lazily, because the daemon may still be running.
    spawnSync('umount', ['-l', home]);
    rmSync(home, { recursive: true });
  });
  assert.equal(mount(home, `size=${megabytes}m`), undefined);
  return home;
}

/** Makes a small disk read-only or writable. No process may have one of its files open for writing. */
export function remount(home: string, how: 'ro' | 'rw'): void {
  const { status, stderr } = spawnSync('mount', ['-o', `remount,${how}`, home]);
  assert.equal(status, 0, String(stderr));
}

/** Fills the disk of a folder to the last byte. @returns a function that frees the space */
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
