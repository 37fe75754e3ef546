/**
 * Randomness that no snapshot repeats. A program's own random pool is copied with its VM, so two clones draw the same
 * numbers from it; the kernel's is seeded anew when a VM is cloned (Firecracker, docs/snapshotting/random-for-clones.md).
 */
import { closeSync, openSync, readSync } from 'node:fs';

/** @returns so many bytes, read from the kernel at this moment, in hex */
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
