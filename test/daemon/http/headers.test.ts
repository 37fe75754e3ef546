/** Which headers each kind of response has, for plain clients and for vreg clients. */
import assert from 'node:assert/strict';
import { request } from 'node:http';
import test, { type TestContext } from 'node:test';
import { type ServedApp, serveApp } from '../../helpers/app.ts';
import { AS_VREG_CLIENT } from '../../helpers/http.ts';
import { aVm } from '../../helpers/vm.ts';

const TOKEN = { authorization: 'Bearer s3cret' };
const DASH = 'https://dash.example';

/** On every response that has a body. */
const ALWAYS = ['content-length', 'content-type', 'date', 'x-request-id'];
/** HTTP/1.1 connections stay open by default, so these two are only hints. */
const KEEP_ALIVE = ['connection', 'keep-alive'];
const BROWSER = ['cache-control', 'content-security-policy', 'referrer-policy', 'x-content-type-options'];
const VREG = ['x-vreg-lease-ms', 'x-vreg-registry-id', 'x-vreg-version'];
/** On every response to an authorized request, except plain heartbeats. */
const POSITION = 'x-vreg-position';

interface Row {
  method: string;
  path: string;
  body?: object;
  headers?: Record<string, string>;
  status: number;
  plain: string[];
}

const HEARTBEAT = '/registry/vms/vm-1/heartbeat';
const ROWS: readonly Row[] = [
  { method: 'POST', path: HEARTBEAT, status: 200, plain: ALWAYS },
  { method: 'POST', path: '/registry/heartbeats', body: { ids: ['vm-1'] }, status: 200, plain: ALWAYS },
  { method: 'POST', path: '/registry/vms/nobody/heartbeat', status: 404, plain: ALWAYS },
  { method: 'POST', path: HEARTBEAT, body: { health: {} }, status: 200, plain: [...ALWAYS, POSITION] },
  { method: 'GET', path: '/health', status: 200, plain: [...ALWAYS, ...KEEP_ALIVE, ...BROWSER] },
  {
    method: 'GET',
    path: '/registry/vms',
    status: 200,
    plain: [...ALWAYS, POSITION, ...KEEP_ALIVE, ...BROWSER, 'etag'],
  },
  {
    method: 'GET',
    path: '/registry/discover/worker',
    status: 200,
    plain: [...ALWAYS, POSITION, ...KEEP_ALIVE, ...BROWSER, 'etag'],
  },
  {
    method: 'HEAD',
    path: '/registry/vms',
    status: 200,
    plain: [...ALWAYS, POSITION, ...KEEP_ALIVE, ...BROWSER, 'etag'],
  },
  {
    method: 'GET',
    path: '/registry/vms/vm-1',
    status: 200,
    plain: [...ALWAYS, POSITION, ...KEEP_ALIVE, ...BROWSER, 'etag'],
  },
  {
    method: 'PATCH',
    path: '/registry/vms/vm-1',
    body: { name: 'b' },
    status: 200,
    plain: [...ALWAYS, POSITION, ...KEEP_ALIVE, 'etag'],
  },
  {
    method: 'POST',
    path: '/registry/vms',
    body: aVm({ id: 'vm-2' }),
    status: 201,
    plain: [...ALWAYS, POSITION, ...KEEP_ALIVE, 'etag'],
  },
  { method: 'DELETE', path: '/registry/vms/vm-1', status: 200, plain: [...ALWAYS, POSITION, ...KEEP_ALIVE] },
  { method: 'GET', path: '/nowhere', status: 404, plain: [...ALWAYS, POSITION, ...KEEP_ALIVE, ...BROWSER] },
  { method: 'PUT', path: '/registry/vms', status: 405, plain: [...ALWAYS, POSITION, ...KEEP_ALIVE, 'allow'] },
  {
    method: 'POST',
    path: '/registry/vms',
    headers: { authorization: 'Bearer wrong' },
    status: 401,
    plain: [...ALWAYS, ...KEEP_ALIVE, 'www-authenticate'],
  },
];

/** @returns status and sorted header names */
function ask({ at }: ServedApp, { method, path, body, headers }: Row, more = {}): Promise<[number, string[]]> {
  const text = body === undefined ? '' : JSON.stringify(body);
  const length = text === '' ? {} : { 'content-length': text.length };
  return new Promise((resolve, reject) => {
    request(
      { ...at, method, path, headers: { ...TOKEN, ...length, ...headers, ...more }, agent: false },
      (response) => {
        response.resume().once('end', () => resolve([response.statusCode!, Object.keys(response.headers).sort()]));
      },
    )
      .setHeader('connection', 'keep-alive')
      .once('error', reject)
      .end(text);
  });
}

async function anApp(t: TestContext, options: Parameters<typeof serveApp>[1] = {}): Promise<ServedApp> {
  const app = await serveApp(t, { token: 's3cret', ...options });
  await app.registry.register(aVm({ id: 'vm-1', role: 'worker' }));
  return app;
}

for (const row of ROWS) {
  test(`the headers of ${row.status} for ${row.method} ${row.path}, plain and for a vreg client`, async (t) => {
    assert.deepEqual(await ask(await anApp(t), row), [row.status, row.plain.toSorted()]);
    const forVreg = [...new Set([...row.plain, ...KEEP_ALIVE, ...VREG])].sort();
    assert.deepEqual(await ask(await anApp(t), row, AS_VREG_CLIENT), [row.status, forVreg]);
  });
}

test('headers that change what a client should do go to every client', async (t) => {
  const app = await anApp(t, { corsOrigins: [DASH] });
  const health = ROWS.find(({ path }) => path === '/health')!;
  assert.ok((await ask(app, health))[1].includes('vary'));
  app.clock.miss(1000);
  const read = ROWS.find(({ path, method }) => path === '/registry/vms/vm-1' && method === 'GET')!;
  assert.ok((await ask(app, read))[1].includes('x-vreg-warming'));
});

test('any other value of X-Vreg-Client is treated as a plain client', async (t) => {
  const app = await anApp(t);
  for (const value of ['0', '', 'true', '2'])
    assert.deepEqual((await ask(app, ROWS[0]!, { 'x-vreg-client': value }))[1], ALWAYS, value);
});
