/** The log-in of the fleet page over HTTP: magic links, cookies, and requests of pages from other origins. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { ROUTES } from '../../../../daemon/http/routes.ts';
import type { MagicLink, SessionStatus, VmList } from '../../../../src/protocol/api.ts';
import type { NewToken, TokenRequest } from '../../../../src/protocol/token.ts';
import { type ServedApp, serveApp } from '../../../helpers/app.ts';
import { call, errorOf } from '../../../helpers/http.ts';
import { MemoryStore } from '../../../helpers/memory-store.ts';
import { exchange } from '../../../helpers/raw.ts';
import { aVm } from '../../../helpers/vm.ts';

const ROOT = 's3cret';
const AUTH = { authorization: `Bearer ${ROOT}` };

type Options = Parameters<typeof serveApp>[1];

interface LoggedIn extends ServedApp {
  cookie: string;
  setCookie: string;
}

async function linkOf({ url }: Pick<ServedApp, 'url'>, headers: Record<string, string> = AUTH): Promise<MagicLink> {
  const { status, body } = await call(url, 'POST', '/auth/magic-link', { headers });
  assert.equal(status, 200);
  return body as MagicLink;
}

const tokenIn = (link: MagicLink) => new URL(link.url).searchParams.get('token')!;

async function loggedIn(
  t: TestContext,
  options: Options = {},
  headers: Record<string, string> = {},
): Promise<LoggedIn> {
  const app = await serveApp(t, { token: ROOT, ...options });
  const token = tokenIn(await linkOf(app));
  const answer = await call(app.url, 'POST', '/ui/login', { body: { token }, headers });
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  const setCookie = answer.headers.get('set-cookie')!;
  return { ...app, setCookie, cookie: setCookie.split(';')[0]! };
}

test('a magic link has the shape of the original registry, and the address on which the daemon listens', async (t) => {
  const app = await serveApp(t, { token: ROOT });
  const link = await linkOf(app, { ...AUTH, 'x-forwarded-host': 'evil.example' });
  const { url, expiresAt, warning } = link;
  assert.match(url, new RegExp(`^${app.url}/ui/login\\?token=vreg_[\\w-]{43}$`));
  assert.equal(Date.parse(expiresAt) - app.clock.now(), 300_000);
  assert.match(warning!, /works on the machine of the registry only; .*--public-url/);
});

test('the Host header does not affect a magic link', async (t) => {
  const { at, url } = await serveApp(t, { token: ROOT });
  const request = `POST /auth/magic-link HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\nAuthorization: Bearer ${ROOT}\r\n\r\n`;
  const [answer] = await exchange(at, request);
  assert.ok((JSON.parse(answer!.text) as MagicLink).url.startsWith(url));
});

test('a magic link begins with the public URL, without a warning', async (t) => {
  const app = await serveApp(t, { token: ROOT, publicUrl: 'https://fleet.example/vreg/' });
  const { url, warning } = await linkOf(app);
  assert.match(url, /^https:\/\/fleet\.example\/vreg\/ui\/login\?token=/);
  assert.equal(warning, undefined);
});

test('without a valid token, there is no magic link; a registry without tokens gives the URL of the page', async (t) => {
  const guarded = await serveApp(t, { token: ROOT });
  for (const headers of [{}, { authorization: 'Bearer test-token' }])
    assert.equal((await call(guarded.url, 'POST', '/auth/magic-link', { headers })).status, 401);
  const open = await serveApp(t);
  assert.equal((await linkOf(open, {})).url, `${open.url}/ui/`);
});

test('opening a link, as a program that scans links does, does not use it up', async (t) => {
  const app = await serveApp(t, { token: ROOT });
  const link = await linkOf(app);
  for (const method of ['GET', 'HEAD', 'GET']) {
    const answer = await fetch(link.url, { method });
    await answer.arrayBuffer();
    assert.deepEqual([answer.status, answer.headers.get('cache-control')], [200, 'no-store']);
    assert.equal(answer.headers.get('set-cookie'), null);
  }
  const logIn = () => call(app.url, 'POST', '/ui/login', { body: { token: tokenIn(link) } });
  assert.equal((await logIn()).status, 200);
  const second = await logIn();
  assert.equal(second.status, 401);
  assert.match(errorOf(second), /this link was used/);
});

test('a session reads and changes the fleet as its token does, until the log-out', async (t) => {
  const app = await loggedIn(t);
  const { url, cookie } = app;
  const send = (method: string, path: string, body?: unknown) => call(url, method, path, { body, headers: { cookie } });
  assert.equal((await send('POST', '/registry/vms', aVm())).status, 201);
  assert.equal((await send('GET', '/registry/vms/vm-1')).status, 200);
  const { body } = await send('GET', '/ui/session');
  const { expiresAt, ...identity } = body as SessionStatus & { expiresAt: string };
  assert.deepEqual(identity, { authenticated: true, name: 'VERS_AUTH_TOKEN', scope: 'admin' });
  assert.equal(Date.parse(expiresAt) - app.clock.now(), 86_400_000);
  const out = await send('DELETE', '/ui/session');
  assert.match(out.headers.get('set-cookie')!, /^vreg-[\w-]+=; Path=\/; Max-Age=0; /);
  assert.equal((await send('GET', '/registry/vms')).status, 401);
  assert.deepEqual((await send('GET', '/ui/session')).body, { authenticated: false });
});

test('the event stream of a session ends at the log-out', async (t) => {
  const { url, cookie } = await loggedIn(t);
  const stream = await fetch(`${url}/registry/events`, { headers: { cookie } });
  await call(url, 'DELETE', '/ui/session', { headers: { cookie } });
  await stream.text();
});

test('the revocation of a token ends its sessions immediately, also their open streams', async (t) => {
  const { url } = await serveApp(t, { token: ROOT });
  const made = await call(url, 'POST', '/registry/tokens', { headers: AUTH, body: { name: 'ops', scope: 'write' } });
  const { token } = made.body as NewToken;
  const link = await linkOf({ url }, { authorization: `Bearer ${token}` });
  const answer = await call(url, 'POST', '/ui/login', { body: { token: tokenIn(link) } });
  const cookie = answer.headers.get('set-cookie')!.split(';')[0]!;
  const stream = await fetch(`${url}/registry/events`, { headers: { cookie } });
  assert.equal(stream.status, 200);
  const unused = await linkOf({ url }, { authorization: `Bearer ${token}` });
  await call(url, 'DELETE', '/registry/tokens/ops', { headers: AUTH });
  await stream.text();
  const refused = await call(url, 'GET', '/registry/vms', { headers: { cookie } });
  assert.equal(refused.status, 401);
  assert.deepEqual(
    [errorOf(refused), (refused.body as { hint: string }).hint],
    ['Unauthorized — the session has ended', 'log in again: vreg ui'],
  );
  assert.deepEqual((await call(url, 'GET', '/ui/session', { headers: { cookie } })).body, { authenticated: false });
  // Links of the token that nobody has used yet end, too.
  assert.equal((await call(url, 'POST', '/ui/login', { body: { token: tokenIn(unused) } })).status, 401);
});

test('a session with the scope read cannot change the fleet, and its refusal names the scope', async (t) => {
  const app = await serveApp(t, { token: ROOT });
  const created = await call(app.url, 'POST', '/registry/tokens', {
    body: { name: 'r', scope: 'read' },
    headers: AUTH,
  });
  const link = await linkOf(app, { authorization: `Bearer ${(created.body as { token: string }).token}` });
  const answer = await call(app.url, 'POST', '/ui/login', { body: { token: tokenIn(link) } });
  const cookie = answer.headers.get('set-cookie')!.split(';')[0]!;
  const refused = await call(app.url, 'DELETE', '/registry/vms/vm-1', { headers: { cookie } });
  assert.equal(refused.status, 403);
  assert.match(errorOf(refused), /token "r" has the scope read; this requires write/);
  assert.equal((await call(app.url, 'POST', '/auth/magic-link', { headers: { cookie } })).status, 403);
});

test('the cookie is HttpOnly, SameSite=Strict, and Secure if the browser uses https', async (t) => {
  const plain = await loggedIn(t);
  assert.match(plain.setCookie, /^vreg-[\w-]+=vreg_[\w-]{43}; Path=\/; Max-Age=86400; HttpOnly; SameSite=Strict$/);
  const proxied = { 'x-forwarded-proto': 'https', origin: 'https://fleet.example' };
  const isSecure = async (options: Options, headers: Record<string, string>) =>
    (await loggedIn(t, options, headers)).setCookie.endsWith('; Secure');
  assert.equal(await isSecure({ publicUrl: 'https://fleet.example' }, { origin: 'https://fleet.example' }), true);
  assert.equal(await isSecure({ publicUrl: 'https://fleet.example', trustProxy: '127.0.0.1' }, proxied), true);
  assert.equal(await isSecure({ trustProxy: '127.0.0.1' }, { 'x-forwarded-proto': 'https' }), true);
  assert.equal(await isSecure({}, { 'x-forwarded-proto': 'https' }), false);
});

test('the cookie of another registry is no session', async (t) => {
  const one = await loggedIn(t);
  const store = new MemoryStore();
  const other = await serveApp(t, { token: ROOT, store });
  const { body } = await call(other.url, 'GET', '/ui/session', { headers: { cookie: one.cookie } });
  assert.deepEqual(body, { authenticated: false });
  assert.equal((await call(other.url, 'GET', '/registry/vms', { headers: { cookie: one.cookie } })).status, 401);
});

test('a token takes precedence over a cookie', async (t) => {
  const { url, cookie } = await loggedIn(t);
  const headers = { cookie, authorization: 'Bearer wrong' };
  assert.equal((await call(url, 'GET', '/registry/vms', { headers })).status, 401);
});

test('pages from other origins cannot use a session, log in or log out', async (t) => {
  const app = await loggedIn(t);
  const { url, cookie } = app;
  const token = tokenIn(await linkOf(app));
  const own = new URL(url).host;
  const foreign: Record<string, string>[] = [
    { origin: 'https://evil.example' },
    { origin: 'null' },
    { origin: `http://${own.replace(/:\d+$/, ':1')}` },
    { 'sec-fetch-site': 'cross-site' },
    { 'sec-fetch-site': 'same-site', origin: `http://${own}` },
  ];
  for (const headers of foreign) {
    const name = JSON.stringify(headers);
    const sent = { headers: { cookie, ...headers } };
    for (const [method, path, body] of [
      ['POST', '/registry/vms', aVm()],
      ['GET', '/registry/vms'],
      ['DELETE', '/ui/session'],
      ['POST', '/ui/login', { token }],
    ] as const) {
      const answer = await call(url, method, path, { ...sent, body });
      assert.equal(answer.status, 403, `${method} ${path} ${name}`);
      assert.match(errorOf(answer), /a page from another origin may not use the session/);
    }
    const withoutCookie = await call(url, 'POST', '/ui/login', { headers, body: { token } });
    assert.equal(withoutCookie.status, 403, name);
  }
  for (const headers of [
    { origin: `http://${own}` },
    { 'sec-fetch-site': 'same-origin' },
    { 'sec-fetch-site': 'none' },
  ]) {
    const answer = await call(url, 'GET', '/registry/vms', {
      headers: { cookie, ...(headers as Record<string, string>) },
    });
    assert.equal(answer.status, 200, JSON.stringify(headers));
  }
});

test('the form of a page on another port cannot change the fleet, although it navigates and gets the cookie', async (t) => {
  const { at, cookie } = await loggedIn(t);
  // `fetch` would replace Sec-Fetch-Mode.
  const send = async (method: string, path: string) => {
    const lines = [
      `${method} ${path.replace(':id', 'vm-1')} HTTP/1.1`,
      'Host: 127.0.0.1',
      `Cookie: ${cookie}`,
      'Sec-Fetch-Site: same-site',
      'Sec-Fetch-Mode: navigate',
      'Sec-Fetch-Dest: document',
      'Connection: close',
    ];
    const body = JSON.stringify(aVm());
    if (method === 'POST') lines.push('Content-Type: text/plain', `Content-Length: ${body.length}`, '', body);
    else lines.push('', '');
    const [answer] = await exchange(at, lines.join('\r\n'));
    return answer!;
  };
  for (const { method, path } of ROUTES) {
    if (method !== 'POST') continue;
    const { status, text } = await send(method, path);
    assert.equal(status, 403, path);
    assert.match(text, /a page from another origin/, path);
  }
  assert.equal((await send('GET', '/registry/vms')).status, 200);
});

for (const request of [
  { name: 'reader', scope: 'read' },
  { name: 'of-workers', scope: 'read', role: 'worker' },
  { name: 'writer', scope: 'write', role: 'worker' },
  { name: 'boss', scope: 'admin' },
] as const) {
  test(`on every route, a session of the token ${request.name} may do exactly what the token may`, async (t) => {
    const app = await serveApp(t, { token: ROOT });
    const { url } = app;
    for (const role of ['worker', 'infra'] as const)
      await call(url, 'POST', '/registry/vms', { headers: AUTH, body: aVm({ id: role, role }) });
    const created = await call(url, 'POST', '/registry/tokens', { headers: AUTH, body: request });
    const authorization = `Bearer ${(created.body as NewToken).token}`;
    const link = await linkOf(app, { authorization });
    const answer = await call(url, 'POST', '/ui/login', { body: { token: tokenIn(link) } });
    const cookie = answer.headers.get('set-cookie')!.split(';')[0]!;
    // These differ by their nature.
    const routes = ROUTES.filter(({ path }) => !path.startsWith('/ui') && path !== '/auth/magic-link');
    for (const { method, path } of routes) {
      for (const id of ['worker', 'infra', 'unknown']) {
        const target = path.replace(/:(id|other|name)/g, id).replace(':role', 'infra');
        const ask = async (headers: Record<string, string>) => {
          const aborted = new AbortController();
          const body = method === 'POST' || method === 'PUT' || method === 'PATCH' ? { body: '{"name":1}' } : {};
          const { status } = await fetch(url + target, { method, headers, signal: aborted.signal, ...body });
          aborted.abort();
          return status;
        };
        // Deleting is not repeatable.
        if (method === 'DELETE' && request.scope !== 'read') continue;
        assert.equal(await ask({ cookie }), await ask({ authorization }), `${method} ${target}`);
      }
    }
  });
}

test('the session of a restricted token reads, streams and deletes only its VMs', async (t) => {
  const app = await serveApp(t, { token: ROOT });
  const { url } = app;
  for (const role of ['worker', 'infra'] as const)
    await call(url, 'POST', '/registry/vms', { headers: AUTH, body: aVm({ id: role, role }) });
  const sessionOf = async (body: TokenRequest) => {
    const created = await call(url, 'POST', '/registry/tokens', { headers: AUTH, body });
    const link = await linkOf(app, { authorization: `Bearer ${(created.body as NewToken).token}` });
    const answer = await call(url, 'POST', '/ui/login', { body: { token: tokenIn(link) } });
    return { cookie: answer.headers.get('set-cookie')!.split(';')[0]! };
  };
  const reader = await sessionOf({ name: 'reader', scope: 'read', role: 'worker' });
  const { body } = await call(url, 'GET', '/registry/vms', { headers: reader });
  assert.deepEqual(
    (body as VmList).vms.map(({ id }) => id),
    ['worker'],
  );
  const stream = await fetch(`${url}/registry/events`, { headers: reader });
  for (const id of ['infra', 'worker'])
    await call(url, 'PATCH', `/registry/vms/${id}`, { headers: AUTH, body: { name: `new-${id}` } });
  const chunks = stream.body!.pipeThrough(new TextDecoderStream());
  let received = '';
  for await (const chunk of chunks) {
    received += chunk;
    if (received.includes('new-worker')) break;
  }
  assert.doesNotMatch(received, /new-infra/);
  const writer = await sessionOf({ name: 'writer', scope: 'write', role: 'worker' });
  const remove = async (id: string) => (await call(url, 'DELETE', `/registry/vms/${id}`, { headers: writer })).status;
  assert.deepEqual([await remove('infra'), await remove('worker')], [403, 200]);
});

test('a log-in ends the session that the browser had, and never continues it under the same secret', async (t) => {
  const app = await loggedIn(t);
  const { url, cookie } = app;
  const link = await linkOf(app);
  const answer = await call(url, 'POST', '/ui/login', { headers: { cookie }, body: { token: tokenIn(link) } });
  const next = answer.headers.get('set-cookie')!.split(';')[0]!;
  assert.notEqual(next, cookie);
  const statusWith = async (headers: Record<string, string>) =>
    (await call(url, 'GET', '/registry/vms', { headers })).status;
  assert.deepEqual([await statusWith({ cookie }), await statusWith({ cookie: next })], [401, 200]);
  // A session that somebody else has chosen is none.
  const chosen = cookie.replace(/=.*/, `=vreg_${'A'.repeat(43)}`);
  assert.equal(await statusWith({ cookie: chosen }), 401);
});

