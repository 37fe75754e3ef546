/** Requests that every route must refuse. The tests go through the table of routes, so that they cover new routes, too. */
import assert from 'node:assert/strict';
import test from 'node:test';
import type { Route } from '../../../daemon/http/context.ts';
import { ROUTES } from '../../../daemon/http/routes.ts';
import { type ServedApp, serveApp } from '../../helpers/app.ts';
import { call } from '../../helpers/http.ts';
import { exchange, type RawAnswer } from '../../helpers/raw.ts';
import { aVm } from '../../helpers/vm.ts';

/** Bytes. Small, so that a body above the limit is quick to make. */
const MAX_BODY = 4096;

async function served(t: Parameters<typeof serveApp>[0]): Promise<ServedApp> {
  const app = await serveApp(t, { limits: { maxBody: MAX_BODY } });
  await call(app.url, 'POST', '/registry/vms', { body: aVm() });
  return app;
}

/** The routes that exist for all clients. */
const FOR_ALL = ROUTES.filter(({ prefersHtml }) => !prefersHtml);

const concrete = (path: string) => path.replace(':id', 'vm-1').replace(':role', 'worker').replaceAll(/:\w+/g, 'nobody');

async function ask(
  { at }: ServedApp,
  method: string,
  path: string,
  headers: readonly string[] = [],
  body: string | Buffer = '',
): Promise<RawAnswer> {
  const head = [`${method} ${path} HTTP/1.1`, 'Host: registry', 'Connection: close', ...headers];
  const answers = await exchange(at, Buffer.concat([Buffer.from(`${head.join('\r\n')}\r\n\r\n`), Buffer.from(body)]));
  assert.equal(answers.length, 1, `${method} ${path}`);
  return answers[0]!;
}

function send(app: ServedApp, { method, path }: Route, body: string | Buffer, type = 'application/json') {
  const headers = [`Content-Type: ${type}`, `Content-Length: ${Buffer.byteLength(body)}`];
  return ask(app, method, concrete(path), headers, body);
}

function isRefused(answer: RawAnswer, status: number, code: string, field: string | undefined, name: string): void {
  assert.equal(answer.status, status, `${name}: ${answer.text}`);
  const body = JSON.parse(answer.text) as { error: string; code: string; field?: string };
  assert.ok(body.error.length > 5, name);
  assert.deepEqual([body.code, body.field], [code, field], `${name}: ${answer.text}`);
}

/** Asserts that nothing was changed and no failure was logged. */
async function isUntouched({ url, store, logged }: ServedApp): Promise<void> {
  assert.equal((await call(url, 'GET', '/health')).status, 200);
  assert.equal(store.changes, 1);
  const failures = logged.filter((line) => (JSON.parse(line) as { level: number }).level >= 40);
  assert.deepEqual(failures, []);
}

const BAD_BODIES: readonly [name: string, body: string | Buffer][] = [
  ['half of one', '{"id":"vm-2",'],
  ['two', '{}{}'],
  ['no JSON', 'id=vm-2'],
  ['a comment', '/* */{}'],
  ['invalid UTF-8', Buffer.from('7b226964223a22ff227d', 'hex')],
  ['half of a surrogate pair as bytes', Buffer.from('22eda08022', 'hex')],
  ['a prototype', '{"__proto__":{"role":"infra"}}'],
  ['a prototype further in', '{"metadata":[{"\\u005f_proto__":1}]}'],
  ['a constructor', '{"a":{"constructor":{"prototype":{}}}}'],
  // In a list, each entry has its own limit.
  ['129 levels', `{"more":[${'['.repeat(129)}${']'.repeat(129)}]}`],
  ['a number that is none', '{"metadata":{"n":1e999}}'],
  ['a bare NUL', '{"id":"\0"}'],
];

const ignoresBody = ({ method, readsBody }: Route) => method === 'DELETE' || readsBody !== undefined;

/** Both ways in which a body can exceed the limit are 413. */
async function refusesLarge(app: ServedApp, { method, path, listBody = MAX_BODY }: Route): Promise<void> {
  const size = listBody + 1;
  for (const [what, headers, body] of [
    ['by its length', [`Content-Length: ${size}`], ''],
    ['in chunks', ['Transfer-Encoding: chunked'], `${size.toString(16)}\r\n${' '.repeat(size)}\r\n`],
  ] as const) {
    const answer = await ask(app, method, concrete(path), headers, body);
    isRefused(answer, 413, 'TOO_LARGE', 'body', what);
    assert.equal(answer.headers.connection, 'close', what);
  }
}

