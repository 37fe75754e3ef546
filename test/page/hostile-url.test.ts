/** URLs of the fleet page with parameters that no link of the page has. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { browserOfFile, show, UNLESS_BROWSER } from '../helpers/browser.ts';
import { openFleet } from '../helpers/fleet-page.ts';

const browser = browserOfFile();

test('an unknown kind of events and an unknown order are ignored', UNLESS_BROWSER, async (t) => {
  const window = await openFleet(t, browser);
  const { page } = window;
  for (const name of ['__proto__', 'constructor', 'toString']) {
    await show(window, `#/history?kind=${name}`);
    await page.getByRole('button', { name: 'all', exact: true, pressed: true }).waitFor();
    await show(window, `#/vms?sort=${name}`);
    await page.getByText('42 of 42 VMs', { exact: true }).waitFor();
  }
  await window.assertClean();
});

test(
  'a filter that is typed immediately before another view opens is kept, and the view is left alone',
  UNLESS_BROWSER,
  async (t) => {
    const window = await openFleet(t, browser);
    const { page } = window;
    await show(window, '#/vms');
    // The page must be left before the typed text is in the URL.
    await page.evaluate(`{
    const input = document.getElementById('filter');
    input.value = 'task:billing';
    input.dispatchEvent(new InputEvent('input', { bubbles: true }));
    location.hash = '#/vm/worker-1';
  }`);
    await page.getByRole('heading', { name: 'worker 1', exact: true }).waitFor();
    await page.waitForTimeout(500);
    assert.equal(new URL(page.url()).hash, '#/vm/worker-1');
    await page.getByRole('link', { name: 'VMs', exact: true }).last().click();
    await page.getByText('20 of 42 VMs', { exact: true }).waitFor();
    await window.assertClean();
  },
);
