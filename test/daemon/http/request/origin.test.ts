import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { text } from 'node:stream/consumers';
import test from 'node:test';
import { isLoopback } from '../../../../daemon/http/request/loopback.ts';
import { serveApp } from '../../../helpers/app.ts';
import { call, errorOf } from '../../../helpers/http.ts';
import { aVm } from '../../../helpers/vm.ts';

test('loopback is 127.0.0.0/8, ::1 and localhost, and nothing that only looks similar', () => {
  for (const host of ['127.0.0.1', '127.9.9.9', '::1', 'localhost']) assert.equal(isLoopback(host), true, host);
  for (const host of [
    '0.0.0.0',
    '::',
    '10.0.0.1',
    '128.0.0.1',
    '::2',
    'localhost.evil.com',
    '127.0.0.1.evil.com',
    '',
  ]) {
    assert.equal(isLoopback(host), false, host);
  }
});

test('without a token, pages of other origins are refused, and pages of this machine are not', async (t) => {
  const { url } = await serveApp(t);
  const send = (origin: string) =>
    call(url, 'POST', '/registry/vms', { body: aVm({ id: origin }), headers: { origin } });
  for (const origin of ['https://evil.example', 'null', 'http://127.0.0.1.evil.example']) {
    const answer = await send(origin);
    assert.equal(answer.status, 403, origin);
    assert.match(errorOf(answer), /pages from .* may not use a registry without a token/);
  }
  for (const origin of ['http://localhost:8080', 'http://[::1]:3000']) assert.equal((await send(origin)).status, 201);
});

test('with a token, pages of any origin are accepted', async (t) => {
  const { url } = await serveApp(t, { token: 's3cret' });
  const headers = { origin: 'https://dash.example', authorization: 'Bearer s3cret' };
  assert.equal((await call(url, 'GET', '/registry/vms', { headers })).status, 200);
});

test("without a token, a Host that is not the registry's own is refused, as after DNS rebinding", async (t) => {
  const { at, url } = await serveApp(t, { names: new Set(['registry.lan']) });
  const ask = (host: string) => firstLine(at, `GET /health HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
  for (const host of ['evil.example', 'localhost.evil.example', '127.0.0.1.evil.example'])
    assert.match(await ask(host), / 403 /, host);
  for (const host of [
    '127.0.0.1:9',
    '10.0.0.5',
    '[::1]:3000',
    'localhost:3000',
    'Registry.LAN:80',
    'a.localhost',
    'registry',
  ])
    assert.match(await ask(host), / 200 /, host);
  assert.equal((await call(url, 'GET', '/health')).status, 200);
});

test('with a token, any Host is accepted', async (t) => {
  const { at } = await serveApp(t, { token: 's3cret' });
  const request =
    'GET /registry/vms HTTP/1.1\r\nHost: any.example\r\nAuthorization: Bearer s3cret\r\nConnection: close\r\n\r\n';
  assert.match(await firstLine(at, request), / 200 /);
});

async function firstLine(at: { host: string; port: number }, request: string): Promise<string> {
  const socket = connect(at);
  socket.end(request);
  return (await text(socket)).split('\r\n', 1)[0]!;
}
