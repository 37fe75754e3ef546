/** Browsers: pages of allowed origins may use the registry, other pages may not, and no response can harm its page. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { serveApp } from '../../helpers/app.ts';
import { cleanEnv, ENTRY, PROGRAM, run, startDaemon, tempDir } from '../../helpers/daemon.ts';
import { call, errorOf } from '../../helpers/http.ts';
import { exchange } from '../../helpers/raw.ts';
import { aVm } from '../../helpers/vm.ts';

const DASH = 'https://dash.example';
const PREFLIGHT = { origin: DASH, 'access-control-request-method': 'PATCH' };

/** Sends a preflight, as a browser does. */
async function preflight(url: string, path: string, headers: Record<string, string> = PREFLIGHT) {
  const answer = await fetch(url + path, { method: 'OPTIONS', headers });
  return { status: answer.status, headers: answer.headers, text: await answer.text() };
}

test('without allowed origins there are no CORS headers, and OPTIONS is an unsupported method', async (t) => {
  const { url } = await serveApp(t, { token: 's3cret' });
  const headers = { authorization: 'Bearer s3cret', ...PREFLIGHT };
  const asked = await preflight(url, '/registry/vms', headers);
  assert.deepEqual([asked.status, asked.headers.get('allow')], [405, 'HEAD, POST, GET']);
  assert.equal((await preflight(url, '/nowhere', headers)).status, 404);
  assert.equal((await preflight(url, '/registry/vms')).status, 401);
  const read = await call(url, 'GET', '/registry/vms', { headers });
  for (const name of ['access-control-allow-origin', 'vary']) assert.equal(read.headers.get(name), null, name);
});

test('a preflight from an allowed origin is answered without a token', async (t) => {
  const { url } = await serveApp(t, { token: 's3cret', corsOrigins: [DASH, 'https://other.example'] });
  const { status, headers, text } = await preflight(url, '/registry/vms/a?include=liveness');
  assert.deepEqual([status, text], [204, '']);
  assert.equal(headers.get('access-control-allow-origin'), DASH);
  assert.equal(headers.get('vary'), 'Origin');
  assert.equal(headers.get('access-control-allow-methods'), 'HEAD, GET, PUT, PATCH, DELETE');
  assert.match(headers.get('access-control-allow-headers')!, /\bauthorization\b.*\bif-match\b/);
  assert.equal(headers.get('access-control-allow-credentials'), null);
});

test('pages of an allowed origin can read every response, errors included, and still need a token', async (t) => {
  const { url } = await serveApp(t, { token: 's3cret', corsOrigins: [DASH] });
  for (const [authorization, path, status] of [
    ['Bearer s3cret', '/registry/vms', 200],
    ['Bearer s3cret', '/registry/vms/nobody', 404],
    ['Bearer s3cret', '/registry/vms/%zz', 400],
    ['Bearer guessed', '/registry/vms', 401],
  ] as const) {
    const answer = await call(url, 'GET', path, { headers: { origin: DASH, authorization } });
    assert.equal(answer.status, status, path);
    assert.equal(answer.headers.get('access-control-allow-origin'), DASH, path);
    for (const name of ['etag', 'x-vreg-position', 'x-request-id', 'retry-after'])
      assert.match(answer.headers.get('access-control-expose-headers')!, new RegExp(`\\b${name}\\b`));
  }
  const headers = { origin: DASH };
  assert.equal((await call(url, 'POST', '/registry/vms', { body: aVm(), headers })).status, 401);
});

test('pages from other origins get no CORS headers, even if the origin looks similar', async (t) => {
  const { url } = await serveApp(t, { token: 's3cret', corsOrigins: [DASH] });
  const authorization = 'Bearer s3cret';
  for (const origin of [
    'https://dash.example.evil.example',
    'http://dash.example',
    'https://dash.example:8443',
    'https://evil.example',
    'null',
  ]) {
    const asked = await preflight(url, '/registry/vms', { ...PREFLIGHT, origin, authorization });
    assert.equal(asked.status, 405, origin);
    const read = await call(url, 'GET', '/registry/vms', { headers: { origin, authorization } });
    for (const { headers } of [asked, read]) {
      assert.equal(headers.get('access-control-allow-origin'), null, origin);
      // A cache must not use this response for the other origin.
      assert.equal(headers.get('vary'), 'Origin');
    }
  }
});

test('an OPTIONS request that is not a preflight is 405, and a preflight for an unknown path is 404', async (t) => {
  const { url } = await serveApp(t, { corsOrigins: [DASH] });
  assert.equal((await preflight(url, '/registry/vms', { origin: DASH })).status, 405);
  assert.equal((await preflight(url, '/nowhere')).status, 404);
});

test('an allowed origin may use a registry without tokens, and a rebound host name may not', async (t) => {
  const { url, at } = await serveApp(t, { corsOrigins: [DASH] });
  const send = (origin: string) =>
    call(url, 'POST', '/registry/vms', { body: aVm({ id: origin }), headers: { origin } });
  assert.equal((await send(DASH)).status, 201);
  const refused = await send('https://evil.example');
  assert.equal(refused.status, 403);
  assert.match(errorOf(refused), /pages from https:\/\/evil\.example may not/);
  const head = `Host: evil.example\r\nOrigin: ${DASH}\r\nAccess-Control-Request-Method: POST\r\nConnection: close`;
  const [rebound] = await exchange(at, `OPTIONS /registry/vms HTTP/1.1\r\n${head}\r\n\r\n`);
  assert.equal(rebound!.status, 403);
});

test('a response that a browser opens cannot run, embed, leak or cache anything', async (t) => {
  const { url } = await serveApp(t);
  for (const path of [
    '/health',
    '/registry/vms',
    '/registry/vms/nobody',
    '/nowhere',
    '/registry/vms/%zz',
    '/registry/metrics',
  ]) {
    const { headers, body } = await fetch(url + path);
    await body?.cancel();
    const told = ['content-security-policy', 'x-content-type-options', 'referrer-policy', 'cache-control'];
    assert.deepEqual(
      told.map((name) => headers.get(name)),
      ["default-src 'none'; frame-ancestors 'none'", 'nosniff', 'no-referrer', 'no-store'],
      path,
    );
  }
});

test('--cors-origin accepts origins only', async (t) => {
  const { url } = await startDaemon(t, { args: ['--cors-origin', `https://a.example,${DASH}`] });
  assert.equal((await preflight(url, '/registry/vms')).status, 204);
  const { code, stderr } = await run(PROGRAM, [...ENTRY, 'daemon', '--cors-origin', '*'], {
    env: cleanEnv(tempDir(t)),
  });
  assert.equal(code, 5);
  assert.match(stderr, /^vreg: invalid cors-origin "\*".*\nhint: .*https:\/\/dash\.example/);
});
