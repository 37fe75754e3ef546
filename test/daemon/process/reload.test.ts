import assert from 'node:assert/strict';
import test from 'node:test';
import { createReload, type Reloader } from '../../../daemon/process/reload.ts';

function aLog() {
  const lines: string[] = [];
  const say = (_fields: object, message: string) => void lines.push(message);
  return { lines, info: say, error: say };
}

test('one that fails is told, and the others are read again all the same', async () => {
  const log = aLog();
  const told: string[] = [];
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
    { reloading: () => void told.push('reloading'), ready: () => void told.push('ready') },
  );
  await reload();
  assert.deepEqual(log.lines, [
    'cannot read the token file again: it is empty; the old stays in force',
    'read the certificate again',
  ]);
  assert.deepEqual(told, ['reloading', 'ready']);
});

test('a hangup during a reload has it done once more, however many there are; a reloader may come later', async () => {
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
