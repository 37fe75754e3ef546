import assert from 'node:assert/strict';
import { chmodSync, lstatSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { Interrupted } from '../../src/exit.ts';
import { serveApp } from '../helpers/app.ts';
import { type RunningCommand, seed, start, vreg } from '../helpers/cli.ts';
import { cleanEnv, ENTRY, PROGRAM, run, startDaemon, tempDir } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { startVreg } from '../helpers/running.ts';
import { stub } from '../helpers/stub.ts';
import { vregInTerminal } from '../helpers/terminal.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const UPSTREAM = 'upstream workers {\n{{#worker}}\n  server {{address}}:{{ports.api}};  # {{name}}\n{{/worker}}\n}\n';
const FLEET = [
  aVm({ id: 'b', name: 'b', address: '10.0.0.2', services: [{ name: 'api', port: 82 }] }),
  aVm({ id: 'a', name: 'a', address: '10.0.0.1', services: [{ name: 'api', port: 81 }] }),
  aVm({ id: 'p', status: 'paused', address: '10.0.0.9' }),
  aVm({ id: 'i', role: 'infra' }),
];
const RENDERED = 'upstream workers {\n  server 10.0.0.1:81;  # a\n  server 10.0.0.2:82;  # b\n}\n';

interface Workspace {
  dir: string;
  template: string;
  dest: string;
  read(): string;
  /** Names of all files in the folder, to detect leftover drafts. */
  names(): string[];
}

function workspace(t: TestContext, template = UPSTREAM): Workspace {
  const dir = tempDir(t);
  const at = { template: join(dir, 't.mustache'), dest: join(dir, 'out.conf') };
  writeFileSync(at.template, template);
  return { dir, ...at, read: () => readFileSync(at.dest, 'utf8'), names: () => readdirSync(dir).sort() };
}

test('a template is rendered with the live VMs in a stable order', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  const { template, dest, read, names } = workspace(t);
  assert.deepEqual(await vreg(['render', `${template}:${dest}`], { url }), { code: 0, stdout: '', stderr: '' });
  assert.equal(read(), RENDERED);
  assert.deepEqual(names(), ['out.conf', 't.mustache']);
});

test('a template has live VMs by role, all live VMs, and all entries', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  const text = '{{#infra}}{{id}}{{/infra}}|{{#live}}{{id}}{{/live}}|{{#vms}}{{id}}{{/vms}}|{{^golden}}none{{/golden}}';
  const { template, dest, read } = workspace(t, text);
  assert.equal((await vreg(['render', `${template}:${dest}`, '--once'], { url })).code, 0);
  assert.equal(read(), 'i|abi|abip|none');
});

test('--for escapes each value for a format', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ name: 'b "x" & $(id)' })]);
  for (const [format, expected] of [
    ['shell', `'b "x" & $(id)'`],
    ['json', '"b \\"x\\" \\u0026 $(id)"'],
    ['html', 'b &quot;x&quot; &amp; $(id)'],
  ] as const) {
    const { template, dest, read } = workspace(t, '{{#worker}}{{name}}{{/worker}}');
    const result = await vreg(['render', `${template}:${dest}`, '--for', format], { url });
    assert.deepEqual([result.code, read()], [0, expected]);
  }
});

test('an empty template from a pipe or a terminal keeps the destination', async (t) => {
  const { url } = await serveApp(t);
  const { dir, template, dest, read } = workspace(t);
  writeFileSync(dest, 'before');
  const shell = async (before: string, source: string) => {
    const script = `${before} "$0" "$1" render ${source}:"$2"`;
    return run('bash', ['-c', script, PROGRAM, ...ENTRY, dest], { env: cleanEnv(dir, { VERS_INFRA_URL: url }) });
  };
  for (const [before, source] of [
    ["printf '' |", '/dev/stdin'],
    ['</dev/null', '/dev/fd/0'],
  ] as const) {
    const { code, stderr } = await shell(before, source);
    assert.deepEqual(
      [code, stderr, read()],
      [5, 'vreg: stdin is empty\nhint: did the command before the pipe fail?\n', 'before'],
    );
  }
  const substituted = await shell('', '<(true)');
  assert.equal(substituted.code, 5);
  assert.match(substituted.stderr, /^vreg: \/dev\/fd\/\d+ is empty\n/);
  assert.equal(read(), 'before');
  assert.equal((await shell('printf x |', '/dev/stdin')).code, 0);
  assert.equal(read(), 'x');
  writeFileSync(template, '');
  assert.equal((await vreg(['render', `${template}:${dest}`], { url })).code, 0);
  assert.equal(read(), '');
});

