import assert from 'node:assert/strict';
import test from 'node:test';
import type { OutputFormat } from '../src/config/settings.ts';
import { type Answer, type Column, print } from '../src/render.ts';
import { type TestIoOptions, testIo } from './helpers/io.ts';

const NOW = Date.parse('2026-01-01T00:03:00.000Z');

interface Row {
  id: string;
  amount: number;
  at: string;
  mood: 'good' | 'bad';
}

const COLUMNS: readonly Column<Row>[] = [
  { title: 'ID', cell: ({ id }) => id },
  { title: 'AMOUNT', cell: ({ amount }) => amount },
  { title: 'AT', cell: ({ at }) => ({ time: at }) },
  { title: 'MOOD', wide: true, cell: ({ mood }) => ({ text: mood, color: mood === 'good' ? 'green' : 'red' }) },
];
const ROWS: readonly Row[] = [
  { id: 'a', amount: 1, at: '2026-01-01T00:00:00.000Z', mood: 'good' },
  { id: 'longer', amount: 22, at: '2026-01-01T00:02:59.500Z', mood: 'bad' },
];
const answer: Answer<Row> = { kind: 'rows', rows: ROWS, columns: COLUMNS, name: ({ id }) => id };

async function told(
  what: Answer<Row>,
  format: OutputFormat,
  { headers = true, ...terminal }: TestIoOptions & { headers?: boolean } = {},
): Promise<string> {
  const io = testIo(terminal);
  await print(io, what, { format, headers, now: NOW });
  return io.stdout();
}

test('a table aligns its columns and ends no line with a space', async () => {
  const text = await told(answer, 'table', { tty: true, env: { NO_COLOR: '1' } });
  assert.equal(text, 'ID       AMOUNT   AT\na        1        3m ago\nlonger   22       just now\n');
});

test('a table aligns characters that take two columns', async () => {
  const rows = [{ ...ROWS[0]!, id: '漢字' }, ROWS[0]!];
  const text = await told({ ...answer, rows } as Answer<Row>, 'table', {
    tty: true,
    headers: false,
    env: { NO_COLOR: '1' },
  });
  assert.equal(text, '漢字   1   3m ago\na      1   3m ago\n');
});

test('colour is used only on a terminal, adds no information to the text, and can be forced or disabled', async () => {
  const colored = await told(answer, 'wide', { tty: true });
  assert.match(colored, /\u001b\[32mgood\u001b\[39m/);
  assert.match(colored, /\u001b\[1mID\u001b\[22m/);
  const plain = await told(answer, 'wide', { tty: true, env: { NO_COLOR: '1' } });
  assert.equal(colored.replace(/\u001b\[\d+m/g, ''), plain);
  assert.match(await told(answer, 'table', { env: { FORCE_COLOR: '1' } }), /\u001b\[1mID/);
  assert.doesNotMatch(await told(answer, 'tsv', { env: { FORCE_COLOR: '1' } }), /\u001b/);
});

test('wide adds columns: a table on a terminal, TSV in a pipe', async () => {
  const [head] = (await told(answer, 'wide', { tty: true, env: { NO_COLOR: '1' } })).split('\n');
  assert.equal(head, 'ID       AMOUNT   AT         MOOD');
  assert.equal(
    await told(answer, 'wide'),
    'ID\tAMOUNT\tAT\tMOOD\na\t1\t2026-01-01T00:00:00.000Z\tgood\nlonger\t22\t2026-01-01T00:02:59.500Z\tbad\n',
  );
});

test('TSV has RFC 3339 times on a terminal and in a pipe', async () => {
  for (const tty of [true, false]) {
    assert.equal((await told(answer, 'tsv', { tty, headers: false })).split('\n')[0], 'a\t1\t2026-01-01T00:00:00.000Z');
  }
});

test('rows that continue a list have no column titles', async () => {
  assert.equal(await told({ ...answer, continued: true }, 'name'), 'a\nlonger\n');
  assert.ok((await told({ ...answer, continued: true }, 'tsv')).startsWith('a\t1\t'));
});

test('in JSON a single item is an object, and a list is an array, even with one item or none', async () => {
  assert.deepEqual(JSON.parse(await told({ ...answer, rows: ROWS.slice(0, 1), single: true }, 'json')), ROWS[0]);
  assert.deepEqual(JSON.parse(await told({ ...answer, rows: ROWS.slice(0, 1) }, 'json')), [ROWS[0]]);
  assert.equal(await told({ ...answer, rows: [] }, 'json'), '[]\n');
});

test('JSON and YAML print the data of a row if there is some', async () => {
  const named: Answer<Row> = { ...answer, data: ({ id }) => ({ id }) };
  assert.equal(await told(named, 'ndjson'), '{"id":"a"}\n{"id":"longer"}\n');
  assert.equal(await told(named, 'yaml'), '- id: a\n- id: longer\n');
});

test('a value is printed as text in tables and TSV, and as data in JSON and YAML', async () => {
  const value: Answer = { kind: 'value', text: 'ten', data: { ten: 10 } };
  for (const format of ['table', 'wide', 'tsv', 'name'] as const) assert.equal(await told(value, format), 'ten\n');
  assert.equal(await told(value, 'json'), '{\n  "ten": 10\n}\n');
  assert.equal(await told(value, 'ndjson'), '{"ten":10}\n');
  assert.equal(await told(value, 'yaml'), 'ten: 10\n');
});

test('an invalid time is printed unchanged, without control characters', async () => {
  const rows = [{ ...ROWS[0]!, at: 'soon\u001b' }];
  assert.equal(
    await told({ ...answer, rows }, 'table', { tty: true, headers: false, env: { NO_COLOR: '1' } }),
    'a   1   soon\ufffd\n',
  );
});

test('an empty list is noted on stderr, on a terminal only', async () => {
  const empty: Answer<Row> = { ...answer, rows: [], none: 'nothing here' };
  const terminal = testIo({ tty: true });
  await print(terminal, empty, { format: 'table', headers: true, now: NOW });
  assert.deepEqual([terminal.stdout(), terminal.stderr()], ['', 'nothing here\n']);
  const pipe = testIo();
  await print(pipe, empty, { format: 'tsv', headers: true, now: NOW });
  assert.deepEqual([pipe.stdout(), pipe.stderr()], ['', '']);
});
