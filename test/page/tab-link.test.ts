/** The connection of a tab to the worker that all tabs share, when the browser ends or freezes one of them. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { browserOfFile, type OpenedPage, openWindow, UNLESS_BROWSER, untilLive } from '../helpers/browser.ts';
import { startDaemon } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { aVm } from '../helpers/vm.ts';

const browser = browserOfFile();

const rowOf = ({ page }: Pick<OpenedPage, 'page'>, name: string) => page.getByRole('link', { name, exact: true });

/** Ends the worker as the browser does when it needs memory: nobody is notified. */
async function killSharedWorker(): Promise<void> {
  const session = await (await browser()).newBrowserCDPSession();
  const { targetInfos } = await session.send('Target.getTargets', { filter: [{ type: 'shared_worker' }] });
  assert.equal(targetInfos.length, 1);
  await session.send('Target.closeTarget', { targetId: targetInfos[0]!.targetId });
  await session.detach();
}

test(
  'tabs replace a shared worker that has ended without a message, and share the new one',
  UNLESS_BROWSER,
  async (t) => {
    const { url } = await startDaemon(t);
    const window = await openWindow(browser, url);
    const second = { page: await window.context.newPage() };
    for (const { page } of [window, second]) {
      await page.clock.install();
      await page.goto(`${url}/#/vms`);
      await untilLive({ page });
    }
    await killSharedWorker();
    await call(url, 'POST', '/registry/vms', { body: aVm({ name: 'late' }) });
    for (const { page } of [window, second]) {
      // First until the tab pings the worker, and then until it stops waiting for the answer.
      await page.clock.fastForward(20_000);
      await page.clock.fastForward(10_000);
      await rowOf({ page }, 'late').waitFor();
    }
    const metrics = await (await fetch(`${url}/metrics`)).text();
    assert.match(metrics, /^vreg_subscribers 1$/m);
    await window.assertClean();
  },
);

test('a frozen tab gets no messages, and the current fleet when it runs again', UNLESS_BROWSER, async (t) => {
  const { url } = await startDaemon(t);
  const window = await openWindow(browser, url);
  const second = { page: await window.context.newPage() };
  for (const { page } of [window, second]) {
    await page.goto(`${url}/#/vms`);
    await untilLive({ page });
  }
  await window.page.evaluate("document.dispatchEvent(new Event('freeze'))");
  // The worker handles the goodbye before it answers the next tab.
  const third = { page: await window.context.newPage() };
  await third.page.goto(`${url}/#/vms`);
  await untilLive(third);
  await call(url, 'POST', '/registry/vms', { body: aVm({ name: 'late' }) });
  await rowOf(second, 'late').waitFor();
  // A tab in the background renders nothing.
  await window.page.bringToFront();
  await window.page.evaluate('new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))');
  assert.equal(await rowOf(window, 'late').count(), 0);
  await window.page.evaluate("document.dispatchEvent(new Event('resume'))");
  await rowOf(window, 'late').waitFor();
  await window.assertClean();
});

test('a browser that blocks the storage of the page shows the fleet', UNLESS_BROWSER, async (t) => {
  const { url } = await startDaemon(t);
  const window = await openWindow(browser, url);
  await window.page.addInitScript(`
    const refuse = function () { throw new DOMException('Access is denied for this document.', 'SecurityError'); };
    Object.defineProperty(globalThis, 'localStorage', { get: refuse });
    globalThis.SharedWorker = refuse;
  `);
  await window.page.goto(`${url}/`);
  await untilLive(window);
  await window.page.getByRole('button', { name: 'Theme: system' }).click();
  await window.page.getByRole('button', { name: 'Theme: light' }).waitFor();
  await window.assertClean();
});

test(
  'without a shared worker, tabs in the background leave the connections to the visible one',
  UNLESS_BROWSER,
  async (t) => {
    const { url } = await startDaemon(t);
    const window = await openWindow(browser, url);
    // Playwright emulates that all tabs are visible.
    await window.context.addInitScript(`
    globalThis.SharedWorker = undefined;
    let isHidden = false;
    Object.defineProperty(document, 'hidden', { get: () => isHidden });
    globalThis.setHidden = (value) => {
      isHidden = value;
      document.dispatchEvent(new Event('visibilitychange'));
    };
  `);
    let { page } = window;
    const first = window;
    // A browser opens six connections to a host.
    for (let tab = 1; tab <= 8; tab++) {
      if (tab > 1) {
        await page.evaluate('setHidden(true)');
        page = await window.context.newPage();
      }
      await page.goto(`${url}/#/vms`);
      await untilLive({ page });
    }
    await call(url, 'POST', '/registry/vms', { body: aVm({ name: 'late' }) });
    await rowOf({ page }, 'late').waitFor();
    assert.equal(await rowOf(first, 'late').count(), 0);
    await first.page.evaluate('setHidden(false)');
    await rowOf(first, 'late').waitFor();
    await untilLive(first);
    await window.assertClean();
  },
);
