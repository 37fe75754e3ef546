/** One thing done to many: `rm`, `update`, `pause`, `heartbeat`, `register -f`. */
import assert from 'node:assert/strict';
import type { ServerResponse } from 'node:http';
import { text } from 'node:stream/consumers';
import test from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed, start, vreg } from '../helpers/cli.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { json, stub } from '../helpers/stub.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const IDS = Array.from({ length: 30 }, (_, index) => `w${String(index).padStart(2, '0')}`);
const FLEET = IDS.map((id) => aVm({ id }));
const ERASED = '\r\u001b[K';

const COMMANDS: readonly [command: string, argv: readonly string[]][] = [
  ['rm', ['rm', ...IDS, '--yes']],
  ['update', ['update', ...IDS, '--name', 'x']],
  ['update --meta', ['update', ...IDS, '--meta', 'n=1']],
  ['pause', ['pause', ...IDS]],
  ['resume', ['resume', ...IDS]],
  ['stop', ['stop', ...IDS]],
  ['get', ['get', ...IDS]],
];

for (const [command, argv] of COMMANDS) {
  test(`${command} of many VMs prints the results in order, and shows progress only on a terminal`, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, FLEET);
    const told = await vreg([...argv, '-q'], { url, errTty: true });
    assert.deepEqual([told.code, told.stdout], [0, `${IDS.join('\n')}\n`]);
    const steps = told.stderr.split('\r').slice(1);
    assert.match(steps[0]!, /^\[#\.{39}\] 1\/30$/);
    assert.equal(steps.at(-2), `[${'#'.repeat(40)}] 30/30`);
    assert.ok(told.stderr.endsWith(ERASED));
  });
}

test('progress is not shown for eight VMs, in a pipe or with -v, and never exceeds the width of the terminal', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  assert.equal((await vreg(['pause', ...IDS.slice(0, 8), '-q'], { url, errTty: true })).stderr, '');
  assert.equal((await vreg(['pause', ...IDS, '-q'], { url })).stderr, '');
  assert.doesNotMatch((await vreg(['pause', ...IDS, '-q', '-v'], { url, errTty: true })).stderr, /\r/);
  for (const width of [10, 30]) {
    const { code, stderr } = await vreg(['pause', ...IDS, '-q'], { url, errTty: true, width });
    assert.equal(code, 0);
    for (const step of stderr.split('\r')) assert.ok(step.length <= Math.max(width, 12), step);
  }
});

test('at most eight requests are in flight', async (t) => {
  const waiting: ServerResponse[] = [];
  let answered = 0;
  const url = await stub(t, (_request, response) => void waiting.push(response));
  const telling = start(['pause', ...IDS, '-q'], { url });
  while (answered < IDS.length) {
    const due = Math.min(8, IDS.length - answered);
    await until('as many as there may be', () => waiting.length === due);
    for (const response of waiting.splice(0)) json(response, 200, aVm({ id: `x${answered++}` }));
  }
  const { code, stdout } = await telling.result;
  assert.deepEqual([code, stdout.trimEnd().split('\n').length], [0, IDS.length]);
});

test('each failure is reported, the other requests are sent, and the worst failure determines the exit code', async (t) => {
  const url = await stub(t, (request, response) => {
    const id = request.url!.split('/').at(-1)!.replace(/\?.*/, '');
    if (id === 'gone') json(response, 404, { error: 'VM not found' });
    else if (id === 'taken') json(response, 409, { error: 'it is not so' });
    else json(response, 200, aVm({ id }));
  });
  assert.deepEqual(await vreg(['pause', 'a', 'gone', 'b', 'taken', 'c', '-q'], { url }), {
    code: 4,
    stdout: 'a\nb\nc\n',
    stderr:
      'vreg: gone: VM not found\nvreg: taken: it is not so\nvreg: 2 of 5 failed\nhint: list registered VMs: vreg ls\n',
  });
});

test('an unreachable registry is reported once, not once per VM', async () => {
  const { code, stderr } = await vreg(['pause', ...IDS]);
  assert.equal(code, 8);
  assert.match(stderr, /^vreg: 30 of 30 failed: cannot reach the registry at .*\nhint: .*\n$/);
});

