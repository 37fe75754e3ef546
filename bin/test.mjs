/**
 * `npm test`: runs the test files in a few processes instead of one per file, because starting tsx and loading the program
 * takes longer than the tests in most files. Each file can also run alone: `npx tsx --test FILE`.
 *
 *     node bin/test.mjs [FOLDER_OR_FILE...]
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

/** Number of concurrent processes: the tests wait for timers, disks and other programs about two thirds of the time. */
const CONCURRENCY = 3 * availableParallelism();
/** Files per process: enough that start-up does not matter, few enough that the processes finish at about the same time. */
const BATCH_SIZE = 12;
/** Folders that only `npm run test:external`, `npm run test:etcd` and `npm run test:page` run. */
const SEPARATE = ['test/external/', 'test/etcd/', 'test/page/'];

const root = fileURLToPath(new URL('..', import.meta.url));
const given = process.argv.slice(2);

const isFile = (path) => statSync(join(root, path)).isFile();
const filesBelow = (path) =>
  isFile(path) ? [path] : readdirSync(join(root, path), { recursive: true }).map((name) => join(path, name));
const files = (given.length > 0 ? given : ['test'])
  .flatMap(filesBelow)
  .filter(
    (file) => file.endsWith('.test.ts') && (given.length > 0 || !SEPARATE.some((folder) => file.startsWith(folder))),
  )
  .sort();

// Every n-th file goes into the same batch, so that the slow files of one folder are spread over all batches.
const count = Math.ceil(files.length / BATCH_SIZE);
const batches = Array.from({ length: count }, (_, batch) => files.filter((_, index) => index % count === batch));

// Outside node_modules, where newer versions of Node find no tests.
const folder = mkdtempSync(join(tmpdir(), 'vreg-batches-'));
const entries = batches.map((batch, index) => {
  const entry = join(folder, `batch-${index + 1}.mjs`);
  const imports = batch.map((file) => `await import(${JSON.stringify(pathToFileURL(join(root, file)).href)});\n`);
  // The runner ends, and calls each file's `after`, when no test is left, even if another file is still being imported.
  const first = `import { before } from 'node:test';\nlet start;\nconst imported = new Promise((resolve) => (start = resolve));\nbefore(() => imported);\n`;
  writeFileSync(entry, `${first}${imports.join('')}start();\n`);
  return entry;
});
const tsx = join(root, 'node_modules/.bin/tsx');
const child = spawn(tsx, ['--test', `--test-concurrency=${CONCURRENCY}`, ...entries], {
  cwd: root,
  // Some machines export it. It more than doubles the time in which a process of Node starts, and no test needs it.
  env: { ...process.env, NODE_EXTRA_CA_CERTS: undefined },
  stdio: 'inherit',
});
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => child.kill(signal));
child.on('close', (code) => {
  rmSync(folder, { recursive: true, force: true });
  process.exitCode = code ?? 1;
});
