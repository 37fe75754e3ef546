/** TLS as the app speaks it: what holds on plain HTTP holds here, who clients are, and certificates that are replaced. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import type { Server } from 'node:http';
import { Agent } from 'node:https';
import { type AddressInfo, connect } from 'node:net';
import test, { type TestContext } from 'node:test';
import type { TLSSocket } from 'node:tls';
import { pino } from 'pino';
import { buildApp } from '../../../../daemon/http/app.ts';
import { listen } from '../../../../daemon/http/server/listen.ts';
import { certificateName, Tls, type TlsFiles } from '../../../../daemon/http/server/tls.ts';
import { MonitoredStore } from '../../../../daemon/store/monitored-store.ts';
import { VregError } from '../../../../src/protocol/errors.ts';
import { serveApp } from '../../../helpers/app.ts';
import {
  type Authority,
  FAR_AHEAD,
  FARTHER_AHEAD,
  type Issued,
  LONG_AGO,
  makeAuthority,
  YESTERYEAR,
} from '../../../helpers/certificates.ts';
import { ask, open } from '../../../helpers/https.ts';
import { exchange, readAnswers } from '../../../helpers/raw.ts';
import { unless } from '../../../helpers/tools.ts';
import { until } from '../../../helpers/until.ts';

const OPENSSL = unless('openssl');
/** Milliseconds: less than after which a request that never ends is cut, which nothing here may have to wait for. */
const LATE = 25_000;

function aLog() {
  const lines: Record<string, unknown>[] = [];
  const to = (level: string) => (fields: object, msg: string) => void lines.push({ level, ...fields, msg });
  return { lines, debug: to('debug'), info: to('info'), warn: to('warn') };
}

function filesOf({ cert, key }: Issued, clientCa?: string): TlsFiles {
  const pem = (path: string) => ({ path, text: readFileSync(path, 'utf8') });
  return { cert: pem(cert), key: pem(key), ...(clientCa === undefined ? {} : { clientCa: pem(clientCa) }) };
}

