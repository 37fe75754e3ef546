/**
 * A client with several URLs, against servers with exact faults, for both transports: which request is sent to which server, how
 * often, and what the user learns.
 */
import assert from 'node:assert/strict';
import type { LookupAddress } from 'node:dns';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import test, { before, describe, type TestContext } from 'node:test';
import type { ClientOptions } from '../../src/client/connection.ts';
import { Endpoints } from '../../src/client/failover.ts';
import type { Exchange, Reply, Transport } from '../../src/client/transport.ts';
import { RegistryClient } from '../../src/client.ts';
import { VregError } from '../../src/protocol/errors.ts';
import { serveApp } from '../helpers/app.ts';
import { openDoor } from '../helpers/door.ts';
import { fullBacklog } from '../helpers/full-backlog.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { json } from '../helpers/stub.ts';
import { TRANSPORTS } from '../helpers/transports.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

type Answer = (request: IncomingMessage, response: ServerResponse) => void;

interface Server {
  url: string;
  port: number;
  /** Method and URL of each request, without probes. */
  requests: string[];
  /** Number of probes of readiness, before a write. */
  probes: number;
  /** Number of probes of liveness, while a request waits. */
  livezProbes: number;
  /** Requests that the client has aborted. */
  aborted: string[];
  answer: Answer;
}

const ENTRY = { ...aVm(), registeredAt: '2026-01-01T00:00:00.000Z', lastSeen: '2026-01-01T00:00:00.000Z' };

const ok: Answer = (_request, response) => json(response, 200, { ...ENTRY, vms: [ENTRY], count: 1 });
const silent: Answer = () => {};
const reset: Answer = (request) => void request.socket.resetAndDestroy();
const cutBody: Answer = (request, response) => {
  response.writeHead(200, { 'content-type': 'application/json', 'content-length': '100' });
  response.write('{"vms"', () => request.socket.resetAndDestroy());
};
/** Another service at this URL. */
const page: Answer = (_request, response) =>
  void response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' }).end('<h1>It works!</h1>');
const unavailable =
  (headers: Record<string, string> = {}): Answer =>
  (_request, response) =>
    json(response, 503, { error: 'the disk is busy', code: 'STORE_FAILED' }, headers);

/** A server that responds to probes with 404, as the original registry, unless it is silent or no registry. */
async function server(t: TestContext, answer: Answer, { host = '127.0.0.1', port = 0 } = {}): Promise<Server> {
  const self: Server = { url: '', port: 0, requests: [], probes: 0, livezProbes: 0, aborted: [], answer };
  const http = createServer((request, response) => {
    const isProbe = request.url === '/readyz' || request.url === '/livez';
    const line = `${request.method} ${request.url}`;
    if (request.url === '/readyz') self.probes++;
    else if (isProbe) self.livezProbes++;
    else self.requests.push(line);
    response.on('close', () => void (response.writableFinished || self.aborted.push(line)));
    if (isProbe && self.answer !== silent && self.answer !== page) json(response, 404, { error: 'not found' });
    else self.answer(request, response);
  }).listen(port, host);
  // Only the client closes idle connections.
  http.keepAliveTimeout = 600_000;
  await once(http, 'listening');
  t.after(() => {
    http.closeAllConnections();
    http.close();
  });
  self.port = (http.address() as AddressInfo).port;
  self.url = `http://127.0.0.1:${self.port}`;
  return self;
}

/** A port on which nothing listens. */
const REFUSED = 'http://127.0.0.1:1';

/** The tests of a transport run concurrently, because most of them wait for a second or more. */
const CONCURRENCY = 8;

