/** The READMEs match the sources: generated parts, tables, links and names of files. `test/external/` runs their examples. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import test from 'node:test';
import { ROUTES } from '../daemon/http/routes.ts';
import { createBudgets } from '../daemon/limits/budgets.ts';
import { loadAllCommands } from '../src/commands.ts';
import { fillReadme, flatten, READMES } from '../src/help/docs.ts';
import { manPages } from '../src/help/man.ts';
import { ERRORS } from '../src/protocol/errors.ts';
import { CHANGE_TYPES, OCCURRENCE_TYPES } from '../src/protocol/events.ts';
import { VERSION } from '../src/version.ts';
import {
  anchors,
  blocks,
  executedBlocks,
  filesNamed,
  headings,
  links,
  ROOT,
  readReadme,
  section,
  table,
} from './helpers/readme.ts';

const readme = readReadme();
const ofCommands = readReadme('src/commands/README.md');
const ofHttp = readReadme('daemon/http/README.md');
const ofDaemon = readReadme('daemon/README.md');
const commands = await loadAllCommands();

test('the generated parts of the READMEs are up to date', () => {
  for (const name of READMES) {
    const text = readReadme(name);
    assert.equal(text, fillReadme(text, commands), `${name} is out of date: npm run docs`);
  }
});

test('a generated part without an end, or with an unknown name, is an error', () => {
  const open = '<!-- generated: settings -->\ntext\n<!-- generated: exit codes -->\n<!-- end -->\n';
  assert.throws(() => fillReadme(open, commands), /"settings" needs a line "<!-- end -->"/);
  assert.throws(
    () => fillReadme('<!-- generated: nothing -->\n<!-- end -->\n', commands),
    /no generated part "nothing"/,
  );
});

test('the command reference has a section for each command, with its usage, a description and an example', () => {
  const known = flatten(commands).map(({ path }) => path.join(' '));
  assert.deepEqual(headings(section(ofCommands, '## Commands'), 3).sort(), [...known].sort());
  for (const name of known) {
    const body = section(ofCommands, `### ${name}`);
    assert.ok(body.startsWith(`\n<!-- generated: usage of ${name} -->\n`), name);
    const [, prose] = body.split('<!-- end -->\n');
    assert.ok(prose!.replaceAll(/^```.*?^```$/gms, '').trim().length > 40, `${name} has no description`);
    assert.ok(blocks(body, 'console').length > 0, `${name} has no example`);
  }
});

test('README has the exit codes, and the manual of the daemon has the settings', () => {
  assert.match(section(readme, '## Exit codes'), /^<!-- generated: exit codes -->$/m);
  assert.match(section(ofDaemon, '## Configuration'), /^<!-- generated: settings -->$/m);
});

test('the READMEs name every route of the source', () => {
  const text = readme + ofHttp;
  for (const { method, path } of ROUTES) {
    const shown = path.replaceAll(/:\w+/g, '[^/\\s`"?]+');
    const named = new RegExp(`(?:^|/|\\b)${shown.slice(1)}["\`?\\s]`, 'm');
    assert.match(text, named, `${method} ${path}`);
    if (method !== 'GET') assert.match(text, new RegExp(`\\b${method}\\b[^\\n]*${shown}`), `${method} ${path}`);
  }
});

test('the manual of the API names every event of the source', () => {
  const rows = table(section(ofHttp, '### Follow changes as they happen')).split('\n').slice(2);
  const named = rows.flatMap((row) => [...row.split('|')[1]!.matchAll(/`(\w+)`/g)].map(([, type]) => type));
  const known = [...CHANGE_TYPES, ...OCCURRENCE_TYPES, 'heartbeat', 'reset', 'synced', 'lagged'];
  assert.deepEqual(named.sort(), [...known].sort());
});

test('the manual of the API has every error that the registry sends, with its status and exit code', () => {
  const rows = table(section(ofHttp, '## Errors')).split('\n').slice(2);
  const shown = rows.map((row) =>
    row
      .split('|')
      .slice(1, 4)
      .map((cell) => cell.trim()),
  );
  const known = Object.entries(ERRORS).filter(([, { status }]) => status > 0);
  assert.deepEqual(
    shown,
    known.map(([code, { status, exit }]) => [`\`${code}\``, String(status), String(exit)]),
  );
});

test('the operating manual has every budget of memory with its share of the heap', () => {
  const text = section(ofDaemon, '## Limits');
  const rows = [...text.matchAll(/^\| `(\w+)`: .* \| 1\/(\d+) \|/gm)].map(([, name, part]) => [name, Number(part)]);
  const heap = 2 ** 40;
  const known = Object.values(createBudgets({}, heap)).map(({ name, limit }) => [name, heap / limit]);
  assert.deepEqual(rows, known);
});

test('a test runs every block of shell in the READMEs but those for developers', () => {
  const executed = executedBlocks();
  for (const name of ['README.md', 'daemon/README.md', 'daemon/http/README.md', 'src/commands/README.md'])
    for (const block of blocks(readReadme(name), 'sh')) assert.ok(executed.includes(block), `${name}:\n${block}`);
});

test('each invariant of the replicas is shown by tests that exist', () => {
  const rows = section(readReadme('test/README.md'), '## Invariants of the replicas').match(/^\| \d\. .*$/gm) ?? [];
  assert.equal(rows.length, 8);
  for (const row of rows) {
    const named = [...row.matchAll(/`(test\/[\w/.-]+)`: ("[^"]+"(?:, "[^"]+")*)/g)];
    assert.ok(named.length > 0, row);
    for (const [, file, names] of named) {
      const source = readFileSync(join(ROOT, file!), 'utf8');
      for (const [, name] of names!.matchAll(/"([^"]+)"/g)) assert.ok(source.includes(`'${name}'`), `${file}: ${name}`);
    }
  }
});

for (const name of READMES) {
  test(`the links of ${name} lead somewhere, and the files that it names exist`, () => {
    const text = readReadme(name);
    for (const target of links(text)) {
      if (/^https?:/.test(target)) continue;
      const [path, anchor] = target.split('#');
      const file = path === '' ? name : join(dirname(name), path!);
      assert.ok(existsSync(join(ROOT, file)), target);
      if (anchor !== undefined) assert.ok(anchors(readReadme(file)).includes(anchor), target);
    }
    for (const file of filesNamed(text)) assert.ok(existsSync(join(ROOT, file)), file);
  });
}

test('the package installs the manual page of each command', async () => {
  const { default: manifest } = await import('../package.json', { with: { type: 'json' } });
  const pages = manPages(commands, VERSION).map(({ file }) => `dist/man/${file}`);
  assert.deepEqual(manifest.man, pages.sort());
});