/** A server that says what its client's certificate is called. */
async function startNaming(t: TestContext, files: TlsFiles, log = aLog()) {
  const tls = new Tls(files, log);
  const server: Server = tls.createServer({ requestTimeout: 5000 }, (request, response) => {
    response.end(String(certificateName(request.socket)));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { tls, log, url: `https://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

test('the app serves HTTP/1.1 over TLS 1.2 and 1.3, and rejects older versions and HTTP/2', OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const app = await serveApp(t, { tls: new Tls(filesOf(authority.issue('server')), aLog()) });
  for (const version of ['TLSv1.2', 'TLSv1.3'] as const) {
    const options = { minVersion: version, maxVersion: version };
    assert.equal((await ask(`${app.url}/health`, authority, options)).status, 200, version);
  }
  const old = { minVersion: 'TLSv1', maxVersion: 'TLSv1.1', ciphers: 'DEFAULT@SECLEVEL=0' };
  await assert.rejects(open(app.url, authority, old), /PROTOCOL_VERSION|alert protocol version/);
  await assert.rejects(open(app.url, authority, { ALPNProtocols: ['h2'] }), /no application protocol/);
  const socket = await open(app.url, authority, { ALPNProtocols: ['h2', 'http/1.1'] });
  assert.equal(socket.alpnProtocol, 'http/1.1');
  socket.destroy();
});

test('malformed requests get the same errors over TLS', OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const tls = new Tls(filesOf(authority.issue('server')), aLog());
  const { url } = await serveApp(t, { tls, limits: { requestTimeout: 300 } });
  for (const [bytes, status] of [
    ['nonsense\r\n\r\n', 400],
    [`GET / HTTP/1.1\r\nHost: a\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`, 431],
    ['GET /health HTTP/1.1\r\nConnection: close\r\n\r\n', 400],
    ['BREW /registry/vms HTTP/1.1\r\nHost: a\r\n\r\n', 405],
    ['CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n', 404],
    ['POST /registry/vms HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n', 408],
  ] as const) {
    const socket = await open(url, authority);
    socket.write(bytes);
    const [answer] = await readAnswers(socket);
    assert.equal(answer?.status, status, bytes.slice(0, 40));
    assert.ok((JSON.parse(answer!.text) as { error: string }).error);
  }
});

test('a TLS handshake that never starts or never completes is closed after the request timeout', OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const tls = new Tls(filesOf(authority.issue('server')), aLog());
  const { at } = await serveApp(t, { tls, limits: { requestTimeout: 300 } });
  // The beginning of a ClientHello that promises 512 bytes.
  for (const bytes of ['', Buffer.from('16030102000100', 'hex')]) {
    assert.deepEqual(await exchange(at, bytes), []);
  }
});

test('a TLS handshake that arrives byte by byte does not extend the timeout', {
  ...OPENSSL,
  timeout: LATE,
}, async (t) => {
  const authority = makeAuthority(t);
  const tls = new Tls(filesOf(authority.issue('server')), aLog());
  const { at } = await serveApp(t, { tls, limits: { requestTimeout: 300 } });
  const socket = connect(at).on('error', () => {});
  socket.write(Buffer.from('16030102000100', 'hex'));
  const trickle = setInterval(() => socket.write('\0'), 50);
  t.after(() => clearInterval(trickle));
  await once(socket.resume(), 'close');
});

test('connections beyond the limit are closed immediately, and earlier ones are served', OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const tls = new Tls(filesOf(authority.issue('server')), aLog());
  const { server, at, url } = await serveApp(t, { tls });
  server.maxConnections = 5;
  const served = await open(url, authority);
  const others = Array.from({ length: 12 }, () => connect(at).on('error', () => {}));
  t.after(() => {
    for (const socket of others) socket.destroy();
  });
  await until('those beyond the limit to be closed', () => others.filter(({ destroyed }) => destroyed).length === 8);
  served.write('GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n');
  assert.equal((await readAnswers(served))[0]?.status, 200);
});

test('a plain HTTP request to the TLS port gets a 400 with a hint to use https', OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const log = aLog();
  const { at, logged } = await serveApp(t, { tls: new Tls(filesOf(authority.issue('server')), log) });
  for (const method of ['GET', 'POST', 'PATCH', 'DELETE', 'OPTIONS']) {
    const [answer] = await exchange(at, `${method} /registry/vms HTTP/1.1\r\nHost: a\r\n\r\n`);
    assert.equal(answer?.status, 400, method);
    assert.match((JSON.parse(answer!.text) as { hint: string }).hint, /https:\/\//);
    // It is a refusal like any other: there is one line of it, which names it.
    const [line, ...more] = logged.splice(0).map((text) => JSON.parse(text) as Record<string, unknown>);
    assert.equal(more.length, 0);
    const { audit, from, status, code, requestId } = line!;
    assert.deepEqual([audit, from, status, code], [true, '127.0.0.1', 400, 'INVALID']);
    assert.ok(requestId);
    assert.equal(answer!.headers['x-request-id'], requestId);
  }
  assert.ok(log.lines.every(({ level }) => level === 'debug'));
});

test('close answers accepted requests, and does not wait for handshakes or idle connections', {
  ...OPENSSL,
  timeout: LATE,
}, async (t) => {
  const authority = makeAuthority(t);
  const tls = new Tls(filesOf(authority.issue('server')), aLog());
  const { registry, authenticator, store } = await serveApp(t);
  const app = buildApp({
    registry,
    store: new MonitoredStore(store),
    authenticator,
    version: '0.0.0',
    log: pino({ enabled: false }),
    tls,
  });
  let arrived = 0;
  app.server.on('request', () => arrived++);
  const { close, port, urls } = await listen(app, { tcp: { host: '127.0.0.1', port: 0 } });
  const url = urls[0]!;
  assert.equal(url, `https://127.0.0.1:${port}`);
  const silent = connect({ host: '127.0.0.1', port: port! });
  await once(silent, 'connect');
  const idle = await open(url, authority);
  const asked = ask(`${url}/registry/discover/worker?wait=10s`, authority);
  await until('the request to arrive', () => arrived === 1);
  const ends = [silent, idle].map((socket) => once(socket.on('error', () => {}).resume(), 'close'));
  await close();
  await Promise.all(ends);
  assert.equal((await asked).status, 200);
});

test("a client's name is the common name of its certificate, else its first DNS name", OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const files = filesOf(authority.issue('server'), authority.ca);
  const { url } = await startNaming(t, files);
  for (const [subject, names, name] of [
    ['/CN=worker-1', 'DNS:other', 'worker-1'],
    ['/O=us', 'IP:10.0.0.1,DNS:worker-2,DNS:worker-3', 'worker-2'],
    ['/O=us', 'URI:http://a/DNS:root,DNS:worker-4', 'worker-4'],
    ['/O=us', 'email:a@b.example', 'undefined'],
    ['/CN=worker-5/CN=admin', 'DNS:admin', 'undefined'],
    ['/O=CN=admin/CN=worker 6', '', 'worker 6'],
  ] as const) {
    const own = authority.issue('client', { subject, names });
    const agent = new Agent({ keepAlive: true });
    t.after(() => agent.destroy());
    const shown = { ca: authority.ca, own };
    assert.equal((await ask(url, shown, { agent })).text, name, `${subject} ${names}`);
    assert.equal((await ask(url, shown, { agent })).text, name, 'the same connection');
  }
});

test('a client whose token has expired is named in the log by its certificate', OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const tls = new Tls(filesOf(authority.issue('server'), authority.ca), aLog());
  const app = await serveApp(t, { tls, token: 's3cret' });
  await app.authenticator.tokens.create({ name: 'worker-1', scope: 'read', expiresIn: 5 }, 'test');
  app.clock.pass(5000);
  const own = authority.issue('client', { subject: '/CN=worker-1' });
  assert.equal((await ask(`${app.url}/registry/vms`, { ca: authority.ca, own })).status, 401);
  const line = await until('the line', () => app.logged.find((each) => each.includes('"audit":true')));
  assert.equal((JSON.parse(line) as { by: string }).by, 'worker-1');
});

