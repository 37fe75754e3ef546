/** Fills a registry with the entries that cost most memory until it refuses more: it keeps serving, and starts again. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { startDaemon } from '../helpers/daemon.ts';
import { call, errorOf } from '../helpers/http.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

/** Megabytes of heap: few, so that it fills up soon. */
const HEAP = 256;

/** A megabyte of JSON of each kind that differs in memory: wide and nested values when parsed, and two bytes per character. */
const SHAPES: Readonly<Record<string, unknown>> = {
  'many small keys': Object.fromEntries(Array.from({ length: 90_000 }, (_, n) => [n.toString(36), 1])),
  'arrays with an object': Array.from({ length: 180_000 }, () => [{}]),
  'text beyond Latin-1': '\u20ac'.repeat(300_000),
};

/** Reads a list without parsing it, because its entries take several times as much memory when they are parsed. */
async function countVms(url: string): Promise<number> {
  const { body } = await fetch(`${url}/registry/vms`);
  let end = Buffer.alloc(0);
  for await (const chunk of body!) end = Buffer.concat([end, chunk]).subarray(-30);
  return Number(/"count":(\d+)}$/.exec(end.toString())?.[1]);
}

for (const [shape, made] of Object.entries(SHAPES))
  test(`a registry filled with ${shape} refuses more before its memory is full, and serves everything`, async (t) => {
    const options = { env: { NODE_OPTIONS: `--max-old-space-size=${HEAP}` } };
    const daemon = await startDaemon(t, options);
    const metadata = { made };
    const register = (id: string) => call(daemon.url, 'POST', '/registry/vms', { body: aVm({ id, metadata }) });
    let accepted = 0;
    let last = await register('vm-0');
    for (; last.status === 201; last = await register(`vm-${accepted}`)) accepted++;
    assert.equal(last.status, 429);
    assert.match(errorOf(last), /^the registry is full \(limit [\d.]+ [MG]iB of entries\)$/);
    assert.ok(accepted >= 5, `${accepted} entries were accepted`);
    // Ten concurrent responses, each a large part of the heap.
    const counts = await Promise.all(Array.from({ length: 10 }, () => countVms(daemon.url)));
    for (const count of counts) assert.equal(count, accepted);
    const before = await call(daemon.url, 'PATCH', '/registry/vms/vm-0', { body: { status: 'stopped' } });
    assert.equal(before.status, 200);
    assert.equal((await call(daemon.url, 'DELETE', '/registry/vms/vm-1')).status, 200);
    assert.equal((await register('vm-new')).status, 201);
    await daemon.end();
    const again = await startDaemon(t, { ...options, home: daemon.home });
    assert.equal(await countVms(again.url), accepted);
  });

test('concurrent long histories are sent completely from a small heap', async (t) => {
  const { url } = await startDaemon(t, { env: { NODE_OPTIONS: `--max-old-space-size=${HEAP}` } });
  await call(url, 'POST', '/registry/vms', { body: aVm() });
  // The most that the journal retains of one change, about 20 KB.
  const change = (n: number) => {
    const pad = String(n % 10).repeat(4000);
    return {
      name: pad.slice(0, 1000),
      address: pad.slice(0, 1000),
      services: [{ name: 'a', port: 1, pad }],
      metadata: { pad },
    };
  };
  // Eight responses together are several times as large as the heap.
  const CHANGES = 2500;
  for (let n = 0; n < CHANGES; n += 50) {
    const answers = Array.from({ length: 50 }, (_, k) =>
      call(url, 'PATCH', '/registry/vms/vm-1', { body: change(n + k) }),
    );
    for (const { status } of await Promise.all(answers)) assert.equal(status, 200);
  }
  const read = async () => {
    const answer = await fetch(`${url}/registry/vms/vm-1/history?limit=10000`);
    let length = 0;
    let end = Buffer.alloc(0);
    for await (const chunk of answer.body!) {
      length += chunk.length;
      end = Buffer.from(chunk.subarray(-20));
    }
    assert.ok(end.toString().endsWith(`"count":${CHANGES + 1}}`));
    return length;
  };
  const lengths = await Promise.all(Array.from({ length: 8 }, read));
  assert.equal(new Set(lengths).size, 1);
  assert.ok(lengths[0]! > 40_000_000, `${lengths[0]} bytes`);
});

test('one backup is made and two are sent at a time; others are refused, and succeed later', async (t) => {
  const { url } = await startDaemon(t);
  const metadata = { pad: 'x'.repeat(1_000_000) };
  for (let n = 0; n < 20; n++) await call(url, 'POST', '/registry/vms', { body: aVm({ id: `vm-${n}`, metadata }) });
  const backup = async () => {
    const answer = await fetch(`${url}/registry/backup`);
    await answer.arrayBuffer();
    return answer.status;
  };
  const statuses = await Promise.all(Array.from({ length: 12 }, backup));
  assert.ok(statuses.includes(200));
  const refused = statuses.filter((status) => status !== 200);
  assert.ok(refused.length > 0 && refused.every((status) => status === 429 || status === 503), String(statuses));
  assert.equal(await backup(), 200);
  // A backup whose client disconnects before it is complete does not count any more.
  for (let n = 0; n < 6; n++) {
    const controller = new AbortController();
    const asked = fetch(`${url}/registry/backup`, { signal: controller.signal });
    setImmediate(() => controller.abort());
    // A refusal may arrive before the abort.
    const status = await asked.then(
      ({ status }) => status,
      () => 'gone',
    );
    assert.notEqual(status, 200);
  }
  await until('a backup to succeed', async () => (await backup()) === 200);
});
