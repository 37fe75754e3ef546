/** The log-in of the fleet page in a real browser. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import {
  assertAccessible,
  browserOfFile,
  logIn,
  openWindow,
  screenshot,
  UNLESS_BROWSER,
  untilLive,
} from '../helpers/browser.ts';
import { startDaemon } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';

const ROOT = 's3cret-of-the-test';
const ENV = { VERS_AUTH_TOKEN: ROOT };

const browser = browserOfFile();

test(
  'a link logs a browser in with one press of a button, and its secret leaves the URL',
  UNLESS_BROWSER,
  async (t) => {
    const { url } = await startDaemon(t, { env: ENV });
    const window = await openWindow(browser, url);
    const { page } = window;
    await logIn(window, url, ROOT);
    assert.equal(page.url(), `${url}/ui/`);
    await page.getByText('VERS_AUTH_TOKEN').waitFor();
    const [cookie] = await window.context.cookies();
    assert.deepEqual([cookie?.httpOnly, cookie?.sameSite, cookie?.secure], [true, 'Strict', false]);
    await window.assertClean();
  },
);

test('a used link, and a page without a session, say how to get a link', UNLESS_BROWSER, async (t) => {
  const { url } = await startDaemon(t, { env: ENV });
  const headers = { authorization: `Bearer ${ROOT}` };
  const link = (await call(url, 'POST', '/auth/magic-link', { headers })).body as { url: string };
  const token = new URL(link.url).searchParams.get('token');
  assert.equal((await call(url, 'POST', '/ui/login', { body: { token } })).status, 200);
  for (const [colorScheme, width] of [
    ['light', 1280],
    ['dark', 360],
  ] as const) {
    const window = await openWindow(browser, url, { mayFail: true, colorScheme, width });
    await window.page.goto(link.url);
    await window.page.getByRole('button', { name: 'Log in' }).click();
    await window.page.getByRole('alert').getByText('this link was used').waitFor();
    await window.page.goto(`${url}/`);
    await window.page.getByText('vreg ui', { exact: true }).waitFor();
    await assertAccessible(window, 'log-in');
    await screenshot(window, `log-in-${colorScheme}-${width}`);
    await window.assertClean();
  }
});

test('tabs that wait for a log-in notice that another one has logged in', UNLESS_BROWSER, async (t) => {
  const { url } = await startDaemon(t, { env: ENV });
  const window = await openWindow(browser, url, { mayFail: true });
  const { page } = window;
  const link = await call(url, 'POST', '/auth/magic-link', { headers: { authorization: `Bearer ${ROOT}` } });
  const [same, without] = [await window.context.newPage(), await window.context.newPage()];
  for (const tab of [page, same]) await tab.goto((link.body as { url: string }).url);
  await same.getByRole('button', { name: 'Log in' }).waitFor();
  await without.goto(`${url}/ui/`);
  await without.getByText('This registry requires a token').waitFor();
  await page.getByRole('button', { name: 'Log in' }).click();
  for (const tab of [page, same, without]) await untilLive({ page: tab });
  assert.equal(same.url(), `${url}/ui/`);
  await window.assertClean();
});

test('a log-in and a log-out that fail for a moment can be repeated', UNLESS_BROWSER, async (t) => {
  const { url } = await startDaemon(t, { env: ENV });
  const window = await openWindow(browser, url, { mayFail: true });
  const { page } = window;
  const link = await call(url, 'POST', '/auth/magic-link', { headers: { authorization: `Bearer ${ROOT}` } });
  await page.goto((link.body as { url: string }).url);
  const status = 503;
  await page.route('**/ui/login', (route) =>
    route.fulfill({ status, json: { error: 'the registry is shutting down' } }),
  );
  await page.getByRole('button', { name: 'Log in' }).click();
  await page.getByRole('alert').getByText('the registry is shutting down').waitFor();
  await page.unroute('**/ui/login');
  await page.getByRole('button', { name: 'Log in' }).click();
  await untilLive(window);
  await page.route('**/ui/session', (route) => route.abort());
  await page.getByRole('button', { name: 'Log out' }).click();
  await page.getByRole('alert').getByText('You are still logged in: the registry is unreachable').waitFor();
  await page.unroute('**/ui/session');
  await page.getByRole('button', { name: 'Log out' }).click();
  await page.getByText('This registry requires a token').waitFor();
  await window.assertClean();
});

test('a page says that it waits for a registry that does not answer', UNLESS_BROWSER, async (t) => {
  const { url } = await startDaemon(t);
  const { page, assertClean } = await openWindow(browser, url);
  await page.route('**/ui/session', () => {});
  await page.goto(`${url}/`);
  await page.getByText('Waiting for the registry', { exact: true }).waitFor();
  await assertClean();
});

test(
  'a page whose worker is gone after an update of the registry follows the fleet alone',
  UNLESS_BROWSER,
  async (t) => {
    const { url } = await startDaemon(t);
    const window = await openWindow(browser, url, { mayFail: true });
    await window.context.route('**/shared-worker-*.js', (route) => route.fulfill({ status: 404 }));
    await window.page.goto(`${url}/`);
    await untilLive(window);
    await window.assertClean();
  },
);

test('a page whose worker does not start, and reports nothing, follows the fleet alone', UNLESS_BROWSER, async (t) => {
  const { url } = await startDaemon(t);
  const window = await openWindow(browser, url);
  // Chromium also sends no error event in some cases in which the file is gone.
  await window.context.route('**/shared-worker-*.js', () => {});
  await window.page.goto(`${url}/`);
  await untilLive(window);
  await window.assertClean();
});

