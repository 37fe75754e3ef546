import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { OPERATIONS } from '../../src/protocol/operations.ts';
import { serveApp } from '../helpers/app.ts';
import { seed, vreg } from '../helpers/cli.ts';
import { tempDir } from '../helpers/daemon.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { stub } from '../helpers/stub.ts';
import { aVm } from '../helpers/vm.ts';

test('the help lists every route of the daemon with its purpose', async () => {
  const { stdout } = await vreg(['api', '--help']);
  const routes = stdout.slice(stdout.indexOf('\nRoutes:\n'));
  for (const [route, about] of Object.entries(OPERATIONS)) {
    const words = `${route} ${about}`.split(' ').join('\\s+');
    assert.match(routes, new RegExp(words.replaceAll('.', '\\.')), route);
  }
});

test('api prints the response body as received', async (t) => {
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

test('api sends a body from a file or from stdin', async (t) => {
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

test('api exits with 5 if stdin is empty', async (t) => {
  const { url } = await serveApp(t);
  assert.deepEqual(await vreg(['api', 'POST', '/registry/vms', '-f', '-'], { url, stdin: '' }), {
    code: 5,
    stdout: '',
    stderr: 'vreg: stdin is empty\nhint: did the command before the pipe fail?\n',
  });
});

test('api exits with 5 if the route does not know a query parameter', async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' })]);
  const { code, stdout } = await vreg(['api', 'GET', '/registry/vms?parnetId=b'], { url });
  assert.equal(code, 5);
  assert.match((JSON.parse(stdout) as { error: string }).error, /^unknown query parameter "parnetId" \(one of role, /);
  assert.match((await vreg(['api', 'GET', '/registry/vms?parentId=b'], { url })).stdout, /"count":0/);
});

test('api prints the body of an error response and exits with the code of the error', async (t) => {
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
  test(`api ${argv.join(' ')} exits with 5`, async () => {
    const result = await vreg(['api', ...argv]);
    assert.deepEqual([result.code, result.stdout], [5, '']);
    assert.match(result.stderr, message);
  });
}

test('api does not print a response that is not text', async (t) => {
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
