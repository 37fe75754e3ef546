/** Tables on terminals of any width. */
import assert from 'node:assert/strict';
import test from 'node:test';
import stringWidth from 'string-width';
import { layoutFor } from '../../src/render/layout.ts';
import { type Column, print, type RowsAnswer } from '../../src/render.ts';
import { testIo } from '../helpers/io.ts';

interface Row {
  id: string;
  name: string;
  note: string;
}

const COLUMNS: readonly Column<Row>[] = [
  { title: 'ID', priority: 2, cell: ({ id }) => id },
  { title: 'NOTE', cell: ({ note }) => note },
  { title: 'NAME', priority: 1, cell: ({ name }) => ({ text: name, color: 'green' }) },
];

async function lines(
  rows: readonly Row[],
  width: number,
  env: NodeJS.ProcessEnv = { NO_COLOR: '1' },
): Promise<string[]> {
  const io = testIo({ tty: true, width, env });
  const answer: RowsAnswer<Row> = { kind: 'rows', rows, columns: COLUMNS, name: ({ id }) => id };
  await print(io, answer, { format: 'table', headers: true, now: 0 });
  return io.stdout().split('\n').slice(0, -1);
}

const ROW: Row = { id: 'vm-1', note: 'a note that is rather long', name: 'the name of a VM' };

test('a table that fits the terminal is not cut', async () => {
  const width = 'vm-1   a note that is rather long   the name of a VM'.length;
  assert.equal((await lines([ROW], width))[1], 'vm-1   a note that is rather long   the name of a VM');
});

test('the least important column shrinks first, and an ellipsis marks what is cut', async () => {
  assert.deepEqual(await lines([ROW], 44), [
    'ID     NOTE                 NAME',
    'vm-1   a note that is ra…   the name of a VM',
  ]);
  assert.equal((await lines([ROW], 30))[1], 'vm-1   a note …   the name of…');
});

test('columns that do not fit are hidden, and an ellipsis after the titles shows it', async () => {
  assert.deepEqual(await lines([ROW], 20), ['ID     NAME        …', 'vm-1   the name…']);
});

test('no line is wider than the terminal, with wide characters, colour and any width', async () => {
  const rows: Row[] = [
    ROW,
    { id: 'x'.repeat(40), name: '漢字'.repeat(12), note: '😀👨‍👩‍👧🇩🇪'.repeat(4) },
    { id: '3f2a9c1e-7b4d-4c2a-9f6e-0123456789ab', name: 'e\u0301'.repeat(40), note: 'ไทย'.repeat(10) },
    { id: '', name: '', note: '\u001b[31mred\u001b[0m'.repeat(3) },
  ];
  for (const env of [{ NO_COLOR: '1' }, {}]) {
    // The widest row takes 130 columns.
    for (let width = 6; width < 140; width++) {
      const shown = await lines(rows, width, env);
      assert.equal(shown.length, 5);
      for (const line of shown) assert.ok(stringWidth(line) <= width, `${stringWidth(line)} > ${width}: ${line}`);
    }
  }
});

test('a short and a long table of the same rows look alike, in any width and with colour', async () => {
  const rows: Row[] = [ROW, { id: '漢字', name: '', note: 'x'.repeat(50) }, { id: 'vm-3', name: 'a', note: 'ไ' }];
  // cli-table3 draws short tables.
  const many = (count: number) => Array.from({ length: count }, (_, index) => rows[index % rows.length]!);
  for (const env of [{ NO_COLOR: '1' }, {}]) {
    for (let width = 6; width < 120; width += 7) {
      const long = await lines(many(300), width, env);
      assert.deepEqual(await lines(many(100), width, env), long.slice(0, 101), String(width));
    }
  }
});

test('an id of the length of a UUID stays complete while other columns can shrink or be hidden', async () => {
  const id = '3f2a9c1e-7b4d-4c2a-9f6e-0123456789ab';
  for (const width of [40, 60, 80]) assert.ok((await lines([{ ...ROW, id }], width))[1]!.startsWith(id));
});

test('a text is cut between characters, and its width includes the ellipsis', async () => {
  for (const [text, width, cut] of [
    ['abcd', 4, 'abcd'],
    ['abcde', 4, 'abc…'],
    ['漢字漢字', 5, '漢字…'],
    ['漢字漢字', 4, '漢…'],
    ['😀😀😀', 4, '😀…'],
    ['e\u0301e\u0301e\u0301', 2, 'e\u0301…'],
    ['abc', 1, '…'],
    ['abc', 0, ''],
  ] as const)
    assert.equal((await layoutFor([text])).cutText(text, width), cut);
});

test('an id is cut in the middle, so that ids with the same start or the same end differ', async () => {
  for (const [text, width, cut] of [
    ['abcdef', 6, 'abcdef'],
    ['abcdefg', 6, 'abc…fg'],
    ['abcdefg', 5, 'ab…fg'],
    ['漢字漢字', 5, '漢…字'],
    ['漢字漢字', 4, '漢…'],
    ['aé😀e\u0301b', 4, 'aé…b'],
    ['abc', 2, 'a…'],
    ['abc', 1, '…'],
    ['abc', 0, ''],
  ] as const)
    assert.equal((await layoutFor([text])).cutText(text, width, 'middle'), cut);
});

for (const format of ['table', 'wide', 'tsv', 'ndjson', 'yaml', 'template={{id}}'] as const) {
  test(`-o ${format} prints many rows in parts, so that the output starts at once`, async () => {
    const rows = Array.from({ length: 2000 }, (_, index): Row => ({ ...ROW, id: `vm-${index}` }));
    const answer: RowsAnswer<Row> = { kind: 'rows', rows, columns: COLUMNS, name: ({ id }) => id };
    for (const tty of [true, false]) {
      const parts: string[] = [];
      const io = { ...testIo({ tty, env: { NO_COLOR: '1' } }), out: (text: string) => void parts.push(text) };
      await print(io, answer, { format, headers: true, now: 0 });
      assert.ok(parts.length >= 20, `${parts.length} parts`);
      for (const part of parts) assert.ok(part.split('vm-').length - 1 <= 100);
      assert.equal(parts.join('').split('vm-').length - 1, 2000);
    }
  });
}
