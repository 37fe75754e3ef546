/** The behaviour that both transports share, against raw servers: what they send, what they accept, and how they name errors. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import test, { type TestContext } from 'node:test';
import type { TlsOptions } from 'node:tls';
import { Connection } from '../../src/client/connection.ts';
import type { ClientTls, Exchange, OpenTransport, Transport } from '../../src/client/transport.ts';
import type { VregError } from '../../src/protocol/errors.ts';
import { type Issued, LONG_AGO, makeAuthority, YESTERYEAR } from '../helpers/certificates.ts';
import { tempDir } from '../helpers/daemon.ts';
import { fullBacklog } from '../helpers/full-backlog.ts';
import { unless, unlessMissing } from '../helpers/tools.ts';
import { TRANSPORTS } from '../helpers/transports.ts';

/** Listens on a free port, or on a socket, until the test ends. @returns the port */
async function listen(t: TestContext, server: Server, path?: string): Promise<number> {
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => {
    sockets.add(socket);
    socket.on('error', () => {}).on('close', () => sockets.delete(socket));
  });
  server.listen(path === undefined ? { host: '127.0.0.1', port: 0 } : { path });
  await once(server, 'listening');
  t.after(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return (server.address() as AddressInfo).port;
}

/** A server that does `answer` once the first bytes of a request have arrived. @returns its URL */
async function rawServer(t: TestContext, answer: (socket: Socket) => void): Promise<URL> {
  const server = createServer((socket) => socket.once('data', () => answer(socket)));
  return new URL(`http://127.0.0.1:${await listen(t, server)}`);
}

const GET: Exchange = { method: 'GET', path: '/health', headers: {}, timeout: 60_000 };

/** How an exchange ended: the response, or the code or name of the error. */
async function outcome(sent: Promise<{ status: number; text: string }>): Promise<string> {
  try {
    const { status, text } = await sent;
    return `${status} ${text}`;
  } catch (error) {
    const { code, name } = error as NodeJS.ErrnoException;
    return typeof code === 'string' ? code : name;
  }
}

const OK = 'HTTP/1.1 200 OK\r\n';
const LENGTH = 'content-length: 2\r\n';
const CHUNKS = 'transfer-encoding: chunked\r\n';
const CLOSE = 'connection: close\r\n';
const CHUNKED = `${OK}${CHUNKS}\r\n`;

