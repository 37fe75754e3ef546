import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { bashReply, readBashLine } from '../../src/completion/bash.ts';

/** The default of an interactive bash. */
const BREAKS = ' \t\n"\'@><=;|&(:';

const LINES: readonly (readonly [line: string, words: string[], kept: number])[] = [
  ['vreg ', [''], 0],
  ['vreg get a', ['get', 'a'], 0],
  ['vreg  get\ta ', ['get', 'a', ''], 0],
  ['vreg get a:b:c', ['get', 'a:b:c'], 4],
  ['vreg get a\\:b', ['get', 'a:b'], 0],
  ['vreg ls --role=wo', ['ls', '--role=wo'], 7],
  ['vreg get a@b', ['get', 'a@b'], 1],
  ['vreg get a\\ b', ['get', 'a b'], 0],
  ['vreg get "a b:c', ['get', 'a b:c'], 0],
  ['vreg get a:"b:c', ['get', 'a:b:c'], 2],
  ["vreg get 'a\\b", ['get', 'a\\b'], 0],
  ['vreg get "a\\"b\\c', ['get', 'a"b\\c'], 0],
  ['vreg get "a:b"c', ['get', 'a:bc'], 0],
  ['vreg get "" ', ['get', '', ''], 0],
  ['vreg get ""', ['get', ''], 0],
  ['vreg get a\\', ['get', 'a'], 0],
  ['vreg ls; vreg get a', ['get', 'a'], 0],
  ['vreg ls | vreg get ', ['get', ''], 0],
  ['vreg ls 2>/dev/null -o js', ['ls', '-o', 'js'], 0],
  ['vreg ls 2>&1 -o js', ['ls', '-o', 'js'], 0],
  ['vreg ls >file ', ['ls', ''], 0],
  ['vreg ls --token-file <(cat "x") -', ['ls', '--token-file', '<(cat "x")', '-'], 0],
  ['vreg get $(vreg ls -q | head -1) ', ['get', '$(vreg ls -q | head -1)', ''], 0],
];

for (const [line, words, kept] of LINES) {
  test(`the line ${JSON.stringify(line)} is split as bash does`, () => {
    const found = readBashLine(line, BREAKS);
    assert.deepEqual([found.words, found.kept, found.isRedirection], [words, kept, false]);
  });
}

test('the word after a redirection is a file', () => {
  for (const line of ['vreg ls > fi', 'vreg ls >>fi', 'vreg ls 2> fi', 'vreg register -f - < '])
    assert.equal(readBashLine(line, BREAKS).isRedirection, true, line);
});

/** The lines of COMPREPLY for candidates at the end of a line. */
function replyTo(line: string, values: readonly string[], prefix = ''): string[] {
  const candidates = values.map((value) => ({ value, about: '' }));
  const reply = bashReply({ kind: 'values', prefix, candidates }, readBashLine(line, BREAKS), LIST);
  return reply.split('\n').slice(1, -1);
}

const LIST = { showsAbout: false, columns: 80 };

test('candidates contain only what readline replaces', () => {
  assert.deepEqual(replyTo('vreg get a:b', ['a:b:c']), ['b:c']);
  assert.deepEqual(replyTo('vreg ls --role=wo', ['worker'], '--role='), ['worker']);
  assert.deepEqual(replyTo('vreg get "a:b', ['a:b:c']), ['a:b:c']);
  assert.deepEqual(replyTo('vreg get a@b', ['a@bc']), ['@bc']);
});

test('candidates are quoted for the place at the cursor', () => {
  const value = 'a $(x)`"\'\\!é';
  assert.deepEqual(replyTo('vreg get ', [value]), ['a\\ \\$\\(x\\)\\`\\"\\\'\\\\\\!é']);
  assert.deepEqual(replyTo('vreg get "', [value]), ['a \\$(x)\\`\\"\'\\\\"\\!"é']);
  assert.deepEqual(replyTo("vreg get '", [value]), ["a $(x)`\"'\\''\\!é"]);
});

/** The word after readline has inserted the only candidate, as insert_match and append_to_match in its complete.c do. */
function inserted(quote: string, candidate: string): string {
  if (quote === '') return candidate;
  return `${candidate.startsWith(quote) ? '' : quote}${candidate}${candidate.endsWith(quote) ? '' : quote}`;
}

test('a quoted candidate is read as the candidate, whatever characters it contains', () => {
  const text = fc.string({ unit: 'grapheme', minLength: 1 }).filter((value) => !/[\u0000-\u001f]/.test(value));
  const quote = fc.constantFrom('', '"', "'");
  fc.assert(
    fc.property(text, quote, (value, open) => {
      const [candidate] = replyTo(`vreg get ${open}`, [value]);
      assert.deepEqual(readBashLine(`vreg get ${inserted(open, candidate!)} `, BREAKS).words, ['get', value, '']);
    }),
  );
});

test('a line of any form is split without an error', () => {
  fc.assert(
    fc.property(fc.string({ unit: fc.constantFrom(...'ab \\"\'$(<>;|&`=:@') }), (text) => {
      const { words, kept } = readBashLine(`vreg ${text}`, BREAKS);
      assert.ok(words.length > 0 && kept <= words.at(-1)!.length);
    }),
  );
});

test('descriptions follow listed candidates within the width of the terminal', () => {
  const candidates = [
    { value: 'a', about: 'short' },
    { value: 'bcd', about: 'x'.repeat(100) },
  ];
  const line = readBashLine('vreg ', BREAKS);
  const list = (columns: number) =>
    bashReply({ kind: 'values', prefix: '', candidates }, line, { showsAbout: true, columns }).split('\n');
  const [, first, second] = list(40);
  assert.equal(first, 'a    (short)');
  assert.equal(second, `bcd  (${'x'.repeat(31)}…)`);
  assert.ok(second!.length < 40);
  assert.deepEqual(list(10), ['values', 'a', 'bcd', '']);
});

test('a file after a part of the word that readline replaces is completed with that part', () => {
  const line = readBashLine('vreg ls --ca-file=./c', ' \t\n');
  const files = { kind: 'files', prefix: '--ca-file=', candidates: [] } as const;
  assert.equal(bashReply(files, line, LIST), 'prefixed-files\n--ca-file=\n./c\n');
  assert.equal(bashReply(files, readBashLine('vreg ls --ca-file=./c', BREAKS), LIST), 'files\n');
});
