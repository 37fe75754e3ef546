import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { VregError } from '../../src/protocol/errors.ts';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { tempDir } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { MemoryStore } from '../helpers/memory-store.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { aVm } from '../helpers/vm.ts';

const FLEET = [
  aVm({ id: 'i', role: 'infra' }),
  aVm({ id: 'w1' }),
  aVm({ id: 'w2', status: 'paused' }),
  aVm({ id: 'w3', status: 'stopped' }),
];

test('status prints the registry, counts VMs by role and lists stale VMs', async (t) => {
  const { url, clock } = await serveApp(t);
  await seed(url, FLEET);
  clock.pass(300_001);
  await vreg(['heartbeat', 'i'], { url });
  const { code, stdout, stderr } = await vreg(['status'], { url });
  assert.deepEqual([code, stderr], [0, '']);
  const [registry, ...rows] = stdout.split('\n');
  assert.match(registry!, /^registry http:\/\/127\.0\.0\.1:\d+: ok, vreg 0\.0\.0, up (?:\d+[a-z])+$/);
  assert.deepEqual(rows.slice(0, 5), [
    'ROLE\tLIVE\tSUSPECT\tSTALE\tPAUSED\tSTOPPED',
    'infra\t1\t0\t0\t0\t0',
    'worker\t0\t0\t1\t1\t1',
    '',
    'STALE VM\tNAME\tROLE\tSILENT FOR',
  ]);
  assert.match(rows[5]!, /^w1\tone\tworker\t\w+$/);
  assert.equal((await vreg(['status', '-q'], { url })).stdout, 'w1\n');
});

test('status is one object in JSON and one line in NDJSON', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, FLEET);
  const { stdout } = await vreg(['status', '--json'], { url });
  const result = JSON.parse(stdout) as { registry: Record<string, unknown>; roles: unknown; stale: unknown };
  const { uptime, ...registry } = result.registry;
  assert.equal(typeof uptime, 'number');
  assert.deepEqual(registry, { url, version: '0.0.0', status: 'ok' });
  assert.deepEqual(result.roles, [
    { role: 'infra', live: 1, suspect: 0, stale: 0, paused: 0, stopped: 0 },
    { role: 'worker', live: 1, suspect: 0, stale: 0, paused: 1, stopped: 1 },
  ]);
  assert.deepEqual(result.stale, []);
  assert.equal((await vreg(['status', '-o', 'ndjson'], { url })).stdout.split('\n').length, 2);
  assert.equal((await vreg(['status', '-o', 'jsonpath={.registry.status}'], { url })).stdout, 'ok\n');
});

test('status shows why the registry cannot write', async (t) => {
  const store = new MemoryStore();
  const { url } = await serveApp(t, { store });
  store.failure = new VregError('STORE_FULL', 'the disk of the registry is full: nothing was changed');
  assert.equal((await call(url, 'POST', '/registry/vms', { body: aVm() })).status, 507);
  const reason = 'the last write failed: the disk of the registry is full: nothing was changed';
  assert.equal((await vreg(['status'], { url })).stdout.split('\n')[1], `degraded: ${reason}`);
  const { stdout } = await vreg(['status', '-o', 'jsonpath={.registry.degraded}'], { url });
  assert.equal(stdout, `${reason}\n`);
});

test('status shows why the registry cannot read its store', async (t) => {
  const store = new MemoryStore();
  const { url } = await serveApp(t, { store });
  const reason = 'the registry could not read from its disk: registry.db is missing';
  t.mock.method(store, 'read', () => Promise.reject(new VregError('STORE_FAILED', reason)));
  assert.equal((await vreg(['status'], { url })).stdout.split('\n')[1], `degraded: ${reason}`);
});

test('status of an empty registry exits with 0', async (t) => {
  const { url } = await serveApp(t);
  const { code, stdout } = await vreg(['status'], { url });
  assert.equal(code, 0);
  assert.match(stdout, /^registry .*\n$/);
  assert.equal((await vreg(['status'], { url, tty: true })).stderr, 'no VMs\n');
});