/** Bytes of the server, which then closes the connection if `end` is set, and the outcome. */
const ANSWERS: readonly { name: string; bytes: string; end?: true; ends: string }[] = [
  { name: 'a length', bytes: `${OK}content-length: 2\r\n\r\nok`, ends: '200 ok' },
  { name: 'a body that ends with the connection', bytes: `${OK}\r\nok`, end: true, ends: '200 ok' },
  { name: 'a chunked body', bytes: `${CHUNKED}1\r\no\r\n1;a=b\r\nk\r\n0\r\na: b\r\n\r\n`, ends: '200 ok' },
  { name: 'an empty body', bytes: 'HTTP/1.1 204 No Content\r\n\r\n', ends: '204 ' },
  { name: 'a byte order mark', bytes: `${OK}content-length: 5\r\n\r\n\u00ef\u00bb\u00bfok`, ends: '200 ok' },
  { name: 'more bytes than its length', bytes: `${OK}content-length: 2\r\n\r\nok and more`, ends: '200 ok' },
  {
    name: 'informational responses',
    bytes: `HTTP/1.1 103 Early Hints\r\nlink: <a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n${OK}content-length: 2\r\n\r\nok`,
    ends: '200 ok',
  },
  { name: 'a redirect', bytes: 'HTTP/1.1 302 Found\r\nlocation: /other\r\ncontent-length: 0\r\n\r\n', ends: '302 ' },
  { name: 'HTTP/1.0', bytes: 'HTTP/1.0 200 OK\r\n\r\nok', end: true, ends: '200 ok' },
  { name: 'nothing', bytes: '', end: true, ends: 'ECONNRESET' },
  { name: 'half a head', bytes: OK, end: true, ends: 'ECONNRESET' },
  { name: 'half a body', bytes: `${OK}content-length: 9\r\n\r\nhalf`, end: true, ends: 'ECONNRESET' },
  { name: 'half a chunked body', bytes: `${CHUNKED}9\r\nhalf`, end: true, ends: 'ECONNRESET' },
  { name: 'half a closing head', bytes: `${OK}${CLOSE}a: b`, end: true, ends: 'ECONNRESET' },
  { name: 'half a closing body', bytes: `${OK}${CLOSE}${LENGTH}\r\no`, end: true, ends: 'ECONNRESET' },
  { name: 'half a closing chunked body', bytes: `${OK}${CLOSE}${CHUNKS}\r\n9\r\nhalf`, end: true, ends: 'ECONNRESET' },
  { name: 'half a body of HTTP/1.0', bytes: `HTTP/1.0 200 OK\r\n${LENGTH}\r\no`, end: true, ends: 'ECONNRESET' },
  { name: 'another protocol', bytes: 'SSH-2.0-OpenSSH_9.2\r\n', ends: 'INVALID_HTTP' },
  { name: 'a TLS alert', bytes: '\u0015\u0003\u0001\u0000\u0002\u0002\u0046', ends: 'INVALID_HTTP' },
  { name: 'a wrong chunk size', bytes: `${CHUNKED}x\r\n`, ends: 'INVALID_HTTP' },
  { name: 'a wrong length', bytes: `${OK}content-length: two\r\n\r\nok`, ends: 'INVALID_HTTP' },
  { name: 'two equal lengths', bytes: `${OK}${LENGTH}${LENGTH}\r\nok`, ends: 'INVALID_HTTP' },
  { name: 'two lengths', bytes: `${OK}${LENGTH}content-length: 3\r\n\r\nok`, ends: 'INVALID_HTTP' },
  { name: 'two lengths and no body', bytes: `HTTP/1.1 204 OK\r\n${LENGTH}${LENGTH}\r\n`, ends: 'INVALID_HTTP' },
  { name: 'a list of lengths', bytes: `${OK}content-length: 2, 2\r\n\r\nok`, ends: 'INVALID_HTTP' },
  { name: 'a length and chunks', bytes: `${OK}${LENGTH}${CHUNKS}\r\n2\r\nok\r\n0\r\n\r\n`, ends: 'INVALID_HTTP' },
  { name: 'chunks and a length', bytes: `${OK}${CHUNKS}${LENGTH}\r\n2\r\nok\r\n0\r\n\r\n`, ends: 'INVALID_HTTP' },
  { name: 'huge headers', bytes: `${OK}a: ${'b'.repeat(20_000)}\r\n\r\n`, ends: 'HPE_HEADER_OVERFLOW' },
  {
    name: 'a switch to another protocol',
    bytes: 'HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n',
    ends: 'ECONNRESET',
  },
];

/** Milliseconds for a request: a busy machine needs some time to connect and to write it, and only silent servers use them up. */
const DEADLINE = 1000;

/** Servers to which no connection is ever established. */
const CONNECTING: readonly [what: string, start: (t: TestContext) => Promise<URL>][] = [
  ['does not answer', async (t) => new URL(`http://${await fullBacklog(t)}`)],
  ['never starts TLS', async (t) => new URL(`https://127.0.0.1:${await listen(t, createServer())}`)],
];

/** Answers to a write that do not show whether the registry has made the change. */
const LOST_ANSWERS: Readonly<Record<string, (socket: Socket) => void>> = {
  'a closed connection': (socket) => socket.end(),
  'a reset connection': (socket) => socket.resetAndDestroy(),
  silence: () => {},
  'half a head': (socket) => socket.end(OK),
  'half a body': (socket) => socket.end(`${OK}content-length: 9\r\n\r\nhalf`),
  'another protocol': (socket) => socket.write('SSH-2.0-OpenSSH_9.2\r\n'),
  'two lengths': (socket) => socket.write(`${OK}${LENGTH}${LENGTH}\r\nok`),
  'a wrong chunk size': (socket) => socket.write(`${CHUNKED}x\r\n`),
  'huge headers': (socket) => socket.write(`${OK}a: ${'b'.repeat(20_000)}\r\n\r\n`),
  'the 502 of a proxy': (socket) => socket.write('HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n'),
  'the 504 of a proxy': (socket) => socket.write('HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 0\r\n\r\n'),
};

