/** Which headers a response has, by route and by kind of client, as one table. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import test, { type TestContext } from 'node:test';
import { loadPage } from '../../../../daemon/http/page.ts';
import { ROUTES } from '../../../../daemon/http/routes.ts';
import { credentialsWith } from '../../../helpers/access.ts';
import { type ServedApp, serveApp } from '../../../helpers/app.ts';
import { Connection } from '../../../helpers/connection.ts';
import { tempDir } from '../../../helpers/daemon.ts';
import { MemoryStore } from '../../../helpers/memory-store.ts';
import { aVm } from '../../../helpers/vm.ts';

const PLAIN = ['content-length', 'content-type', 'date', 'x-request-id'];
/** Sent only to clients that send `X-Vreg-Client: 1`. */
const VREG = ['x-vreg-lease-ms', 'x-vreg-registry-id', 'x-vreg-version'];
const POSITION = 'x-vreg-position';
/** Routes that do not authenticate, and heartbeats. */
const NO_POSITION = [
  'GET /health',
  'GET /livez',
  'GET /readyz',
  'GET /',
  'GET /ui',
  'GET /ui/',
  'GET /ui/login',
  'GET /ui/:file',
  'POST /ui/login',
  'GET /ui/session',
  'DELETE /ui/session',
  'POST /registry/vms/:id/heartbeat',
  'POST /registry/heartbeats',
];
/** Sent with every GET and HEAD, since a browser could open it. */
const BROWSER = ['cache-control', 'content-security-policy', 'referrer-policy', 'x-content-type-options'];
/** Sent with the files of the fleet page. */
const PAGE = [...BROWSER, 'cross-origin-opener-policy', 'cross-origin-resource-policy', 'vary'];
/** They concern the connection, not the response. */
const HOP_BY_HOP = ['connection', 'keep-alive', 'transfer-encoding'];

const JSON_VM = JSON.stringify(aVm({ id: 'new' }));

interface Row {
  more?: readonly string[];
  without?: readonly string[];
  body?: string;
  /** Headers of the request. */
  client?: readonly string[];
}

/** Each route with what its response has besides the headers of all responses, and with a body where it needs one. */
const TABLE: Readonly<Record<string, Row>> = {
  'GET /health': { more: BROWSER },
  'GET /livez': { more: BROWSER },
  'GET /readyz': { more: BROWSER },
  'POST /registry/vms': { more: ['etag'], body: JSON_VM },
  'GET /registry/vms': { more: [...BROWSER, 'etag'] },
  'GET /registry/vms/:id': { more: [...BROWSER, 'etag'] },
  'PUT /registry/vms/:id': { more: ['etag'], body: JSON.stringify({ ...aVm(), id: undefined, name: 'put' }) },
  'PATCH /registry/vms/:id': { more: ['etag'], body: '{"name":"patched"}' },
  'DELETE /registry/vms/:id': {},
  'POST /registry/vms/:id/heartbeat': {},
  'POST /registry/heartbeats': { body: '{"ids":["vm-1"]}' },
  'POST /registry/import': { body: `{"vms":[${JSON_VM}]}` },
  'GET /registry/vms/:id/history': { more: BROWSER },
  'GET /registry/vms/:id/why': { more: BROWSER },
  'GET /registry/vms/:id/children': { more: BROWSER },
  'GET /registry/vms/:id/ancestors': { more: BROWSER },
  'GET /registry/vms/:id/subtree': { more: BROWSER },
  'GET /registry/vms/:id/diff/:other': { more: BROWSER },
  'GET /registry/conflicts': { more: BROWSER },
  'DELETE /registry/conflicts': {},
  'GET /registry/discover/:role': { more: [...BROWSER, 'etag'] },
  'GET /registry/events': { more: [...BROWSER, 'x-accel-buffering'], without: ['content-length'] },
  'GET /registry/backup': { more: [...BROWSER, 'content-disposition'] },
  'GET /openapi.json': { more: [...BROWSER, 'etag'] },
  'GET /metrics': { more: [...BROWSER, 'vary'] },
  'GET /registry/recent': { more: BROWSER },
  'GET /registry/activity': { more: BROWSER },
  'GET /registry/replicas': { more: BROWSER },
  'POST /auth/magic-link': {},
  'GET /': { more: PAGE, client: ['Accept: text/html'] },
  'GET /ui': { more: [...BROWSER, 'location'] },
  'GET /ui/': { more: PAGE },
  'GET /ui/login': { more: PAGE },
  'GET /ui/:file': { more: PAGE },
  'POST /ui/login': { body: '{"token":"LINK"}', more: ['set-cookie'] },
  'GET /ui/session': { more: BROWSER },
  'DELETE /ui/session': { more: ['set-cookie'] },
  'GET /registry/whoami': { more: BROWSER },
  'GET /registry/tokens': { more: BROWSER },
  'POST /registry/tokens': { body: '{"name":"made","scope":"read"}' },
  'DELETE /registry/tokens': {},
  'DELETE /registry/tokens/:name': {},
};

class CopiedStore extends MemoryStore {
  override async backup(path?: string): Promise<void> {
    writeFileSync(path!, 'a copy of the registry');
  }
}

async function startApp(t: TestContext, options: Parameters<typeof serveApp>[1] = {}): Promise<ServedApp> {
  const app = await serveApp(t, { token: 's3cret', store: new CopiedStore(), dataDir: tempDir(t), ...options });
  await app.registry.register(aVm({ id: 'vm-1', role: 'worker' }));
  await app.authenticator.tokens.create({ name: 'old', scope: 'read' }, 'test');
  return app;
}

