import assert from 'node:assert/strict';
import test from 'node:test';
import { fitsAtStart, heapTooSmall, storeTooLarge } from '../../../daemon/limits/heap.ts';

const GIB = 1024 ** 3;

test('a heap that is too small for a number of VMs is an error that names the setting and a size that is enough', () => {
  assert.equal(heapTooSmall(1_000_000, 4 * GIB), undefined);
  const error = heapTooSmall(1_000_000, GIB);
  assert.equal(error?.code, 'USAGE');
  assert.match(error.message, /^the heap \(1 GiB\) is too small for 1000000 VMs: it has room for about \d+$/);
  const [, megabytes] = /NODE_OPTIONS=--max-old-space-size=(\d+)$/.exec(error.hint!) ?? [];
  assert.equal(heapTooSmall(1_000_000, Number(megabytes) * 1024 ** 2), undefined);
  assert.ok(heapTooSmall(1_000_000, (Number(megabytes) - 1) * 1024 ** 2));
});

test('stored entries above their limit are a warning, and far above it an error, that names a size that is enough', () => {
  assert.equal(storeTooLarge(GIB / 2, GIB), undefined);
  const error = storeTooLarge(0.7 * GIB, GIB)!;
  assert.deepEqual([fitsAtStart(0.7 * GIB, GIB), fitsAtStart(0.8 * GIB, GIB)], [true, false]);
  assert.equal(error.code, 'STORE_UNUSABLE');
  const [, megabytes] = /NODE_OPTIONS=--max-old-space-size=(\d+)$/.exec(error.hint!) ?? [];
  assert.equal(storeTooLarge(0.7 * GIB, Number(megabytes) * 1024 ** 2), undefined);
  assert.ok(storeTooLarge(0.7 * GIB, (Number(megabytes) - 1) * 1024 ** 2));
});
