import assert from 'node:assert/strict';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { Interrupted } from '../src/exit.ts';
import { seed, start, vreg } from './helpers/cli.ts';
import { startPlainServer } from './helpers/original-server.ts';
import { until } from './helpers/until.ts';
import { aVm } from './helpers/vm.ts';

const NEW_FILE = join(tmpdir(), `vreg-backup-${process.pid}`);

/** Each command line in turn against one server of the original kind, and what it answers. */
const SESSION: readonly [argv: string, code: number, stdout: string | RegExp, stderr?: RegExp][] = [
  ['health', 0, 'ok\n'],
  ['ls', 0, ''],
  ['ls --json', 0, '[]\n'],
  ['discover infra', 3, '', /^vreg: no live infra VM \(none registered\)\nhint: /],
  ['register i --role infra --address 10.0.0.1 --service api:8080/health -q', 0, 'i\n'],
  ['register i --role infra', 4, '', /^vreg: VM "i" is already registered\nhint: /],
  ['register i --role infra --address 10.0.0.2 --if-exists update -q', 0, 'i\n'],
  ['register i --role infra --address 10.0.0.3 --if-exists ignore -q', 0, 'i\n'],
  ['register w1 -q --meta task=a --meta n=1', 0, 'w1\n'],
  ['register w2 -q', 0, 'w2\n'],
  ['ls -q', 0, 'w2\nw1\ni\n'],
  ['ls --role worker --sort id -q', 0, 'w1\nw2\n'],
  ['get i --no-headers', 0, /^i\t.*\tinfra\trunning\tlive\t10\.0\.0\.2\t\d{4}-.*Z\n$/],
  ['get nope', 3, '', /^vreg: nope: VM not found\nhint: list registered VMs: vreg ls\n$/],
  [
    'describe i',
    0,
    /^ID: +i\n(?:.*\n)*Offered: +yes: it is running and was last seen at \S+\n(?:.*\n)*Services:\n {2}NAME .*\n {2}api +8080 +- +healthPath=\/health\n$/,
  ],
  ['describe nope', 3, '', /^vreg: nope: VM not found\nhint: list registered VMs: vreg ls\n$/],
  ['discover worker -q', 0, 'w1\nw2\n'],
  ['addr infra', 0, '10.0.0.2\n'],
  ['url infra --path x', 0, /^http:\/\/10\.0\.0\.2:\d+\/x\n$/],
  [
    'url infra --service web',
    3,
    '',
    /^vreg: no live infra VM with the service "web" \(1 registered: 1 live; 1 live VM lacks the service\)\nhint: /,
  ],
  ['update i --service api:8081 -q', 0, 'i\n'],
  ['url infra --service api', 0, 'http://10.0.0.2:8081\n'],
  ['update w1 --meta task=b --unset-meta n --json', 0, /"metadata": \{\s+"task": "b"\s+\}/],
  ['update w1 --status nope', 5, '', /^vreg: invalid --status/],
  ['update nope --name x', 3, '', /^vreg: nope: VM not found\nhint: /],
  ['pause w1 nope -q', 3, 'w1\n', /^vreg: 1 of 2 failed: nope: VM not found\nhint: /],
  ['discover worker -q', 0, 'w2\n'],
  ['resume w1 -q', 0, 'w1\n'],
  ['stop w2 -q', 0, 'w2\n'],
  ['heartbeat w1 -q', 0, 'w1\n'],
  ['heartbeat x -q', 3, '', /^vreg: x: VM not found\nhint: /],
  ['heartbeat x --register-if-missing -q', 0, 'x\n'],
  ['status', 0, /^registry .*: ok, not a vreg daemon, up 1s\nROLE\t.*\ninfra\t1\t0\t0\t0\t0\nworker\t2\t0\t0\t0\t1\n$/],
  ['status --json', 0, /"version": null/],
  ['rm x', 7, '', /^vreg: cannot ask for confirmation without a terminal: Remove VM x/],
  ['rm x w2 nope --yes -q', 3, 'x\nw2\n', /^vreg: 1 of 3 failed: nope: VM not found\nhint: /],
  ['__complete zsh get w', 0, /^values\t\nw1\tworker, live/],
  ['env infra', 0, /^VREG_INFRA_ID=i\nVREG_INFRA_ADDR=10\.0\.0\.2\n/],
  ['wait worker -q', 0, 'w1\n'],
  ['wait nope --for gone', 0, ''],
  ['exec golden -- env', 3, '', /^vreg: no live golden VM \(none registered\)\nhint: /],
  ['prune --older-than 1h --yes', 0, ''],
  ['export -q', 0, 'i\nw1\n'],
  ['api GET /health', 0, /^\{"status":"ok"/],
  ['doctor', 0, /\nversion\twarn\tthe registry is not a vreg daemon\t/],
  [
    'why i',
    1,
    '',
    /^vreg: the registry at \S+ is not a vreg daemon: it does not support explanations\nhint: replace it with vreg daemon/,
  ],
  ['history i', 1, '', /^vreg: the registry at \S+ is not a vreg daemon: it does not support history\nhint: /],
  [`backup ${NEW_FILE}`, 1, '', /^vreg: the registry at \S+ is not a vreg daemon: it does not support backups\nhint: /],
  ['watch --since 1', 1, '', /^vreg: the registry at \S+ is not a vreg daemon: it has no positions\nhint: /],
  ['ls --selector task=b --limit 1 -q', 0, 'w1\n'],
];

test('every command works with the original registry', async (t) => {
  const { url, requests } = await startPlainServer(t);
  for (const [argv, code, stdout, stderr = /^$/] of SESSION) {
    const told = await vreg(argv.split(' '), { url });
    assert.equal(told.code, code, `vreg ${argv}: ${told.stderr}`);
    if (typeof stdout === 'string') assert.equal(told.stdout, stdout, `vreg ${argv}`);
    else assert.match(told.stdout, stdout, `vreg ${argv}`);
    assert.match(told.stderr, stderr, `vreg ${argv}`);
  }
  // `doctor` asks for /registry/whoami to tell the original registry from a vreg daemon behind a proxy that strips headers, and
  // for /readyz, which several services have.
  const known =
    /^(GET \/health|GET \/readyz|GET \/registry\/whoami|(GET|POST) \/registry\/vms|(GET|PATCH|DELETE) \/registry\/vms\/\w+|POST \/registry\/vms\/\w+\/heartbeat|GET \/registry\/discover\/\w+)(\?.*)?$/;
  for (const request of requests) assert.match(request, known);
  assert.equal(requests.filter((request) => request === 'GET /registry/whoami').length, 1);
});

test('a file is registered at the original registry', async (t) => {
  const { url, vms } = await startPlainServer(t);
  const stdin = [aVm({ id: 'a' }), aVm({ id: 'b' })].map((vm) => `${JSON.stringify(vm)}\n`).join('');
  assert.equal((await vreg(['register', '-f', '-', '-q'], { url, stdin })).stdout, 'a\nb\n');
  assert.deepEqual([...vms.keys()], ['a', 'b']);
});

test('with the original registry, the CLI computes which VMs are stale', async (t) => {
  const { url, vms } = await startPlainServer(t);
  await seed(url, [aVm({ id: 'a' }), aVm({ id: 'b' })]);
  vms.get('a')!.lastSeen = new Date(Date.now() - 400_000).toISOString();
  assert.match((await vreg(['ls', '--no-headers'], { url })).stdout, /^b\t.*\tlive\t.*\na\t.*\tstale\t.*\n$/);
  assert.equal((await vreg(['ls', '--stale', '-q'], { url })).stdout, 'a\n');
  assert.equal((await vreg(['ls', '--status', 'running', '-q'], { url })).stdout, 'b\n');
  assert.match(
    (await vreg(['status'], { url })).stdout,
    /\nworker\t1\t0\t1\t0\t0\n\nSTALE VM\t.*\na\tone\tworker\t6m\w*\n$/,
  );
});

test('--wait and --watch work against the original registry', async (t) => {
  const { url } = await startPlainServer(t);
  const controller = new AbortController();
  const watching = start(['ls', '-w', '--no-headers'], { url, signal: controller.signal });
  const waiting = start(['addr', 'worker', '--wait', '20s', '-v'], { url, now: Date.now });
  await until('its first look', () => waiting.stderr().includes('200'));
  await seed(url, [aVm({ id: 'a', address: '10.0.0.1' })]);
  assert.equal((await waiting.result).stdout, '10.0.0.1\n');
  await until('the new VM to be listed', () => watching.stdout().startsWith('a\t'));
  controller.abort(new Interrupted('SIGINT'));
  assert.equal((await watching.result).code, 130);
});
