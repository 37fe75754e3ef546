/** The OpenAPI document, compared with the table of routes and with a real response of every route. */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import type { IncomingMessage } from 'node:http';
import test, { type TestContext } from 'node:test';
import { createConfig, lintFromString } from '@redocly/openapi-core';
import { Validator } from '@seriousme/openapi-schema-validator';
import type { Route } from '../../../../daemon/http/context.ts';
import { loadPage } from '../../../../daemon/http/page.ts';
import { ROUTES } from '../../../../daemon/http/routes.ts';
import { ERRORS } from '../../../../src/protocol/errors.ts';
import { OPERATIONS } from '../../../../src/protocol/operations.ts';
import { SCOPES, type Scope } from '../../../../src/protocol/token.ts';
import { type ServedApp, serveApp } from '../../../helpers/app.ts';
import { tempDir } from '../../../helpers/daemon.ts';
import { MemoryStore } from '../../../helpers/memory-store.ts';
import { AnswerValidator, type Document, operationOf, parametersOf, parseDocument } from '../../../helpers/openapi.ts';
import { aVm } from '../../../helpers/vm.ts';

const TOKEN = 's3cret';

class CopiedStore extends MemoryStore {
  override async backup(path?: string): Promise<void> {
    writeFileSync(path!, 'a copy of the registry');
  }
}

async function started(t: TestContext): Promise<ServedApp> {
  const app = await serveApp(t, { token: TOKEN, store: new CopiedStore(), dataDir: tempDir(t) });
  const reefConfig = { services: ['a'], capabilities: [] };
  const services = [{ name: 'api', port: 80, note: 'kept' }];
  await app.registry.register({ ...aVm({ id: 'vm-1', role: 'worker' }), reefConfig, services, metadata: { a: 1 } });
  await app.registry.register({ ...aVm({ id: 'vm-2', role: 'worker' }), parentId: 'vm-1' });
  await app.authenticator.tokens.create({ name: 'old', scope: 'read' }, 'test');
  return app;
}

interface Answer {
  status: number;
  headers: Headers;
  text: string;
}

async function ask(
  { url }: ServedApp,
  method: string,
  path: string,
  { body, token = TOKEN, headers = {} }: { body?: unknown; token?: string; headers?: Record<string, string> } = {},
): Promise<Answer> {
  const answer = await fetch(url + path, {
    method,
    redirect: 'manual',
    body: body === undefined ? null : JSON.stringify(body),
    headers: {
      ...(token === '' ? {} : { authorization: `Bearer ${token}` }),
      ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      ...headers,
    },
  });
  if (!answer.headers.get('content-type')?.startsWith('text/event-stream'))
    return { status: answer.status, headers: answer.headers, text: await answer.text() };
  await answer.body!.cancel();
  return { status: answer.status, headers: answer.headers, text: 'event: synced' };
}

async function documentOf(app: ServedApp, token = TOKEN): Promise<Document> {
  const { status, text } = await ask(app, 'GET', '/openapi.json', { token });
  assert.equal(status, 200);
  return parseDocument(text);
}

/** Validators by their document, because compiling the schemas takes most of the time of a validation. */
const validators = new Map<string, AnswerValidator>();

async function validatorOf(app: ServedApp): Promise<AnswerValidator> {
  const document = await documentOf(app);
  const key = JSON.stringify(document);
  const validator = validators.get(key) ?? new AnswerValidator(document);
  validators.set(key, validator);
  return validator;
}

/** The secret of a new link for a log-in. */
async function linkToken(app: ServedApp): Promise<string> {
  const { url } = JSON.parse((await ask(app, 'POST', '/auth/magic-link')).text) as { url: string };
  return new URL(url).searchParams.get('token')!;
}

const nameOf = ({ method, path }: Route) => `${method} ${path}`;

