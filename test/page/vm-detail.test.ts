/** The view of one VM while the VM, its children and its conflicts change, and with as much data as a VM may have. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { browserOfFile, show, UNLESS_BROWSER } from '../helpers/browser.ts';
import { openFleet } from '../helpers/fleet-page.ts';
import { aVm } from '../helpers/vm.ts';

/** Most elements in the document. */
const MAX_NODES = 2000;

const browser = browserOfFile();

test('the last sign of life follows a VM that is removed and registered again', UNLESS_BROWSER, async (t) => {
  // The page may ask for the VM while it is removed.
  const window = await openFleet(t, browser, { mayFail: true });
  const { page, send } = window;
  await show(window, '#/vm/worker-1');
  const lastSeen = page.locator('.facts dt', { hasText: 'Last seen' }).locator('+ dd');
  await lastSeen.getByText('ago').waitFor();
  await send('DELETE', '/registry/vms/worker-1');
  await lastSeen.getByText('–', { exact: true }).waitFor();
  await send('POST', '/registry/vms', aVm({ id: 'worker-1' }));
  await lastSeen.getByText('ago').waitFor();
  await window.assertClean();
});

test('the last sign of life has the right age after the clock of the machine is set', UNLESS_BROWSER, async (t) => {
  const window = await openFleet(t, browser, { mayFail: true });
  const { page } = window;
  await page.clock.install();
  await show(window, '#/vm/worker-1');
  const lastSeen = page.locator('.facts dt', { hasText: 'Last seen' }).locator('+ dd');
  await page.getByText('yes:').waitFor();
  // Each answer of the registry to the page has its time. The stream of events is that of the worker.
  await page.route('**/*', (route) => route.abort());
  await page.clock.setSystemTime(Date.now() + 2 * 3_600_000);
  await lastSeen.getByText('2 h').waitFor();
  await page.unroute('**/*');
  await show(window, '#/vm/worker-2');
  await lastSeen.getByText(/^\d+ s$/).waitFor();
  await window.assertClean();
});

test('changes of the children are shown without a request', UNLESS_BROWSER, async (t) => {
  const window = await openFleet(t, browser);
  const { page, send } = window;
  await show(window, '#/vm/golden-1');
  await page.getByText('yes:').or(page.getByText('no:')).first().waitFor();
  const requests: string[] = [];
  page.on('request', (request) => requests.push(request.url()));
  await send('PATCH', '/registry/vms/worker-3', { name: 'another name' });
  await page.getByRole('link', { name: 'another name' }).waitFor();
  assert.deepEqual(
    requests.filter((url) => url.includes('golden-1')),
    [],
  );
  await window.assertClean();
});

test('a new conflict of the VM appears', UNLESS_BROWSER, async (t) => {
  const window = await openFleet(t, browser);
  const { page, send } = window;
  await show(window, '#/vm/worker-1');
  await page.getByText('yes:').waitFor();
  const beat = (incarnation: string, address: string, next: string) =>
    send('POST', '/registry/vms/worker-1/heartbeat', { incarnation, address, next });
  await beat('first-life', '10.0.0.1', `1.${'a'.repeat(32)}`);
  await beat('second-life', '10.0.0.2', `2.${'b'.repeat(32)}`);
  await page.getByText('second-life').waitFor();
  await window.assertClean();
});

test('a VM with as much data as the registry accepts leaves the page usable', UNLESS_BROWSER, async (t) => {
  const pairs = Object.fromEntries(Array.from({ length: 40_000 }, (_, index) => [`key-${index}`, index]));
  const fields = Object.fromEntries(Array.from({ length: 20 }, (_, index) => [`field-${index}`, index]));
  const services = Array.from({ length: 256 }, (_, index) => ({ name: `s${index}`, port: index + 1, ...fields }));
  const text = 'x'.repeat(200_000);
  const window = await openFleet(t, browser, {
    vms: [aVm({ id: 'keys', metadata: pairs, services }), aVm({ id: 'text', metadata: { text } })],
  });
  const { page, send } = window;
  await send('PATCH', '/registry/vms/text', { metadata: { text: `${text}y` } });
  for (const [id, shown] of [
    ['keys', 'and 39,950 more, see JSON'],
    ['text', 'metadata:'],
  ] as const) {
    await show(window, `#/vm/${id}`);
    await page.getByText(shown).first().waitFor();
    const nodes = (await page.evaluate('document.getElementsByTagName("*").length')) as number;
    assert.ok(nodes < MAX_NODES, `${nodes} elements`);
    const longest = (await page.evaluate(
      'Math.max(...[...document.querySelectorAll(".untrusted")].map(({ textContent }) => textContent.length))',
    )) as number;
    assert.ok(longest < 5000, `${longest} characters`);
  }
  await window.assertClean();
});
