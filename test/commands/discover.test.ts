import assert from 'node:assert/strict';
import type { ServerResponse } from 'node:http';
import test from 'node:test';
import { Interrupted } from '../../src/exit.ts';
import { serveApp } from '../helpers/app.ts';
import { seed, start, vreg } from '../helpers/cli.ts';
import { json, stub } from '../helpers/stub.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const FLEET = [
  aVm({ id: 'old', address: '10.0.0.1', services: [{ name: 'api', port: 8080 }] }),
  aVm({ id: 'mid', address: '10.0.0.2', status: 'paused' }),
  aVm({ id: 'new', address: '10.0.0.3' }),
];

test('discover lists live VMs, oldest registration first', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  assert.deepEqual(await vreg(['discover', 'worker', '-q'], { url }), { code: 0, stdout: 'old\nnew\n', stderr: '' });
  assert.deepEqual(await vreg(['find', 'worker', '-q', '--service', 'api'], { url }), {
    code: 0,
    stdout: 'old\n',
    stderr: '',
  });
});

test('--strict prints nothing and exits with 10 while the registry is warming up', async (t) => {
  const { url, clock, registry } = await serveApp(t);
  await seed(url, FLEET);
  for (const [word, ...more] of [['discover'], ['addr'], ['url'], ['exec', '--', 'true']]) {
    clock.miss(1000);
    const argv = [word!, 'worker', '--strict', ...more];
    const { code, stdout, stderr } = await vreg(argv, { url });
    assert.deepEqual([code, stdout], [10, ''], word);
    assert.match(stderr, /its answers may include dead VMs for another 300 s\nhint: /);
    // The first heartbeats may have waited in the kernel since before the gap.
    for (const id of ['old', 'new']) registry.heartbeat(id);
    assert.equal((await vreg(argv, { url })).code, 10, word);
    clock.pass(501);
    for (const id of ['old', 'new']) registry.heartbeat(id);
    assert.equal((await vreg(argv, { url })).code, 0, word);
  }
});

test('--passing requires a passing service, --service prefers one, and --pick chooses among those only', async (t) => {
  const { url, registry } = await serveApp(t);
  const services = [{ name: 'api', port: 8080 }];
  await seed(
    url,
    ['fails', 'one', 'two'].map((id) => aVm({ id, services })),
  );
  registry.heartbeat('fails', { health: { api: 'failing' } });
  for (const id of ['one', 'two']) registry.heartbeat(id, { health: { api: 'passing' } });
  const asked = async (...argv: string[]) => (await vreg(['discover', 'worker', '-q', ...argv], { url })).stdout;
  assert.equal(await asked('--service', 'api'), 'one\ntwo\nfails\n');
  assert.equal(await asked('--service', 'api', '--passing'), 'one\ntwo\n');
  const newest = await vreg(['addr', 'worker', '--service', 'api', '--pick', 'newest', '--json'], { url });
  assert.equal(JSON.parse(newest.stdout).id, 'two');
  assert.equal((await vreg(['addr', 'worker', '--passing'], { url })).code, 5);
  const shown = await vreg(['get', 'fails', '-o', 'tsv'], { url });
  assert.match(shown.stdout, /HEALTH\n.*api:failing\n$/);
  const { stdout } = await vreg(['get', 'fails', '--json'], { url });
  assert.equal('health' in JSON.parse(stdout), false);
});

