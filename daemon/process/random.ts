/**
 * Random numbers that a VM snapshot does not repeat. A process's own random pool is copied with its VM, so two clones
 * draw the same numbers from it; the kernel reseeds its pool when a VM is cloned (Firecracker,
 * docs/snapshotting/random-for-clones.md).
 */
import { closeSync, openSync, readSync } from 'node:fs';

/** @returns the given number of random bytes in hex, read from the kernel at this moment */
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
