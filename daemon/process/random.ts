/**
 * Random numbers that clones of a VM do not share. The random pool of a process is copied with its VM, so two clones get the
 * same numbers from it. The kernel reseeds its own pool when a VM is cloned (Firecracker,
 * docs/snapshotting/random-for-clones.md).
 */
import { closeSync, openSync, readSync } from 'node:fs';

/** @returns the given number of random bytes in hex, read from the kernel now */
export function kernelRandomHex(bytes: number): string {
  const buffer = Buffer.alloc(bytes);
  const file = openSync('/dev/urandom', 'r');
  try {
    readSync(file, buffer);
  } finally {
    closeSync(file);
  }
  return buffer.toString('hex');
}
