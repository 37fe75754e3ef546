import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { Interrupted } from '../../src/exit.ts';
import type { StreamEvent } from '../../src/protocol/events.ts';
import { serveApp } from '../helpers/app.ts';
import { type RunningCommand, seed, start, type VregOptions, vreg } from '../helpers/cli.ts';
import { startDaemon, tempDir } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { runVreg, startVreg } from '../helpers/running.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const AT = '2026-01-01T00:00:00.000Z';
const TITLES = 'WHEN\tEVENT\tID\tROLE\tSTATUS\tADDRESS\tPOSITION\n';

interface Watching extends RunningCommand {
  /** Interrupts the command. @returns its exit code */
  end(): Promise<number>;
}

function watch(t: TestContext, argv: readonly string[], options: VregOptions): Watching {
  const controller = new AbortController();
  const running = start(['watch', ...argv], { ...options, signal: controller.signal });
  const end = async () => {
    controller.abort(new Interrupted('SIGINT'));
    return (await running.result).code;
  };
  t.after(end);
  return { ...running, end };
}

/** Watches from the first revision until the output contains `last`. @returns the output */
async function watched(t: TestContext, argv: readonly string[], options: VregOptions, last: string): Promise<string> {
  const watching = watch(t, ['--since', 'start', ...argv], options);
  await until(last, () => watching.stdout().includes(last));
  await watching.end();
  return watching.stdout();
}

async function change(url: string, id: string, body: object): Promise<void> {
  assert.equal((await call(url, 'PATCH', `/registry/vms/${id}`, { body })).status, 200);
}

test('watch prints one header and a row per event, and exits with 130 on Ctrl-C', async (t) => {
  const { url, clock, store } = await serveApp(t);
  await seed(url, [aVm({ id: 'a', address: '10.0.0.1' })]);
  const watching = watch(t, ['--since', 'start'], { url });
  await until('the state', () => watching.stdout().includes('\ta\t'));
  clock.pass(1000);
  await change(url, 'a', { status: 'paused' });
  await change(url, 'a', { address: '10.0.0.2' });
  await call(url, 'DELETE', '/registry/vms/a');
  await until('the end of a', () => watching.stdout().includes('deregistered'));
  assert.equal(await watching.end(), 130);
  const later = '2026-01-01T00:00:01.000Z';
  assert.equal(
    watching.stdout(),
    `${TITLES}${AT}\tregistered\ta\tworker\trunning\t10.0.0.1\t${store.positionAt(1)}\n${later}\tstatus\ta\tworker\tpaused\t10.0.0.1\t${store.positionAt(2)}\n${later}\tupdated\ta\tworker\tpaused\t10.0.0.2\t${store.positionAt(3)}\n${later}\tderegistered\ta\tworker\tpaused\t10.0.0.2\t${store.positionAt(4)}\n`,
  );
  assert.equal(watching.stderr(), '');
});

for (const kind of ['vreg', 'original'] as const) {
  test(`watch accepts several roles and statuses on the ${kind} registry`, async (t) => {
    const { url } = await (kind === 'vreg' ? serveApp(t) : startPlainServer(t));
    await seed(url, [
      aVm({ id: 'g', role: 'golden' }),
      aVm({ id: 'i', role: 'infra' }),
      aVm({ id: 'p', status: 'paused' }),
      aVm({ id: 'w' }),
    ]);
    assert.equal(await watched(t, ['infra,worker', '-q'], { url }, 'w\n'), 'i\np\nw\n');
    assert.equal(await watched(t, ['worker', '--status', 'stopped,running', '-q'], { url }, 'w\n'), 'w\n');
  });
}

test('--no-headers omits the column titles, and -q prints ids', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' }), aVm({ id: 'b' })]);
  const rows = await watched(t, ['--no-headers'], { url }, '\tb\t');
  assert.match(rows, /^\S+\tregistered\ta\t.*\n\S+\tregistered\tb\t.*\n$/);
  assert.equal(await watched(t, ['-q'], { url }, 'b\n'), 'a\nb\n');
});

