/** A request handler that fails: exactly one response or none, one line in the log, and a daemon that keeps serving. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import test, { type TestContext } from 'node:test';
import { type ServedApp, serveApp } from '../../helpers/app.ts';
import { askRaw, Connection } from '../../helpers/connection.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { GatedStore } from '../../helpers/gated-store.ts';
import { call } from '../../helpers/http.ts';
import { until } from '../../helpers/until.ts';
import { aVm } from '../../helpers/vm.ts';

const request = (line: string, ...headers: readonly string[]) =>
  [`${line} HTTP/1.1`, 'Host: a', ...headers, '', ''].join('\r\n');

function withBody(line: string, body: string, ...headers: readonly string[]): string {
  return request(line, `Content-Length: ${body.length}`, ...headers) + body;
}

const HEALTH = request('GET /health');
const BOOM = 'boom: /var/lib/vreg/secret-path';

interface Line {
  level: number;
  audit?: boolean;
  err?: { message?: string; stack?: string };
  msg: string;
  status?: number;
  code?: string;
  method?: string;
}

const linesOf = ({ logged }: ServedApp) => logged.map((line) => JSON.parse(line) as Line);
const failuresOf = (app: ServedApp) => linesOf(app).filter(({ level }) => level >= 50);
const auditOf = (app: ServedApp) => linesOf(app).filter(({ audit }) => audit === true);

function isInternal(response: { status: number; text: string; headers: Record<string, string> }, name: string): void {
  assert.equal(response.status, 500, name);
  assert.match(response.headers['content-type']!, /^application\/json/, name);
  const { error, code } = JSON.parse(response.text) as { error: string; code: string };
  assert.equal(code, 'INTERNAL', name);
  assert.ok(error.length > 5, name);
  assert.doesNotMatch(response.text, /boom|secret-path|at \w+ \(/, name);
}

/** Waits until the server has noticed that every client has left. */
async function areGone({ server }: ServedApp): Promise<void> {
  const count = () => new Promise<number>((resolve) => server.getConnections((_, open) => resolve(open)));
  await until('every connection to be closed', async () => (await count()) === 0);
}

async function served(t: TestContext): Promise<ServedApp> {
  const app = await serveApp(t, { dataDir: tempDir(t) });
  await app.registry.register(aVm({ id: 'vm-1' }));
  return app;
}

/** Ways in which the code below a route fails: at once, later, and before anything was awaited. */
const FAILURES: readonly [what: string, line: string, body: string | undefined, plant: (app: ServedApp) => void][] = [
  [
    'a handler that throws',
    'GET /registry/vms/vm-1',
    undefined,
    ({ registry }) => {
      registry.get = () => {
        throw new TypeError(BOOM);
      };
    },
  ],
  [
    'a handler of a long list that throws',
    'GET /registry/vms',
    undefined,
    ({ registry }) => {
      registry.snapshot = () => {
        throw new Error(BOOM);
      };
    },
  ],
  [
    'a heartbeat handler that throws',
    'POST /registry/vms/vm-1/heartbeat',
    undefined,
    ({ registry }) => {
      registry.heartbeat = () => {
        throw new RangeError(BOOM);
      };
    },
  ],
  [
    'a handler that rejects',
    'GET /registry/vms/vm-1/history',
    undefined,
    ({ store }) => {
      store.history = () => Promise.reject(new Error(BOOM));
    },
  ],
  [
    'a handler that rejects later',
    'DELETE /registry/vms/vm-1',
    undefined,
    ({ store }) => {
      store.commit = async () => {
        await new Promise(setImmediate);
        throw new Error(BOOM);
      };
    },
  ],
  [
    'a handler with a body that rejects',
    'PATCH /registry/vms/vm-1',
    '{"name":"new"}',
    ({ store }) => {
      store.commit = () => Promise.reject(new Error(BOOM));
    },
  ],
  [
    'a response that cannot be encoded',
    'GET /registry/vms/vm-1',
    undefined,
    ({ registry }) => {
      Object.defineProperty(registry.get('vm-1'), 'json', {
        get() {
          throw new Error(BOOM);
        },
      });
    },
  ],
  [
    'a backup that fails',
    'GET /registry/backup',
    undefined,
    ({ store }) => {
      store.backup = () => Promise.reject(new Error(BOOM));
    },
  ],
];