const OTHER_TYPES = ['text/xml', 'application/octet-stream', 'multipart/form-data; boundary=x', 'application/jsonp'];

for (const route of ROUTES.filter((each) => ignoresBody(each))) {
  test(`${route.method} ${route.path} ignores a body that it does not need, unless it is too large`, async (t) => {
    const app = await served(t);
    const bodies = [...BAD_BODIES, ['an array', '[1]'], ['text', '"x"'], ['unknown fields', '{"a":{"b":1}}']] as const;
    const { method, path } = route;
    // The second VM takes the place of the first one, which a DELETE removes.
    const again = () => call(app.url, 'PUT', '/registry/vms/vm-1', { body: aVm() });
    const expected = (await ask(app, method, concrete(path))).status;
    const check = async (what: string, headers: readonly string[], body: string | Buffer) => {
      await again();
      const answer = await ask(app, method, concrete(path), headers, body);
      assert.equal(answer.status, expected, `${what}: ${answer.text}`);
    };
    for (const [what, body] of bodies) {
      const length = `Content-Length: ${Buffer.byteLength(body)}`;
      await check(what, ['Content-Type: application/json', length], body);
      const chunk = Buffer.concat([Buffer.from(`${Buffer.byteLength(body).toString(16)}\r\n`), Buffer.from(body)]);
      await check(
        `${what} in a chunk`,
        ['Transfer-Encoding: chunked'],
        Buffer.concat([chunk, Buffer.from('\r\n0\r\n\r\n')]),
      );
    }
    for (const type of [...OTHER_TYPES, ';;;'])
      await check(type, [`Content-Type: ${type}`, 'Content-Length: 9'], '{"next":1');
    for (const coding of ['gzip', 'br', 'identity, gzip', 'nonsense'])
      await check(coding, [`Content-Encoding: ${coding}`, 'Content-Length: 10'], '{"next":1}');
    await again();
    await refusesLarge(app, route);
    assert.equal(app.registry.has('vm-1'), true);
  });
}

for (const route of ROUTES.filter((each) => each.method !== 'GET' && !ignoresBody(each))) {
  const name = `${route.method} ${route.path}`;
  test(`${name} refuses a body that is invalid, too large or of another media type`, async (t) => {
    const app = await served(t);
    for (const [what, body] of BAD_BODIES) isRefused(await send(app, route, body), 400, 'INVALID', 'body', what);
    await refusesLarge(app, route);
    for (const type of OTHER_TYPES)
      isRefused(await send(app, route, '{}', type), 415, 'UNSUPPORTED_MEDIA_TYPE', 'content-type', type);
    await isUntouched(app);
  });
}

/** Query parameters of each route. A route that reads another one must be listed here. */
const QUERIES: Readonly<Record<string, readonly string[]>> = {
  'GET /registry/vms': ['role', 'status', 'selector', 'sort', 'limit', 'include'],
  'GET /registry/vms/:id': ['include'],
  'GET /registry/vms/:id/history': ['limit'],
  'GET /registry/vms/:id/children': ['include'],
  'GET /registry/vms/:id/ancestors': ['include'],
  'GET /registry/vms/:id/subtree': ['include'],
  'GET /registry/discover/:role': ['wait', 'min', 'service', 'passing', 'strict', 'include'],
  'GET /registry/events': ['role', 'status', 'id', 'heartbeats', 'since'],
  'POST /registry/vms': ['include'],
  'PUT /registry/vms/:id': ['include'],
  'PATCH /registry/vms/:id': ['include'],
  'DELETE /registry/conflicts': ['id'],
};
/** A valid body for each method. */
const BODIES: Readonly<Record<string, unknown>> = {
  POST: aVm({ id: 'vm-2' }),
  PUT: aVm({ name: 'two' }),
  PATCH: { name: 'two' },
};