for (const command of ['discover', 'addr', 'url']) {
  for (const format of ['table', 'wide', 'json', 'ndjson', 'yaml', 'name', 'tsv']) {
    test(`${command} without a live VM prints nothing and exits with 3, with -o ${format}`, async (t) => {
      const { url } = await serveApp(t);
      const { code, stdout, stderr } = await vreg([command, 'infra', '-o', format], { url });
      assert.deepEqual([code, stdout], [3, '']);
      assert.match(stderr, /no live infra VM/);
      assert.match(stderr, /vreg ls --role infra/);
    });
  }

  test(`${command} with a service that no live VM has exits with 3 and names the service`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, FLEET);
    assert.deepEqual(await vreg([command, 'worker', '--service', 'db'], { url }), {
      code: 3,
      stdout: '',
      stderr:
        'vreg: no live worker VM with the service "db" (3 registered: 2 live, 1 paused; 2 live VMs lack the service)\nhint: list registered VMs: vreg ls --role worker\n',
    });
  });

  test(`${command} excludes stale VMs`, async (t) => {
    const { url, clock } = await serveApp(t);
    await seed(url, FLEET);
    clock.pass(300_001);
    assert.equal((await vreg([command, 'worker'], { url })).code, 3);
  });

  test(`${command} accepts several roles, separated by commas`, async (t) => {
    const { url, clock } = await serveApp(t);
    const services = [{ name: 'api', port: 80 }];
    await seed(url, [aVm({ id: 'g', role: 'golden', services })]);
    clock.pass(1000);
    await seed(url, [aVm({ id: 'w', services })]);
    const ids = async (roles: string) => (await vreg([command, roles, '-o', 'jsonpath={..id}'], { url })).stdout;
    assert.equal(await ids('worker,golden'), command === 'discover' ? 'g w\n' : 'g\n');
    assert.equal(await ids('worker,infra'), 'w\n');
    const none = await vreg([command, 'infra,custom'], { url });
    assert.deepEqual(
      [none.code, none.stderr.split('\n')[0]],
      [3, 'vreg: no live infra or custom VM (none registered)'],
    );
    assert.match(
      (await vreg([command, 'worker,ifra'], { url })).stderr,
      /^vreg: invalid role "ifra"; did you mean "infra"/,
    );
  });

  test(`${command} with an invalid role exits with 5 and lists the roles`, async () => {
    assert.deepEqual(await vreg([command, 'wroker']), {
      code: 5,
      stdout: '',
      stderr:
        'vreg: invalid role "wroker"; did you mean "worker"?\nhint: one of: infra, lieutenant, worker, golden, custom\n',
    });
  });

  test(`${command} --wait finds a VM that registers later`, async (t) => {
    const { url } = await serveApp(t);
    const { result, stderr } = start([command, 'worker', '--wait', '20s', '-v'], { url, now: Date.now });
    await until('its first look', () => stderr().includes('200'));
    await seed(url, FLEET.slice(0, 1));
    const { code, stdout } = await result;
    assert.equal(code, 0);
    assert.match(stdout, /10\.0\.0\.1/);
  });

  test(`${command} --wait exits with 6 if no VM becomes live in time`, async (t) => {
    const { url } = await serveApp(t);
    const { code, stdout, stderr } = await vreg([command, 'worker', '--wait', '200ms'], { url, now: Date.now });
    assert.deepEqual([code, stdout], [6, '']);
    assert.equal(
      stderr,
      'vreg: no live worker VM within 200ms (none registered)\nhint: list registered VMs: vreg ls --role worker\n',
    );
  });

  test(`${command} --wait with an invalid duration exits with 5`, async () => {
    const { code, stderr } = await vreg([command, 'worker', '--wait', 'soon']);
    assert.equal(code, 5);
    assert.match(stderr, /^vreg: invalid --wait "soon"\nhint: use a duration such as 90s/);
  });
}

test('--wait retries while the registry is unreachable, and reports that after the timeout', async () => {
  const { code, stdout, stderr } = await vreg(['addr', 'infra', '--wait', '300ms'], { now: Date.now });
  assert.deepEqual([code, stdout], [8, '']);
  assert.match(stderr, /^vreg: cannot reach the registry/);
});

test('an interrupted wait prints nothing', async (t) => {
  const { url } = await serveApp(t);
  const controller = new AbortController();
  t.after(() => controller.abort(new Interrupted('SIGINT')));
  const { result } = start(['addr', 'infra', '--wait', '1h'], { url, signal: controller.signal });
  controller.abort(new Interrupted('SIGINT'));
  assert.deepEqual(await result, { code: 130, stdout: '', stderr: '' });
});

