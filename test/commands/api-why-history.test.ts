/** `api`, `why` and `history`: looking closer. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { startDaemon, tempDir } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { stub } from '../helpers/stub.ts';
import { aVm } from '../helpers/vm.ts';

test('api prints the body of an answer as it came', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' })]);
  const raw = await (await fetch(`${url}/registry/vms?role=worker`)).text();
  assert.deepEqual(await vreg(['api', 'GET', '/registry/vms?role=worker'], { url }), {
    code: 0,
    stdout: `${raw}\n`,
    stderr: '',
  });
  assert.equal((await vreg(['api', 'get', '/registry/vms?role=worker'], { url })).stdout, `${raw}\n`);
});

test('api sends a body from a file, or from stdin', async (t) => {
  const { url } = await serveApp(t);
  const file = join(tempDir(t), 'vm.json');
  writeFileSync(file, JSON.stringify(aVm({ id: 'a' })));
  const made = await vreg(['api', 'POST', '/registry/vms', '-f', file], { url });
  assert.equal((JSON.parse(made.stdout) as { id: string }).id, 'a');
  const stdin = '{"status":"paused"}';
  const patched = await vreg(['api', 'PATCH', '/registry/vms/a', '-f', '-'], { url, stdin });
  assert.equal((JSON.parse(patched.stdout) as { status: string }).status, 'paused');
  assert.equal((await vreg(['api', 'DELETE', '/registry/vms/a'], { url })).stdout, '{"deleted":true}\n');
});

test('api prints the body of an error, too, and ends with its exit code', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' })]);
  const none = await vreg(['api', 'GET', '/registry/vms/nope'], { url });
  assert.equal(none.code, 3);
  assert.equal((JSON.parse(none.stdout) as { error: string }).error, 'VM not found');
  assert.equal(none.stderr, 'vreg: VM not found\nhint: list registered VMs: vreg ls\n');
  const stdin = JSON.stringify(aVm({ id: 'a' }));
  assert.equal((await vreg(['api', 'POST', '/registry/vms', '-f', '-'], { url, stdin })).code, 4);
  assert.equal((await vreg(['api', 'POST', '/registry/vms', '-f', '-'], { url, stdin: '{' })).code, 5);
  const plain = await startPlainServer(t, { token: 'secret' });
  assert.equal((await vreg(['api', 'GET', '/registry/vms'], { url: plain.url })).code, 2);
  const env = { VERS_AUTH_TOKEN: 'secret' };
  assert.equal((await vreg(['api', 'GET', '/registry/vms'], { url: plain.url, env })).stdout, '{"vms":[],"count":0}\n');
  const unknown = await vreg(['api', 'GET', '/nope'], { url: plain.url, env });
  assert.deepEqual([unknown.code, unknown.stdout], [3, '404 Not Found\n']);
});

const REFUSED: readonly [argv: readonly string[], message: RegExp][] = [
  [['FETCH', '/health'], /^vreg: invalid method "FETCH"\nhint: one of: GET, POST, PUT, PATCH, DELETE\n$/],
  [['GET', 'health'], /^vreg: invalid path "health"\nhint: use a URL-encoded path that begins with \//],
  [['GET', '/a b'], /^vreg: invalid path "\/a b"\nhint: .*URL-encoded/],
  [['GET', '/x', '-f', '/nonexistent/x'], /^vreg: cannot read \/nonexistent\/x \(ENOENT\)\nhint: /],
  [['GET'], /^vreg: missing required argument 'path'\nhint: /],
];

for (const [argv, message] of REFUSED) {
  test(`api ${argv.join(' ')} is exit 5`, async () => {
    const told = await vreg(['api', ...argv]);
    assert.deepEqual([told.code, told.stdout], [5, '']);
    assert.match(told.stderr, message);
  });
}

test('why says in one line, and in JSON with codes, whether a VM is offered', async (t) => {
  const { url, clock } = await serveApp(t);
  await seed(url, [
    aVm({ id: 'live' }),
    aVm({ id: 'paused', status: 'paused' }),
    aVm({ id: 'stopped', status: 'stopped' }),
  ]);
  const codes = async (id: string) =>
    (await vreg(['why', id, '-o', 'jsonpath=$.reasons[*].code'], { url })).stdout.trimEnd();
  assert.deepEqual([await codes('live'), await codes('paused'), await codes('stopped')], ['', 'paused', 'stopped']);
  assert.match((await vreg(['why', 'live'], { url })).stdout, /^discover worker offers live: .*\n$/);
  clock.pass(301_000);
  assert.equal(await codes('live'), 'stale');
  const { code, stdout } = await vreg(['why', 'live'], { url });
  assert.equal(code, 0);
  assert.match(stdout, /^discover worker does not offer live: it is stale: .*301 s ago; the lease is 300 s\n$/);
  assert.equal(
    (JSON.parse((await vreg(['why', 'live', '--json'], { url })).stdout) as { offered: boolean }).offered,
    false,
  );
});

for (const command of ['why', 'history']) {
  test(`${command} of a VM that nobody knows is exit 3, by its name`, async (t) => {
    const { url } = await serveApp(t);
    const told = await vreg([command, 'nope'], { url });
    assert.deepEqual([told.code, told.stdout], [3, '']);
    assert.match(told.stderr, /^vreg: nope: .*\nhint: /);
  });

  test(`${command} of the original registry is exit 1, and says what is missing`, async (t) => {
    const { url } = await startPlainServer(t);
    await seed(url, [aVm({ id: 'a' })]);
    const told = await vreg([command, 'a'], { url });
    assert.deepEqual([told.code, told.stdout], [1, '']);
    assert.match(
      told.stderr,
      /^vreg: the registry at http:\S+ is not a vreg daemon: it has no \w+\nhint: run vreg daemon there/,
    );
  });
}

test('history tells who changed what, newest first, and outlives the VM', async (t) => {
  const { url, vreg: ask } = await startDaemon(t, { env: { VERS_AUTH_TOKEN: 'a-secret-token' } });
  const headers = { authorization: 'Bearer a-secret-token' };
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'a', name: 'one' }), headers });
  await call(url, 'POST', '/registry/vms/a/heartbeat', { headers });
  await call(url, 'PATCH', '/registry/vms/a', { body: { name: 'two', metadata: { n: 1 } }, headers });
  await call(url, 'PATCH', '/registry/vms/a', { body: { status: 'paused' }, headers });
  await call(url, 'DELETE', '/registry/vms/a', { headers });
  const { code, stdout } = await ask(['history', 'a']);
  assert.equal(code, 0);
  const [titles, ...rows] = stdout.trimEnd().split('\n');
  assert.equal(titles, 'REVISION\tWHEN\tWHAT\tWHO\tCHANGES');
  assert.deepEqual(
    rows.map((row) => row.split('\t')).map(([revision, , what, , changes]) => [revision, what, changes]),
    [
      ['4', 'deregistered', 'name: two, role: worker, address: vm-1.vm.vers.sh'],
      ['3', 'status', 'status: running -> paused'],
      ['2', 'updated', 'name: one -> two, metadata: null -> {"n":1}'],
      ['1', 'registered', 'name: one, role: worker, address: vm-1.vm.vers.sh'],
    ],
  );
  assert.ok(rows.every((row) => row.split('\t')[3] !== ''));
  assert.doesNotMatch(stdout, /a-secret-token/);
  assert.equal((await ask(['history', 'a', '--limit', '1', '-q'])).stdout, '4\n');
  const first = JSON.parse((await ask(['history', 'a', '--json'])).stdout) as { changes: unknown; by: string }[];
  assert.deepEqual(first[1]!.changes, { status: ['running', 'paused'] });
});

for (const limit of ['0', '-1', 'x', '10001']) {
  test(`history --limit ${limit} is exit 5`, async () => {
    assert.deepEqual(await vreg(['history', 'a', `--limit=${limit}`]), {
      code: 5,
      stdout: '',
      stderr: `vreg: invalid --limit "${limit}"\nhint: use a whole number from 1 to 10000\n`,
    });
  });
}

test('api does not print what is no text', async (t) => {
  const url = await stub(t, (_request, response) => {
    response.setHeader('content-type', 'application/vnd.sqlite3').end(Buffer.from([0xff, 0xfe, 0]));
  });
  const { code, stdout, stderr } = await vreg(['api', 'GET', '/registry/backup'], { url });
  assert.deepEqual([code, stdout], [5, '']);
  assert.match(
    stderr,
    /the response has the type application\/vnd.sqlite3, which is not text\nhint: for a backup, use: vreg backup FILE\n$/,
  );
});
