/** The commands that change VMs by id or by flags: pause, resume, stop, rm and update. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { type Result, seed, type VregOptions, vreg } from '../helpers/cli.ts';
import { AS_VREG_CLIENT, call } from '../helpers/http.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { json, stub } from '../helpers/stub.ts';
import { aVm } from '../helpers/vm.ts';

const HOUR = 3_600_000;
const FLEET = [
  aVm({ id: 'w1', metadata: { task: 'billing' } }),
  aVm({ id: 'w2', metadata: { task: 'mail' } }),
  aVm({ id: 'i1', role: 'infra', metadata: { task: 'billing' } }),
  aVm({ id: 'g1', role: 'golden' }),
];
/** The commands with the question that each asks about `VM w1`, and the rest of its arguments. */
const COMMANDS = [
  ['pause', 'Set the status of VM w1 to paused?', []],
  ['resume', 'Set the status of VM w1 to running?', []],
  ['stop', 'Set the status of VM w1 to stopped?', []],
  ['rm', 'Remove VM w1 from the registry?', []],
  ['update', 'Update VM w1?', ['--name', 'n']],
] as const;

async function fleet(t: TestContext) {
  const server = await serveApp(t);
  await seed(server.url, FLEET);
  const run = (argv: string, more: VregOptions = {}): Promise<Result> =>
    vreg(argv.split(' '), { url: server.url, ...more });
  return { ...server, run };
}

for (const [name, question, more] of COMMANDS) {
  test(`${name} selects VMs by role, metadata and --all, and asks with their number`, async (t) => {
    const { run, store } = await fleet(t);
    const args = more.length > 0 ? ` ${more.join(' ')}` : '';
    const before = JSON.stringify([...store.vms.values()]);
    const tail = question.slice(question.indexOf('VM w1') + 5);
    const head = question.slice(0, question.indexOf('VM w1'));
    for (const [flags, vms] of [
      ['--role worker', '2 VMs (w2, w1)'],
      ['-l task=billing', '2 VMs (i1, w1)'],
      ['--role worker -l task=billing', 'VM w1'],
      ['--role infra,golden', '2 VMs (g1, i1)'],
      ['--role infra --role golden', '2 VMs (g1, i1)'],
      ['-l task=billing -l task!=mail', '2 VMs (i1, w1)'],
      ['--all', '4 VMs (g1, i1, w2 and 1 more)'],
    ]) {
      const { code, stdout, stderr } = await run(`${name} ${flags}${args}`, { answers: ['n'] });
      assert.deepEqual([code, stdout, stderr.split('\n')[0]], [7, '', `${head}${vms}${tail} [y/N] n`], flags);
      const unasked = await run(`${name} ${flags}${args}`);
      assert.deepEqual([unasked.code, unasked.stdout], [7, ''], flags);
      assert.match(unasked.stderr, /^vreg: cannot ask for confirmation without a terminal: .*\nhint: pass --yes\n$/);
    }
    assert.equal(JSON.stringify([...store.vms.values()]), before);
    assert.deepEqual(await run(`${name} --role worker,golden${args} -q`, { answers: ['y'] }), {
      code: 0,
      stdout: 'g1\nw2\nw1\n',
      stderr: `${head}3 VMs (g1, w2, w1)${tail} [y/N] y\n`,
    });
    const infra = await run(`${name} --role infra --yes --json${args}`);
    assert.deepEqual([infra.code, infra.stderr], [0, '']);
    assert.equal((JSON.parse(infra.stdout) as unknown[]).length, 1);
  });

  test(`${name} without a match changes nothing and exits with 0`, async (t) => {
    const { run } = await fleet(t);
    const args = more.length > 0 ? ` ${more.join(' ')}` : '';
    assert.deepEqual(await run(`${name} --role custom${args} --json`), { code: 0, stdout: '[]\n', stderr: '' });
    assert.deepEqual(await run(`${name} --role custom${args}`, { tty: true }), {
      code: 0,
      stdout: '',
      stderr: 'no VM matches\n',
    });
  });

  for (const [argv, message] of [
    ['', /^vreg: no VM given\nhint: pass ids, or select VMs with --role, --selector, --stale or --all\n$/],
    ['w1 --role worker', /^vreg: --role cannot be combined with ids\n/],
    ['w1 --all', /^vreg: --all cannot be combined with ids\n/],
    ['w1 --stale', /^vreg: --stale cannot be combined with ids\n/],
    ['--all --role worker', /^vreg: --all cannot be combined with --role\n/],
    ['--role wroker', /^vreg: invalid --role "wroker"; did you mean "worker"\?\nhint: one of: /],
    ['--role worker,ifra', /^vreg: invalid --role "ifra"; did you mean "infra"\?\n/],
    ['--role=', /^vreg: empty value in --role\n/],
    ['--role worker,', /^vreg: empty value in --role\n/],
    ['--selector=', /^vreg: invalid selector "": /],
  ] as const) {
    test(`${name} ${argv} exits with 5 and changes nothing`, async (t) => {
      const { url, store } = await fleet(t);
      const before = JSON.stringify([...store.vms.values()]);
      const { code, stdout, stderr } = await vreg(
        [name, ...argv.split(' ').filter((word) => word !== ''), '--yes', ...more],
        { url },
      );
      assert.deepEqual([code, stdout], [5, '']);
      assert.match(stderr, message);
      assert.equal(JSON.stringify([...store.vms.values()]), before);
    });
  }
}