test('a registry without tokens needs no log-in', UNLESS_BROWSER, async (t) => {
  const { url } = await startDaemon(t);
  const window = await openWindow(browser, url);
  await window.page.goto(`${url}/`);
  await untilLive(window);
  await window.page.getByText('No VM is registered').waitFor();
  await window.assertClean();
});

test('a log-out, and the revocation of the token, lead all tabs to the log-in', UNLESS_BROWSER, async (t) => {
  const { url } = await startDaemon(t, { env: ENV });
  const headers = { authorization: `Bearer ${ROOT}` };
  const created = await call(url, 'POST', '/registry/tokens', { body: { name: 'ops', scope: 'write' }, headers });
  const window = await openWindow(browser, url, { mayFail: true });
  await logIn(window, url, (created.body as { token: string }).token);
  const second = { page: await window.context.newPage() };
  await second.page.goto(`${url}/ui/`);
  await untilLive(second);
  await call(url, 'DELETE', '/registry/tokens/ops', { headers });
  for (const { page } of [window, second]) await page.getByText('This registry requires a token').waitFor();
  await logIn(window, url, ROOT);
  await untilLive(second);
  await window.page.getByRole('button', { name: 'Log out' }).click();
  for (const { page } of [window, second]) await page.getByText('This registry requires a token').waitFor();
  await window.assertClean();
});

test('the page waits for a registry that is loading its store, and then continues', UNLESS_BROWSER, async (t) => {
  const { url } = await startDaemon(t);
  const window = await openWindow(browser, url, { mayFail: true });
  const { page } = window;
  const body = JSON.stringify({ error: 'the registry is loading its store', hint: 'retry' });
  await page.route('**/ui/session', (route) => route.fulfill({ status: 503, body }));
  await page.goto(`${url}/`);
  await page.getByText('Waiting for the registry: the registry is loading its store').waitFor();
  await assertAccessible(window, 'waiting');
  await page.unroute('**/ui/session');
  await untilLive(window);
  await window.assertClean();
});

/** A window that is logged in with a token named ops, and a second tab in it that would lose its mark in a reload. */
async function openAsOps(t: TestContext) {
  const { url } = await startDaemon(t, { env: ENV });
  const headers = { authorization: `Bearer ${ROOT}` };
  const created = await call(url, 'POST', '/registry/tokens', { body: { name: 'ops', scope: 'read' }, headers });
  const window = await openWindow(browser, url, { mayFail: true });
  await logIn(window, url, (created.body as { token: string }).token);
  const second = await window.context.newPage();
  await second.goto(`${url}/ui/`);
  await untilLive({ page: second });
  await second.evaluate('globalThis.mark = true');
  return { url, window, second };
}

test(
  'a link asks a browser with a session whether to switch, and all tabs then show the new one',
  UNLESS_BROWSER,
  async (t) => {
    const { url, window, second } = await openAsOps(t);
    const { page } = window;
    const headers = { authorization: `Bearer ${ROOT}` };
    const link = (await call(url, 'POST', '/auth/magic-link', { headers })).body as { url: string };
    await page.goto(link.url);
    await page.getByText('You are logged in as ops (read).').waitFor();
    await assertAccessible(window, 'switch');
    await screenshot(window, 'switch-light-1280');
    await page.getByRole('button', { name: 'Continue as ops' }).click();
    await page.getByRole('banner').getByText('ops').waitFor();
    assert.equal(page.url(), `${url}/ui/`);
    await page.goto(link.url);
    await page.getByRole('button', { name: 'Log in with this link' }).click();
    for (const tab of [page, second]) {
      await tab.getByRole('banner').getByText('VERS_AUTH_TOKEN').waitFor();
      await untilLive({ page: tab });
    }
    assert.equal(page.url(), `${url}/ui/`);
    await window.assertClean();
  },
);

test('a tab that stays open forgets what the user has seen when another one logs in', UNLESS_BROWSER, async (t) => {
  const { url, window, second } = await openAsOps(t);
  await window.page.getByRole('button', { name: 'Log out' }).click();
  await second.getByText('This registry requires a token').waitFor();
  assert.equal(await second.evaluate('globalThis.mark'), true);
  await logIn(window, url, ROOT);
  await second.waitForFunction('globalThis.mark === undefined');
  await second.getByRole('banner').getByText('VERS_AUTH_TOKEN').waitFor();
  await window.assertClean();
});

test('a session survives a restart of the registry, and the page reconnects by itself', UNLESS_BROWSER, async (t) => {
  const first = await startDaemon(t, { env: ENV });
  const { url, home } = first;
  const window = await openWindow(browser, url, { mayFail: true });
  await logIn(window, url, ROOT);
  const headers = { authorization: `Bearer ${ROOT}` };
  const body = { id: 'old', name: 'before the restart', role: 'worker', address: 'a', registeredBy: 'test' };
  await call(url, 'POST', '/registry/vms', { body, headers });
  await first.end();
  await window.page.getByText('reconnecting').first().waitFor();
  await window.page.getByText('The registry is unreachable').waitFor();
  await screenshot(window, 'unreachable-light-1280');
  const { port } = new URL(url);
  const second = await startDaemon(t, { env: ENV, home, args: ['--port', port] });
  assert.equal(second.url, url);
  await call(url, 'POST', '/registry/vms', { body: { ...body, id: 'new', name: 'after the restart' }, headers });
  await untilLive(window);
  await window.page.getByText('The registry is warming up after a restart or a pause').waitFor();
  await window.page.getByRole('link', { name: 'VMs', exact: true }).click();
  await window.page.getByText('after the restart').waitFor();
  await window.assertClean();
});
