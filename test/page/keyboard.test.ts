/** The fleet page by keyboard alone: these tests press keys, and never point or focus. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import { browserOfFile, UNLESS_BROWSER, untilLive } from '../helpers/browser.ts';
import { openFleet } from '../helpers/fleet-page.ts';

/** Most presses of Tab that lead to any control of a view. */
const MAX_TABS = 40;

const browser = browserOfFile();

/** Opens the fleet in a window, and returns what a keyboard can do there. */
async function atKeyboard(t: TestContext, token?: string) {
  const window = await openFleet(t, browser, token === undefined ? {} : { token });
  const { page } = window;
  const press = async (...keys: string[]) => {
    for (const key of keys) await page.keyboard.press(key);
  };
  const focused = () =>
    page.evaluate(
      '(document.activeElement.getAttribute("aria-label") ?? document.activeElement.textContent).trim()',
    ) as Promise<string>;
  /** Presses Tab until a control has the focus, and asserts that the focus is visible at each step. */
  const tabTo = async (name: string, key = 'Tab') => {
    for (let presses = 0; presses < MAX_TABS; presses++) {
      await press(key);
      const { outline, isBody } = (await page.evaluate(
        '({ outline: getComputedStyle(document.activeElement).outlineWidth, isBody: document.activeElement === document.body })',
      )) as { outline: string; isBody: boolean };
      // After the last control, the focus is in the browser's own controls.
      if (!isBody) assert.notEqual(outline, '0px', `the focus on "${await focused()}" is visible`);
      if ((await focused()) === name) return;
    }
    assert.fail(`${name} cannot be reached with ${key}`);
  };
  const open = async (view: string) => {
    await tabTo(view);
    await press('Enter');
  };
  return { ...window, press, focused, tabTo, open };
}

test('filter, select, act, and go on in the table', UNLESS_BROWSER, async (t) => {
  const { page, press, focused, tabTo, send } = await atKeyboard(t);
  await press('/');
  await page.locator('#filter:focus').waitFor();
  await page.keyboard.type('name:"worker 1"');
  await page.getByText('11 of 42 VMs', { exact: true }).waitFor();
  await press('Enter', 'Home', 'Space', 'ArrowDown', 'Shift+ArrowDown');
  assert.equal(await focused(), 'VMs');
  await page.getByText('3 selected', { exact: true }).waitFor();
  await tabTo('Stop', 'Shift+Tab');
  await press('Enter');
  await page.getByRole('heading', { name: 'Stop 3 VMs?' }).waitFor();
  await press('Escape');
  await page.getByRole('dialog').waitFor({ state: 'hidden' });
  assert.equal(await focused(), 'Stop', 'Escape closes the dialog and returns the focus');
  await press('Enter');
  await tabTo('Stop 3 VMs');
  await press('Enter');
  await page.getByText('None selected', { exact: true }).waitFor();
  assert.equal(((await send('GET', '/registry/vms?status=stopped')) as { count: number }).count, 4);
  await page.locator('.virtual:focus').waitFor();
  await press('Control+a');
  await page.getByText('11 selected', { exact: true }).waitFor();
  await press('Escape');
  await page.getByText('None selected', { exact: true }).waitFor();
});

test('sort by a column, open a VM, and return to the same row', UNLESS_BROWSER, async (t) => {
  const { page, press, tabTo, open } = await atKeyboard(t);
  await open('VMs');
  await tabTo('Name');
  await press('Enter');
  await page.waitForURL(/sort=name/);
  await tabTo('VMs', 'Shift+Tab');
  await press('End', 'ArrowUp', 'Enter');
  await page.waitForURL(/#\/vm\/worker-8$/);
  await page.locator('h1:focus', { hasText: 'worker 8' }).waitFor();
  await press('Escape');
  await page.waitForURL(/#\/vms\?sort=name/);
  await page.locator('.virtual:focus').waitFor();
  const active = page.locator('.is-active');
  await active.getByText('worker 8', { exact: true }).waitFor();
  assert.ok(await active.isVisible());
});

test('the active row stays on its VM when others come and leave', UNLESS_BROWSER, async (t) => {
  const { page, press, send } = await atKeyboard(t);
  await press('/');
  await page.locator('#filter:focus').waitFor();
  await press('ArrowDown', 'ArrowDown', 'ArrowDown');
  const active = page.locator('.is-active');
  await active.getByText('worker 37', { exact: true }).waitFor();
  await send('POST', '/registry/vms', { id: 'x', name: 'x', role: 'infra', address: 'a', registeredBy: 'test' });
  await page.getByText('43 of 43 VMs', { exact: true }).waitFor();
  await active.getByText('worker 37', { exact: true }).waitFor();
  await send('DELETE', '/registry/vms/worker-39');
  await page.getByText('42 of 42 VMs', { exact: true }).waitFor();
  await active.getByText('worker 37', { exact: true }).waitFor();
});

test('a cell of the overview names its VM and opens it', UNLESS_BROWSER, async (t) => {
  const { page, press, tabTo } = await atKeyboard(t);
  await tabTo('40 VMs with the role worker, 36 live, 4 paused: move with the arrow keys, open with Enter');
  await press('ArrowRight', 'ArrowRight');
  await page.getByText(/^worker 2: live, seen .+ ago$/).waitFor();
  await press('Enter');
  await page.waitForURL(/#\/vm\/worker-2$/);
});

test('the lineage collapses and opens, and the history opens a VM', UNLESS_BROWSER, async (t) => {
  const { page, press, tabTo, open } = await atKeyboard(t);
  await open('Lineage');
  await tabTo('Lineage');
  await press('ArrowDown', 'ArrowLeft');
  await page.getByText('2 VMs', { exact: true }).waitFor();
  await press('ArrowRight', 'ArrowDown', 'Enter');
  await page.waitForURL(/#\/vm\/worker-0$/);
  await tabTo('History', 'Shift+Tab');
  await press('Enter');
  await tabTo('changes');
  await press('Enter');
  await page.waitForURL(/kind=changes/);
  await tabTo('History');
  await press('Home', 'Enter');
  await page.waitForURL(/#\/vm\/worker-39$/);
});

test('a page that is loaded leaves the focus at its start', UNLESS_BROWSER, async (t) => {
  const { page, press, focused } = await atKeyboard(t);
  await page.reload();
  await untilLive({ page });
  await press('Tab');
  assert.equal(await focused(), 'Skip to content');
});

test('the link to the content skips the navigation, and the log-out can be reached', UNLESS_BROWSER, async (t) => {
  const { page, press, tabTo } = await atKeyboard(t);
  await tabTo('Skip to content');
  await press('Enter');
  await page.locator('main:focus').waitFor();
  await untilLive({ page });
  await tabTo('Log out', 'Shift+Tab');
  await press('Enter');
  await page.getByText('This registry requires a token').waitFor();
});

test('without the rights to act, the reason is text and not only a tooltip', UNLESS_BROWSER, async (t) => {
  const { page, open } = await atKeyboard(t, 'read');
  await open('VMs');
  await page.getByText('the session has the scope read; this requires write').waitFor();
});