const BATCHES: readonly [command: string, argv: readonly string[], stdin?: string][] = [
  ['pause', ['pause', 'a', 'lost', 'busy']],
  ['stop', ['stop', 'a', 'busy', 'lost']],
  ['resume', ['resume', 'lost', 'busy', 'a']],
  ['update', ['update', 'a', 'busy', 'lost', '--name', 'x']],
  ['rm', ['rm', 'a', 'busy', 'lost', '--yes']],
  ['prune', ['prune', '--older-than', '1m', '--yes']],
  ['register -f', ['register', '-f', '-'], namesAsLines(['a', 'busy', 'lost'])],
  ['import', ['import', '-f', '-', '--yes'], namesAsLines(['a', 'busy', 'lost'])],
];

function namesAsLines(ids: readonly string[]): string {
  return ids.map((id) => `${JSON.stringify(aVm({ id }))}\n`).join('');
}

for (const [command, argv, stdin] of BATCHES) {
  test(`an unknown outcome within ${command} determines the exit code and the hint, not a busy registry`, async (t) => {
    const url = await stub(t, async (request, response) => {
      const target = `${request.url} ${await text(request)}`;
      const stale = { ...aVm({ id: 'a' }), lastSeen: '2026-01-01T00:00:00.000Z' };
      if (request.method === 'GET' && /vms\/\w/.test(target)) return json(response, 200, stale);
      if (request.method === 'GET') {
        // An import adds the VMs that are not registered; only prune needs some that are.
        const vms = command === 'prune' ? ['a', 'busy', 'lost'].map((id) => ({ ...stale, id })) : [];
        return json(response, 200, { vms, count: vms.length });
      }
      if (target.includes('busy')) return json(response, 503, { error: 'busy' });
      if (target.includes('lost')) return void request.socket.destroy();
      return json(response, 200, aVm({ id: 'a' }));
    });
    const { code, stderr } = await vreg(argv, { url, ...(stdin === undefined ? {} : { stdin }) });
    assert.equal(code, 6, stderr);
    assert.match(stderr, /^vreg: lost: no response to \w+ from .*; the change may have been made$/m);
    assert.match(stderr, /\nvreg: 2 of 3 failed\nhint: see whether it took effect: vreg get lost\n$/);
  });
}

test('heartbeats of many are one request to a vreg daemon, and one each to the original registry', async (t) => {
  const app = await serveApp(t);
  const plain = await startPlainServer(t);
  for (const { url } of [app, plain]) {
    await seed(url, FLEET);
    const told = await vreg(['heartbeat', ...IDS, 'nope', '-q'], { url, errTty: true });
    assert.deepEqual([told.code, told.stdout], [3, `${IDS.join('\n')}\n`]);
    assert.match(told.stderr, /vreg: 1 of 31 failed: nope: VM not found\nhint: list registered VMs: vreg ls\n$/);
  }
  assert.equal(plain.requests.filter((line) => line.endsWith('/heartbeat')).length, 31);
  assert.match(
    (await vreg(['heartbeat', ...IDS, '-v'], { url: app.url })).stderr,
    /POST \S+\/registry\/heartbeats 200/,
  );
});

test('heartbeat --register-if-missing of many registers those that are missing, on either server', async (t) => {
  for (const { url } of [await serveApp(t), await startPlainServer(t)]) {
    await seed(url, FLEET.slice(0, 2));
    const { code, stdout } = await vreg(['heartbeat', 'w00', 'x', 'w01', 'y', '--register-if-missing', '-q'], { url });
    assert.deepEqual([code, stdout.trimEnd().split('\n').sort()], [0, ['w00', 'w01', 'x', 'y']]);
    assert.equal((await vreg(['get', 'x', 'y', '-q'], { url })).stdout, 'x\ny\n');
  }
});

for (const kind of ['a vreg daemon', 'the original registry']) {
  test(`register -f with many entries at ${kind} reports which failed, and registers the others`, async (t) => {
    const { url } = kind === 'a vreg daemon' ? await serveApp(t) : await startPlainServer(t);
    await seed(url, FLEET.slice(0, 2));
    const stdin = FLEET.map((vm) => `${JSON.stringify(vm)}\n`).join('');
    const told = await vreg(['register', '-f', '-', '-q'], { url, stdin, errTty: true });
    assert.deepEqual([told.code, told.stdout], [4, `${IDS.slice(2).join('\n')}\n`]);
    assert.ok(told.stderr.includes(ERASED));
    assert.match(
      told.stderr,
      /vreg: VM "w00" is already registered\nvreg: VM "w01" is already registered\nvreg: 2 of 30 failed\nhint: change it with vreg update, or pass --if-exists update\n$/,
    );
    const again = await vreg(['register', '-f', '-', '--if-exists', 'update', '-q'], { url, stdin });
    assert.deepEqual([again.code, again.stdout], [0, `${IDS.join('\n')}\n`]);
  });
}