function request(line: string, headers: readonly string[], body?: string): string {
  const length = body === undefined ? [] : [`Content-Length: ${Buffer.byteLength(body)}`];
  return [`${line} HTTP/1.1`, 'Host: a', ...headers, ...length, '', body ?? ''].join('\r\n');
}

/** The header names of a response, without those of the connection. */
async function namesOf(t: TestContext, app: ServedApp, bytes: string): Promise<{ status: number; names: string[] }> {
  const connection = Connection.open(t, app.at).send(bytes);
  const { status, headers } = await connection.responseHead();
  connection.socket.destroy();
  const names = Object.keys(headers).filter((name) => !HOP_BY_HOP.includes(name));
  return { status, names: names.sort() };
}

const TOKEN = 'Authorization: Bearer s3cret';

test('the table names every route', () => {
  assert.deepEqual(ROUTES.map(({ method, path }) => `${method} ${path}`).sort(), Object.keys(TABLE).sort());
});

for (const [route, { more = [], without = [], body, client: sent = [] }] of Object.entries(TABLE)) {
  test(`${route} has the headers of the table for a plain client and for a vreg client`, async (t) => {
    const query = route === 'DELETE /registry/tokens' ? '?enrolledBy=old' : '';
    const line =
      route
        .replace(':id', 'vm-1')
        .replace(':other', 'vm-1')
        .replace(':role', 'worker')
        .replace(':name', 'old')
        .replace(':file', [...loadPage().keys()][0]!) + query;
    for (const [client, own] of [
      [[], []],
      [['X-Vreg-Client: 1'], VREG],
    ] as const) {
      const app = await startApp(t);
      const link = app.authenticator.createLink(app.authenticator.authenticate(credentialsWith('s3cret')));
      const sentBody = body?.replace('LINK', link.secret);
      const position = NO_POSITION.includes(route) ? [] : [POSITION];
      const expected = [...PLAIN, ...own, ...more, ...position].filter((name) => !without.includes(name)).sort();
      const { status, names } = await namesOf(t, app, request(line, [TOKEN, ...sent, ...client], sentBody));
      assert.ok(status < 400, `${line}: ${status}`);
      assert.deepEqual(names, expected, `${line} ${client}`);
      if (!line.startsWith('GET')) continue;
      const head = await namesOf(t, app, request(line.replace('GET', 'HEAD'), [TOKEN, ...sent, ...client]));
      assert.deepEqual(head, { status, names: expected }, `HEAD ${line} ${client}`);
    }
  });
}

test('a plain heartbeat over a kept connection has exactly four headers', async (t) => {
  const app = await startApp(t);
  const connection = Connection.open(t, app.at);
  for (let n = 0; n < 3; n++) {
    connection.send(request('POST /registry/vms/vm-1/heartbeat', [TOKEN]));
    const { headers } = await connection.response('POST');
    assert.deepEqual(Object.keys(headers).sort(), PLAIN);
  }
});

test('a client with another value of X-Vreg-Client is treated as a plain client', async (t) => {
  const app = await startApp(t);
  for (const value of ['0', '2', 'true', '']) {
    const { names } = await namesOf(t, app, request('GET /registry/vms', [TOKEN, `X-Vreg-Client: ${value}`]));
    assert.deepEqual(names, [...PLAIN, ...BROWSER, 'etag', POSITION].sort(), value);
  }
});

test('headers that change what a client should do go to every client', async (t) => {
  const app = await startApp(t, { corsOrigins: ['https://dash.example'] });
  const { token } = await app.authenticator.tokens.create({ name: 'reader', scope: 'read', role: 'infra' }, 'test');
  const reader = `Authorization: Bearer ${token}`;
  app.clock.miss(1000);
  for (const client of [[], ['X-Vreg-Client: 1']]) {
    const own = client.length > 0 ? VREG : [];
    for (const [status, line, headers, added] of [
      [401, 'GET /registry/vms', [], [...BROWSER, 'www-authenticate']],
      [401, 'POST /registry/vms', [], ['www-authenticate']],
      [405, 'PUT /registry/vms', [TOKEN], ['allow']],
      [404, 'GET /nowhere', [TOKEN], BROWSER],
      [404, 'DELETE /registry/vms/nobody', [TOKEN], []],
      [403, 'DELETE /registry/vms/vm-1', [reader], ['www-authenticate']],
      [403, 'GET /registry/vms/vm-1', [reader], BROWSER],
      [400, 'GET /registry/vms/%zz', [TOKEN], BROWSER],
      [200, 'GET /registry/discover/worker', [TOKEN], [...BROWSER, 'etag', 'x-vreg-warming']],
      [200, 'GET /registry/vms/vm-1', [TOKEN], [...BROWSER, 'etag', 'x-vreg-warming']],
    ] as const) {
      const seen = await namesOf(t, app, request(line, [...headers, ...client]));
      // With named origins every response depends on the Origin header.
      const position = status === 401 || status === 403 ? [] : [POSITION];
      const names = [...PLAIN, ...own, ...added, ...position, 'vary'].sort();
      assert.deepEqual(seen, { status, names }, `${line} ${client}`);
    }
    const cross = request('GET /registry/vms', [TOKEN, 'Origin: https://dash.example', ...client]);
    const { names } = await namesOf(t, app, cross);
    for (const name of ['access-control-allow-origin', 'access-control-expose-headers', 'vary'])
      assert.ok(names.includes(name), name);
  }
  for (let n = 0; n < 70; n++)
    await namesOf(t, app, request('GET /registry/vms', [`Authorization: Bearer wrong-${n}`]));
  const { status, names } = await namesOf(t, app, request('GET /registry/vms', ['Authorization: Bearer wrong']));
  assert.deepEqual([status, names.includes('retry-after')], [429, true]);
});