for (const [name, args] of [
  ['pause', ''],
  ['stop', ''],
  ['resume', ''],
  ['update', ' --name n'],
] as const) {
  test(`${name} with ids asks nothing, and one id prints one entry`, async (t) => {
    const { run } = await fleet(t);
    assert.deepEqual(await run(`${name} w1 i1 -q${args}`), { code: 0, stdout: 'w1\ni1\n', stderr: '' });
    assert.equal((JSON.parse((await run(`${name} w1 --json${args}`)).stdout) as { id: string }).id, 'w1');
  });
}

test('--stale selects stale VMs only, also together with a role', async (t) => {
  const { url, vms } = await startPlainServer(t);
  await seed(url, [...FLEET, aVm({ id: 'p', status: 'paused' })]);
  for (const id of ['w1', 'i1', 'p']) vms.get(id)!.lastSeen = new Date(Date.now() - HOUR).toISOString();
  const run = (argv: string) => vreg(argv.split(' '), { url, now: Date.now });
  assert.equal((await run('pause --stale --role worker -y -q')).stdout, 'w1\n');
  assert.equal((await run('rm --stale --yes -q')).stdout, 'i1\n');
  assert.deepEqual([...vms.keys()], ['w1', 'w2', 'g1', 'p']);
});

test('rm --stale keeps a VM that sends a heartbeat after it was selected', async (t) => {
  const { url, clock, store } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' }), aVm({ id: 'b' })]);
  clock.pass(HOUR);
  let isListed = false;
  // A proxy that sends a heartbeat for `a` after the list request.
  const proxy = await stub(t, async (request, response) => {
    const { status, body, headers } = await call(url, request.method!, request.url!, { headers: AS_VREG_CLIENT });
    const version = headers.get('x-vreg-version');
    if (request.url!.startsWith('/registry/vms?') && !isListed) {
      isListed = true;
      await call(url, 'POST', '/registry/vms/a/heartbeat');
    }
    json(response, status, body, {
      ...(version === null ? {} : { 'x-vreg-version': version }),
      date: new Date(clock.wall).toUTCString(),
    });
  });
  assert.deepEqual(await vreg(['rm', '--stale', '--yes', '-q'], { url: proxy }), {
    code: 0,
    stdout: 'b\n',
    stderr: 'vreg: a is no longer stale and was not changed\n',
  });
  assert.deepEqual([...store.vms.keys()], ['a']);
});

test('ls and prune accept several roles, and ls several statuses', async (t) => {
  const { url, vms } = await startPlainServer(t);
  await seed(url, [...FLEET, aVm({ id: 'p', status: 'paused' }), aVm({ id: 's', status: 'stopped' })]);
  vms.get('w1')!.lastSeen = new Date(Date.now() - HOUR).toISOString();
  const run = async (argv: string) => (await vreg(argv.split(' '), { url, now: Date.now })).stdout;
  assert.equal(await run('ls --role infra,golden -q'), 'g1\ni1\n');
  assert.equal(await run('ls --role infra --role golden --sort id --limit 1 -q'), 'g1\n');
  assert.equal(await run('ls --status paused,stopped -q'), 's\np\n');
  assert.equal(await run('ls --status running,stopped --role worker -q'), 's\nw2\n');
  assert.equal(await run('ls -l task=billing -l task -q'), 'i1\nw1\n');
  assert.equal(await run('prune --older-than 1m --role infra,worker --dry-run -q'), 'w1\n');
});
