/** Query parameters that a route does not know, and the declaration of those that it knows. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import type { Route } from '../../../daemon/http/context.ts';
import { ROUTES } from '../../../daemon/http/routes.ts';
import { type ServedApp, serveApp } from '../../helpers/app.ts';
import { AS_VREG_CLIENT, call } from '../../helpers/http.ts';
import { aVm } from '../../helpers/vm.ts';

const nameOf = ({ method, path }: Route) => `${method} ${path}`;
const pathOf = ({ path }: Route) => path.replace(':id', 'vm-1').replace(':role', 'worker').replace(':name', 'nobody');

async function served(t: TestContext): Promise<ServedApp> {
  const app = await serveApp(t, { logLevel: 'debug' });
  await app.registry.register(aVm({ id: 'vm-1', role: 'worker' }));
  return app;
}

/** Sends a request with a body that the route accepts. Does not read the response of a stream. */
async function ask({ url }: ServedApp, route: Route, query: string, headers: Record<string, string> = {}) {
  const id = route.method === 'POST' ? 'vm-2' : 'vm-1';
  const body = ['PUT', 'PATCH', 'POST'].includes(route.method) ? JSON.stringify(aVm({ id, role: 'worker' })) : null;
  const type: Record<string, string> = body === null ? {} : { 'content-type': 'application/json' };
  const accept: Record<string, string> = route.prefersHtml ? { accept: 'text/html' } : {};
  const answer = await fetch(`${url}${pathOf(route)}?${query}`, {
    method: route.method,
    body,
    headers: { ...type, ...accept, ...headers },
  });
  const isJson = answer.headers.get('content-type')?.startsWith('application/json');
  const json = isJson ? ((await answer.json()) as { error?: string; code?: string; field?: string }) : {};
  if (!isJson) await answer.body?.cancel();
  return { status: answer.status, ...json };
}

async function counted({ url }: ServedApp): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  return Number(/^vreg_unknown_query_parameters_total (\d+)$/m.exec(text)?.[1]);
}

const linesOf = ({ logged }: ServedApp) =>
  logged
    .map((line) => JSON.parse(line) as { level: number; msg: string; route?: string; parameters?: string[] })
    .filter(({ msg }) => msg === 'ignored unknown query parameters');

for (const route of ROUTES) {
  test(`${nameOf(route)} refuses an unknown parameter of a vreg client and names those that it knows`, async (t) => {
    const app = await served(t);
    const before = app.store.changes;
    for (const query of [
      'parnetId=vm-1',
      'parnetId=',
      'parnetId',
      `${route.query.map((n) => `${n}=`).join('&')}&parnetId=1`,
    ]) {
      const { status, code, field, error } = await ask(app, route, query, AS_VREG_CLIENT);
      assert.deepEqual([status, code, field], [400, 'INVALID', 'parnetId'], query);
      const known = route.query.length > 0 ? `one of ${route.query.join(', ')}` : `${nameOf(route)} has none`;
      assert.equal(error, `unknown query parameter "parnetId" (${known})`);
    }
    assert.equal(app.store.changes, before);
    assert.equal(await counted(app), 0);
  });

  test(`${nameOf(route)} reads every parameter that it declares`, async (t) => {
    const app = await served(t);
    for (const name of route.query) {
      const { status, field } = await ask(app, route, `${name}=1&${name}=2`, AS_VREG_CLIENT);
      assert.deepEqual([status, field], [400, name], name);
    }
  });

  test(`${nameOf(route)} ignores, counts and logs an unknown parameter of another client`, async (t) => {
    const app = await served(t);
    const { field } = await ask(app, route, 'parnetId=s3cret&x');
    assert.equal(field === 'parnetId' || field === 'x', false);
    assert.equal(await counted(app), 2);
    assert.deepEqual(
      linesOf(app).map(({ level, route: name, parameters }) => ({ level, name, parameters })),
      [{ level: 20, name: nameOf(route), parameters: ['parnetId', 'x'] }],
    );
    assert.ok(!app.logged.some((line) => line.includes('s3cret') && line.includes('unknown query')));
  });
}

test('the value of an unknown parameter is never logged, and long or secret names are shortened', async (t) => {
  const app = await served(t);
  const token = `vreg_${'a'.repeat(43)}`;
  await call(app.url, 'GET', `/registry/vms?${token}=1&${'n'.repeat(5000)}=s3cret&%0A%1b[31m=1`);
  const { parameters } = linesOf(app)[0]!;
  assert.deepEqual(parameters, ['vreg_***', 'n'.repeat(60), '\ufffd\ufffd[31m']);
  await call(app.url, 'GET', `/registry/vms?${Array.from({ length: 500 }, (_, n) => `p${n}`).join('&')}`);
  assert.equal(linesOf(app)[1]!.parameters?.length, 10);
  assert.equal(await counted(app), 503);
});

test('known parameters are neither counted nor logged', async (t) => {
  const app = await served(t);
  for (const headers of [{}, AS_VREG_CLIENT]) {
    const list = '/registry/vms?role=worker&status=&sort=id&limit=5&include=liveness&selector=a&parentId=vm-1';
    assert.equal((await call(app.url, 'GET', list, { headers })).status, 200);
    assert.equal((await call(app.url, 'GET', '/registry/discover/worker?strict=true&min=1', { headers })).status, 200);
  }
  assert.equal(await counted(app), 0);
  assert.deepEqual(linesOf(app), []);
});

test('a client without a token does not learn which parameters a route knows', async (t) => {
  const app = await serveApp(t, { token: 's3cret' });
  assert.equal((await call(app.url, 'GET', '/registry/vms?x=1', { headers: AS_VREG_CLIENT })).status, 401);
});

test('property names of Object.prototype are also unknown parameters', async (t) => {
  const app = await served(t);
  for (const name of ['__proto__', 'constructor', 'toString', 'length', 'includes']) {
    const { status, body } = await call(app.url, 'GET', `/registry/vms?${name}=1`, { headers: AS_VREG_CLIENT });
    assert.deepEqual([status, (body as { field: string }).field], [400, name]);
  }
});