test('a client without a valid certificate gets no response, and the refusal is logged', OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const foreign = makeAuthority(t, 'Test CA');
  const { url, log } = await startNaming(t, filesOf(authority.issue('server'), authority.ca));
  const { ca } = authority;
  const cases: [own: Issued | undefined, reason: RegExp][] = [
    [undefined, /DID_NOT_RETURN_A_CERTIFICATE/],
    [foreign.issue('client'), /UNABLE_TO|SIGNATURE/],
    [authority.issue('old', { from: LONG_AGO, until: YESTERYEAR }), /CERT_HAS_EXPIRED/],
    [authority.issue('early', { from: FAR_AHEAD, until: FARTHER_AHEAD }), /CERT_NOT_YET_VALID/],
  ];
  for (const [own, reason] of cases) {
    for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
      log.lines.length = 0;
      await assert.rejects(ask(url, { ca, own }, { maxVersion }), `${reason} ${maxVersion}`);
      const line = await until('the line', () => log.lines[0]);
      assert.match(String(line.reason), reason);
      assert.deepEqual([line.level, line.from], ['info', '127.0.0.1']);
    }
  }
});

test('a resumed TLS session has the same client name', { ...OPENSSL, timeout: LATE }, async (t) => {
  const authority = makeAuthority(t);
  const { url } = await startNaming(t, filesOf(authority.issue('server'), authority.ca));
  const shown = { ca: authority.ca, own: authority.issue('client', { subject: '/CN=worker-1' }) };
  const first = await open(url, shown);
  const session = once(first, 'session');
  first.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n');
  const [ticket] = (await session) as [Buffer];
  const second = await open(url, shown, { session: ticket });
  assert.equal(second.isSessionReused(), true);
  second.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n');
  assert.equal((await readAnswers(second))[0]!.text, 'worker-1');
});

test('after the CA is replaced, a client of the old CA cannot resume its session', {
  ...OPENSSL,
  timeout: LATE,
}, async (t) => {
  const authority = makeAuthority(t);
  const { tls, url } = await startNaming(t, filesOf(authority.issue('server'), authority.ca));
  const shown = { ca: authority.ca, own: authority.issue('client') };
  for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
    tls.replace(filesOf(authority.issue('server'), authority.ca));
    const first = await open(url, shown, { maxVersion });
    first.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
    await once(first, 'data');
    const session = first.getSession();
    first.destroy();
    tls.replace(filesOf(authority.issue('server'), makeAuthority(t, 'Other CA').ca));
    const second = await open(url, shown, { maxVersion, session }).catch((error: Error) => error);
    if (second instanceof Error) continue;
    // A client of TLS 1.3 takes the handshake for done before the server has looked at its certificate.
    second.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n');
    assert.deepEqual(await readAnswers(second), [], maxVersion);
  }
});