/** Bodies for the routes that need one. */
const BODIES: Readonly<Record<string, unknown>> = {
  'POST /registry/vms': aVm({ id: 'new' }),
  'PUT /registry/vms/:id': { ...aVm(), id: undefined, name: 'put' },
  'PATCH /registry/vms/:id': { name: 'patched' },
  'POST /registry/vms/:id/heartbeat': { next: `1.${'a'.repeat(32)}`, position: `1-${'f'.repeat(16)}` },
  'POST /registry/heartbeats': { ids: ['vm-1', 'nobody'] },
  'POST /registry/import': { vms: [aVm({ id: 'imported' }), { id: 'broken' }] },
  'POST /registry/tokens': { name: 'made', scope: 'read', role: 'worker', expiresIn: 60 },
};

/** Queries with which a response has more of what the document describes. */
const QUERIES: Readonly<Record<string, string>> = {
  'DELETE /registry/tokens': '?enrolledBy=old',
  'GET /registry/vms': '?include=liveness&limit=1',
  'GET /registry/discover/:role': '?include=liveness',
  'GET /livez': '?verbose',
  'GET /readyz': '?verbose',
};

const concrete = (path: string) =>
  path
    .replace(':id', 'vm-1')
    .replace(':other', 'vm-2')
    .replace(':role', 'worker')
    .replace(':name', 'old')
    .replace(':file', [...loadPage().keys()][0]!);

test('the document is valid OpenAPI 3.1, with the version of the daemon', async (t) => {
  const document = await documentOf(await started(t));
  assert.deepEqual([document.openapi, document.info.version], ['3.1.0', '0.0.0']);
  const { valid, errors } = await new Validator().validate(
    structuredClone(document) as unknown as Record<string, unknown>,
  );
  assert.ok(valid, JSON.stringify(errors));
});

/** Findings of the linter that are as they should be. */
const ACCEPTED: Readonly<Record<string, string>> = {
  'operation-2xx-response #/paths/~1ui/get/responses': 'it is a redirect',
  'no-path-trailing-slash #/paths/~1ui~1': 'the paths of the page are relative to it',
  'no-unused-components #/components/responses/405': 'it answers the methods that have no operation',
};

test('the linter finds no fault in the document of any scope', async (t) => {
  const app = await started(t);
  const config = await createConfig({ extends: ['recommended-strict'] });
  for (const scope of SCOPES) {
    const { token } = JSON.parse((await ask(app, 'POST', '/registry/tokens', { body: { name: scope, scope } })).text);
    const { text: source } = await ask(app, 'GET', '/openapi.json', { token });
    const problems = await lintFromString({ source, absoluteRef: 'openapi.json', config });
    const found = problems.map(({ ruleId, location }) => `${ruleId} ${location[0]?.pointer}`);
    // Another scope uses the other components.
    const isUnused = (each: string) => scope !== 'admin' && each.startsWith('no-unused-components ');
    assert.deepEqual(
      found.filter((each) => !(each in ACCEPTED) && !isUnused(each)),
      [],
      scope,
    );
  }
});

test('every route, with each of its parameters, is described, and nothing else is', async (t) => {
  const document = await documentOf(await started(t));
  assert.deepEqual(ROUTES.map(nameOf).sort(), Object.keys(OPERATIONS).sort());
  for (const { method, path, query } of ROUTES) {
    const described = operationOf(document, method, path);
    assert.ok(described, `${method} ${path} is not described`);
    const inPath = [...path.matchAll(/:(\w+)/g)].map(([, name]) => name);
    assert.deepEqual(parametersOf(document, described, 'path'), inPath);
    assert.deepEqual(parametersOf(document, described, 'query'), query);
  }
  const ids = Object.values(document.paths).flatMap((methods) =>
    Object.values(methods).map((each) => each.operationId),
  );
  assert.deepEqual(ids, [...new Set(ids)], 'each operation has an id of its own');
  const count = Object.values(document.paths).flatMap((methods) => Object.keys(methods)).length;
  assert.equal(count, ROUTES.length);
});