for (const [what, line, body, plant] of FAILURES) {
  test(`${what} is answered once with 500 and logged once with its stack, and the connection remains usable`, async (t) => {
    const app = await served(t);
    plant(app);
    const connection = Connection.open(t, app.at);
    connection.send(body === undefined ? request(line) : withBody(line, body));
    isInternal(await connection.response(), what);
    connection.send(HEALTH);
    assert.match((await connection.response()).text, /"status":"ok"/, 'nothing comes between the two responses');
    const failures = await until('the failure in the log', () => {
      const found = failuresOf(app);
      return found.length > 0 ? found : undefined;
    });
    assert.equal(failures.length, 1);
    assert.match(`${failures[0]!.err?.stack}`, /boom/);
    const audited = await until('the audit line', () => (auditOf(app).length > 0 ? auditOf(app) : undefined));
    assert.deepEqual(
      audited.map(({ status, code }) => [status, code]),
      [[500, 'INTERNAL']],
    );
  });
}

test('HEAD of a route whose handler fails is 500 without a body', async (t) => {
  const app = await served(t);
  app.registry.snapshot = () => {
    throw new Error(BOOM);
  };
  const connection = Connection.open(t, app.at).send(request('HEAD /registry/vms'), HEALTH);
  const [head, health] = await connection.responses(['HEAD', 'GET']);
  assert.deepEqual([head?.status, health?.status], [500, 200]);
});

test('a thrown value that is not an Error is answered with 500', async (t) => {
  const app = await served(t);
  for (const [n, thrown] of ['text', 42, null, undefined, { status: 200 }, Object.create(null)].entries()) {
    app.registry.get = () => {
      throw thrown;
    };
    const [sync] = await askRaw(t, app.at, request('GET /registry/vms/vm-1', 'Connection: close'));
    isInternal(sync!, `thrown ${n}`);
    app.store.history = () => Promise.reject(thrown);
    const [rejected] = await askRaw(t, app.at, request('GET /registry/vms/vm-1/history', 'Connection: close'));
    assert.ok(rejected === undefined || rejected.status >= 400, `rejected ${n}`);
  }
  assert.equal((await call(app.url, 'GET', '/health')).status, 200);
});

test('if one of several pipelined requests fails, only that one is 500, and the others are answered in order', async (t) => {
  const app = await served(t);
  app.store.history = () => Promise.reject(new Error(BOOM));
  const connection = Connection.open(t, app.at);
  const lines = [
    'GET /health',
    'GET /registry/vms/vm-1/history',
    'GET /registry/vms/vm-1',
    'GET /registry/vms/nobody/history',
  ];
  connection.send([...lines, 'GET /registry/whoami'].map((line) => request(line)).join(''));
  const statuses = (await connection.responses(Array<string>(5).fill('GET'))).map(({ status }) => status);
  assert.deepEqual(statuses.slice(0, 3), [200, 500, 200]);
  assert.equal(statuses[4], 200);
});

test('a handler that rejects after its client has disconnected is logged once and sends no response', async (t) => {
  const store = new GatedStore();
  const app = await serveApp(t, { store });
  for (const [n, leave] of [
    (connection: Connection) => connection.reset(),
    (connection: Connection) => connection.socket.destroy(),
  ].entries()) {
    app.logged.length = 0;
    const connection = Connection.open(t, app.at);
    connection.send(withBody('POST /registry/vms', JSON.stringify(aVm({ id: `vm-${n}` }))));
    await until('the change to wait for the disk', () => store.waiting === 1);
    leave(connection);
    await areGone(app);
    assert.deepEqual(auditOf(app), []);
    store.fail(new Error(BOOM));
    await until('the failure in the log', () => failuresOf(app).length > 0);
    await until('the audit line', () => auditOf(app).length > 0);
    assert.deepEqual([failuresOf(app).length, auditOf(app).length, auditOf(app)[0]!.status], [1, 1, 500]);
  }
  assert.equal((await call(app.url, 'GET', '/health')).status, 200);
});

test('a read that rejects after its client has disconnected does not affect other requests', async (t) => {
  const app = await served(t);
  const pages: ((error: Error) => void)[] = [];
  app.store.history = () => new Promise((_, reject) => pages.push(reject));
  const connection = Connection.open(t, app.at).send(request('GET /registry/vms/vm-1/history'));
  await until('the page to be asked for', () => pages.length === 1);
  connection.reset();
  await areGone(app);
  pages[0]!(new Error(BOOM));
  assert.equal((await call(app.url, 'GET', '/health')).status, 200);
  assert.ok(auditOf(app).length <= 1);
});

