/** The unix socket: which requests have the rights of its owner, and which ones may come from a proxy. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import type { Whoami } from '../../../src/protocol/token.ts';
import { serveApp } from '../../helpers/app.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { exchange } from '../../helpers/raw.ts';

async function withSocket(t: TestContext, token?: string) {
  const path = join(tempDir(t), 'vreg.sock');
  await serveApp(t, { socket: path, ...(token === undefined ? {} : { token }) });
  return async (...lines: string[]) => {
    const head = ['GET /registry/whoami HTTP/1.1', 'Host: a', 'Connection: close', ...lines];
    const [answer] = await exchange({ path }, `${head.join('\r\n')}\r\n\r\n`);
    return { status: answer!.status, body: JSON.parse(answer!.text) as Whoami & { error: string; hint: string } };
  };
}

const DIRECT = [
  'User-Agent: curl/8',
  'accept: */*',
  'Accept-Encoding: gzip',
  'ACCEPT-LANGUAGE: en',
  'Content-Type: application/json',
  'Content-Length: 0',
  'Content-Encoding: identity',
  'If-Match: *',
  'If-None-Match: "1"',
  'If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT',
  'Last-Event-ID: 1',
  'Range: bytes=0-1',
  'X-Request-Id: mine',
  'X-Vreg-Client: 1',
  'X-Vreg-Anything: 1',
];

/** Headers of proxies, load balancers, meshes, browsers and tracers, and names that resemble permitted ones. */
const FOREIGN = [
  'X-Forwarded-For: 192.0.2.1',
  'X-Forwarded: 192.0.2.1',
  'Forwarded: for=192.0.2.1',
  'Via: 1.1 proxy',
  'X-Real-IP: 192.0.2.1',
  'CF-Ray: 1',
  'CDN-Loop: a',
  'X-Amzn-Trace-Id: Root=1',
  'X-Cloud-Trace-Context: 1',
  'Traceparent: 00-1',
  'B3: 1',
  'X-Cluster-Client-IP: 192.0.2.1',
  'X-ProxyUser-Ip: 192.0.2.1',
  'Fly-Client-IP: 192.0.2.1',
  'Fastly-Client-IP: 192.0.2.1',
  'Front-End-Https: on',
  'X-Scheme: https',
  'X-Url-Scheme: https',
  'X-SSL-Client-Cert: a',
  'X-Remote-User: root',
  'Remote-User: root',
  'Cookie: a=1',
  'Origin: http://evil.example',
  'Referer: http://evil.example/',
  'Sec-Fetch-Site: cross-site',
  'Upgrade-Insecure-Requests: 1',
  'Cache-Control: no-cache',
  'Pragma: no-cache',
  'Max-Forwards: 1',
  'Proxy-Connection: keep-alive',
  'Keep-Alive: timeout=5',
  'TE: trailers',
  'X-Vreg: 1',
  'X-Request-Ids: 1',
  'My-Accept: 1',
  '__proto__: 1',
  'constructor: 1',
  'toString: 1',
  'x: 1',
];

test('a request on the socket with headers of a direct client has the rights of the owner', async (t) => {
  const ask = await withSocket(t, 's3cret');
  assert.deepEqual((await ask(...DIRECT)).body, { name: 'socket', scope: 'admin' });
  for (const line of DIRECT) assert.equal((await ask(line)).status, 200, line);
});

test('a request on the socket with any other header needs a token', async (t) => {
  const ask = await withSocket(t, 's3cret');
  for (const line of FOREIGN) {
    for (const lines of [[line], [line.toUpperCase()], [...DIRECT, line], [line, ...DIRECT]])
      assert.equal((await ask(...lines)).status, 401, lines.join(' | '));
    assert.deepEqual((await ask(line, 'Authorization: Bearer s3cret')).body, {
      name: 'VERS_AUTH_TOKEN',
      scope: 'admin',
    });
  }
  const { body } = await ask('CF-Ray: 1');
  assert.equal(body.error, 'Unauthorized — missing Authorization header');
  assert.match(body.hint, /^the header "cf-ray" may come from a proxy: send "Authorization: Bearer TOKEN"/);
});

test('a registry without a token refuses requests on its socket that may come from a proxy', async (t) => {
  const ask = await withSocket(t);
  assert.deepEqual((await ask(...DIRECT)).body, { name: 'anonymous', scope: 'admin' });
  for (const line of ['CF-Ray: 1', 'Cookie: a=1', 'X-Forwarded-For: 192.0.2.1', 'Authorization: Bearer any']) {
    const { status, body } = await ask(line);
    assert.deepEqual([status, /may come from a proxy/.test(body.error)], [403, true], line);
  }
});

test('the header of a proxy behind a hundred others is not overlooked', async (t) => {
  const ask = await withSocket(t, 's3cret');
  const many = (count: number) => Array.from({ length: count }, (_, n) => `If-${n}: 1`);
  assert.equal((await ask(...many(190))).status, 200);
  assert.equal((await ask(...many(190), 'Via: 1.1 a')).status, 401);
  assert.equal((await ask(...many(300), 'Via: 1.1 a')).status, 431);
});