/** Headers of a request that every route reads, or that are not for the API, with the reason why no operation describes them. */
const UNDESCRIBED: Readonly<Record<string, string>> = {
  authorization: 'a security scheme',
  cookie: 'a security scheme',
  accept: 'the media types of the response',
  'content-type': 'the media types of the body',
  'content-encoding': 'the registry reads plain JSON only',
  'content-length': 'framing',
  'transfer-encoding': 'framing',
  expect: 'framing',
  host: 'the URL',
  origin: 'browsers send it',
  'sec-fetch-dest': 'browsers send it',
  'sec-fetch-mode': 'browsers send it',
  'sec-fetch-site': 'browsers send it',
  'x-forwarded-for': 'proxies send it',
  'x-forwarded-host': 'proxies send it',
  'x-forwarded-proto': 'proxies send it',
  forwarded: 'proxies send it',
};

/** Records the names of the headers that the registry reads. */
function recordReads({ server }: ServedApp): Set<string> {
  const read = new Set<string>();
  server.prependListener('request', (request: IncomingMessage) => {
    const { headers } = request;
    const recorded = new Proxy(headers, {
      get(target, name: string) {
        read.add(name);
        return target[name];
      },
    });
    Object.defineProperty(request, 'headers', { value: recorded });
  });
  return read;
}

/** Sends a request to a route that succeeds. @param more headers besides those of every client */
async function succeed(app: ServedApp, route: Route, more: Record<string, string> = {}): Promise<Answer> {
  const name = nameOf(route);
  const body = name === 'POST /ui/login' ? { token: await linkToken(app) } : BODIES[name];
  const headers: Record<string, string> = route.prefersHtml ? { ...more, accept: 'text/html' } : more;
  // vm-1 has no ancestors.
  const path = concrete(name.endsWith('/ancestors') ? route.path.replace(':id', 'vm-2') : route.path);
  const answer = await ask(app, route.method, path + (QUERIES[name] ?? ''), { body, headers });
  assert.ok(answer.status < 400, `${name}: ${answer.status} ${answer.text}`);
  return answer;
}

test('each header of a request that a route reads is described, and each described one is read', async (t) => {
  for (const route of ROUTES) {
    const app = await started(t);
    const document = await documentOf(app);
    const link = nameOf(route) === 'POST /ui/login' ? await linkToken(app) : '';
    const read = recordReads(app);
    if (link) await ask(app, 'POST', '/ui/login', { body: { token: link } });
    else await succeed(app, route);
    const described = parametersOf(document, operationOf(document, route.method, route.path)!, 'header');
    assert.deepEqual([...read].filter((each) => !(each in UNDESCRIBED)).sort(), described.sort(), nameOf(route));
  }
});

/** fetch removes the encoding that it has decoded, a probe that succeeds has no Retry-After, and there is no etcd. */
const ELSEWHERE: readonly string[] = ['content-encoding', 'retry-after', 'x-vreg-age'];

test('each header that an operation describes is in one of its responses', async (t) => {
  for (const route of ROUTES) {
    const app = await started(t);
    const validator = await validatorOf(app);
    app.clock.miss(1000);
    const { status, headers } = await succeed(app, route, { 'x-vreg-client': '1' });
    const described = validator.headersOf(route.method, route.path, status);
    const missing = described.filter((name) => !headers.has(name) && !ELSEWHERE.includes(name));
    assert.deepEqual(missing, [], nameOf(route));
  }
});

test('each error has an example that matches its schema', async (t) => {
  const document = await documentOf(await started(t));
  const validator = new AnswerValidator(document);
  for (const [status, { content }] of Object.entries(document.components.responses)) {
    const examples = Object.entries(content!['application/json']!.examples ?? {});
    assert.ok(examples.length > 0, status);
    for (const [code, { value }] of examples) {
      assert.deepEqual(validator.faultsOfError(value), [], code);
      assert.equal((value as { code: string }).code, code);
      assert.equal(ERRORS[code as keyof typeof ERRORS].status, Number(status));
    }
  }
});

test('a browser finds the cookie of its session in the document', async (t) => {
  const app = await started(t);
  const logIn = await ask(app, 'POST', '/ui/login', { body: { token: await linkToken(app) } });
  const [cookie] = logIn.headers.get('set-cookie')!.split('=');
  const { text } = await ask(app, 'GET', '/openapi.json');
  assert.equal(JSON.parse(text).components.securitySchemes.session.name, cookie);
});