test('an error before the handler, in a step of the pipeline, is answered once with 500', async (t) => {
  const app = await served(t);
  Object.defineProperty(app.authenticator, 'isOpen', {
    get() {
      throw new Error(BOOM);
    },
  });
  const connection = Connection.open(t, app.at);
  connection.send(request('GET /registry/vms'), withBody('POST /registry/vms', '{}'));
  for (const response of await connection.responses(['GET', 'POST'])) isInternal(response, 'a failing step');
  assert.equal(failuresOf(app).length, 2);
});

/** States of a connection in which a reset may arrive. */
const STATES: readonly [state: string, bytes: string, isReached?: (app: ServedApp) => boolean][] = [
  ['nothing was sent', ''],
  ['the request line is incomplete', 'GET /hea'],
  ['the headers are incomplete', 'GET /health HTTP/1.1\r\nHost: a\r\nX-'],
  ['the body is incomplete', `${request('POST /registry/vms', 'Content-Length: 50')}{`],
  ['a chunk is incomplete', `${request('POST /registry/vms', 'Transfer-Encoding: chunked')}5\r\n{`],
  ['100 Continue was sent', request('POST /registry/vms', 'Content-Length: 50', 'Expect: 100-continue')],
  ['a large body is incomplete', `${request('POST /registry/vms', 'Content-Length: 900000')}${'x'.repeat(100_000)}`],
  ['the request was answered', HEALTH],
  ['the request was refused before its body', `${request('POST /nowhere', 'Content-Length: 50')}{`],
  ['a body beyond the limit is still arriving', `${request('POST /registry/vms', 'Content-Length: 99999999')}{`],
  ['the parser refused the request', 'NONSENSE\r\n\r\n'],
  ['CONNECT was refused', request('CONNECT a:1')],
  ['an upgrade was ignored', request('GET /health', 'Connection: Upgrade', 'Upgrade: websocket')],
  ['a HEAD was answered', request('HEAD /registry/events')],
  [
    'a long poll waits',
    request('GET /registry/discover/golden?wait=50s'),
    ({ registry }) => registry.events.subscriberCount > 0,
  ],
  ['an event stream is open', request('GET /registry/events'), ({ registry }) => registry.events.subscriberCount > 0],
  [
    'a change waits for the disk',
    withBody('POST /registry/vms', JSON.stringify(aVm({ id: 'new-0' }))),
    ({ store }) => (store as GatedStore).waiting > 0,
  ],
  [
    'requests wait behind a long poll',
    request('GET /registry/discover/golden?wait=50s') + HEALTH.repeat(20),
    ({ registry }) => registry.events.subscriberCount > 0,
  ],
  [
    'a broken request waits behind a long poll',
    `${request('GET /registry/discover/golden?wait=50s')}NONSENSE\r\n\r\n`,
    ({ registry }) => registry.events.subscriberCount > 0,
  ],
];

for (const [state, bytes, isReached] of STATES) {
  test(`a reset while ${state} does not affect other clients`, async (t) => {
    const store = new GatedStore();
    const app = await serveApp(t, { store });
    for (const [n, end] of (['reset', 'destroy'] as const).entries()) {
      const sent = bytes.replace('new-0', `new-${n}`);
      const accepted = once(app.server, 'connection') as Promise<[Socket]>;
      const connection = Connection.open(t, app.at);
      if (sent !== '') connection.send(sent);
      const [socket] = await accepted;
      await until('the bytes to arrive', () => socket.bytesRead >= Buffer.byteLength(bytes) || socket.destroyed);
      if (isReached) await until(state, () => isReached(app));
      if (end === 'reset') connection.reset();
      else connection.socket.destroy();
      await areGone(app);
      await until('no subscriber to be left', () => app.registry.events.subscriberCount === 0);
      await store.release();
    }
    assert.deepEqual(failuresOf(app), []);
    assert.equal((await call(app.url, 'GET', '/health')).status, 200);
  });
}

test('a reset in the middle of a long response does not affect other clients', async (t) => {
  const app = await serveApp(t);
  const metadata = { pad: 'x'.repeat(900_000) };
  for (let n = 0; n < 16; n++) await app.registry.register(aVm({ id: `vm-${n}`, metadata }));
  for (const target of [
    '/registry/vms',
    '/registry/vms?include=liveness',
    '/registry/events?since=start',
    '/registry/vms/vm-1',
  ]) {
    const connection = Connection.open(t, app.at).send(request(`GET ${target}`) + HEALTH);
    await once(connection.socket, 'data');
    connection.socket.pause();
    connection.reset();
    await areGone(app);
  }
  await until('no subscriber to be left', () => app.registry.events.subscriberCount === 0);
  assert.deepEqual(failuresOf(app), []);
  assert.equal((await call(app.url, 'GET', '/health')).status, 200);
});