for (const [name, openTransport] of Object.entries(TRANSPORTS)) {
  describe(name, { concurrency: CONCURRENCY }, () => {
    const clientOf = (
      t: TestContext,
      urls: readonly (string | Server)[],
      options: Partial<ClientOptions> = {},
    ): RegistryClient => {
      const url = urls.map((each) => (typeof each === 'string' ? each : each.url)).join(',');
      const client = new RegistryClient({ openTransport, url, origin: 'VERS_INFRA_URL', timeout: 6000, ...options });
      t.after(() => client.close());
      return client;
    };

    // The first request loads modules, which must not look like silence of a server on a busy machine.
    before(async () => {
      const client = new RegistryClient({ openTransport, url: REFUSED, origin: 'VERS_INFRA_URL' });
      await failure(client.list());
      client.close();
    });

    test('a backup that takes long is made by one registry only', async (t) => {
      const answer: Answer = (request, response) => {
        response.setHeader('x-vreg-version', '0.0.0');
        setTimeout(() => response.end('{}'), request.url === '/registry/backup' ? 1500 : 0);
      };
      const [a, b] = [await server(t, answer), await server(t, answer)];
      const client = clientOf(t, [a, b]);
      const bytes: Uint8Array[] = [];
      for await (const part of await client.backup(Number.POSITIVE_INFINITY)) bytes.push(part);
      assert.equal(Buffer.concat(bytes).toString(), '{}');
      // On a busy machine, b may be asked for its health too.
      const backups = [a, b].map(({ requests }) => requests.filter((line) => line === 'GET /registry/backup').length);
      assert.deepEqual(backups, [1, 0]);
    });

    test('a client with several URLs uses the first one while it works', async (t) => {
      const [a, b] = [await server(t, ok), await server(t, ok)];
      const client = clientOf(t, [a, b]);
      await client.list();
      await client.register(aVm());
      await client.heartbeat('vm-1');
      assert.deepEqual([client.url, client.urls], [a.url, [a.url, b.url]]);
      assert.equal(a.requests.length, 3);
      assert.deepEqual([b.requests, b.probes], [[], 0]);
    });

    const FAULTS: readonly [what: string, answer: Answer | undefined, result: string][] = [
      ['refuses the connection', undefined, 'ECONNREFUSED'],
      ['resets the connection', reset, 'ECONNRESET'],
      ['breaks off its response', cutBody, 'ECONNRESET'],
      ['responds with 503', unavailable(), '503'],
      ['responds with 503 and Retry-After', unavailable({ 'retry-after': '5' }), '503'],
      ['responds with the 502 of a proxy', (_, response) => void response.writeHead(502).end(), '502'],
      ['is the page of another service', page, '200, a page'],
      ['is overloaded', (_, response) => json(response, 429, { error: 'busy' }, { 'retry-after': '1' }), '429'],
    ];
    for (const [what, answer, result] of FAULTS) {
      test(`a read goes to the next URL if the first one ${what}, and the following ones stay there`, async (t) => {
        const lines: string[] = [];
        const a = answer ? await server(t, answer) : { url: REFUSED, requests: [''] };
        const b = await server(t, ok);
        const client = clientOf(t, [a.url, b], { trace: (line) => lines.push(line.replace(/ \d+ ms$/, '')) });
        assert.equal((await client.list()).length, 1);
        assert.equal(client.url, b.url);
        await client.get('vm-1');
        assert.equal(a.requests.length, 1);
        const list = '/registry/vms?limit=5000&include=liveness';
        assert.deepEqual(b.requests, [`GET ${list}`, 'GET /registry/vms/vm-1?include=liveness']);
        assert.deepEqual(lines.slice(0, 2), [`GET ${a.url}${list} ${result}`, `GET ${b.url}${list} 200`]);
      });
    }

    test('a page of another service does not abort the request to a slow registry', async (t) => {
      let respond = () => {};
      const slow: Answer = (request, response) => {
        respond = () => ok(request, response);
      };
      const a = await server(t, slow);
      const b = await server(t, (request, response) => {
        page(request, response);
        response.once('finish', () => setTimeout(respond, 200));
      });
      const client = clientOf(t, [a, b]);
      assert.equal((await client.list()).length, 1);
      assert.deepEqual([client.url, a.requests.length, b.requests.length, a.aborted], [a.url, 1, 1, []]);
    });

    test('a write goes to the next URL if the first one is the page of another service', async (t) => {
      const [a, b] = [await server(t, page), await server(t, ok)];
      await clientOf(t, [a, b]).register(aVm());
      assert.deepEqual([a.requests.length, b.requests.length], [0, 1]);
    });

    test('a stream is opened at the next URL if the first one is the page of another service', async (t) => {
      const [a, b] = [await server(t, page), await server(t, ok)];
      const client = clientOf(t, [a, b]);
      const stream = await client.open('/registry/events', {});
      let text = '';
      for await (const part of stream) text += Buffer.from(part);
      assert.match(text, /^\{/);
    });

    test('a write that another service answers is not sent again', async (t) => {
      const [a, b] = [await server(t, ok), await server(t, ok)];
      const client = clientOf(t, [a, b]);
      await client.get('vm-1');
      a.answer = page;
      assert.equal((await failure(client.register(aVm()))).code, 'BAD_ANSWER');
      assert.deepEqual([a.requests.length, b.requests], [2, []]);
      assert.equal((await client.get('vm-1')).id, 'vm-1');
      assert.equal(client.url, b.url);
    });

    test('if all URLs are pages of other services, the error says so', async (t) => {
      const error = await failure(clientOf(t, [await server(t, page), await server(t, page)]).list());
      assert.equal(error.code, 'BAD_ANSWER');
      assert.match(error.message, /not JSON from a registry/);
    });

    test('a read is also sent to the next URL after a second of silence, and the first one is aborted', async (t) => {
      const [a, b] = [await server(t, silent), await server(t, ok)];
      const client = clientOf(t, [a, b]);
      assert.equal((await client.list()).length, 1);
      assert.deepEqual([a.requests.length, b.requests.length], [1, 1]);
      await until('the first request is aborted', () => a.aborted.length === 1);
      await client.list();
      assert.deepEqual([a.requests.length, b.requests.length], [1, 2]);
    });

    test('the first response wins, even if the next URL has been asked meanwhile', async (t) => {
      const b = await server(t, (_request) => waiting.shift()!());
      const waiting: (() => void)[] = [];
      const a = await server(t, (request, response) => waiting.push(() => ok(request, response)));
      const client = clientOf(t, [a, b]);
      assert.equal((await client.list()).length, 1);
      assert.equal(client.url, a.url);
      await until('the second request is aborted', () => b.aborted.length === 1);
    });

    test('a read goes to the next URL if the first one accepts no connection', async (t) => {
      const b = await server(t, ok);
      const client = clientOf(t, [`http://${await fullBacklog(t)}`, b]);
      assert.equal((await client.list()).length, 1);
      await client.register(aVm());
      assert.deepEqual(b.requests.length, 2);
    });

    test('a response whose head came first and which then breaks off is read from the next URL', async (t) => {
      const [a, b, c] = [await server(t, silent), await server(t, cutBody), await server(t, ok)];
      const client = clientOf(t, [a, b, c]);
      assert.equal((await client.list()).length, 1);
      assert.deepEqual([a.requests.length, b.requests.length, c.requests.length], [1, 1, 1]);
    });

    test('if no URL works, the error names each of them with its cause, in one line', async (t) => {
      const [a, b] = [await server(t, reset), await server(t, silent)];
      const client = clientOf(t, [a, REFUSED, b], { timeout: 600 });
      const error = await failure(client.list());
      assert.equal(error.code, 'UNREACHABLE');
      assert.equal(
        error.message.replace(/within [\d.]+ s/, 'within N s'),
        `cannot reach the registry at ${a.url} (ECONNRESET), ${REFUSED} (ECONNREFUSED), ${b.url} (no response within N s, from VERS_INFRA_URL)`,
      );
      assert.equal(error.hint, 'is it running? try: vreg doctor');
    });

    test('the error names the URLs in the order in which they were asked, not in that of their failures', async (t) => {
      const a = await server(t, silent);
      const error = await failure(clientOf(t, [a, REFUSED], { timeout: 600 }).list());
      assert.match(error.message, new RegExp(`at ${a.url} \\(no response within .*\\), ${REFUSED} \\(ECONNREFUSED, `));
    });

    test('if all URLs respond with 503, the error is that of the first one', async (t) => {
      const [a, b] = [await server(t, unavailable()), await server(t, unavailable())];
      const error = await failure(clientOf(t, [a, b]).list());
      assert.deepEqual([error.code, error.exit, error.message], ['STORE_FAILED', 8, 'the disk is busy']);
      assert.deepEqual([a.requests.length, b.requests.length], [1, 1]);
    });

    test('a refused request is not an error of the network, and is not sent to the next URL', async (t) => {
      const a = await server(t, (_, response) => json(response, 404, { error: 'VM not found', code: 'NOT_FOUND' }));
      const b = await server(t, ok);
      assert.equal((await failure(clientOf(t, [a, b]).get('vm-1'))).code, 'NOT_FOUND');
      assert.deepEqual(b.requests, []);
    });

    const WRITES: readonly [what: string, send: (client: RegistryClient) => Promise<unknown>][] = [
      ['registration', (client) => client.register(aVm())],
      ['update', (client) => client.update('vm-1', { name: 'two' })],
      ['deletion', (client) => client.deregister('vm-1')],
    ];
    for (const [what, send] of WRITES) {
      for (const [fault, answer] of [
        ['resets the connection', reset],
        ['breaks off its response', cutBody],
        ['responds with the 504 of a proxy', (_, response) => void response.writeHead(504).end()],
      ] as [string, Answer][]) {
        test(`a ${what} is not sent again if the server ${fault}: its outcome is unknown`, async (t) => {
          const [a, b] = [await server(t, answer), await server(t, ok)];
          const client = clientOf(t, [a, b]);
          const error = await failure(send(client));
          assert.deepEqual([error.code, error.exit], ['OUTCOME_UNKNOWN', 6]);
          assert.match(error.hint!, /vreg get vm-1/);
          assert.deepEqual([a.requests.length, b.requests], [1, []]);
          // The user can look at once, at the next URL.
          assert.equal((await client.get('vm-1')).id, 'vm-1');
          assert.equal(client.url, b.url);
        });
      }

      test(`a ${what} to a server that is frozen ends before the timeout: its outcome is unknown`, async (t) => {
        const [a, b] = [await server(t, ok), await server(t, ok)];
        const client = clientOf(t, [a, b], { timeout: 60_000 });
        await client.get('vm-1');
        a.answer = silent;
        const error = await failure(send(client));
        assert.deepEqual([error.code, error.exit], ['OUTCOME_UNKNOWN', 6]);
        assert.match(
          error.message,
          new RegExp(`^no response to \\w+ from the registry at ${a.url} \\(no response within 3(\\.\\d)? s, from`),
        );
        assert.match(error.hint!, /vreg get vm-1/);
        assert.deepEqual([a.requests.length, b.requests], [2, []]);
      });

      test(`a ${what} goes to the next URL if the first one refuses the connection`, async (t) => {
        const b = await server(t, ok);
        await send(clientOf(t, [REFUSED, b]));
        assert.equal(b.requests.length, 1);
      });

      test(`a ${what} goes to the next URL if the first one refuses it with 503 and Retry-After`, async (t) => {
        const [a, b] = [await server(t, unavailable({ 'retry-after': '5' })), await server(t, ok)];
        const client = clientOf(t, [a, b]);
        await send(client);
        assert.deepEqual([a.requests.length, b.requests.length, client.url], [1, 1, b.url]);
      });

      test(`a ${what} is not sent again after a 503 without Retry-After`, async (t) => {
        const [a, b] = [await server(t, unavailable()), await server(t, ok)];
        assert.equal((await failure(send(clientOf(t, [a, b])))).code, 'STORE_FAILED');
        assert.deepEqual([a.requests.length, b.requests], [1, []]);
      });

      test(`a ${what} is never written to a server that is silent when the client starts`, async (t) => {
        const [a, b] = [await server(t, silent), await server(t, ok)];
        await send(clientOf(t, [a, b]));
        assert.deepEqual([a.requests, a.probes, b.requests.length], [[], 1, 1]);
      });
    }

    test('concurrent writes share one probe, and later ones need none while the server responds', async (t) => {
      const [a, b] = [await server(t, ok), await server(t, ok)];
      const client = clientOf(t, [a, b]);
      await Promise.all(['a', 'b', 'c'].map((id) => client.register(aVm({ id }))));
      await client.register(aVm());
      assert.deepEqual([a.probes, a.requests.length, b.requests], [1, 4, []]);
    });

    test('if no URL works, a write is UNREACHABLE, because it was never sent', async (t) => {
      const error = await failure(clientOf(t, [REFUSED, 'http://127.0.0.1:2']).register(aVm()));
      assert.deepEqual([error.code, error.exit], ['UNREACHABLE', 8]);
      assert.match(error.message, /127\.0\.0\.1:1 \(ECONNREFUSED\), http:\/\/127\.0\.0\.1:2 \(ECONNREFUSED, from/);
    });

    const REPEATABLE: readonly [what: string, send: (client: RegistryClient) => Promise<unknown>][] = [
      ['heartbeat', (client) => client.heartbeat('vm-1')],
      ['PUT', (client) => client.raw('PUT', '/registry/vms/vm-1', JSON.stringify(aVm()))],
    ];
    for (const [what, send] of REPEATABLE) {
      for (const [fault, answer] of [
        ['resets the connection', reset],
        ['becomes silent', silent],
        ['responds with 503', unavailable()],
      ] as [string, Answer][]) {
        test(`a ${what} is sent again to the next URL if the first one ${fault}`, async (t) => {
          const [a, b] = [await server(t, ok), await server(t, ok)];
          const client = clientOf(t, [a, b]);
          await client.get('vm-1');
          a.answer = answer;
          await send(client);
          assert.deepEqual([a.requests.length, b.requests.length], [2, 1]);
        });
      }
    }

    test('a PUT is sent to the next URL only after the first one was aborted', async (t) => {
      const a = await server(t, ok);
      const b = await server(t, (request, response) => {
        abortedBefore.push(...a.aborted);
        ok(request, response);
      });
      const abortedBefore: string[] = [];
      const client = clientOf(t, [a, b]);
      await client.get('vm-1');
      a.answer = silent;
      await client.raw('PUT', '/registry/vms/vm-1', JSON.stringify(aVm()));
      assert.deepEqual(
        abortedBefore.filter((line) => line.startsWith('PUT')),
        ['PUT /registry/vms/vm-1'],
      );
    });

    test('a write and a PUT wait for a slow server that responds to probes', async (t) => {
      const slow: ServerResponse[] = [];
      const a = await server(t, (_, response) => void slow.push(response));
      const b = await server(t, ok);
      const client = clientOf(t, [a, b], { timeout: 60_000 });
      const sent = Promise.all([
        client.register(aVm()),
        client.raw('PUT', '/registry/vms/vm-1', JSON.stringify(aVm())),
      ]);
      await until('the server has been probed twice', () => a.livezProbes === 2);
      for (const response of slow) json(response, 200, ENTRY);
      assert.deepEqual((await sent).length, 2);
      assert.deepEqual(b.requests, []);
    });

    test('a response that stops in the middle is read from the next URL', async (t) => {
      const [a, b] = [await server(t, ok), await server(t, ok)];
      const client = clientOf(t, [a, b], { timeout: 60_000 });
      a.answer = ({ url }, response) => {
        if (url === '/livez') return;
        response.writeHead(200, { 'content-type': 'application/json', 'content-length': '100' }).write('{"vms"');
        a.answer = silent;
      };
      assert.equal((await client.list()).length, 1);
      assert.equal(client.url, b.url);
    });

    test('a long poll to a server that is frozen goes to the next URL', async (t) => {
      const [a, b] = [await server(t, silent), await server(t, ok)];
      const { status, url } = await clientOf(t, [a, b], { timeout: 60_000 }).raw(
        'GET',
        '/registry/discover/infra?wait=50s',
      );
      assert.deepEqual([status, url], [200, b.url]);
      await until('the first long poll is aborted', () => a.aborted.some((line) => line.includes('wait=50s')));
    });

    test('a stream breaks if its server is frozen, and not while it responds to probes', async (t) => {
      const stream: Answer = (_request, response) => void response.writeHead(200).write('one');
      const [a, b] = [await server(t, stream), await server(t, stream)];
      const lines: string[] = [];
      const client = clientOf(t, [a, b], { trace: (line) => lines.push(line) });
      const body = (await client.open('/registry/events', {}))[Symbol.asyncIterator]();
      assert.equal(Buffer.from((await body.next()).value).toString(), 'one');
      const next = body.next();
      await until('the server has been probed', () => a.livezProbes === 1);
      a.answer = silent;
      await assert.rejects(next, { name: 'TimeoutError' });
      assert.match(lines.at(-1)!, new RegExp(`^stream from ${a.url} TimeoutError \\d+ ms$`));
      await client.open('/registry/events', {});
      assert.equal(client.url, b.url);
    });

    test('with a single URL, nothing is probed while a write and a stream wait', async (t) => {
      const a = await server(t, (request, response) => {
        if (request.method === 'GET') response.writeHead(200).write('one');
      });
      const client = clientOf(t, [a], { timeout: 3500 });
      const body = (await client.open('/registry/events', {}))[Symbol.asyncIterator]();
      await body.next();
      assert.equal((await failure(client.register(aVm()))).code, 'OUTCOME_UNKNOWN');
      assert.deepEqual([a.requests.length, a.livezProbes, a.probes], [2, 0, 0]);
    });

    test('clients that share their memory wait once for a silent URL', async (t) => {
      const [a, b] = [await server(t, silent), await server(t, ok)];
      const memory = {};
      await clientOf(t, [a, b], { memory }).list();
      await clientOf(t, [a, b], { memory }).list();
      assert.deepEqual([a.requests.length, b.requests.length], [1, 2]);
    });

    test('a long poll is not sent to the next URL while it waits, but after a failure', async (t) => {
      const path = '/registry/discover/infra?wait=30s';
      const held: ServerResponse[] = [];
      const [a, b] = [await server(t, (_, response) => void held.push(response)), await server(t, ok)];
      const client = clientOf(t, [a, b], { timeout: 30_000 });
      const answer = client.raw('GET', path);
      const read = clientOf(t, [a, b]).list();
      await until('the long poll and the read have arrived', () => held.length === 2);
      assert.equal((await read).length, 1);
      assert.deepEqual(b.requests, ['GET /registry/vms?limit=5000&include=liveness']);
      held.find((response) => response.req.url === path)!.socket!.destroy();
      assert.equal((await answer).status, 200);
      assert.deepEqual(b.requests.slice(1), [`GET ${path}`]);
    });

    test('a stream is opened at the next URL if the first one is silent, and at another one after it broke', async (t) => {
      const streams: ServerResponse[] = [];
      const stream: Answer = (_request, response) => {
        streams.push(response);
        response.writeHead(200).write('one');
      };
      const [a, b] = [await server(t, silent), await server(t, stream)];
      const client = clientOf(t, [a, b]);
      const body = (await client.open('/registry/events', {}))[Symbol.asyncIterator]();
      assert.equal(Buffer.from((await body.next()).value).toString(), 'one');
      assert.equal(client.url, b.url);
      await until('the other stream is aborted', () => a.aborted.length === 1);
      a.answer = stream;
      streams[0]!.destroy();
      await assert.rejects(body.next());
      await client.open('/registry/events', {});
      assert.deepEqual([client.url, a.requests.length, b.requests.length], [a.url, 2, 1]);
    });

    test('an aborted request ends with the abort reason, at all servers', async (t) => {
      const [a, b] = [await server(t, silent), await server(t, silent)];
      const controller = new AbortController();
      const sent = clientOf(t, [a, b], { signal: controller.signal, timeout: 60_000 }).list();
      await until('both servers are asked', () => b.requests.length === 1);
      controller.abort(new Error('the user has left'));
      await assert.rejects(sent, /the user has left/);
      await until('both requests are aborted', () => a.aborted.length + b.aborted.length === 2);
    });

    test('the token is sent to the configured URLs only, and the probe contains none', async (t) => {
      const seen: [server: string, url: string, token: string | undefined][] = [];
      const note =
        (server: string, answer: Answer): Answer =>
        (request, response) => {
          seen.push([server, request.url!.split('?')[0]!, request.headers.authorization]);
          answer(request, response);
        };
      const other = await server(t, note('other', ok));
      const a = await server(
        t,
        note('a', (_, response) => void response.writeHead(503, { location: other.url }).end()),
      );
      const b = await server(
        t,
        note('b', (_, response) => void response.writeHead(307, { location: `${other.url}/registry/vms` }).end()),
      );
      await failure(clientOf(t, [a, b], { token: 'secret-token' }).list());
      assert.deepEqual(seen, [
        ['a', '/registry/vms', 'Bearer secret-token'],
        ['b', '/registry/vms', 'Bearer secret-token'],
      ]);
    });

    test('a single URL is asked once, however long it takes, and without a probe', async (t) => {
      const a = await server(t, silent);
      const error = await failure(clientOf(t, [a], { timeout: 1500 }).list());
      assert.match(error.message, /\(no response within 1.5 s, from VERS_INFRA_URL\)$/);
      assert.equal(a.requests.length, 1);
      a.answer = ok;
      await clientOf(t, [a]).register(aVm());
      assert.equal(a.probes, 0);
    });

    test('with the original registry behind both URLs, everything works as with one', async (t) => {
      const plain = await startPlainServer(t);
      const [a, b] = [await openDoor(t, plain.url), await openDoor(t, plain.url)];
      const client = clientOf(t, [a.url, b.url]);
      await client.register(aVm());
      await a.close();
      assert.equal((await client.get('vm-1')).id, 'vm-1');
      await client.update('vm-1', { name: 'two' });
      await b.close();
      await a.open();
      assert.equal((await client.list())[0]!.name, 'two');
      assert.equal(await client.isVreg(), false);
    });

    test('after a write, a read from another URL asks for its position', async (t) => {
      const { url } = await serveApp(t);
      const door = await openDoor(t, url);
      const b = await server(t, ok);
      const client = clientOf(t, [door.url, b]);
      await client.register(aVm());
      const { position } = client.server;
      await client.list();
      await door.close();
      await client.get('vm-1');
      assert.deepEqual(b.requests, [`GET /registry/vms/vm-1?include=liveness&minPosition=${position}`]);
      assert.ok(position);
    });

    test('a registry that does not know minPosition gets the read without it', async (t) => {
      const [{ url }, { url: older }] = [await serveApp(t), await serveApp(t)];
      const door = await openDoor(t, url);
      const client = clientOf(t, [door.url, older]);
      await client.register(aVm());
      await door.close();
      assert.equal((await client.health()).status, 'ok');
      assert.equal(client.url, older);
    });

    test('after a restore, a read does not require the position of a write that the registry has lost', async (t) => {
      const [{ url }, restored] = [await serveApp(t), await serveApp(t)];
      const door = await openDoor(t, url);
      const asked: boolean[] = [];
      const b = await server(t, async (request, response) => {
        asked.push(request.url!.includes('minPosition='));
        const reply = await fetch(restored.url + request.url);
        json(response, reply.status, await reply.json());
      });
      const client = clientOf(t, [door.url, b]);
      await client.register(aVm());
      await door.close();
      assert.deepEqual(await client.list(), []);
      assert.deepEqual(await client.list(), []);
      assert.deepEqual(asked, [true, false, false]);
    });

    test('URLs of different registries cause one warning that names both', async (t) => {
      const as =
        (id: string): Answer =>
        (_request, response) =>
          json(response, 200, { vms: [], count: 0 }, { 'x-vreg-registry-id': id });
      const [a, b] = [await server(t, as('one')), await server(t, as('two'))];
      const warnings: string[] = [];
      const client = clientOf(t, [a, b], { warn: (line) => warnings.push(line) });
      await client.list();
      assert.deepEqual(warnings, []);
      a.answer = reset;
      await client.list();
      await client.list();
      assert.deepEqual(warnings, [
        `the URLs lead to different registries: ${b.url} is the registry two, but ${a.url} is the registry one; configure URLs of one registry only`,
      ]);
    });

    test('a registry that was replaced causes no warning, and a later difference does', async (t) => {
      let id = 'old';
      const answer: Answer = (_, response) => json(response, 200, { vms: [], count: 0 }, { 'x-vreg-registry-id': id });
      const [a, b] = [await server(t, answer), await server(t, answer)];
      const warnings: string[] = [];
      const client = clientOf(t, [a, b], { warn: (line) => warnings.push(line) });
      await client.list();
      a.answer = unavailable();
      await client.list();
      assert.equal(client.url, b.url);
      id = 'new';
      await client.list();
      [a.answer, b.answer] = [answer, reset];
      await client.list();
      assert.deepEqual([client.url, warnings], [a.url, []]);
      id = 'other';
      [a.answer, b.answer] = [reset, answer];
      await client.list();
      id = 'new';
      [a.answer, b.answer] = [answer, reset];
      await client.list();
      assert.equal(warnings.length, 1);
    });

    /** A host name with the addresses 127.0.0.1 and 127.0.0.2, of which the first is frozen. */
    const severalAddresses = async (t: TestContext) => {
      const a = await server(t, silent);
      const b = await server(t, ok, { host: '127.0.0.2', port: a.port });
      const url = `http://registry.test:${a.port}`;
      const addresses = ['127.0.0.1', '127.0.0.2'].map((address) => ({ address, family: 4 }));
      const lookups: string[] = [];
      const later = { elapsed: 0, resolverFails: false };
      /** Replaces 127.0.0.2 by an address at which nothing listens. */
      const drop = async () => {
        later.elapsed += 61_000;
        addresses[1] = { address: '127.0.0.3', family: 4 };
        a.answer = ok;
        const post: Exchange = { method: 'POST', path: '/registry/vms', headers: {}, body: '{}', timeout: 6000 };
        assert.equal((await endpoints.send(post)).url, url);
      };
      const endpoints = new Endpoints({
        urls: [url],
        now: () => performance.now() + later.elapsed,
        // The resolver of this machine does not know the name.
        open: (each, address = addresses[0]) => openTransport(new URL(each), undefined, address),
        lookup: async (host) => {
          lookups.push(host);
          if (later.resolverFails) throw new Error('EAI_AGAIN');
          return addresses;
        },
      });
      t.after(() => endpoints.close());
      return { a, b, url, lookups, endpoints, later, drop };
    };

    test('the next address of a host name is asked if the first one is silent', async (t) => {
      const { a, b, url, lookups, endpoints } = await severalAddresses(t);
      const get = () => endpoints.send({ method: 'GET', path: '/health', headers: {}, timeout: 6000 });
      assert.deepEqual([(await get()).status, (await get()).url], [200, url]);
      assert.deepEqual([a.requests.length, b.requests.length, lookups], [1, 2, ['registry.test']]);
    });

    test('a write to a host name goes to an address that responds, never to a frozen one', async (t) => {
      const { a, b, lookups, endpoints } = await severalAddresses(t);
      const post: Exchange = { method: 'POST', path: '/registry/vms', headers: {}, body: '{}', timeout: 6000 };
      assert.equal((await endpoints.send(post)).status, 200);
      assert.deepEqual([a.requests, b.requests, lookups], [[], ['POST /registry/vms'], ['registry.test']]);
    });

    test('the addresses of a host name stay known while the resolver fails', async (t) => {
      const { a, b, lookups, endpoints, later } = await severalAddresses(t);
      const post: Exchange = { method: 'POST', path: '/registry/vms', headers: {}, body: '{}', timeout: 6000 };
      await endpoints.send(post);
      Object.assign(later, { elapsed: 61_000, resolverFails: true });
      assert.equal((await endpoints.send(post)).status, 200);
      assert.deepEqual([a.requests, lookups.length], [[], 2]);
      assert.equal(b.requests.filter((line) => line === 'POST /registry/vms').length, 2);
    });

    test('the addresses of a host name are known before a stream could freeze', async (t) => {
      const { a, lookups, endpoints } = await severalAddresses(t);
      a.answer = ok;
      const { body } = await endpoints.open({ method: 'GET', path: '/registry/events', headers: {}, timeout: 6000 });
      await body.text();
      assert.deepEqual(lookups, ['registry.test']);
    });

    test('the idle connections to an address that has left the DNS are closed', async (t) => {
      const { b, endpoints, drop } = await severalAddresses(t);
      const sockets = new Set<Socket>();
      b.answer = (request, response) => {
        sockets.add(request.socket);
        ok(request, response);
      };
      await endpoints.send({ method: 'POST', path: '/registry/vms', headers: {}, body: '{}', timeout: 6000 });
      assert.equal(sockets.size, 1);
      await drop();
      await until('the end of the connections', () => [...sockets].every(({ destroyed }) => destroyed));
    });

    test('a stream from an address that has left the DNS continues until the client closes it', async (t) => {
      const { b, endpoints, drop } = await severalAddresses(t);
      let stream: ServerResponse | undefined;
      b.answer = (_request, response) => {
        stream = response;
        response.writeHead(200).write('before');
      };
      const { body } = await endpoints.open({ method: 'GET', path: '/registry/events', headers: {}, timeout: 6000 });
      const parts = body[Symbol.asyncIterator]();
      const next = async () => Buffer.from((await parts.next()).value!).toString();
      assert.equal(await next(), 'before');
      await drop();
      stream!.write('after');
      assert.equal(await next(), 'after');
      const end = assert.rejects(parts.next());
      endpoints.close();
      await until('the end of the connection', () => stream!.destroyed);
      await end;
    });
  });
}

async function failure(promise: Promise<unknown>): Promise<VregError> {
  try {
    await promise;
  } catch (error) {
    assert.ok(error instanceof VregError, String(error));
    return error;
  }
  throw new Error('it succeeded');
}

const GET: Exchange = { method: 'GET', path: '/registry/vms', headers: {}, timeout: 6000 };
const POST: Exchange = { ...GET, method: 'POST' };

/** Endpoints over transports of the test, with a clock. */
function fakeEndpoints(
  send: (url: string, exchange: Exchange) => Promise<Partial<Reply>>,
  urls = ['http://a', 'http://b'],
) {
  const clock = { now: 0 };
  const asked: string[] = [];
  const transportOf = (url: string): Transport => ({
    async send(exchange) {
      asked.push(`${exchange.method} ${url}`);
      return { status: 200, headers: {}, text: '', ...(await send(url, exchange)) };
    },
    open: () => assert.fail('not opened'),
    async retire() {},
    close() {},
  });
  const endpoints = new Endpoints({ urls, open: transportOf, now: () => clock.now, random: () => 0.5 });
  return { endpoints, clock, asked };
}

const down = () => Promise.reject(Object.assign(new Error('down'), { code: 'ECONNREFUSED' }));

test('requests that fail while the addresses of their host name are looked up wait for the addresses', async () => {
  const addresses = ['10.0.0.1', '10.0.0.2'].map((address) => ({ address, family: 4 }));
  let resolve = (_found: typeof addresses) => {};
  const found = new Promise<typeof addresses>((resolver) => (resolve = resolver));
  const asked: (string | undefined)[] = [];
  const open = (_url: string, address?: LookupAddress): Transport => ({
    async send() {
      asked.push(address?.address);
      return address ? { status: 200, headers: {}, text: '' } : down();
    },
    open: () => assert.fail('not opened'),
    async retire() {},
    close() {},
  });
  const endpoints = new Endpoints({ urls: ['http://registry.test'], open, lookup: () => found, now: () => 0 });
  const replies = [endpoints.send(GET), endpoints.send(GET)];
  await until('both requests to fail', () => asked.length === 2);
  resolve(addresses);
  assert.deepEqual(
    (await Promise.all(replies)).map(({ status }) => status),
    [200, 200],
  );
  assert.deepEqual(asked, [undefined, undefined, '10.0.0.2', '10.0.0.2']);
});

test('the client returns to the preferred URL when its cool-down is over, and a write asks first whether it is ready', async () => {
  let isDown = true;
  const { endpoints, clock, asked } = fakeEndpoints((url) =>
    url === 'http://a' && isDown ? down() : Promise.resolve({}),
  );
  await endpoints.send(GET);
  await endpoints.send(POST);
  assert.deepEqual(asked.splice(0), ['GET http://a', 'GET http://b', 'POST http://b']);
  isDown = false;
  clock.now = 29_999;
  await endpoints.send(GET);
  assert.deepEqual(asked.splice(0), ['GET http://b']);
  clock.now = 30_000;
  await endpoints.send(POST);
  await endpoints.send(GET);
  assert.deepEqual(asked.splice(0), ['GET http://a', 'POST http://a', 'GET http://a']);
});

test('clients return at different times, and a Retry-After delays that', async () => {
  const { endpoints, clock } = fakeEndpoints(async () => ({}));
  const [first] = endpoints.order();
  endpoints.coolDown(first!, 120);
  assert.equal(first!.state.retryAt, 120_000);
  clock.now = 120_001;
  assert.equal(endpoints.order()[0], first);
  const times = [0, 0.5, 0.999].map((share) => {
    const other = new Endpoints({ urls: ['http://a'], open: () => assert.fail(), now: () => 0, random: () => share });
    const [endpoint] = other.order();
    other.coolDown(endpoint!);
    return Math.round(endpoint!.state.retryAt / 1000);
  });
  assert.deepEqual(times, [15, 30, 45]);
});

test('while all URLs are down, each request asks all of them, that which failed first before the others', async () => {
  const { endpoints, clock, asked } = fakeEndpoints(down);
  await assert.rejects(endpoints.send(GET), { code: 'ECONNREFUSED' });
  clock.now = 1;
  await assert.rejects(endpoints.send(GET), { code: 'ECONNREFUSED' });
  assert.deepEqual(asked, ['GET http://a', 'GET http://b', 'GET http://a', 'GET http://b']);
});

test('a write that could not be written within a second is withdrawn before it is sent to the next URL', async () => {
  let first: AbortSignal | undefined;
  const { endpoints, asked } = fakeEndpoints(async (url, { method, signal }) => {
    if (method === 'GET') return {};
    if (url === 'http://b') return { text: String(first?.aborted) };
    first = signal;
    // The connection is never established.
    await once(first!, 'abort');
    throw first!.reason;
  });
  await endpoints.send(GET);
  const { text } = await endpoints.send(POST);
  assert.deepEqual([text, asked], ['true', ['GET http://a', 'POST http://a', 'POST http://b']]);
});