for (const route of ROUTES) {
  const name = nameOf(route);
  test(`a success and the refusals of ${name} have the statuses, headers and bodies of the document`, async (t) => {
    const app = await started(t);
    const { method, path } = route;
    const validator = await validatorOf(app);
    const body = name === 'POST /ui/login' ? { token: await linkToken(app) } : BODIES[name];
    const html: Record<string, string> = route.prefersHtml ? { accept: 'text/html' } : {};
    if (body !== undefined) assert.deepEqual(validator.faultsOfBody(method, path, body), []);
    const url = concrete(path) + (QUERIES[name] ?? '');
    const answer = await ask(app, method, url, { body, headers: html });
    assert.ok(answer.status < 400, `${answer.status} ${answer.text}`);
    assert.deepEqual(validator.faultsOf(method, path, answer), []);
    if (answer.headers.has('etag') && method === 'GET' && path !== '/registry/vms/:id') {
      const same = await ask(app, method, url, { headers: { 'if-none-match': answer.headers.get('etag')! } });
      assert.deepEqual([same.status, validator.faultsOf(method, path, same)], [304, []]);
    }
    if (route.access === 'open') return;
    const refusals = [
      await ask(app, method, url, { body, token: '' }),
      await ask(app, method, `${url}${url.includes('?') ? '&' : '?'}nonsense=1`, {
        body,
        headers: { 'x-vreg-client': '1' },
      }),
      ...(path.includes(':id') ? [await ask(app, method, concrete(path).replace('vm-1', 'nobody'), { body })] : []),
    ];
    for (const refusal of refusals.filter(({ status }) => status >= 400))
      assert.deepEqual(validator.faultsOf(method, path, refusal), [], `${refusal.status} ${refusal.text}`);
  });
}

/** Requests that a route refuses because of their parts, with the status. */
function brokenRequests({ method, query, readsBody, listBody, access, prefersHtml }: Route): {
  status: number;
  query?: string;
  body?: unknown;
  headers?: Record<string, string>;
  token?: string;
}[] {
  const html = prefersHtml && { headers: { accept: 'text/html' } };
  const readsAnyBody = method !== 'GET' && method !== 'DELETE' && !readsBody;
  return [
    { status: 400, query: '?nonsense=%ff', ...html },
    ...(query.includes('minPosition') ? [{ status: 412, query: `?minPosition=9-${'f'.repeat(16)}` }] : []),
    ...(method === 'GET' || listBody ? [] : [{ status: 413, body: 'x'.repeat(2_000_000) }]),
    ...(readsAnyBody ? [{ status: 415, body: {}, headers: { 'content-type': 'text/xml' } }] : []),
    ...(access === 'open' && !prefersHtml ? [] : [{ status: 401, token: 'wrong' }]),
  ];
}

for (const route of ROUTES) {
  test(`the document has the errors of broken requests for ${nameOf(route)}`, async (t) => {
    const app = await started(t);
    const validator = await validatorOf(app);
    const { method, path } = route;
    for (const { status, query = '', ...request } of brokenRequests(route)) {
      const answer = await ask(app, method, concrete(path) + query, request);
      assert.deepEqual([answer.status, validator.faultsOf(method, path, answer)], [status, []], answer.text);
    }
  });
}

test('the document has the errors for too many invalid tokens', async (t) => {
  const app = await started(t);
  const validator = await validatorOf(app);
  while ((await ask(app, 'GET', '/registry/vms', { token: 'wrong' })).status !== 429);
  for (const { method, path } of ROUTES) {
    const answer = await ask(app, method, concrete(path), { token: 'wrong' });
    assert.deepEqual(validator.faultsOf(method, path, answer), [], `${method} ${path}: ${answer.text}`);
  }
});

