/** The fleet page of a registry that is restored while the page is open. */
import assert from 'node:assert/strict';
import { cp, rm } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'node:test';
import { browserOfFile, openWindow, UNLESS_BROWSER, untilLive } from '../helpers/browser.ts';
import { startDaemon, tempDir } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { aVm } from '../helpers/vm.ts';

const browser = browserOfFile();

test('the history forgets what a restored registry has forgotten', UNLESS_BROWSER, async (t) => {
  const home = tempDir(t);
  const copy = join(home, 'copy');
  const body = (name: string) => aVm({ id: name, name });
  const before = await startDaemon(t, { home });
  const { url } = before;
  const { port } = new URL(url);
  await call(url, 'POST', '/registry/vms', { body: body('kept') });
  await before.end();
  await cp(before.dataDir, copy, { recursive: true });
  const rest = { home, args: ['--port', port] };
  const first = await startDaemon(t, rest);
  const window = await openWindow(browser, url, { mayFail: true });
  await window.page.goto(`${url}/#/history`);
  await untilLive(window);
  await call(url, 'POST', '/registry/vms', { body: body('lost') });
  await window.page.getByRole('link', { name: 'lost' }).waitFor();
  await first.end();
  await rm(first.dataDir, { recursive: true });
  await cp(copy, first.dataDir, { recursive: true });
  await startDaemon(t, rest);
  await untilLive(window);
  await call(url, 'POST', '/registry/vms', { body: body('new') });
  await window.page.getByRole('link', { name: 'new' }).waitFor();
  assert.equal(await window.page.getByRole('link', { name: 'lost' }).count(), 0);
  await window.assertClean();
});