/** @returns the code and the exit code of a write that fails */
async function failedWrite(t: TestContext, openTransport: OpenTransport, url: URL): Promise<[string, number]> {
  const connection = new Connection({ url: url.origin, openTransport, timeout: DEADLINE });
  t.after(() => connection.close());
  const error = await connection.request<never>('POST', '/registry/vms', {}).catch((error: VregError) => error);
  return [error.code, error.exit];
}

for (const [name, openTransport] of Object.entries(TRANSPORTS)) {
  const transportOf = (t: TestContext, url: URL, tls?: ClientTls): Transport => {
    const transport = openTransport(url, tls);
    t.after(() => transport.close());
    return transport;
  };
  const of = (behaviour: string) => `${name}: ${behaviour}`;

  for (const { name: what, bytes, end, ends } of ANSWERS) {
    test(of(`an answer with ${what} ends with ${ends}`), async (t) => {
      const url = await rawServer(t, (socket) => {
        socket.write(bytes, 'latin1');
        if (end) socket.end();
      });
      assert.equal(await outcome(transportOf(t, url).send(GET)), ends);
    });
  }

  test(of('method, path, headers and body arrive, and the response is read'), async (t) => {
    const server = createHttpServer(async (request, response) => {
      const { method, url, headers } = request;
      response.writeHead(201, { 'x-answer': 'yes' });
      response.end(
        JSON.stringify([method, url, headers.authorization, headers['content-length'], await text(request)]),
      );
    });
    const url = new URL(`http://127.0.0.1:${await listen(t, server)}/prefix/`);
    const transport = transportOf(t, url);
    for (const [method, body, length] of [
      ['GET', undefined, undefined],
      ['POST', '{"a":"ü"}', '10'],
      ['POST', undefined, '0'],
      ['DELETE', undefined, undefined],
    ] as const) {
      const headers = { authorization: 'Bearer a' };
      const reply = await transport.send({ ...GET, method, path: '/a%20b?c=d', headers, body });
      const received = JSON.stringify([method, '/prefix/a%20b?c=d', 'Bearer a', length, body ?? '']);
      assert.deepEqual([reply.status, reply.headers['x-answer']], [201, 'yes']);
      assert.equal(reply.text, received);
    }
  });

  test(of('a unix socket is reached by its path'), async (t) => {
    const path = join(tempDir(t), 'a b.sock');
    await listen(
      t,
      createHttpServer((request, response) => response.end(`${request.headers.host} ${request.url}`)),
      path,
    );
    const reply = await transportOf(t, new URL(`unix:${path}`)).send(GET);
    assert.equal(reply.text, 'localhost /health');
  });

  test(of('each request is reported as sent, also on an open connection and over a unix socket'), async (t) => {
    const answer = () => createHttpServer((_request, response) => response.end('ok'));
    const path = join(tempDir(t), 'a.sock');
    await listen(t, answer(), path);
    for (const url of [`http://127.0.0.1:${await listen(t, answer())}`, `unix:${path}`]) {
      const transport = transportOf(t, new URL(url));
      let sent = 0;
      for (let request = 1; request <= 3; request++) {
        await transport.send({ ...GET, onSent: () => sent++ });
        assert.equal(sent, request, url);
      }
    }
  });

  test(of('IPv6 addresses are reached'), unlessMissing('::1'), async (t) => {
    const server = createHttpServer((request, response) => response.end(request.headers.host));
    server.listen({ host: '::1', port: 0 });
    await once(server, 'listening');
    t.after(() => server.close());
    const { port } = server.address() as AddressInfo;
    assert.equal((await transportOf(t, new URL(`http://[::1]:${port}`)).send(GET)).text, `[::1]:${port}`);
  });

  test(of('a refused connection and a missing socket have the code of the system, and nothing is sent'), async (t) => {
    const server = createServer();
    const port = await listen(t, server);
    await new Promise((resolve) => server.close(resolve));
    const exchange = { ...GET, onSent: () => assert.fail('the request was sent') };
    assert.equal(await outcome(transportOf(t, new URL(`http://127.0.0.1:${port}`)).send(exchange)), 'ECONNREFUSED');
    assert.equal(await outcome(transportOf(t, new URL(`unix:${tempDir(t)}/none.sock`)).send(exchange)), 'ENOENT');
  });

  for (const [what, bytes] of [
    ['is silent', ''],
    ['sends a head and then stops', `${OK}content-length: 2\r\n\r\n`],
    ['stops within the body', `${OK}content-length: 2\r\n\r\no`],
  ] as const) {
    test(of(`a server that ${what} causes a timeout, and its connection is closed`), async (t) => {
      let closed: Promise<unknown> | undefined;
      const url = await rawServer(t, (socket) => {
        closed = once(socket, 'close');
        if (bytes !== '') socket.write(bytes);
      });
      const transport = transportOf(t, url);
      assert.equal(await outcome(transport.send({ ...GET, timeout: 200 })), 'TimeoutError');
      transport.close();
      await closed;
    });
  }

  for (const [what, start] of CONNECTING) {
    test(of(`a server that ${what} causes a timeout while connecting, for a response and for a stream`), async (t) => {
      const transport = transportOf(t, await start(t));
      assert.equal(await outcome(transport.send({ ...GET, timeout: 100 })), 'TimeoutError');
      await assert.rejects(transport.open({ ...GET, timeout: 100 }), { name: 'TimeoutError' });
    });

    test(of(`a signal that is aborted while a server ${what} ends the requests with its reason`), async (t) => {
      const transport = transportOf(t, await start(t));
      const controller = new AbortController();
      const reason = new Error('the user said so');
      const exchange = { ...GET, signal: controller.signal };
      const requests = [transport.send(exchange), transport.send(exchange), transport.open(exchange)];
      const ends = requests.map((request) => assert.rejects(request, reason));
      setImmediate(() => controller.abort(reason));
      await Promise.all(ends);
    });

    test(of(`closing the transport ends its requests while a server ${what}`), async (t) => {
      const transport = transportOf(t, await start(t));
      setImmediate(() => transport.close());
      assert.equal(await outcome(transport.send(GET)), 'ECONNRESET');
    });
  }

  for (const [what, start] of CONNECTING) {
    test(of(`a write is UNREACHABLE, because it was never sent, if a server ${what}`), async (t) => {
      assert.deepEqual(await failedWrite(t, openTransport, await start(t)), ['UNREACHABLE', 8]);
    });
  }

  for (const [what, answer] of Object.entries(LOST_ANSWERS)) {
    test(of(`a write has an unknown outcome after ${what}`), async (t) => {
      const url = await rawServer(t, answer);
      assert.deepEqual(await failedWrite(t, openTransport, url), ['OUTCOME_UNKNOWN', 6]);
    });
  }

  test(of('a write that is answered with a TLS alert suggests https besides a look at the entry'), async (t) => {
    const url = await rawServer(t, (socket) => socket.end(Buffer.from([0x15, 3, 1, 0, 2, 2, 0x46])));
    const connection = new Connection({ url: url.origin, openTransport });
    t.after(() => connection.close());
    await assert.rejects(connection.request('POST', '/registry/vms', { id: 'a' }), {
      code: 'OUTCOME_UNKNOWN',
      hint: 'see whether it took effect: vreg get a; does the server use https? write the URL with https://',
    });
  });

  test(
    of('a server that dribbles its body causes a timeout, because the time limit covers the entire body'),
    async (t) => {
      const url = await rawServer(t, (socket) => {
        socket.write(CHUNKED);
        const timer = setInterval(() => socket.write('1\r\na\r\n'), 20);
        socket.once('close', () => clearInterval(timer));
      });
      assert.equal(await outcome(transportOf(t, url).send({ ...GET, timeout: 300 })), 'TimeoutError');
    },
  );

  for (const when of ['before the request', 'before the response', 'within the body'] as const) {
    test(of(`a signal that is aborted ${when} ends the request with its reason`), async (t) => {
      const controller = new AbortController();
      const reason = new Error('the user said so');
      if (when === 'before the request') controller.abort(reason);
      const url = await rawServer(t, (socket) => {
        if (when === 'before the response') controller.abort(reason);
        else socket.write(`${CHUNKED}1\r\na\r\n`, () => setImmediate(() => controller.abort(reason)));
      });
      await assert.rejects(transportOf(t, url).send({ ...GET, signal: controller.signal }), reason);
    });
  }

  test(of('closing the transport ends its requests'), async (t) => {
    const url = await rawServer(t, () => transport.close());
    const transport = transportOf(t, url);
    assert.equal(await outcome(transport.send(GET)), 'ECONNRESET');
  });

  test(of('a connection that the server has closed since the last response is not used again'), async (t) => {
    let closed: Promise<unknown> | undefined;
    const url = await rawServer(t, (socket) => {
      closed = once(socket, 'close');
      socket.write(`${OK}content-length: 2\r\n\r\nok`, () => socket.end());
    });
    const transport = transportOf(t, url);
    for (let round = 1; round <= 3; round++) {
      assert.equal(await outcome(transport.send(GET)), '200 ok');
      await closed;
    }
  });

  test(of('a streamed body arrives in parts, has no time limit, and ends with the reason of the signal'), async (t) => {
    const controller = new AbortController();
    let server: Socket | undefined;
    const url = await rawServer(t, (socket) => {
      server = socket;
      socket.write(`${CHUNKED}1\r\na\r\n`);
    });
    const { status, body } = await transportOf(t, url).open({ ...GET, timeout: 5000, signal: controller.signal });
    assert.equal(status, 200);
    const seen: string[] = [];
    const read = async () => {
      for await (const chunk of body) {
        seen.push(Buffer.from(chunk).toString());
        if (seen.length === 1) server!.write('1\r\nb\r\n');
        else controller.abort(new Error('enough'));
      }
    };
    await assert.rejects(read(), /enough/);
    assert.deepEqual(seen, ['a', 'b']);
  });

  test(of('a stream that does not begin in time causes a timeout'), async (t) => {
    const url = await rawServer(t, () => {});
    await assert.rejects(transportOf(t, url).open({ ...GET, timeout: 100 }), { name: 'TimeoutError' });
  });
}

