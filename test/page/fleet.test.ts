/** The views of the fleet page in a real browser: filter, actions, live updates, hostile text, and the keyboard. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test, { type TestContext } from 'node:test';
import type { Locator, Route } from 'playwright-core';
import { formatChecks, type ProbeCheck } from '../../src/protocol/probe.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import {
  assertAccessible,
  browserOfFile,
  logIn,
  screenshot,
  show,
  UNLESS_BROWSER,
  untilLive,
} from '../helpers/browser.ts';
import { type OpenedFleet, openFleet } from '../helpers/fleet-page.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const browser = browserOfFile();

const HOSTILE = [
  aVm({
    id: 'h1',
    name: '<img src=x onerror="document.title=1">',
    metadata: { '<b>': '<script>document.title=2</script>' },
  }),
  aVm({ id: 'h2', name: 'abc\u202edcba', address: 'javascript.alert', registeredBy: '"><script>' }),
  aVm({ id: 'h3', name: 'x'.repeat(1024) }),
  aVm({ id: '/../"<i>', name: 'id in a URL' }),
];
const opened = (t: TestContext, options?: Parameters<typeof openFleet>[2]) => openFleet(t, browser, options);

test('the filter narrows the table, is part of the URL, and shows where its error is', UNLESS_BROWSER, async (t) => {
  const window = await opened(t);
  const { page } = window;
  await page.keyboard.press('/');
  await page.locator('#filter:focus').waitFor();
  await page.keyboard.type('role:worker live:live task:billing');
  await page.getByText('20 of 42 VMs', { exact: true }).waitFor();
  await page.getByText('vreg ls --role worker -l task=billing -o json | jq \'map(select(.live == "live"))\'').waitFor();
  await page.waitForURL(/q=role%3Aworker\+live%3Alive\+task%3Abilling/);
  await page.reload();
  await page.getByText('20 of 42 VMs', { exact: true }).waitFor();
  await page.getByLabel('Filter', { exact: true }).fill('role:wroker');
  const alert = page.getByRole('alert');
  await alert.getByText('role: "wroker" is not one of infra').waitFor();
  assert.equal(await alert.locator('mark').textContent(), 'wroker');
  await window.assertClean();
});

test('the filter line counts VMs that do not match', UNLESS_BROWSER, async (t) => {
  const window = await opened(t);
  await show(window, '#/vms?q=role:infra');
  await window.page.getByText('1 of 42 VMs', { exact: true }).waitFor();
  await window.send('POST', '/registry/vms', aVm());
  await window.page.getByText('1 of 43 VMs', { exact: true }).waitFor();
  await window.assertClean();
});

test('a column sorts by a press on its title, and again the other way', UNLESS_BROWSER, async (t) => {
  const { page } = await opened(t);
  await page.getByRole('link', { name: 'VMs', exact: true }).click();
  const firstName = page.locator('.rows .cell-name').first();
  await page.getByRole('button', { name: 'Name' }).click();
  await page.waitForURL(/sort=name/);
  assert.equal(await firstName.textContent(), 'image');
  await page.getByRole('button', { name: 'Name' }).click();
  await page.waitForURL(/sort=-name/);
  assert.equal(await firstName.textContent(), 'worker 9');
});

test('the JSON of the filtered rows is a download', UNLESS_BROWSER, async (t) => {
  const { page } = await opened(t);
  await show({ page }, '#/vms?q=role:infra');
  await page.getByText('1 of 42 VMs', { exact: true }).waitFor();
  const [download] = await Promise.all([
    page.waitForEvent('download'),
    page.getByRole('button', { name: 'JSON' }).click(),
  ]);
  const vms = JSON.parse(readFileSync(await download.path(), 'utf8')) as Vm[];
  assert.deepEqual(
    vms.map(({ id }) => id),
    ['infra-1'],
  );
});

/** Selects the 16 live VMs that search. */
async function selectSearch({ page }: OpenedFleet): Promise<void> {
  await show({ page }, '#/vms?q=task:search live:live');
  await page.getByText('16 of 42 VMs', { exact: true }).waitFor();
  await page.getByLabel('Select all VMs that match the filter').check();
}

/** @returns the dialog that asks before the selected VMs are paused */
async function openPause({ page }: OpenedFleet): Promise<Locator> {
  await page.getByRole('button', { name: 'Pause', exact: true }).click();
  return page.getByRole('dialog');
}