const SILENT: Readonly<Record<string, (response: ServerResponse) => void>> = {
  'does not respond': () => {},
  'answers 503': (response) => json(response, 503, { error: 'later' }),
  'answers 502': (response) => json(response, 502, { error: 'bad gateway' }),
  'closes the connection': (response) => response.destroy(),
  'ends the response early': (response) => {
    response.writeHead(200, { 'content-type': 'application/json', 'content-length': '100' });
    response.write('{"vms":', () => response.destroy());
  },
};
for (const [behaviour, answer] of Object.entries(SILENT)) {
  for (const argv of [
    ['discover', 'infra'],
    ['addr', 'infra'],
    ['url', 'infra'],
    ['exec', 'infra', '--', 'true'],
  ]) {
    test(`${argv[0]} --wait ends in time with 8 if the registry ${behaviour}`, async (t) => {
      const url = await stub(t, (_request, response) => answer(response));
      const [command, role, ...rest] = argv as [string, string, ...string[]];
      const { code, stdout, stderr } = await vreg([command, role, '--wait', '200ms', ...rest], { url, now: Date.now });
      assert.deepEqual([code, stdout], [8, ''], stderr);
      assert.doesNotMatch(stderr, /no live/);
    });
  }
}

test('a timeout in plain seconds has its unit in the message', async (t) => {
  const { url } = await serveApp(t);
  const { stderr } = await vreg(['addr', 'infra', '--wait', '0.2'], { url, now: Date.now });
  assert.match(stderr, /^vreg: no live infra VM within 0\.2s \(none registered\)\n/);
  const waited = await vreg(['wait', 'infra', '--timeout', '1'], { url, now: Date.now });
  assert.match(waited.stderr, /^vreg: timed out after 1s, waiting for/);
});

test('--wait exits with 6 if the registry has answered and its last request is cut off', async (t) => {
  let asked = 0;
  const url = await stub(t, ({ url = '' }, response) => {
    if (!url.includes('/discover/') || asked++ === 0) json(response, 200, { vms: [], count: 0 });
  });
  const { code, stderr } = await vreg(['addr', 'infra', '--wait', '700ms'], { url, now: Date.now });
  assert.equal(code, 6, stderr);
  assert.match(stderr, /^vreg: no live infra VM within 700ms \(none registered\)\nhint: /);
});

for (const command of ['discover', 'addr', 'url', 'exec', 'env']) {
  test(`${command} without a live VM says how many are registered and why none is offered`, async (t) => {
    const { url, clock } = await serveApp(t);
    await seed(url, [
      aVm({ id: 'i1', role: 'infra' }),
      aVm({ id: 'i2', role: 'infra' }),
      aVm({ id: 'i3', role: 'infra', status: 'stopped' }),
      aVm({ id: 'i4', role: 'infra', status: 'paused' }),
    ]);
    clock.pass(300_001);
    const argv = command === 'exec' ? ['exec', 'infra', '--', 'true'] : [command, 'infra'];
    const { code, stdout, stderr } = await vreg(argv, { url });
    assert.deepEqual([code, stdout], [3, '']);
    assert.match(stderr, /^vreg: no live infra VM \(4 registered: 2 stale, 1 paused, 1 stopped\)\nhint: /);
  });
}

test('--wait and --service say why no VM is offered, and how many live VMs lack the service', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'w1' }), aVm({ id: 'w2', status: 'paused' })]);
  await seed(url, [aVm({ id: 'i', role: 'infra', status: 'paused' })]);
  const waited = await vreg(['addr', 'infra', '--wait', '100ms'], { url, now: Date.now });
  assert.equal(waited.code, 6);
  assert.match(waited.stderr, /^vreg: no live infra VM within 100ms \(1 registered: 1 paused\)\n/);
  const { stderr } = await vreg(['addr', 'worker', '--service', 'db'], { url });
  assert.match(
    stderr,
    /^vreg: no live worker VM with the service "db" \(2 registered: 1 live, 1 paused; 1 live VM lacks the service\)\n/,
  );
});

test('a token that may not list VMs gets the error without reasons', async (t) => {
  const url = await stub(t, ({ url = '' }, response) =>
    url.includes('/discover/')
      ? json(response, 200, { vms: [], count: 0 })
      : json(response, 403, { error: 'not allowed' }),
  );
  const { code, stderr } = await vreg(['addr', 'infra'], { url });
  assert.equal(code, 3);
  assert.match(stderr, /^vreg: no live infra VM\nhint: /);
});
