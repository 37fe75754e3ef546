import assert from 'node:assert/strict';
import test from 'node:test';
import { Semaphore } from '../../../daemon/limits/semaphore.ts';
import type { VregError } from '../../../src/protocol/errors.ts';

test('a semaphore refuses one more than its limit, and each release frees one place', () => {
  const semaphore = new Semaphore('open streams', 2, { hint: 'retry without wait', retryAfter: 5 });
  const [release] = [semaphore.acquire(), semaphore.acquire()];
  assert.throws(
    () => semaphore.acquire(),
    (error: VregError) => {
      assert.equal(error.message, 'too many open streams (limit 2)');
      assert.deepEqual([error.code, error.hint, error.retryAfter], ['TOO_MANY_REQUESTS', 'retry without wait', 5]);
      return true;
    },
  );
  release!();
  release!();
  semaphore.acquire();
  assert.throws(() => semaphore.acquire(), { code: 'TOO_MANY_REQUESTS' });
});
