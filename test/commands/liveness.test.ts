/** The fields `live` and `ageSeconds` in the output of the commands that read VMs. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { VERSION_HEADER } from '../../src/protocol/api.ts';
import { vreg } from '../helpers/cli.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { json, stub } from '../helpers/stub.ts';
import { aVm } from '../helpers/vm.ts';

/** Liveness by id. */
const STATES = { a: 'live', b: 'suspect', c: 'stale', d: 'paused', e: 'stopped' } as const;

/** A vreg daemon with one VM in each state, all last seen two minutes before its clock. */
function fleet(t: TestContext): Promise<string> {
  const now = Date.parse('2026-03-01T12:00:00.000Z');
  const seen = new Date(now - 120_000).toISOString();
  const vms = [
    { ...aVm({ id: 'a' }), stale: false },
    { ...aVm({ id: 'b' }), stale: false, suspect: true },
    { ...aVm({ id: 'c' }), stale: true },
    { ...aVm({ id: 'd', status: 'paused' }), stale: true },
    { ...aVm({ id: 'e', status: 'stopped' }), stale: false },
  ].map((vm) => ({ ...vm, registeredAt: seen, lastSeen: seen }));
  const headers = { [VERSION_HEADER]: '0.0.0', date: new Date(now).toUTCString() };
  return stub(t, ({ url = '' }, response) => {
    const path = url.split('?')[0]!;
    const one = vms.find(({ id }) => path === `/registry/vms/${id}`);
    const list = path.includes('/discover/') ? vms.slice(0, 2) : vms;
    json(response, 200, one ?? { vms: list, count: list.length }, headers);
  });
}

for (const [command, ids] of [
  ['ls', 'abcde'],
  ['get a b c d e', 'abcde'],
  ['discover worker', 'ab'],
  ['tree', 'edcba'],
] as const) {
  test(`${command} prints liveness and age in every format with data`, async (t) => {
    const url = await fleet(t);
    const read = async (format: string) => {
      const { code, stdout, stderr } = await vreg([...command.split(' '), '-o', format], { url });
      assert.deepEqual([code, stderr], [0, '']);
      return stdout;
    };
    const expected = [...ids].map((id) => [id, STATES[id as 'a'], 120]);
    const fieldsOf = (text: string) =>
      (JSON.parse(text) as Record<string, unknown>[]).map(({ id, live, ageSeconds }) => [id, live, ageSeconds]);
    assert.deepEqual(fieldsOf(await read('json')), expected);
    const lines = (await read('ndjson')).trimEnd().split('\n');
    assert.deepEqual(fieldsOf(`[${lines.join(',')}]`), expected);
    const text = expected.map((fields) => `${fields.join(' ')}\n`).join('');
    assert.equal(await read('template={{id}} {{live}} {{ageSeconds}}\\n'), text);
    assert.equal(await read('jsonpath=$[*].live'), expected.map(([, live]) => `${live}\n`).join(''));
    assert.deepEqual(
      (await read('yaml')).match(/live: \w+\n {2}ageSeconds: 120\n/g)?.map((text) => text.split(/\W+/)[1]),
      expected.map(([, live]) => live),
    );
  });
}

test('get of one VM prints liveness and age in the entry itself', async (t) => {
  const url = await fleet(t);
  assert.equal((await vreg(['get', 'b', '-o', 'jsonpath={.live} {.ageSeconds}'], { url })).stdout, 'suspect 120\n');
  assert.match((await vreg(['get', 'c', '-o', 'yaml'], { url })).stdout, /^live: stale\nageSeconds: 120\n/m);
});

test('the table prints the liveness of running VMs only', async (t) => {
  const url = await fleet(t);
  const { stdout } = await vreg(['ls', '-o', 'tsv', '--no-headers'], { url });
  assert.deepEqual(
    stdout
      .trimEnd()
      .split('\n')
      .map((line) => line.split('\t')[4]),
    ['live', 'suspect', 'stale', '-', '-'],
  );
});

test('with the original registry, liveness follows from status, last sign of life and its clock', async (t) => {
  const { url, vms } = await startPlainServer(t);
  const ago = (seconds: number) => new Date(Date.now() - seconds * 1000).toISOString();
  const add = (id: string, status: string, lastSeen: string) => {
    const vm = { ...aVm({ id }), status, registeredAt: ago(900), lastSeen };
    vms.set(id, vm);
  };
  add('a', 'running', ago(200));
  add('b', 'running', ago(400));
  add('c', 'paused', ago(400));
  add('d', 'running', 'never');
  add('e', 'running', ago(-3600));
  const { stdout } = await vreg(['ls', '--sort', 'id', '-o', 'ndjson'], { url });
  const rows = stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as { live: string; ageSeconds: number | null });
  assert.deepEqual(
    rows.map(({ live }) => live),
    ['live', 'stale', 'paused', 'stale', 'live'],
  );
  const [a, b, , unknown, future] = rows.map(({ ageSeconds }) => ageSeconds);
  assert.ok(Math.abs(a! - 200) < 30 && Math.abs(b! - 400) < 30);
  assert.deepEqual([unknown, future], [null, 0]);
});