/** Changes that make a body invalid, for the routes whose fields they name. */
const MISTAKES: readonly Record<string, unknown>[] = [
  { name: undefined },
  { name: 7 },
  { role: 'wroker' },
  { status: 'dead' },
  { address: 7 },
  { services: [{ name: 'api', port: 0 }] },
  { services: {} },
  { metadata: [] },
  { scope: 'root' },
  { expiresIn: 0 },
  { ids: 'vm-1' },
  { ids: undefined },
  { vms: {} },
  { id: null },
  { name: null },
  { role: null },
  { address: null },
  { status: null },
  { services: null },
  { services: [{ name: 'api', port: 80, healthPath: null }] },
  { metadata: null },
  { parentId: null },
  { parentVmId: null },
  { reefConfig: null },
  { scope: null },
  { vm: null },
  { expiresIn: null },
  { ids: null },
  { vms: null },
];

test('a body that a schema refuses is refused by the registry, too, and the other way round', async (t) => {
  const app = await started(t);
  const validator = await validatorOf(app);
  let refused = 0;
  for (const [name, valid] of Object.entries(BODIES)) {
    const [method, path] = name.split(' ') as [string, string];
    for (const mistake of MISTAKES) {
      const body = { ...(valid as object), ...mistake };
      const isRefused = validator.faultsOfBody(method, path, JSON.parse(JSON.stringify(body))).length > 0;
      const { status, text } = await ask(app, method, concrete(path), { body });
      const expected = isRefused ? [400] : [200, 201, 409];
      assert.ok(expected.includes(status), `${name} ${JSON.stringify(mistake)}: ${status} ${text}`);
      if (isRefused) refused++;
    }
  }
  assert.ok(refused > 20, String(refused));
});

test('a token sees only the routes that it may use', async (t) => {
  const app = await started(t);
  assert.equal((await ask(app, 'GET', '/openapi.json', { token: '' })).status, 401);
  const requests = [
    ...SCOPES.map((scope) => ({ name: `a-${scope}`, scope })),
    { name: 'restricted', scope: 'read', vm: 'vm-1' },
    { name: 'restricted-write', scope: 'write', vm: 'vm-1' },
  ];
  for (const body of requests) {
    const { token } = JSON.parse((await ask(app, 'POST', '/registry/tokens', { body })).text) as { token: string };
    const document = await documentOf(app, token);
    for (const { method, path, access } of ROUTES) {
      const isVisible = operationOf(document, method, path) !== undefined;
      const answer =
        access === 'open' || path === '/registry/events'
          ? undefined
          : await ask(app, method, concrete(path).replace('old', 'nobody'), { token });
      if (answer) assert.equal(isVisible, answer.status !== 403, `${body.name}: ${method} ${path}`);
    }
  }
  const seen = (document: Document) => Object.keys(document.paths).length;
  const [read, admin] = [
    { name: 'r', scope: 'read' as Scope },
    { name: 'w', scope: 'admin' as Scope },
  ];
  const tokens = await Promise.all(
    [read, admin].map(
      async (body) => JSON.parse((await ask(app, 'POST', '/registry/tokens', { body })).text).token as string,
    ),
  );
  assert.ok(seen(await documentOf(app, tokens[0])) < seen(await documentOf(app, tokens[1])));
});

test('the document names every error that the registry sends', async (t) => {
  const { components } = await documentOf(await started(t));
  const text = JSON.stringify(components.responses);
  for (const [code, { status }] of Object.entries(ERRORS)) {
    if (status === 0) continue;
    assert.match(text, new RegExp(`\\b${code}: `));
    assert.ok(components.responses[status], code);
  }
});

test('the ETag stays the same between requests and differs between scopes', async (t) => {
  const app = await started(t);
  const tagOf = async (token?: string) =>
    (await ask(app, 'GET', '/openapi.json', token === undefined ? {} : { token })).headers.get('etag');
  const { token } = JSON.parse(
    (await ask(app, 'POST', '/registry/tokens', { body: { name: 'r', scope: 'read' } })).text,
  ) as {
    token: string;
  };
  assert.match((await tagOf())!, /^"[0-9a-f]{16}"$/);
  assert.equal(await tagOf(), await tagOf());
  assert.notEqual(await tagOf(), await tagOf(token));
});