const OPENSSL = unless('openssl');

for (const [name, openTransport] of Object.entries(TRANSPORTS)) {
  /** Runs a https server, and requests from it with these files. */
  const overTls = async (t: TestContext, server: TlsOptions, client: ClientTls, host = '127.0.0.1') => {
    const listener = createHttpsServer(server, (_request, response) => response.end('ok'));
    const transport = openTransport(new URL(`https://${host}:${await listen(t, listener)}`), client);
    t.after(() => transport.close());
    return outcome(transport.send(GET));
  };
  const read = ({ cert, key }: Issued) => ({ cert: readFileSync(cert, 'utf8'), key: readFileSync(key, 'utf8') });

  test(`${name}: a server is trusted if its CA is given and its certificate names the host`, OPENSSL, async (t) => {
    const authority = makeAuthority(t);
    const trusted = { ca: () => [readFileSync(authority.ca, 'utf8')] };
    const server = read(authority.issue('server'));
    assert.equal(await overTls(t, server, trusted), '200 ok');
    assert.equal(await overTls(t, server, trusted, 'localhost'), '200 ok');
    assert.match(await overTls(t, server, {}), /^(UNABLE_TO_VERIFY_LEAF_SIGNATURE|SELF_SIGNED_CERT_IN_CHAIN)$/);
    const other = read(authority.issue('other', { names: 'DNS:other.example' }));
    assert.equal(await overTls(t, other, trusted), 'ERR_TLS_CERT_ALTNAME_INVALID');
    const old = read(authority.issue('old', { from: LONG_AGO, until: YESTERYEAR }));
    assert.equal(await overTls(t, old, trusted), 'CERT_HAS_EXPIRED');
  });

  test(
    `${name}: a server that requires a client certificate accepts one of its CA and refuses others`,
    OPENSSL,
    async (t) => {
      const authority = makeAuthority(t);
      const ca = readFileSync(authority.ca, 'utf8');
      const server = { ...read(authority.issue('server')), ca, requestCert: true, rejectUnauthorized: true };
      const trusted = { ca: () => [ca] };
      assert.equal(await overTls(t, server, { ...trusted, ...read(authority.issue('client')) }), '200 ok');
      assert.match(await overTls(t, server, trusted), /ALERT_CERTIFICATE_REQUIRED$|^ECONNRESET$|^EPIPE$/);
      const stranger = makeAuthority(t, 'Other CA').issue('client');
      assert.match(
        await overTls(t, server, { ...trusted, ...read(stranger) }),
        /ALERT_UNKNOWN_CA$|^ECONNRESET$|^EPIPE$/,
      );
    },
  );

  test(
    `${name}: a server without TLS, and a server with TLS that is asked without it, are recognized`,
    OPENSSL,
    async (t) => {
      const plain = await listen(
        t,
        createHttpServer((_request, response) => response.end('ok')),
      );
      const overHttps = openTransport(new URL(`https://127.0.0.1:${plain}`));
      t.after(() => overHttps.close());
      assert.match(await outcome(overHttps.send(GET)), /^(EPROTO|ERR_SSL_\w+)$/);
      const secure = await listen(t, createHttpsServer(read(makeAuthority(t).issue('server'))));
      const overHttp = openTransport(new URL(`http://127.0.0.1:${secure}`));
      t.after(() => overHttp.close());
      assert.match(await outcome(overHttp.send(GET)), /^(INVALID_HTTP|ECONNRESET)$/);
    },
  );
}