test(
  'an action on all selected VMs shows its requests, asks with the count, and changes them',
  UNLESS_BROWSER,
  async (t) => {
    const window = await opened(t);
    const { page, send } = window;
    await selectSearch(window);
    const dialog = await openPause(window);
    await dialog.getByRole('heading', { name: 'Pause 16 VMs?' }).waitFor();
    await dialog.getByText('{"status":"paused"}').first().waitFor();
    await screenshot(window, 'dialog-light-1280');
    // Nothing is sent before the answer.
    const paused = async () => ((await send('GET', '/registry/vms?status=paused')) as { count: number }).count;
    assert.equal(await paused(), 4);
    await dialog.getByRole('button', { name: 'Cancel' }).click();
    assert.equal(await paused(), 4);
    await openPause(window);
    await dialog.getByRole('button', { name: 'Pause 16 VMs' }).click();
    await page.getByText('0 of 42 VMs', { exact: true }).waitFor();
    assert.equal(await paused(), 20);
    await window.assertClean();
  },
);

test(
  'an action that is stopped while it is sent sends nothing more, and says how much it sent',
  UNLESS_BROWSER,
  async (t) => {
    const window = await opened(t);
    const { page, send } = window;
    await selectSearch(window);
    const held: Route[] = [];
    await page.route('**/registry/vms/*', (route) => void held.push(route));
    const dialog = await openPause(window);
    await dialog.getByRole('button', { name: 'Pause 16 VMs' }).click();
    await until('four requests on their way', () => held.length === 4);
    await page.keyboard.press('Escape');
    await dialog.getByText('0 of 16 sent, then stopped').waitFor();
    await Promise.all(held.map((route) => route.continue()));
    await dialog.getByText('4 of 16 sent, then stopped').waitFor();
    await dialog.getByRole('button', { name: 'Close' }).click();
    await dialog.waitFor({ state: 'hidden' });
    const { count } = (await send('GET', '/registry/vms?status=paused')) as { count: number };
    assert.deepEqual([held.length, count], [4, 8]);
  },
);

test('the late event of a dialog that was closed does not close the next one', UNLESS_BROWSER, async (t) => {
  const window = await opened(t);
  await selectSearch(window);
  const dialog = await openPause(window);
  await dialog.waitFor();
  // In one task, so that the browser reports the first dialog as closed after the second was asked for.
  await window.page.evaluate(`
    document.querySelector('dialog').requestClose();
    [...document.querySelectorAll('button')].find(({ textContent }) => textContent === 'Stop').click();
  `);
  await dialog.getByRole('button', { name: 'Stop 16 VMs' }).click();
  await window.page.getByText('None selected', { exact: true }).waitFor();
});

test('a session without the scope cannot act, and says why', UNLESS_BROWSER, async (t) => {
  const { page } = await opened(t, { token: 'read' });
  await show({ page }, '#/vm/worker-1');
  const pause = page.getByRole('button', { name: 'Pause' });
  await pause.waitFor();
  assert.equal(await pause.isDisabled(), true);
  assert.match((await pause.getAttribute('title'))!, /the session has the scope read; this requires write/);
});

test(
  'the plot of live VMs ends with the number in the table, although its data is older',
  UNLESS_BROWSER,
  async (t) => {
    const window = await opened(t);
    const { page, send } = window;
    const point = { at: new Date(Date.now() - 9000).toISOString(), live: 0, heartbeats: 0, changes: 0 };
    const body = JSON.stringify({ interval: 10_000, points: [point] });
    await page.route('**/registry/activity', (route) => route.fulfill({ body }));
    await page.reload();
    const live = page.getByRole('figure').filter({ hasText: 'Live VMs' });
    await live.getByText('37', { exact: true }).waitFor();
    await send('PATCH', '/registry/vms/infra-1', { status: 'paused' });
    await live.getByText('36', { exact: true }).waitFor();
    await window.assertClean();
  },
);

test('a dialog that is open when the session ends is closed after the next log-in', UNLESS_BROWSER, async (t) => {
  const window = await opened(t, { mayFail: true });
  const { page, daemon, send } = window;
  await selectSearch(window);
  const dialog = await openPause(window);
  await dialog.waitFor();
  await page.evaluate("fetch('/ui/session', { method: 'DELETE', headers: { 'x-vreg-client': '1' } })");
  await page.getByText('This registry requires a token').waitFor();
  const { token } = (await send('POST', '/registry/tokens', { name: 'next', scope: 'write' })) as { token: string };
  // In another tab, so that this one is not loaded again.
  await logIn({ ...window, page: await window.context.newPage() }, daemon.url, token);
  await untilLive(window);
  assert.equal(await dialog.isVisible(), false);
});

