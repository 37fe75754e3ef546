/** Client addresses behind proxies: forwarded headers count only if they come from a trusted proxy. */
import assert from 'node:assert/strict';
import { isIP } from 'node:net';
import test from 'node:test';
import fc from 'fast-check';
import type { RequestContext } from '../../../../daemon/http/context.ts';
import { cleanForwardedFor, trustedProxies, trustForwardedHeaders } from '../../../../daemon/http/request/proxy.ts';
import { type ServedApp, serveApp } from '../../../helpers/app.ts';
import { exchange } from '../../../helpers/raw.ts';
import { until } from '../../../helpers/until.ts';

/** Sends a request with the headers and returns the client's address and scheme from the audit line. */
async function seen(app: ServedApp, headers: Record<string, string>, path = '/registry/vms') {
  app.logged.length = 0;
  const { status, body } = await fetch(app.url + path, { headers });
  await body?.cancel();
  const line = await until('the line', () => app.logged.find((each) => each.includes('"audit":true')));
  const { from, scheme } = JSON.parse(line) as { from: string; scheme?: string };
  return { status, from, scheme };
}

test('without --trust-proxy forwarded headers are ignored', async (t) => {
  const app = await serveApp(t, { token: 's3cret' });
  const headers = { 'x-forwarded-for': '203.0.113.9', 'x-forwarded-proto': 'https' };
  assert.deepEqual(await seen(app, headers), { status: 401, from: '127.0.0.1', scheme: undefined });
});

test('forwarded headers of an untrusted proxy are ignored', async (t) => {
  const app = await serveApp(t, { token: 's3cret', trustProxy: '10.0.0.0/8,uniquelocal' });
  const headers = { 'x-forwarded-for': '203.0.113.9', 'x-forwarded-proto': 'https' };
  assert.deepEqual(await seen(app, headers), { status: 401, from: '127.0.0.1', scheme: undefined });
});

test('the client address is the last forwarded address that is not a trusted proxy', async (t) => {
  const app = await serveApp(t, { token: 's3cret', trustProxy: 'loopback, 10.0.0.5' });
  for (const [given, from] of [
    ['203.0.113.9', '203.0.113.9'],
    ['203.0.113.9, 10.0.0.5', '203.0.113.9'],
    ['6.6.6.6, 203.0.113.9, 127.0.0.1', '203.0.113.9'],
    ['2001:db8::1', '2001:db8::1'],
    ['[2001:db8::1]:4711', '2001:db8::1'],
    ['203.0.113.9:4711', '203.0.113.9'],
    ['10.0.0.5', '10.0.0.5'],
    // In each of these the client sent the first part, and the proxy added the address that it saw.
    ['127.0.0.1, 203.0.113.9', '203.0.113.9'],
    ['localhost, 203.0.113.9', '203.0.113.9'],
  ] as const) {
    assert.equal((await seen(app, { 'x-forwarded-for': given })).from, from, given);
  }
});

test('trusted proxies are the listed ranges, in any notation, and clients of the unix socket', () => {
  const trust = trustedProxies('loopback, 10.0.0.5,2001:db8::/32');
  for (const address of [
    undefined,
    '127.9.9.9',
    '::1',
    '::ffff:127.0.0.1',
    '10.0.0.5',
    '::ffff:10.0.0.5',
    '2001:db8::7',
  ])
    assert.equal(trust(address), true, address);
  for (const address of ['10.0.0.6', '::ffff:10.0.0.6', '2001:db9::1', '::2', '0.0.0.0'])
    assert.equal(trust(address), false, address);
  const near = trustedProxies('uniquelocal,linklocal');
  assert.deepEqual(
    ['10.1.2.3', '172.31.0.1', '192.168.1.1', 'fd00::1', 'fe80::1%eth0', '169.254.1.1', '172.32.0.1', '127.0.0.1'].map(
      (address) => near(address),
    ),
    [true, true, true, true, true, true, false, false],
  );
});

test('a closed connection without an address is not taken for the unix socket', () => {
  const headers = { host: 'a', 'x-forwarded-for': '203.0.113.9', 'x-forwarded-proto': 'https' };
  const services = { isTrustedProxy: trustedProxies('loopback') };
  const ctx = { request: { socket: {}, headers }, services } as unknown as RequestContext;
  trustForwardedHeaders(ctx);
  assert.deepEqual(headers, { host: 'a' });
  assert.equal(ctx.remoteAddress, undefined);
});

test('forwarded values that are not addresses are ignored', async (t) => {
  const app = await serveApp(t, { token: 's3cret', trustProxy: 'loopback' });
  for (const given of [
    'unknown',
    '_hidden',
    '203.0.113.9, evil',
    '0x7f.1',
    '203.0.113.256',
    '<script>',
    ', ,',
    'a'.repeat(9000),
  ]) {
    const { status, from } = await seen(app, { 'x-forwarded-for': given });
    assert.deepEqual([status, from], [401, '127.0.0.1'], given.slice(0, 30));
  }
  for (const [given, scheme] of [
    ['https', 'https'],
    ['http, https', 'https'],
    ['https, http', undefined],
    ['javascript:', undefined],
    ['', undefined],
  ] as const) {
    assert.equal((await seen(app, { 'x-forwarded-proto': given })).scheme, scheme, given);
  }
});