test('status of an unreachable registry exits with 8', async () => {
  const { code, stdout, stderr } = await vreg(['status']);
  assert.deepEqual([code, stdout], [8, '']);
  assert.match(
    stderr,
    /^vreg: cannot reach the registry at .* from VERS_INFRA_URL\)\nhint: is it running\? try: vreg doctor/,
  );
});

test('health requires no token; status does, and the hint says how to provide one', async (t) => {
  const { url } = await serveApp(t, { token: 'secret' });
  assert.equal((await vreg(['health'], { url })).code, 0);
  const { code, stderr } = await vreg(['status'], { url });
  assert.equal(code, 2);
  assert.match(stderr, /^vreg: Unauthorized — missing Authorization header\nhint: .*VERS_AUTH_TOKEN or --token-file/);
  assert.equal((await vreg(['status'], { url, env: { VERS_AUTH_TOKEN: 'secret' } })).code, 0);
  const wrong = await vreg(['status', '-v'], { url, env: { VERS_AUTH_TOKEN: 'wrong-word' } });
  assert.equal(wrong.code, 2);
  assert.ok(!wrong.stderr.includes('wrong-word'));
});

test('"invalid token" names the variable or file of the token', async (t) => {
  const file = join(tempDir(t), 'token');
  writeFileSync(file, 'wrong-word\n', { mode: 0o600 });
  const original = await startPlainServer(t, { token: 'secret' });
  const current = await serveApp(t, { token: 'secret' });
  for (const { url } of [original, current]) {
    for (const [argv, env, origin] of [
      [['ls'], { VERS_AUTH_TOKEN: 'wrong-word' }, 'VERS_AUTH_TOKEN'],
      [['ls'], { VREG_TOKEN: 'wrong-word', VERS_AUTH_TOKEN: 'secret' }, 'VREG_TOKEN'],
      [['watch'], { VREG_TOKEN_FILE: file }, `${file}, VREG_TOKEN_FILE`],
      [['rm', 'a', '--yes', '--token-file', file], {}, `${file}, flag --token-file`],
    ] as const) {
      const { code, stderr } = await vreg(argv, { url, env });
      assert.deepEqual(
        [code, stderr.split('\n')[0]],
        [2, `vreg: Unauthorized — invalid token (from ${origin})`],
        argv.join(' '),
      );
    }
  }
});

test('an error of the original registry gets a hint', async (t) => {
  const { url } = await startPlainServer(t, { token: 'secret' });
  const { code, stderr } = await vreg(['status'], { url });
  assert.equal(code, 2);
  assert.equal(
    stderr,
    'vreg: Unauthorized — invalid token\nhint: provide the token of the registry: VERS_AUTH_TOKEN, or --token-file FILE\n',
  );
});

test('status shows suspect VMs, and how long answers may include dead VMs', async (t) => {
  const { url, clock } = await serveApp(t, { massLoss: 0.5 });
  const ids = Array.from({ length: 12 }, (_, index) => `w${index}`);
  await seed(
    url,
    ids.map((id) => aVm({ id })),
  );
  clock.pass(300_001);
  const { code, stdout } = await vreg(['status'], { url });
  assert.equal(code, 0);
  assert.match(stdout, /\nwarming: answers may include dead VMs for another (5m|4m\d+s)\n/);
  assert.match(
    stdout,
    /\nworker\t0\t12\t0\t0\t0\n\nSUSPECT VM\tNAME\tROLE\tSILENT FOR\n(w\d+\tone\tworker\t\w+\n){12}$/,
  );
  const data = JSON.parse((await vreg(['status', '--json'], { url })).stdout) as {
    registry: { warmingSeconds: number };
    suspect: { id: string }[];
    stale: unknown[];
  };
  assert.ok(data.registry.warmingSeconds > 0 && data.registry.warmingSeconds <= 300);
  assert.deepEqual(data.suspect.map(({ id }) => id).sort(), ids.sort());
  assert.deepEqual(data.stale, []);
});