test('a connection closes when its client certificate expires, and its session cannot be resumed', {
  ...OPENSSL,
  timeout: LATE,
}, async (t) => {
  const authority = makeAuthority(t);
  const { url } = await startNaming(t, filesOf(authority.issue('server'), authority.ca));
  const until = `${new Date(Date.now() + 3000).toISOString().slice(0, 19).replace(/[-:T]/g, '')}Z`;
  const shown = { ca: authority.ca, own: authority.issue('client', { until }) };
  const kept: TLSSocket[] = [];
  for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
    const socket = await open(url, shown, { maxVersion });
    socket.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
    await once(socket, 'data');
    kept.push(socket);
  }
  const sessions = kept.map((socket) => socket.getSession());
  await Promise.all(kept.map((socket) => once(socket, 'close')));
  for (const session of sessions) {
    const again = await open(url, shown, { session }).catch((error: Error) => error);
    if (again instanceof Error) continue;
    again.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n');
    assert.deepEqual(await readAnswers(again), []);
  }
});

test('new certificates apply to new connections, and open connections continue', OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const others = makeAuthority(t, 'Other CA');
  const { tls, url } = await startNaming(t, filesOf(authority.issue('server'), authority.ca));
  const mine = { ca: authority.ca, own: authority.issue('client', { subject: '/CN=mine' }) };
  const theirs = { ca: others.ca, own: others.issue('client', { subject: '/CN=theirs' }) };
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  t.after(() => agent.destroy());
  const before = await ask(url, mine, { agent });
  await assert.rejects(ask(url, { ...theirs, ca: authority.ca }));

  tls.replace(filesOf(others.issue('server'), others.ca));
  assert.deepEqual(await ask(url, mine, { agent }), before);
  const after = await ask(url, theirs);
  assert.equal(after.text, 'theirs');
  assert.notEqual(after.fingerprint, before.fingerprint);
  await assert.rejects(ask(url, { ...mine, ca: others.ca }));
  await assert.rejects(ask(url, { ...theirs, ca: authority.ca }), /unable to verify|self.signed/);
});

test('unusable files change nothing, and a reload cannot add or remove the client CA', OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const server = authority.issue('server');
  const { tls, url } = await startNaming(t, filesOf(server));
  const other = authority.issue('other');
  for (const [files, message] of [
    [filesOf({ cert: server.cert, key: other.key }), /cannot be used for TLS/],
    [filesOf(server, authority.ca), /the client CA cannot be added or removed/],
    [undefined, /the certificate cannot be added or removed/],
  ] as const) {
    assert.throws(
      () => tls.replace(files),
      (error) => error instanceof VregError && error.code === 'USAGE' && message.test(error.message),
    );
  }
  assert.equal((await ask(url, authority)).text, 'undefined');
});

test('a certificate that is expired, not yet valid or about to expire within a week causes a warning', OPENSSL, (t) => {
  const authority: Authority = makeAuthority(t);
  const inDays = (days: number) => {
    const at = new Date(Date.now() + days * 86_400_000).toISOString();
    return `${at.slice(0, 19).replace(/[-:T]/g, '')}Z`;
  };
  for (const [dates, said] of [
    [{ from: LONG_AGO, until: YESTERYEAR }, /^a certificate in .*server\.crt expired at 2021-01-01T/],
    [{ from: FAR_AHEAD, until: FARTHER_AHEAD }, /is not valid before 2048-.*: is the clock correct\?$/],
    [{ until: inDays(6) }, /expires soon: at /],
    [{ until: inDays(8) }, undefined],
  ] as const) {
    const log = aLog();
    new Tls(filesOf(authority.issue('server', dates), authority.ca), log);
    const [line, ...more] = log.lines;
    assert.deepEqual(more, []);
    if (said) assert.match(`${line?.msg}`, said);
    else assert.equal(line, undefined);
  }
});

test('a host name is covered if the certificate contains it', OPENSSL, (t) => {
  const authority = makeAuthority(t);
  const issued = authority.issue('server', { names: 'DNS:registry.example,DNS:*.fleet.example' });
  const tls = new Tls(filesOf(issued), aLog());
  for (const [name, covered] of [
    ['registry.example', true],
    ['a.fleet.example', true],
    ['evil.example', false],
    ['a.b.fleet.example', false],
  ] as const) {
    assert.equal(tls.covers(name), covered, name);
  }
});