for (const [width, id, line] of [
  [
    80,
    '3f2a9c1e-7b4d-4c2a-9f6e-0123456789ab',
    /^3m ago +status +3f2a9c1e-7b4d-4c2a-9f6… {3}status: running → paused$/m,
  ],
  [60, '3f2a9c1e-7b4d-4c2a-9f6e-0123456789ab', /^status +3f2a9c1e-7b4d-4c2a-9f6… {3}status: runnin…$/m],
  [40, 'vm-1', /^status +vm-1 {3}status: runni…$/m],
] as const) {
  test(`watch shows what changed on a terminal of ${width} columns with the id ${id}`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, [aVm({ id })]);
    const watching = watch(t, ['--since', 'start'], { url, tty: true, width, env: { NO_COLOR: '1' } });
    await until('the state', () => watching.stdout().split('\n').length >= 3);
    await change(url, id, { status: 'paused' });
    await until('the change', () => watching.stdout().split('\n').length >= 4);
    assert.match(watching.stdout(), line);
    assert.match(watching.stdout(), /EVENT .* CHANGES .*…$/m);
    for (const text of watching.stdout().split('\n')) assert.ok(text.length <= width, text);
  });
}

test('on a terminal an event has its age and what changed, and no line is wider than the terminal', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a', name: 'one' })]);
  for (const [width, ends] of [
    [200, /^3m ago +registered +a +worker +running +vm-1\.vm\.vers\.sh +name: one, role: worker, status: running$/m],
    [80, /^3m ago +registered +a +name: one, role: worker/m],
    [30, /^status +a$/m],
  ] as const) {
    const options = { url, tty: true, width, env: { NO_COLOR: '1' } };
    const watching = watch(t, ['--since', 'start'], options);
    await until('the state', () => watching.stdout().split('\n').length >= 3);
    await change(url, 'a', { status: 'paused' });
    await change(url, 'a', { status: 'running', name: 'two', metadata: { long: 'x'.repeat(200) } });
    await change(url, 'a', { name: 'one' });
    await until('the changes', () => watching.stdout().split('\n').length >= 6);
    const text = watching.stdout();
    assert.match(text, ends);
    if (width >= 80) {
      assert.match(text, /status +a .*status: running → paused/);
      assert.match(text, /name: two → one/);
      assert.match(text, / CHANGES/);
    }
    for (const line of text.split('\n')) assert.ok(line.length <= width, line);
    assert.doesNotMatch(text, /\d{4}-\d\d-\d\dT/);
    await watching.end();
    await change(url, 'a', { metadata: null });
  }
});

test('on a terminal the columns of all events are aligned', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' }), aVm({ id: 'longer-than-a', role: 'lieutenant' })]);
  const options = { url, tty: true, env: { NO_COLOR: '1' } };
  const lines = (await watched(t, [], options, 'longer')).trimEnd().split('\n');
  const columns = lines.map((line) => line.search(/ADDRESS|vm-1\.vm/));
  assert.equal(lines.length, 3);
  assert.deepEqual(new Set(columns), new Set([columns[0]]));
});

for (const format of ['ndjson', 'json']) {
  test(`-o ${format} prints one event per line, as in the stream`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, [aVm({ id: 'a' })]);
    const text = await watched(t, ['-o', format], { url }, '"registered"');
    const events = text
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as StreamEvent);
    assert.deepEqual(
      events.map(({ type }) => type),
      ['reset', 'registered'],
    );
    const [, event] = events as [StreamEvent, { revision: number; vm: { id: string } }];
    assert.deepEqual([event.revision, event.vm.id], [1, 'a']);
  });
}

test('an expression is evaluated for each event', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' })]);
  assert.equal(
    await watched(t, ['-o', 'jsonpath={.type} {.vm.id}\\n'], { url }, 'registered'),
    'reset \nregistered a\n',
  );
});

const FILTERS: readonly [argv: readonly string[], ids: string][] = [
  [['infra'], 'i\n'],
  [['--id', 'w'], 'w\n'],
  [['--status', 'paused'], 'p\n'],
];

for (const [argv, ids] of FILTERS) {
  test(`watch ${argv.join(' ')} prints matching events only`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, [
      aVm({ id: 'i', role: 'infra' }),
      aVm({ id: 'w' }),
      aVm({ id: 'p', role: 'golden', status: 'paused' }),
    ]);
    assert.equal(await watched(t, [...argv, '-q'], { url }, ids), ids);
  });
}

