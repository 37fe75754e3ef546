import assert from 'node:assert/strict';
import { appendFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { watchGrowth } from '../../../daemon/store/file-growth.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { until } from '../../helpers/until.ts';

/** Milliseconds. */
const INTERVAL = 2;

test('each growth of a file is reported once, from its creation until the end', async (t) => {
  const file = join(tempDir(t), 'copy');
  const end = new AbortController();
  let growths = 0;
  const watched = watchGrowth(file, () => growths++, end.signal, INTERVAL);
  await setTimeout(5 * INTERVAL);
  assert.equal(growths, 0, 'there is no file yet');
  for (const expected of [1, 2]) {
    appendFileSync(file, 'x');
    await until('the growth to be reported', () => growths === expected);
    await setTimeout(5 * INTERVAL);
    assert.equal(growths, expected, 'the file has not grown since');
  }
  end.abort();
  await watched;
  appendFileSync(file, 'x');
  await setTimeout(5 * INTERVAL);
  assert.equal(growths, 2);
});