test('the session and the cookie of a token that expires earlier end with it', async (t) => {
  const app = await serveApp(t, { token: ROOT });
  const { url, clock } = app;
  const body = { name: 'short', scope: 'read', expiresIn: 600 };
  const created = await call(url, 'POST', '/registry/tokens', { headers: AUTH, body });
  const links = [1, 2].map(() => linkOf(app, { authorization: `Bearer ${(created.body as NewToken).token}` }));
  const [first, second] = await Promise.all(links);
  const logIn = (link: MagicLink) => call(url, 'POST', '/ui/login', { body: { token: tokenIn(link) } });
  clock.pass(290_000);
  const answer = await logIn(first!);
  assert.match(answer.headers.get('set-cookie')!, /; Max-Age=310; /);
  const { expiresAt } = answer.body as SessionStatus & { expiresAt: string };
  assert.equal(Date.parse(expiresAt) - clock.now(), 310_000);
  clock.pass(310_000);
  assert.equal((await logIn(second!)).status, 401);
});

test('a client without a token cannot send a large body to the log-in', async (t) => {
  const { url } = await serveApp(t, { token: ROOT });
  const answer = await call(url, 'POST', '/ui/login', { body: { token: 'x'.repeat(4096) } });
  assert.equal(answer.status, 413);
  assert.match(errorOf(answer), /4096/);
});

test('a log-in without a token in its body is refused', async (t) => {
  const { url } = await serveApp(t, { token: ROOT });
  for (const body of [{}, { token: 1 }, []]) assert.equal((await call(url, 'POST', '/ui/login', { body })).status, 400);
});

test('a registry without tokens needs no log-in', async (t) => {
  const { url } = await serveApp(t);
  const { body } = await call(url, 'GET', '/ui/session');
  assert.deepEqual(body, { authenticated: true, name: 'anonymous', scope: 'admin' });
});

test('the log contains no secret of a link or session', async (t) => {
  const app = await loggedIn(t, { logLevel: 'debug' });
  const link = await linkOf(app);
  await (await fetch(link.url)).arrayBuffer();
  await call(app.url, 'DELETE', '/ui/session', { headers: { cookie: app.cookie } });
  const log = app.logged.join('\n');
  assert.match(log, /\/ui\/login/);
  assert.doesNotMatch(log, /vreg_[\w-]{43}/);
});
