import assert from 'node:assert/strict';
import test from 'node:test';
import { createReload, type Reloader } from '../../../daemon/process/lifecycle.ts';

function aLog() {
  const lines: string[] = [];
  const write = (_fields: object, message: string) => void lines.push(message);
  return { lines, info: write, error: write };
}

test('a reloader that fails is logged and does not prevent the others from running', async () => {
  const log = aLog();
  const notified: string[] = [];
  const reload = createReload(
    [
      {
        what: 'the token file',
        reload: () => {
          throw new Error('it is empty');
        },
      },
      { what: 'the certificate', reload: async () => {} },
    ],
    log,
    { reloading: () => void notified.push('reloading'), ready: () => void notified.push('ready') },
  );
  await reload();
  assert.deepEqual(log.lines, [
    'cannot reload the token file: it is empty; nothing changed',
    'reloaded the certificate',
  ]);
  assert.deepEqual(notified, ['reloading', 'ready']);
});

test('any number of hangups during a reload cause one more reload', async () => {
  let reads = 0;
  const reloaders: Reloader[] = [];
  const reload = createReload(reloaders, aLog());
  reloaders.push({
    what: 'it',
    reload: async () => {
      reads++;
    },
  });
  await Promise.all([reload(), reload(), reload()]);
  assert.equal(reads, 2);
  await reload();
  assert.equal(reads, 3);
});