test('a cleaned X-Forwarded-For contains only addresses, whatever it contained before', () => {
  const part = fc.oneof(
    fc.ipV4(),
    fc.ipV6(),
    fc.string(),
    fc.constantFrom('[::1]:80', '1.2.3.4:5', '[', ':', ']:1', '::ffff:1.2.3.4'),
  );
  fc.assert(
    fc.property(fc.array(part), fc.constantFrom(',', ', ', ' ,'), (parts, comma) => {
      const headers = { 'x-forwarded-for': parts.join(comma) };
      cleanForwardedFor(headers);
      const left: string | undefined = headers['x-forwarded-for'];
      return left === undefined || left.split(', ').every((address) => isIP(address) !== 0);
    }),
  );
});

test('a list of proxies may be long, repeated, padded or cut, and the last untrusted address counts', async (t) => {
  const app = await serveApp(t, { token: 's3cret', trustProxy: 'loopback, 10.0.0.0/8' });
  const ask = async (...lines: readonly string[]) => {
    app.logged.length = 0;
    const head = ['GET /registry/vms HTTP/1.1', 'Host: a', 'Connection: close', ...lines];
    const [response] = await exchange(app.at, `${head.join('\r\n')}\r\n\r\n`);
    const line = await until('the line', () => app.logged.find((each) => each.includes('"audit":true')));
    return [response?.status, (JSON.parse(line) as { from: string }).from];
  };
  const proxies = Array.from({ length: 1000 }, (_, n) => `10.0.${n >> 8}.${n & 255}`);
  for (const [from, ...lines] of [
    ['203.0.113.9', `X-Forwarded-For: 203.0.113.9, ${proxies.join(', ')}`],
    ['203.0.113.9', `X-Forwarded-For: ${'6.6.6.6,'.repeat(1500)}203.0.113.9`],
    ['203.0.113.9', `X-Forwarded-For: ${' ,'.repeat(5000)}203.0.113.9`],
    ['203.0.113.9', `X-Forwarded-For: 203.0.113.9${', '.repeat(5000)}`],
    ['203.0.113.9', 'X-Forwarded-For: 6.6.6.6', 'X-Forwarded-For: 203.0.113.9'],
    ['203.0.113.9', 'X-Forwarded-For: 203.0.113.9', 'X-Forwarded-For: 10.0.0.1'],
    ['203.0.113.9', 'X-Forwarded-For: 203.0.113.9', 'X-Forwarded-For:'],
    ['203.0.113.9', 'X-Forwarded-For: "6.6.6.6", 203.0.113.9'],
    ['203.0.113.9', 'X-Forwarded-For: 6.6.6.6; 6.6.6.6, 203.0.113.9'],
    ['127.0.0.1', 'X-Forwarded-For: 203.0.113.9, unknown'],
    ['10.0.0.1', 'X-Forwarded-For: 203.0.113.9, unknown, 10.0.0.1'],
    ['127.0.0.1', 'X-Forwarded-For:'],
    ['127.0.0.1', 'X-Forwarded-For: ,,,'],
    ['127.0.0.1', `X-Forwarded-For: ${'x'.repeat(15_000)}`],
    ['127.0.0.1', 'X-Forwarded-For: 203.0.113.9 6.6.6.6'],
    ['127.0.0.1', 'X-Forwarded-For: 203.0.113.9\t6.6.6.6'],
    ['127.0.0.1', 'X-Forwarded-For: [2001:db8::1'],
    ['127.0.0.1', 'X-Forwarded-For: 2001:db8::1]:80'],
    ['127.0.0.1', 'X-Forwarded-For: 1.2.3'],
    ['127.0.0.1', 'X-Forwarded-For: 01.02.03.04'],
    ['127.0.0.1', 'X-Forwarded-For: 256.1.1.1'],
    ['127.0.0.1', 'Forwarded: for=203.0.113.9'],
    ['127.0.0.1', 'X-Real-IP: 203.0.113.9'],
    ['2001:db8::1', 'X-Forwarded-For: 2001:db8::1'],
    ['2001:db8::1', 'X-Forwarded-For: [2001:db8::1]:4711, 10.1.2.3'],
  ] as const)
    assert.deepEqual(await ask(...lines), [401, from], lines.join(' | ').slice(0, 100));
});

test('failed logins from one address behind a proxy do not lock out another', async (t) => {
  const app = await serveApp(t, { token: 's3cret', trustProxy: 'loopback' });
  const statusOf = async (address: string, token: string) => {
    const headers = { 'x-forwarded-for': address, authorization: `Bearer ${token}` };
    const { status, body } = await fetch(`${app.url}/registry/vms`, { headers });
    await body?.cancel();
    return status;
  };
  for (let n = 0; n < 70; n++) await statusOf('203.0.113.9', `wrong-${n}`);
  assert.equal(await statusOf('203.0.113.9', 's3cret'), 429);
  assert.equal(await statusOf('203.0.113.10', 's3cret'), 200);
});
