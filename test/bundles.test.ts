/**
 * The bundle of the hot commands, and the modules that each of them loads. They must not grow unnoticed, because each takes time
 * at every start. `UPDATE_BUNDLES=1 npx tsx --test test/bundles.test.ts` records the present state in `bundles.json`.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { serveApp } from './helpers/app.ts';
import { seed } from './helpers/cli.ts';
import { BIN, cleanEnv, run, tempDir } from './helpers/daemon.ts';
import { aVm } from './helpers/vm.ts';

const DIST = join(import.meta.dirname, '../dist');
const RECORD = join(import.meta.dirname, 'bundles.json');
/** By how much sizes and numbers of modules may exceed the record. */
const TOLERANCE = 1.1;

interface Recorded {
  /** Bytes of each bundle that a hot command reads. */
  bytes: Record<string, number>;
  /** By command line: modules of this repository and of libraries, and modules of Node that an empty program does not load. */
  loads: Record<string, { modules: string[]; builtins: string[] }>;
}

const COMMANDS = [
  'addr infra',
  'url infra',
  'discover infra',
  'get vm-1',
  'heartbeat vm-1',
  'ls -o table',
  'health',
  'status',
  'version',
  '--help',
  '__complete zsh addr i',
];

interface Coverage {
  result: readonly {
    url: string;
    functions: readonly { functionName: string; ranges: readonly { count: number }[] }[];
  }[];
}

/** Runs a script of Node and returns what V8 has run (NODE_V8_COVERAGE in Node's documentation). */
async function coverageOf(t: TestContext, args: readonly string[], url = ''): Promise<Coverage['result']> {
  const dir = tempDir(t);
  const env = cleanEnv(dir, { VERS_INFRA_URL: url, NODE_V8_COVERAGE: join(dir, 'coverage') });
  const { code, stderr } = await run(process.execPath, args, { env });
  assert.equal(code, 0, stderr);
  const [file] = readdirSync(join(dir, 'coverage'));
  return (JSON.parse(readFileSync(join(dir, 'coverage', file!), 'utf8')) as Coverage).result;
}

const builtinsOf = (result: Coverage['result']) =>
  result.map(({ url }) => url).filter((url) => /^node:(?!internal\/|_)/.test(url));

/** esbuild puts the modules that are not part of the entry point into functions with their names. */
const modulesOf = (result: Coverage['result']) =>
  result
    .flatMap(({ url, functions }) => (url.endsWith('/dist/hot.cjs') ? functions : []))
    .filter(({ functionName, ranges }) => /^(src|daemon|node_modules)\//.test(functionName) && ranges[0]!.count > 0)
    .map(({ functionName }) => functionName);

async function measure(t: TestContext): Promise<Recorded> {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'vm-1', role: 'infra', address: '10.0.0.1:80' })]);
  const empty = builtinsOf(await coverageOf(t, ['-e', '0']));
  const loads: Recorded['loads'] = {};
  for (const line of COMMANDS) {
    const result = await coverageOf(t, [BIN, ...line.split(' ')], url);
    const builtins = builtinsOf(result).filter((name) => !empty.includes(name));
    loads[line] = { modules: modulesOf(result).sort(), builtins: builtins.sort() };
  }
  const bytes = Object.fromEntries(['boot.cjs', 'hot.cjs'].map((name) => [name, statSync(join(DIST, name)).size]));
  return { bytes, loads };
}

/** The new entries of a list, if the list has grown by more than {@link TOLERANCE}. */
function grown(now: readonly string[], recorded: readonly string[]): string[] {
  return now.length > TOLERANCE * recorded.length ? now.filter((name) => !recorded.includes(name)) : [];
}

test('the bundle of the hot commands, and the modules that they load, have not grown', async (t) => {
  const now = await measure(t);
  if (process.env.UPDATE_BUNDLES) writeFileSync(RECORD, `${JSON.stringify(now, undefined, 2)}\n`);
  const recorded = JSON.parse(readFileSync(RECORD, 'utf8')) as Recorded;
  const larger = Object.entries(now.bytes).filter(([name, bytes]) => bytes > TOLERANCE * recorded.bytes[name]!);
  const loaded = Object.entries(now.loads).map(([line, { modules, builtins }]) => [
    line,
    [...grown(modules, recorded.loads[line]!.modules), ...grown(builtins, recorded.loads[line]!.builtins)],
  ]);
  assert.deepEqual([larger, loaded.filter(([, added]) => added!.length > 0)], [[], []]);
});

test('no hot command loads a library that few of them need', () => {
  const { loads } = JSON.parse(readFileSync(RECORD, 'utf8')) as Recorded;
  const loading = (name: string) =>
    Object.keys(loads).filter((line) => loads[line]!.modules.some((file) => file.startsWith(`node_modules/${name}/`)));
  for (const name of ['undici', 'conf', 'ajv', 'yaml', 'mustache', 'jsonpath-rfc9535', 'string-width'])
    assert.deepEqual(loading(name), [], name);
  for (const name of ['chalk', 'cli-table3']) assert.deepEqual(loading(name), ['ls -o table'], name);
});