test('a repeated query parameter is 400 and named, whatever its values', async (t) => {
  const app = await served(t);
  for (const [route, names] of Object.entries(QUERIES)) {
    const [method = '', path = ''] = route.split(' ');
    assert.ok(
      ROUTES.some((known) => known.method === method && known.path === path),
      route,
    );
    for (const name of names) {
      for (const query of [`${name}=1&${name}=2`, `${name}=&${name}=`, `${name}&x=1&${name}`]) {
        const body = BODIES[method] === undefined ? '' : JSON.stringify(BODIES[method]);
        const length = body === '' ? [] : [`Content-Length: ${body.length}`];
        const answer = await ask(app, method, `${concrete(path)}?${query}`, length, body);
        isRefused(answer, 400, 'INVALID', name, `${route}?${query}`);
      }
    }
  }
  await isUntouched(app);
});

test('every path answers an unsupported method with 405 and the supported ones, which include HEAD where there is a GET', async (t) => {
  const app = await served(t);
  for (const path of new Set(FOR_ALL.map((route) => route.path))) {
    const own = ROUTES.filter((route) => route.path === path).map(({ method }) => method as string);
    const allowed = own.includes('GET') ? ['HEAD', ...own] : own;
    for (const method of ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'TRACE', 'PROPFIND', 'BREW']) {
      if (allowed.includes(method)) continue;
      const answer = await ask(app, method, concrete(path), ['Content-Type: text/xml', 'Content-Length: 1'], '{');
      const name = `${method} ${path}`;
      assert.equal(answer.status, 405, name);
      assert.deepEqual(answer.headers.allow?.split(', ').sort(), allowed.toSorted(), name);
      // The response to a HEAD has no body.
      if (method !== 'HEAD') isRefused(answer, 405, 'METHOD_NOT_ALLOWED', undefined, name);
    }
  }
  await isUntouched(app);
});

test('every route refuses URLs that are too long or malformed, and handles thousands of query parameters', async (t) => {
  const app = await served(t);
  for (const { method, path } of FOR_ALL) {
    const name = `${method} ${path}`;
    const long = await ask(app, method, `${concrete(path)}?x=${'a'.repeat(65_536)}`);
    isRefused(long, 431, 'HEADERS_TOO_LARGE', 'headers', name);
    for (const query of ['%', '%zz', 'role=%ff', 'a=1&%c3%28=2', 'include=%u0041'])
      isRefused(await ask(app, method, `${concrete(path)}?${query}`), 400, 'INVALID', 'query', `${name}?${query}`);
    if (/:/.test(path)) {
      const broken = await ask(app, method, path.replace(/:\w+/, '%zz'));
      isRefused(broken, 400, 'INVALID', 'url', name);
    }
    const many = await ask(app, 'OPTIONS', `${concrete(path)}?${'a=1&__proto__=2&'.repeat(900)}`);
    assert.equal(many.status, 405, name);
  }
  for (const path of ['/registry/vms', '/registry/discover/worker', '/registry/vms/vm-1/history']) {
    const many = await ask(app, 'GET', `${path}?${'a&__proto__=2&constructor=3&'.repeat(500)}`);
    assert.equal(many.status, 200, path);
  }
  await isUntouched(app);
});

test('ids of 12 KiB, with a NUL or a newline, and of dots lead to no VM on any route', async (t) => {
  const app = await served(t);
  const names = ['a'.repeat(12_288), 'a%00b', 'a%0Ab', '%2e%2e', '%2e', '__proto__', 'constructor', '%EF%BB%BF'];
  const routes = ROUTES.filter(({ path }) => path.includes(':id'));
  // PUT comes last, because the VMs that it makes have a history.
  for (const { method, path } of routes.toSorted((a, b) => Number(a.method === 'PUT') - Number(b.method === 'PUT'))) {
    for (const id of names) {
      const body = BODIES[method] === undefined ? '' : JSON.stringify({ ...BODIES[method], id: undefined });
      const length = body === '' ? [] : [`Content-Length: ${body.length}`];
      const answer = await ask(app, method, path.replace(':id', id), length, body);
      const name = `${method} ${path} ${id.slice(0, 20)}`;
      // These two are ordinary ids, so PUT registers them.
      if (method === 'PUT' && !/^(__proto__|constructor)$/.test(id)) isRefused(answer, 400, 'INVALID', 'id', name);
      else if (method === 'PUT') {
        assert.equal(answer.status, 201, name);
        await app.registry.deregister(id);
      } else isRefused(answer, 404, 'NOT_FOUND', 'id', name);
    }
  }
  assert.equal(app.registry.list({}).length, 1);
});