test('without --since only new events are printed; with a position, also those after it', async (t) => {
  const { url, store } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' }), aVm({ id: 'b' })]);
  const fresh = watch(t, ['-q', '-v'], { url });
  await until('the stream', () => fresh.stderr().includes('/registry/events 200'));
  const after = watch(t, ['-q', '--since', store.positionAt(1)], { url });
  await until('b', () => after.stdout() === 'b\n');
  await seed(url, [aVm({ id: 'c' })]);
  await until('c', () => fresh.stdout() === 'c\n' && after.stdout() === 'b\nc\n');
});

test('--heartbeats also prints heartbeats', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' })]);
  const watching = watch(t, ['--heartbeats', '--no-headers'], { url });
  await until('a heartbeat', async () => {
    await call(url, 'POST', '/registry/vms/a/heartbeat');
    return watching.stdout() !== '';
  });
  assert.match(watching.stdout(), /^2026-01-01T00:00:00\.000Z\theartbeat\ta\t\t\t\t\n/);
});

test('an address that is none is not printed as text', async (t) => {
  const { url, vms } = await startPlainServer(t);
  await seed(url, [aVm({ id: 'a' })]);
  vms.get('a')!.address = 'x\ty\nz\u001b[2J';
  const text = await watched(t, ['--no-headers'], { url }, '\ta\t');
  assert.match(text, /^\S+\tregistered\ta\tworker\trunning\t-\t\n$/);
});

const REFUSED: readonly [argv: readonly string[], message: RegExp][] = [
  [['wroker'], /^vreg: invalid role "wroker"; did you mean "worker"\?\nhint: one of: infra, /],
  [['worker', 'cat'], /^vreg: unexpected argument "cat"\nhint: .* -- cat\n$/],
  [['--since', 'soon'], /^vreg: invalid --since "soon"\nhint: use "start" or a position from vreg history/],
  [['--status', 'on'], /^vreg: invalid --status "on"\nhint: one of: running, /],
];

for (const [argv, message] of REFUSED) {
  test(`watch ${argv.join(' ')} exits with 5`, async () => {
    const result = await vreg(['watch', ...argv]);
    assert.deepEqual([result.code, result.stdout], [5, '']);
    assert.match(result.stderr, message);
  });
}

test('an unreachable registry at the start exits with 8', async () => {
  const result = await vreg(['watch']);
  assert.equal(result.code, 8);
  assert.match(result.stderr, /^vreg: cannot reach the registry at .*\nhint: /);
});

test('a command runs for each event in turn, with the event on its stdin and in its environment', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a', name: 'one' }), aVm({ id: 'b', role: 'infra', address: '10.0.0.2' })]);
  const script = 'echo "$VREG_EVENT $VREG_REVISION $VREG_VM_ID $VREG_VM_ROLE $VREG_VM_STATUS $VREG_VM_ADDRESS"; cat';
  const running = startVreg(t, ['watch', '--since', 'start', '--', 'sh', '-c', script], { url });
  await until('both', () => running.stdout().trimEnd().split('\n').length >= 6);
  const lines = running.stdout().trimEnd().split('\n');
  assert.match(lines[0]!, /^reset 2 {4}$/);
  assert.equal(lines[2], 'registered 2 a worker running vm-1.vm.vers.sh');
  assert.equal((JSON.parse(lines[3]!) as { vm: { name: string } }).vm.name, 'one');
  assert.equal(lines[4], 'registered 2 b infra running 10.0.0.2');
  assert.deepEqual(await running.end('SIGINT'), { code: 130, signal: null });
});

test('a failing command is reported, and the next event still runs the command', async (t) => {
  const { url, store } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' }), aVm({ id: 'b' })]);
  const script = 'echo "$VREG_VM_ID"; exit 3';
  const running = startVreg(t, ['watch', 'worker', '--since', store.positionAt(0), '--', 'sh', '-c', script], { url });
  await until('both', () => running.stderr().includes('registered b'));
  assert.equal(running.stdout(), 'a\nb\n');
  assert.equal(running.stderr(), 'vreg: sh exited with 3 for registered a\nvreg: sh exited with 3 for registered b\n');
});