test('an empty template from a terminal exits with 7 and keeps the destination', unless('python3'), async (t) => {
  const { url } = await serveApp(t);
  const { dir, dest, read } = workspace(t);
  writeFileSync(dest, 'before');
  const terminal = await vregInTerminal(t, ['render', `/dev/stdin:${dest}`], { url, home: dir });
  await terminal.shows('end with Ctrl-D');
  terminal.type('\u0004');
  assert.equal(await terminal.ended, 7, terminal.text());
  assert.equal(read(), 'before');
});

test('a value that cannot be written safely is refused with VM and field, and no file is written', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'w', name: '$(id)', metadata: { task: 'a\nb' } })]);
  for (const [text, field, format, reason] of [
    [
      '{{#worker}}{{name}}{{/worker}}',
      'name',
      undefined,
      'has characters other than letters, digits and . _ : / @ + -',
    ],
    ['{{#worker}}{{name}}{{/worker}}', 'name', 'nginx', 'has a "$", which nginx would expand'],
    ['{{#vms}}{{#metadata}}{{task}}{{/metadata}}{{/vms}}', 'task', 'shell', 'has control characters'],
    ['{{worker.0.name}}', 'worker.0.name', 'nginx', 'has a "$", which nginx would expand'],
  ] as const) {
    const good = workspace(t, 'good');
    const bad = workspace(t, text);
    const specs = [good, bad].map(({ template, dest }) => `${template}:${dest}`);
    const result = await vreg(['render', ...specs, ...(format ? ['--for', format] : [])], { url });
    assert.equal(result.code, 5);
    const [first, hint] = result.stderr.split('\n');
    assert.equal(first, `vreg: ${bad.template}: VM "w": the value of ${field} ${reason}`);
    assert.match(hint!, /^hint: .*write \{\{\{…\}\}\} to insert the value without escaping$/);
    assert.deepEqual([good.names(), bad.names()], [['t.mustache'], ['t.mustache']]);
  }
});

test('an entry with a hostile id or address is omitted from all files', async (t) => {
  const { url, registry } = await serveApp(t);
  for (const vm of [
    aVm({ id: '-x' }),
    aVm({ id: 'n', address: 'a;} server { listen 81' }),
    aVm({ id: 'ok', address: 'http://10.0.0.1:80/' }),
  ])
    await registry.register(vm);
  const text = '{{#worker}}{{id}} {{{address}}};{{/worker}}{{#vms}}{{id}}{{/vms}}{{#live}}{{id}}{{/live}}';
  const { template, dest, read } = workspace(t, text);
  const { code, stderr } = await vreg(['render', `${template}:${dest}`], { url });
  assert.deepEqual([code, read()], [0, 'ok 10.0.0.1:80;okok']);
  assert.match(stderr, /VM "-x" is not safe to use in scripts: id cannot begin with "-": .*; it is omitted\n/);
  assert.match(
    stderr,
    /VM "n" is not safe to use in scripts: invalid address "a;} server { listen 81": .*; it is omitted\n/,
  );
});

test('an unchanged file is not written, and its command does not run', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  const { dir, template, dest } = workspace(t);
  const spec = `${template}:${dest}:echo "a:b" >>${dir}/ran`;
  const options = { url };
  assert.match((await vreg(['render', spec, '-v'], options)).stderr, /out\.conf: written\n/);
  const { ino } = statSync(dest);
  assert.match((await vreg(['render', spec, '-v'], options)).stderr, /out\.conf: unchanged\n/);
  assert.equal(statSync(dest).ino, ino);
  assert.equal(readFileSync(join(dir, 'ran'), 'utf8'), 'a:b\n');
  await call(url, 'DELETE', '/registry/vms/a');
  assert.equal((await vreg(['render', spec], options)).code, 0);
  assert.equal(readFileSync(join(dir, 'ran'), 'utf8'), 'a:b\na:b\n');
});

test('render exits with the code of a failing command, and the file is written', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  const { template, dest, read } = workspace(t);
  const result = await vreg(['render', `${template}:${dest}:exit 3`], { url });
  assert.deepEqual([result.code, result.stderr], [3, `vreg: "exit 3" exited with 3; ${dest} was written\n`]);
  assert.equal(read(), RENDERED);
});

for (const mode of [0o600, 0o666, 0o755]) {
  test(`a file keeps its mode ${mode.toString(8)}`, async (t) => {
    const { url } = await serveApp(t);
    const { template, dest, read } = workspace(t, 'new\n');
    writeFileSync(dest, 'old\n');
    chmodSync(dest, mode);
    await vreg(['render', `${template}:${dest}`], { url });
    assert.deepEqual([read(), statSync(dest).mode & 0o777], ['new\n', mode]);
  });
}