test('an action that the registry refuses because the session has ended stops', UNLESS_BROWSER, async (t) => {
  const window = await opened(t, { mayFail: true });
  const { page } = window;
  let sent = 0;
  await page.route('**/registry/vms/*', (route) => {
    sent++;
    return route.fulfill({ status: 401, json: { error: 'the session has ended' } });
  });
  await page.getByRole('link', { name: 'VMs', exact: true }).click();
  await page.getByRole('checkbox', { name: 'Select all VMs that match the filter' }).check();
  await page.getByRole('button', { name: 'Pause' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Pause 42 VMs' }).click();
  await page.getByText('sent, then stopped').waitFor();
  await page.getByRole('button', { name: 'Close' }).waitFor();
  // As many as may be on their way at a time.
  assert.ok(sent <= 4, `${sent} requests`);
  await window.assertClean();
});

test(
  'a text is copied without the permission for the clipboard, or the button says that it is not',
  UNLESS_BROWSER,
  async (t) => {
    const window = await opened(t);
    const { page, context } = window;
    await show(window, '#/vms?q=role:worker');
    await page.evaluate(
      "navigator.clipboard.writeText = () => Promise.reject(new DOMException('Write permission denied.', 'NotAllowedError'))",
    );
    await page.getByRole('button', { name: 'Copy' }).click();
    await page.getByRole('button', { name: 'Copied' }).waitFor();
    await context.grantPermissions(['clipboard-read']);
    assert.equal(await page.evaluate('navigator.clipboard.readText()'), 'vreg ls --role worker');
    await page.evaluate('document.execCommand = () => false');
    await page.getByRole('button', { name: 'Copy', exact: true }).click();
    await page.getByRole('button', { name: 'Not copied' }).waitFor();
    await window.assertClean();
  },
);

test('a page that has not read the fleet does not say that it is empty', UNLESS_BROWSER, async (t) => {
  const { page, daemon, assertClean } = await opened(t);
  // The worker's requests would not pass the routes of the page.
  await page.addInitScript('delete globalThis.SharedWorker');
  const held: Route[] = [];
  await page.route(/[/]registry[/](vms[?]|recent)/, (route) => void held.push(route));
  for (const view of ['', 'vms', 'tree', 'history']) {
    await page.goto('about:blank');
    await page.goto(`${daemon.url}/#/${view}`);
    await page.getByText('Loading…').waitFor();
    await until('the requests', () => held.length >= (view === 'history' ? 2 : 1));
    for (const route of held.splice(0)) await route.continue();
    await page.getByText('Loading…').waitFor({ state: 'detached' });
  }
  await assertClean();
});

test('changes of the fleet appear without a reload', UNLESS_BROWSER, async (t) => {
  // The page asks for the VM after its removal.
  const window = await opened(t, { mayFail: true });
  const { page, send } = window;
  await show(window, '#/vms?q=name:newcomer');
  await page.getByText('0 of 42 VMs', { exact: true }).waitFor();
  await send('POST', '/registry/vms', aVm({ id: 'n', name: 'newcomer' }));
  await page.getByText('1 of 43 VMs', { exact: true }).waitFor();
  await page
    .getByRole('row', { name: /newcomer/ })
    .getByText('live')
    .waitFor();
  await send('PATCH', '/registry/vms/n', { status: 'paused' });
  await page
    .getByRole('row', { name: /newcomer/ })
    .getByText('paused')
    .waitFor();
  await show(window, '#/vm/n');
  await page.getByText('status: running → paused').waitFor();
  await page.getByText('no: it is declared paused').waitFor();
  await send('DELETE', '/registry/vms/n');
  await page.getByText('This VM is no longer registered').waitFor();
  await show(window, '#/history');
  await page.getByRole('row', { name: /deregistered newcomer/ }).waitFor();
  await window.assertClean();
});

test('a banner shows each check of the registry that is not ok, and follows it', UNLESS_BROWSER, async (t) => {
  const window = await opened(t);
  const { page } = window;
  const reason = 'the last write failed: ENOSPC <b>';
  let checks: ProbeCheck[] = [{ name: 'writes', result: 'warn', reason }];
  await page.route('**/readyz?verbose', (route) => route.fulfill({ body: formatChecks('readyz', checks) }));
  await page.reload();
  await page.getByText(`The registry is degraded: ${reason}`).waitFor();
  await assertAccessible(window, 'degraded');
  await screenshot(window, 'degraded-light-1280');
  checks = [{ name: 'fleet', result: 'warn', reason: 'answers may include dead VMs for another 299 s' }];
  await page.getByText('a pause: answers may include dead VMs for another 299 s').waitFor();
  assert.equal(await page.getByText('The registry is degraded').count(), 0);
  await window.assertClean();
});

test('text of a VM is shown as text in every view', UNLESS_BROWSER, async (t) => {
  const window = await opened(t, { vms: HOSTILE });
  const { page } = window;
  for (const fragment of [
    '#/',
    '#/vms',
    '#/tree',
    '#/history',
    ...HOSTILE.map(({ id }) => `#/vm/${encodeURIComponent(id)}`),
  ]) {
    await show(window, fragment);
    await page.waitForFunction('document.querySelector("main .view")');
    assert.equal(await page.locator('main img, main script, main b, main i:not(.state i)').count(), 0, fragment);
    const text = (await page.locator('main').textContent())!;
    assert.doesNotMatch(text, /\u202e/, fragment);
    const isWide = await page.evaluate('document.documentElement.scrollWidth > innerWidth');
    assert.equal(isWide, false, fragment);
  }
  await page.getByRole('heading', { name: 'id in a URL' }).waitFor();
  assert.equal(await page.title(), 'vreg');
  await show(window, '#/vms');
  await page.getByText('<img src=x onerror="document.title=1">').waitFor();
  await screenshot(window, 'hostile-light-1280');
  await window.assertClean();
});

test('the conflict of two incarnations is shown with both claims, and can be cleared', UNLESS_BROWSER, async (t) => {
  const window = await opened(t);
  const { page, send } = window;
  const beat = (incarnation: string, address: string, next: string) =>
    send('POST', '/registry/vms/worker-1/heartbeat', { incarnation, address, next });
  await beat('first-life', '10.0.0.1', `1.${'a'.repeat(32)}`);
  await beat('second-life', '10.0.0.2', `2.${'b'.repeat(32)}`);
  await page.getByRole('link', { name: 'Conflicts 1' }).click();
  for (const text of ['first-life', 'second-life', 'Holder, accepted', 'Other, refused'])
    await page.getByText(text).waitFor();
  await page.getByRole('button', { name: 'Clear all…' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Clear all conflicts' }).click();
  await page.getByText('No two incarnations claim to be the same VM').waitFor();
  assert.equal(((await send('GET', '/registry/conflicts')) as { count: number }).count, 0);
  await window.assertClean();
});

test('many conflicts are shown in pages', UNLESS_BROWSER, async (t) => {
  const vms = Array.from({ length: 45 }, (_, index) => aVm({ id: `w-${index}` }));
  const window = await opened(t, { vms });
  const { page, send } = window;
  for (const { id } of vms) {
    const beat = (incarnation: string, address: string, next: string) =>
      send('POST', `/registry/vms/${id}/heartbeat`, { incarnation, address, next });
    await beat('first-life', '10.0.0.1', `1.${'a'.repeat(32)}`);
    await beat('second-life', '10.0.0.2', `2.${'b'.repeat(32)}`);
  }
  await page.getByRole('link', { name: 'Conflicts 45' }).click();
  const found: string[] = [];
  for (const range of ['1 to 20 of 45', '21 to 40 of 45', '41 to 45 of 45']) {
    await page.getByText(range, { exact: true }).waitFor();
    found.push(...(await page.locator('.panel h2 a').allTextContents()));
    const next = page.getByRole('button', { name: 'Next' });
    if (await next.isDisabled()) break;
    await next.click();
    await page.locator('h1:focus').waitFor();
  }
  assert.deepEqual(found, vms.map(({ id }) => id).reverse());
  await page.getByRole('button', { name: 'Previous' }).click();
  await page.getByText('21 to 40 of 45', { exact: true }).waitFor();
  await assertAccessible(window, 'conflicts');
  await window.assertClean();
});

test('the lineage shows VMs below their parents, which can be collapsed', UNLESS_BROWSER, async (t) => {
  const { page } = await opened(t);
  await page.getByRole('link', { name: 'Lineage' }).click();
  const tree = page.getByRole('tree', { name: 'Lineage' });
  await tree.getByRole('treeitem', { name: 'worker 0' }).waitFor();
  await tree.focus();
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowLeft');
  await page.getByText('2 VMs', { exact: true }).waitFor();
  await page.keyboard.press('ArrowRight');
  await page.getByText('42 VMs', { exact: true }).waitFor();
});

test('a VM that is removed while the lineage is drawn again leaves the page intact', UNLESS_BROWSER, async (t) => {
  const window = await opened(t);
  const { page, send } = window;
  await page.addInitScript(`
    globalThis.SharedWorker = class extends SharedWorker {
      constructor(...given) {
        super(...given);
        this.port.addEventListener('message', ({ data }) => {
          if (data.type === 'remove') globalThis.removed = data.ids;
        });
      }
    };`);
  await page.reload();
  await show(window, '#/tree');
  const tree = page.getByRole('tree', { name: 'Lineage' });
  await tree.getByRole('treeitem', { name: 'worker 0' }).waitFor();
  await tree.focus();
  // The next frame, with the list without the VM, comes later than the key.
  await page.evaluate('globalThis.requestAnimationFrame = (callback) => { globalThis.frame = callback; }');
  await send('DELETE', '/registry/vms/worker-0');
  await until('the removal', () => page.evaluate('globalThis.removed'));
  await page.keyboard.press('ArrowDown');
  await tree.locator('.is-active').getByText('image').waitFor();
  await page.evaluate('globalThis.frame()');
  await tree.getByRole('treeitem', { name: 'worker 0' }).waitFor({ state: 'detached' });
  await window.assertClean();
});

test('the timeline counts the signs of life since the page follows them', UNLESS_BROWSER, async (t) => {
  const window = await opened(t);
  const { page, send } = window;
  await show(window, '#/vm/worker-1');
  await page.getByText(/^Single signs of life are shown since \d{4}-/).waitFor();
  const beat = () => send('POST', '/registry/vms/worker-1/heartbeat');
  await beat();
  await page.getByText('sign of life', { exact: true }).waitFor();
  await beat();
  await page.getByText(/^2 signs of life until /).waitFor();
  await send('PATCH', '/registry/vms/worker-1', { address: '10.9.9.9' });
  await page.getByRole('listitem').getByText('10.9.9.9').waitFor();
  await beat();
  const entries = page.locator('.timeline > li');
  await entries.nth(1).getByText('sign of life', { exact: true }).waitFor();
  await entries.nth(2).getByText('updated').waitFor();
  await entries.nth(3).getByText('2 signs of life').waitFor();
  await window.assertClean();
});

test('the theme of the system can be overridden, for all tabs and after a reload', UNLESS_BROWSER, async (t) => {
  const window = await opened(t, { colorScheme: 'light' });
  const { page, context } = window;
  const second = await context.newPage();
  await second.goto(page.url());
  const background = (each: typeof page) => each.evaluate('getComputedStyle(document.body).backgroundColor');
  const [light] = [await background(page)];
  await page.getByRole('button', { name: 'Theme: system' }).click();
  await page.getByRole('button', { name: 'Theme: light' }).click();
  await second.getByRole('button', { name: 'Theme: dark' }).waitFor();
  assert.notEqual(await background(page), light);
  await page.reload();
  await page.getByRole('button', { name: 'Theme: dark' }).click();
  assert.equal(await background(page), light);
  await window.assertClean();
});

for (const colorScheme of ['light', 'dark'] as const) {
  for (const width of [1280, 360]) {
    test(`every view is accessible and fits, ${colorScheme} at ${width} px`, UNLESS_BROWSER, async (t) => {
      const window = await opened(t, { colorScheme, width });
      for (const [name, fragment] of [
        ['overview', '#/'],
        ['vms', '#/vms'],
        ['vm', '#/vm/worker-1'],
        ['lineage', '#/tree'],
        ['conflicts', '#/conflicts'],
        ['history', '#/history'],
      ] as const) {
        await show(window, fragment);
        await window.page.locator('main .view').waitFor();
        await assertAccessible(window, name);
        assert.equal(await window.page.evaluate('document.documentElement.scrollWidth > innerWidth'), false, name);
        await screenshot(window, `${name}-${colorScheme}-${width}`);
      }
      await window.assertClean();
    });
  }
}
