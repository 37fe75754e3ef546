/** The mechanical part of the style of comments, messages, test names and READMEs. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';

const ROOT = join(import.meta.dirname, '..');

const entries = (folder: string) =>
  readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' }).map((file) => join(folder, file));
const sources = [...['src', 'daemon', 'test'].flatMap(entries), 'bin/build.mjs'].filter(
  (file) => /\.(tsx?|mjs)$/.test(file) && file !== 'test/english.test.ts',
);
const documents = [...['src', 'daemon', 'test'].flatMap(entries), 'README.md', 'CHANGELOG.md'].filter((file) =>
  file.endsWith('.md'),
);

interface Text {
  place: string;
  text: string;
}

/** Comments, each as one line of prose. */
function commentsOf(file: string): Text[] {
  const source = readFileSync(join(ROOT, file), 'utf8');
  const blocks = [...source.matchAll(/\/\*\*?([\s\S]*?)\*\//g)].map(([, text]) => text!.replace(/^\s*\* ?/gm, ' '));
  const lines = [...source.matchAll(/(?:^[ \t]*\/\/ ?.*\n)+/gm)].map(([text]) => text.replace(/^[ \t]*\/\/ ?/gm, ' '));
  return [...blocks, ...lines].map((text) => ({ place: file, text: text.replace(/\s+/g, ' ').trim() }));
}

/** String literals that contain a space: messages, help texts and test names. */
function messagesOf(file: string): Text[] {
  const source = readFileSync(join(ROOT, file), 'utf8').replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '');
  return [...source.matchAll(/'((?:[^'\\\n]|\\.)*)'|"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`/g)]
    .map(([, single, double, template]) => single ?? double ?? template ?? '')
    .filter((text) => text.includes(' '))
    .map((text) => ({ place: file, text }));
}

/** Names of tests. They begin in lower case. */
function testNamesOf(file: string): Text[] {
  const source = readFileSync(join(ROOT, file), 'utf8');
  return [...source.matchAll(/\btest\(\s*(['"`])((?:(?!\1)[^\\]|\\.)*)\1/g)].map(([, , text]) => ({
    place: file,
    text: text!,
  }));
}

function paragraphsOf(file: string): Text[] {
  const prose = readFileSync(join(ROOT, file), 'utf8').replace(/^```[\s\S]*?^```/gm, '');
  return prose.split(/\n\s*\n/).map((text) => ({ place: file, text: text.replace(/\s+/g, ' ').trim() }));
}

/** A sentence that begins with a word to which nothing before it refers. Questions may begin with What and Who. */
const HEADLESS = /(?:^|[.!?:] )(?:\* |- )?((?:Of|What|Who|Whoever|Those|For nobody|With what)\b[^.!?]*[.!?]?)/g;

function headlessSentences({ place, text }: Text): string[] {
  return [...text.matchAll(HEADLESS)]
    .map(([, sentence]) => sentence!)
    .filter((sentence) => !sentence.endsWith('?'))
    .map((sentence) => `${place}: ${sentence.slice(0, 100)}`);
}

/** Phrases that no reader of English expects in a technical text. */
const PRIVATE =
  /is not possible|that is the most|when nothing is said|good for nothing|say yes beforehand|as it is said|says? no word|is told of|shall not hear|is shown this once/;

test('no comment begins with a headless Of, What, Who or Those', () =>
  assert.deepEqual(sources.flatMap(commentsOf).flatMap(headlessSentences), []));

test('no message, help text or test name begins with a headless Of, What, Who or Those', () =>
  assert.deepEqual(sources.flatMap(messagesOf).flatMap(headlessSentences), []));

test('no test name begins with a headless of, what, who, whoever, those or one that', () => {
  const isHeadless = ({ text }: Text) => /^(?:of|what|who|whoever|whose|those|for nobody|one that)\b/i.test(text);
  assert.deepEqual(sources.flatMap(testNamesOf).filter(isHeadless), []);
});

test('no sentence of a README begins with a headless Of, What, Who or Those', () =>
  assert.deepEqual(documents.flatMap(paragraphsOf).flatMap(headlessSentences), []));

test('comments, messages and READMEs use no private phrases', () => {
  const texts = [...sources.flatMap(commentsOf), ...sources.flatMap(messagesOf), ...documents.flatMap(paragraphsOf)];
  assert.deepEqual(
    texts.filter(({ text }) => PRIVATE.test(text)).map(({ place, text }) => `${place}: ${text.slice(0, 160)}`),
    [],
  );
});