test('a symbolic link is kept, and its target is written', async (t) => {
  const { url } = await serveApp(t);
  const { dir, template, dest } = workspace(t, 'new\n');
  writeFileSync(join(dir, 'target'), 'old\n');
  symlinkSync('target', dest);
  await vreg(['render', `${template}:${dest}`], { url });
  assert.ok(lstatSync(dest).isSymbolicLink());
  assert.equal(readFileSync(join(dir, 'target'), 'utf8'), 'new\n');
});

test('two files are rendered from one request', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  const one = workspace(t);
  const two = workspace(t, '{{#infra}}{{id}}{{/infra}}');
  const specs = [one, two].map(({ template, dest }) => `${template}:${dest}`);
  assert.equal((await vreg(['render', ...specs], { url })).code, 0);
  assert.deepEqual([one.read(), two.read()], [RENDERED, 'i']);
});

const KEPT: readonly [name: string, answer: number | undefined, code: number][] = [
  ['is unreachable', undefined, 8],
  ['is warming up', 503, 8],
  ['responds with 500', 500, 1],
];

for (const [name, status, code] of KEPT) {
  test(`a registry that ${name} leaves the file unchanged, and render exits with ${code}`, async (t) => {
    const { template, dest, read, names } = workspace(t);
    writeFileSync(dest, 'old\n');
    const url =
      status &&
      (await stub(t, (_request, response) => {
        response.writeHead(status, { 'content-type': 'application/json' }).end('{"error":"not now"}');
      }));
    const result = await vreg(['render', `${template}:${dest}:echo ran`], url ? { url } : {});
    assert.deepEqual([result.code, result.stdout, read()], [code, '', 'old\n']);
    assert.match(result.stderr, /^vreg: .*\nhint: /);
    assert.deepEqual(names(), ['out.conf', 't.mustache']);
  });
}

test('an invalid template is named, and no file is written', async (t) => {
  const { url } = await serveApp(t);
  const good = workspace(t);
  const bad = workspace(t, '{{#worker}}');
  const specs = [good, bad].map(({ template, dest }) => `${template}:${dest}`);
  const result = await vreg(['render', ...specs], { url });
  assert.equal(result.code, 5);
  assert.equal(
    result.stderr,
    `vreg: ${bad.template}: Unclosed section "worker" at 11\nhint: fix the template; for the syntax, see mustache(5)\n`,
  );
  assert.deepEqual([good.names(), bad.names()], [['t.mustache'], ['t.mustache']]);
});

test('files that cannot be read or written are reported, and no draft remains', async (t) => {
  const { url } = await serveApp(t);
  const { dir, template, names } = workspace(t);
  const none = await vreg(['render', `${dir}/none:${dir}/out`], { url });
  assert.deepEqual(
    [none.code, none.stderr],
    [5, `vreg: cannot read the template ${dir}/none (ENOENT)\nhint: check the path\n`],
  );
  const nowhere = await vreg(['render', `${template}:${dir}/no/out`], { url });
  assert.deepEqual(
    [nowhere.code, nowhere.stderr],
    [5, `vreg: cannot write ${dir}/no/out (ENOENT)\nhint: check its folder and mode\n`],
  );
  assert.equal((await vreg(['render', `${template}:${dir}`], { url })).code, 5);
  assert.deepEqual(names(), ['t.mustache']);
});

for (const [argv, message] of [
  ['render', /^vreg: missing required argument/],
  ['render only', /^vreg: invalid argument "only"\nhint: use TEMPLATE:DEST or TEMPLATE:DEST:CMD, for example /],
  ['render a:', /^vreg: invalid argument "a:"/],
  ['render a:b --for perl', /^vreg: invalid --for "perl"\nhint: one of: shell, nginx, json, html\n/],
  ['render a:b --watch --once', /^vreg: --watch cannot be combined with --once\nhint: /],
] as const) {
  test(`vreg ${argv} exits with 5`, async () => {
    const result = await vreg(argv.split(' '));
    assert.equal(result.code, 5);
    assert.match(result.stderr, message);
  });
}