/** Servers with an error that the user sees. The messages of both transports are compared, and contain no token. */
const FAILURES: Readonly<Record<string, (socket: Socket) => void>> = {
  'a cut response': (socket) => socket.end(`${OK}content-length: 9\r\n\r\nhalf`),
  'a closed connection': (socket) => socket.end(),
  'a reset connection': (socket) => socket.resetAndDestroy(),
  'another protocol': (socket) => socket.write('SSH-2.0-OpenSSH_9.2\r\n'),
  'huge headers': (socket) => socket.write(`${OK}a: ${'b'.repeat(20_000)}\r\n\r\n`),
  'two lengths': (socket) => socket.write(`${OK}${LENGTH}${LENGTH}\r\nok`),
  'a length and chunks': (socket) => socket.write(`${OK}${LENGTH}${CHUNKS}\r\n2\r\nok\r\n0\r\n\r\n`),
  'a silent server': () => {},
  'a web page': (socket) => socket.write(`${OK}content-type: text/html\r\ncontent-length: 6\r\n\r\n<html>`),
  'a redirect': (socket) => socket.write('HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n'),
  'an echo of the token': (socket) =>
    socket.write('HTTP/1.1 500 Oh\r\nx-vreg-version: canary-token\r\ncontent-length: 12\r\n\r\ncanary-token'),
};

for (const [what, answer] of Object.entries(FAILURES)) {
  test(`the error of ${what} is the same with both transports, and contains no token`, async (t) => {
    const url = await rawServer(t, answer);
    const errors = [];
    for (const openTransport of Object.values(TRANSPORTS)) {
      const connection = new Connection({ url: url.origin, openTransport, token: 'canary-token', timeout: DEADLINE });
      t.after(() => connection.close());
      const { code, message, hint } = await connection.request<VregError>('GET', '/health').catch((error) => error);
      errors.push({ code, message, hint });
    }
    assert.match(errors[0]!.code, /^(UNREACHABLE|BAD_ANSWER|INTERNAL)$/);
    assert.deepEqual(errors[0], errors[1]);
    assert.doesNotMatch(JSON.stringify(errors), /canary/);
  });
}
