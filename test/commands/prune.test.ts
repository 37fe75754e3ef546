import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { NOW, type Result, seed, type VregOptions, vreg } from '../helpers/cli.ts';
import { AS_VREG_CLIENT, call } from '../helpers/http.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { json, stub } from '../helpers/stub.ts';
import { aVm } from '../helpers/vm.ts';

const HOUR = 3_600_000;

const DEAD = [
  aVm({ id: 'w1', name: 'one' }),
  aVm({ id: 'w2', name: 'two' }),
  aVm({ id: 'i1', name: 'main', role: 'infra' }),
  aVm({ id: 'p', status: 'paused' }),
  aVm({ id: 's', status: 'stopped' }),
];

/** A registry in which the DEAD VMs were last seen two hours ago, and `live` just now. */
async function registry(t: TestContext) {
  const server = await startPlainServer(t);
  await seed(server.url, [...DEAD, aVm({ id: 'live' })]);
  for (const { id } of DEAD) server.vms.get(id)!.lastSeen = new Date(Date.now() - 2 * HOUR).toISOString();
  return { ...server, ids: () => [...server.vms.keys()].join(' ') };
}

function prune(url: string, argv: string, more: VregOptions = {}): Promise<Result> {
  return vreg(['prune', ...argv.split(' ')], { url, now: Date.now, ...more });
}

test('prune removes and prints VMs stale for longer, but no paused or stopped VMs', async (t) => {
  const { url, ids } = await registry(t);
  assert.deepEqual(await prune(url, '--older-than 1h --yes -q'), { code: 0, stdout: 'i1\nw2\nw1\n', stderr: '' });
  assert.equal(ids(), 'p s live');
});

test('--older-than accepts days beyond the range of a timer, and plain seconds', async (t) => {
  const { url, vms } = await registry(t);
  assert.equal((await prune(url, '--older-than 30d --yes -q')).stdout, '');
  vms.get('w1')!.lastSeen = new Date(Date.now() - 31 * 24 * HOUR).toISOString();
  assert.equal((await prune(url, '--older-than 30d --yes -q')).stdout, 'w1\n');
  assert.equal((await prune(url, '--older-than 7300 --role worker --yes -q')).stdout, '');
  assert.equal((await prune(url, '--older-than 7100 --role worker --yes -q')).stdout, 'w2\n');
});

test('--role restricts the removal to one role', async (t) => {
  const { url, ids } = await registry(t);
  assert.equal((await prune(url, '--older-than 1h --role infra -y -q')).stdout, 'i1\n');
  assert.equal(ids(), 'w1 w2 p s live');
});

for (const flag of ['--dry-run', '-n']) {
  test(`${flag} prints the VMs and removes nothing`, async (t) => {
    const { url, ids } = await registry(t);
    assert.deepEqual(await prune(url, `--older-than 1h ${flag} -q`), { code: 0, stdout: 'i1\nw2\nw1\n', stderr: '' });
    assert.equal(ids(), 'w1 w2 i1 p s live');
  });
}

test('a stale VM that was seen more recently is not removed', async (t) => {
  const { url, ids } = await registry(t);
  assert.deepEqual(await prune(url, '--older-than 3h --yes'), { code: 0, stdout: '', stderr: '' });
  assert.equal((await prune(url, '--older-than 3h --yes --json')).stdout, '[]\n');
  assert.equal((await prune(url, '--older-than 3h', { tty: true })).stderr, 'no VM has been stale for more than 3h\n');
  assert.equal(ids(), 'w1 w2 i1 p s live');
});

test('prune asks for confirmation with the count and the first names, and a no removes nothing', async (t) => {
  const { url, ids } = await registry(t);
  const no = await prune(url, '--older-than 1h', { answers: ['n'] });
  assert.deepEqual([no.code, no.stdout], [7, '']);
  assert.equal(
    no.stderr,
    'Remove 3 VMs (main, two, one) from the registry? [y/N] n\nvreg: aborted: nothing was changed\nhint: answer y, or pass --yes\n',
  );
  assert.equal(ids(), 'w1 w2 i1 p s live');
  assert.equal((await prune(url, '--older-than 1h -q', { answers: ['y'] })).code, 0);
  assert.equal(ids(), 'p s live');
});

test('the prompt names at most five VMs', async (t) => {
  const { url, vms } = await startPlainServer(t);
  await seed(
    url,
    Array.from({ length: 7 }, (_, index) => aVm({ id: `w${index}`, name: `n${index}` })),
  );
  for (const vm of vms.values()) vm.lastSeen = new Date(Date.now() - HOUR).toISOString();
  const { stderr } = await prune(url, '--older-than 10m', { answers: ['n'] });
  assert.match(stderr, /^Remove 7 VMs \(n6, n5, n4, n3, n2 and 2 more\) from the registry\? /);
});

test('without a terminal prune exits with 7 and removes nothing', async (t) => {
  const { url, ids } = await registry(t);
  const result = await prune(url, '--older-than 1h');
  assert.deepEqual([result.code, result.stdout], [7, '']);
  assert.match(
    result.stderr,
    /^vreg: cannot ask for confirmation without a terminal: Remove 3 VMs .*\nhint: pass --yes\n$/,
  );
  assert.equal(ids(), 'w1 w2 i1 p s live');
});

test('a VM that sends a heartbeat during the prompt is not removed', async (t) => {
  const { url, clock, store } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' }), aVm({ id: 'b' })]);
  clock.pass(HOUR);
  const lists: unknown[] = [];
  // A proxy that sends a heartbeat for `a` between the list request and the removal.
  const between = await stub(t, async (request, response) => {
    const { status, body, headers } = await call(url, request.method!, request.url!, { headers: AS_VREG_CLIENT });
    const kept = ['x-vreg-version', 'x-vreg-lease-ms'].map((name) => [name, headers.get(name)!]);
    if (request.url!.startsWith('/registry/vms?') && lists.push(body) === 1) {
      await call(url, 'POST', '/registry/vms/a/heartbeat');
    }
    // The registry has a fake clock, so the response must carry its date.
    json(response, status, body, { ...Object.fromEntries(kept), date: new Date(clock.wall).toUTCString() });
  });
  assert.deepEqual(await prune(between, '--older-than 30m --yes -q'), {
    code: 0,
    stdout: 'b\n',
    stderr: 'vreg: a is no longer stale and was not changed\n',
  });
  assert.deepEqual([...store.vms.keys()], ['a']);
});

const REFUSED: readonly [argv: string, message: RegExp][] = [
  ['--yes', /^vreg: --older-than is required\nhint: for example: vreg prune --older-than 1h --dry-run\n$/],
  ['--older-than 5x', /^vreg: invalid --older-than "5x"\nhint: use a duration such as 90s/],
  ['--older-than 1h --role wroker', /^vreg: invalid --role "wroker"; did you mean "worker"\?\nhint: one of: /],
  ['w1 --older-than 1h', /^vreg: too many arguments/],
];

for (const [argv, message] of REFUSED) {
  test(`prune ${argv} exits with 5`, async (t) => {
    const { url, ids } = await registry(t);
    const result = await prune(url, argv, { now: () => NOW });
    assert.deepEqual([result.code, result.stdout], [5, '']);
    assert.match(result.stderr, message);
    assert.equal(ids(), 'w1 w2 i1 p s live');
  });
}