test('--watch renders after each change, runs the command only if the file changed, and survives an outage', async (t) => {
  const first = await startDaemon(t);
  const { dir, template, dest, read, names } = workspace(t, '{{#worker}}{{id}} {{/worker}}');
  const running = startVreg(t, ['render', `${template}:${dest}:echo $(cat out.conf) >>ran`, '--watch'], {
    url: first.url,
    cwd: dir,
  });
  const ran = () => readFileSync(join(dir, 'ran'), 'utf8');
  await until('the first file', () => names().includes('ran'));
  assert.equal(read(), '');
  await seed(first.url, [aVm({ id: 'a' })]);
  await until('a', () => ran() === '\na\n');
  await seed(first.url, [aVm({ id: 'i', role: 'infra' }), aVm({ id: 'b' })]);
  await until('b', () => ran() === '\na\na b\n');
  await first.end('SIGKILL');
  await until('that it went', () => running.stderr().includes('retrying'));
  assert.equal(read(), 'a b ');
  const second = await startDaemon(t, { home: first.home, args: ['--port', new URL(first.url).port] });
  await call(second.url, 'PATCH', '/registry/vms/a', { body: { status: 'paused' } });
  await until('a to leave', () => ran() === '\na\na b\nb\n');
  assert.deepEqual(await running.end('SIGTERM'), { code: 143, signal: null });
  assert.deepEqual(names(), ['out.conf', 'ran', 't.mustache']);
});

test('a reader never sees a partial file, and no draft remains', async (t) => {
  const { url } = await serveApp(t);
  const { template, dest, read, names } = workspace(t, `{{#worker}}${'x'.repeat(1000)}{{/worker}}end`);
  const running = startVreg(t, ['render', `${template}:${dest}`, '--watch'], { url });
  await until('the first file', () => names().includes('out.conf'));
  for (let count = 0; count < 100; count++) {
    await seed(url, [aVm({ id: `w${count}` })]);
    assert.match(read(), /^(x{1000})*end$/);
  }
  await until('all of them', () => {
    assert.match(read(), /^(x{1000})*end$/);
    return read().length === 100_003;
  });
  await running.end();
  assert.deepEqual(names(), ['out.conf', 't.mustache']);
});

/** Starts a command in this process; it ends with the test. */
function watching(t: TestContext, argv: readonly string[], url: string): RunningCommand & { end(): Promise<number> } {
  const controller = new AbortController();
  const running = start(argv, { url, signal: controller.signal });
  const end = async () => {
    controller.abort(new Interrupted('SIGINT'));
    return (await running.result).code;
  };
  t.after(end);
  return { ...running, end };
}

test('a burst of changes causes few renders', async (t) => {
  const { url } = await serveApp(t);
  const { template, dest, read, names } = workspace(t, '{{#worker}}{{id}} {{/worker}}');
  const started = performance.now();
  const running = watching(t, ['render', `${template}:${dest}`, '--watch', '-v'], url);
  await until('the first file', () => names().includes('out.conf'));
  await seed(
    url,
    Array.from({ length: 200 }, (_, count) => aVm({ id: `w${count}` })),
  );
  await until('all of them', () => read().split(' ').length === 201);
  const renders = running
    .stderr()
    .split('\n')
    .filter((line) => line.includes('GET') && line.includes('/registry/vms'));
  // The changes take a second, or many on a busy machine. Before each render but the first, the command waits for 200 ms.
  const most = 2 + (performance.now() - started) / 200;
  assert.ok(renders.length <= most, `${renders.length} renders, at most ${most}`);
});

test('--watch keeps the file while a value cannot be written safely', async (t) => {
  const { url } = await serveApp(t);
  const { template, dest, read, names } = workspace(t, '{{#worker}}{{name}} {{/worker}}');
  const running = watching(t, ['render', `${template}:${dest}`, '--watch'], url);
  await until('the first file', () => names().includes('out.conf'));
  await seed(url, [aVm({ id: 'w', name: 'a;b' })]);
  await until('the note', () => running.stderr().includes('VM "w": the value of name has characters'));
  assert.match(running.stderr(), /; files remain unchanged\n/);
  await call(url, 'PATCH', '/registry/vms/w', { body: { name: 'ab' } });
  await until('the file', () => read() === 'ab ');
  assert.equal(await running.end(), 130);
});

test('--watch works with the original registry', async (t) => {
  const { url } = await startPlainServer(t);
  const { template, dest, read, names } = workspace(t);
  const running = watching(t, ['render', `${template}:${dest}`, '--watch'], url);
  await until('the first file', () => names().includes('out.conf'));
  await seed(url, FLEET);
  await until('the fleet', () => read() === RENDERED);
  rmSync(dest);
  await call(url, 'DELETE', '/registry/vms/i');
  await until('it to be written again', () => names().includes('out.conf'));
  assert.equal(await running.end(), 130);
});