test('a signal ends watch and its running command', async (t) => {
  const { url, store } = await serveApp(t);
  const dir = tempDir(t);
  await seed(url, [aVm({ id: 'a' })]);
  const script = 'trap "echo ended >ended; exit" TERM; echo on; while :; do sleep 0.05; done';
  const running = startVreg(t, ['watch', '--since', store.positionAt(0), '--', 'sh', '-c', script], { url, cwd: dir });
  await until('the command', () => running.stdout() === 'on\n');
  assert.deepEqual(await running.end('SIGTERM'), { code: 143, signal: null });
  assert.equal(readFileSync(join(dir, 'ended'), 'utf8'), 'ended\n');
});

test('watch continues after an outage of the registry without missing an event', async (t) => {
  const first = await startDaemon(t);
  const { headers } = await call(first.url, 'GET', '/registry/whoami');
  const running = startVreg(t, ['watch', '-q', '--since', headers.get('x-vreg-position')!], { url: first.url });
  await seed(first.url, [aVm({ id: 'a' })]);
  await until('a', () => running.stdout() === 'a\n');
  await first.end('SIGKILL');
  await until('that it went', () => running.stderr() !== '');
  const second = await startDaemon(t, { home: first.home, args: ['--port', new URL(first.url).port] });
  await seed(second.url, [aVm({ id: 'b' })]);
  await until('b', () => running.stdout().endsWith('b\n'));
  const [gone, back, ...more] = running.stderr().trimEnd().split('\n');
  assert.match(gone!, /^vreg: .*; retrying$/);
  assert.equal(back, 'vreg: the registry is reachable again');
  assert.deepEqual(
    more.filter((line) => !line.includes('no longer available')),
    [],
  );
  assert.deepEqual(await running.end('SIGINT'), { code: 130, signal: null });
});

test('watch polls the original registry, and -v notes that', async (t) => {
  const { url, vms, requests } = await startPlainServer(t);
  await seed(url, [aVm({ id: 'a' }), aVm({ id: 'b' })]);
  const watching = watch(t, ['-v', '--no-headers'], { url });
  const paused = watch(t, ['--status', 'paused', '--no-headers'], { url });
  const all = watch(t, ['--heartbeats', '--since', 'start', '-q'], { url });
  await until('the first looks', () => requests.filter((line) => line.startsWith('GET /registry/vms')).length >= 3);
  await until('what was there', () => all.stdout() === 'a\nb\n');
  assert.match(watching.stderr(), /vreg: the registry has no event stream; listing every 2 s\n/);
  await change(url, 'a', { status: 'paused' });
  vms.get('b')!.lastSeen = new Date(Date.now() - 400_000).toISOString();
  await seed(url, [aVm({ id: 'c' })]);
  await until('all of it', () => watching.stdout().includes('\tc\t'));
  const events = watching.stdout().trimEnd().split('\n');
  assert.deepEqual(
    events.map((line) => line.split('\t').slice(1, 3).join(' ')),
    ['status a', 'stale b', 'registered c'],
  );
  await until('the pause', () => paused.stdout() !== '');
  assert.match(paused.stdout(), /^\S+\tstatus\ta\t.*\n$/);
  await until('the beat of b', () => all.stdout() === 'a\nb\na\nb\nc\nb\n');
});

test('--since with a position exits with 1 on the original registry', async (t) => {
  const { url } = await startPlainServer(t);
  const result = await vreg(['watch', '--since', '7'], { url });
  assert.deepEqual([result.code, result.stdout], [1, '']);
  assert.match(result.stderr, /^vreg: .* is not a vreg daemon: it has no positions\nhint: omit --since/);
});

test('watch of the original registry continues after an outage', async (t) => {
  const first = await startPlainServer(t);
  const watching = watch(t, ['-q', '--since', 'start'], { url: first.url });
  await seed(first.url, [aVm({ id: 'a' })]);
  await until('a', () => watching.stdout() === 'a\n');
  await first.close();
  await until('that it went', () => watching.stderr().includes('; retrying\n'));
  const second = await startPlainServer(t, { port: first.port });
  await seed(second.url, [aVm({ id: 'a' }), aVm({ id: 'b' })]);
  await until('b', () => watching.stdout().includes('b\n'));
  assert.match(watching.stderr(), /vreg: the registry is reachable again\n$/);
});

test('a command may end watch with a signal', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' })]);
  const { code } = await runVreg(['watch', '--since', '0', '--', 'sh', '-c', 'kill -TERM $PPID'], { url });
  assert.equal(code, 143);
});
