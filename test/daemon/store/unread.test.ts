import assert from 'node:assert/strict';
import { once } from 'node:events';
import { join } from 'node:path';
import test from 'node:test';
import { Worker } from 'node:worker_threads';
import { Unread } from '../../../daemon/store/unread.ts';

const MODULE = join(import.meta.dirname, '../../../daemon/store/unread.ts');
const MESSAGES = 100;

test('a worker sends a few messages in advance, then one for each that is read, and finally all', async (t) => {
  const unread = new Unread();
  const worker = new Worker(
    `const { parentPort, workerData } = require('node:worker_threads');
     require('tsx/cjs/api').register();
     const { Unread } = require(${JSON.stringify(MODULE)});
     const unread = new Unread(workerData);
     for (let n = 0; n < ${MESSAGES}; n++) {
       parentPort.postMessage(n);
       unread.sent();
     }`,
    { eval: true, workerData: unread.shared },
  );
  t.after(() => worker.terminate());
  const received: number[] = [];
  let most = 0;
  worker.on('message', (n: number) => {
    received.push(n);
    most = Math.max(most, new Int32Array(unread.shared)[0]!);
    unread.read();
  });
  await once(worker, 'exit');
  assert.deepEqual(
    received,
    Array.from({ length: MESSAGES }, (_, n) => n),
  );
  assert.ok(most <= 8, `${most} unread messages`);
});
