/** The commands that the fleet page copies, run by a shell: an id in the URL or of a VM stays one word. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import test from 'node:test';
import { browserOfFile, show, UNLESS_BROWSER } from '../helpers/browser.ts';
import { openFleet } from '../helpers/fleet-page.ts';

const browser = browserOfFile();

/** Prints the words of each command, and reports each program that the id has started. */
const SHELL = `
vreg() { printf 'vreg'; for word; do printf ' <%s>' "$word"; done; echo; }
curl() { echo curl; }
touch() { echo INJECTED; }
`;

const ID = "x; touch /tmp/pwn #'\n$(touch /tmp/pwn)\ntouch /tmp/pwn";

test('no copied command runs the id in the URL', UNLESS_BROWSER, async (t) => {
  // The page asks for a VM that does not exist.
  const window = await openFleet(t, browser, { mayFail: true });
  const { page } = window;
  await page.evaluate(
    'globalThis.copied = []; navigator.clipboard.writeText = async (text) => { copied.push(text); };',
  );
  const views = [`#/tree?id=${encodeURIComponent(ID)}`, `#/vms?q=task:${encodeURIComponent(JSON.stringify(ID))}`];
  for (const fragment of views) {
    await show(window, fragment);
    await page.getByRole('button', { name: 'Copy', exact: true }).first().click();
    await page.getByText('Copied').waitFor();
  }
  const copied = (await page.evaluate('copied')) as string[];
  const outputs = copied.map((command) => spawnSync('sh', ['-c', `${SHELL}${command}`], { encoding: 'utf8' }).stdout);
  assert.equal(outputs[0], `vreg <tree> <${ID}>\n`);
  for (const output of outputs) assert.doesNotMatch(output, /^INJECTED/m);
});

test(
  'a page without the clipboard of https copies in each view and dialog, and keeps the focus',
  UNLESS_BROWSER,
  async (t) => {
    const window = await openFleet(t, browser);
    const { page } = window;
    await page.evaluate(`
    globalThis.copied = [];
    Object.defineProperty(navigator, 'clipboard', { value: undefined });
    addEventListener('copy', () => copied.push(document.activeElement.value));`);
    await show(window, '#/vm/worker-0');
    await page.getByRole('button', { name: 'Copy', exact: true }).first().click();
    await page.getByText('Copied').waitFor();
    await page.getByRole('button', { name: 'Pause' }).click();
    const button = page.getByRole('dialog').getByRole('button', { name: 'Copy vreg command' });
    await button.focus();
    await page.keyboard.press('Enter');
    await page.getByRole('dialog').getByText('Copied').waitFor();
    const [first, second, ...others] = (await page.evaluate('copied')) as string[];
    assert.match(first!, /worker-0/);
    assert.deepEqual([second, others], ['vreg pause worker-0', []]);
    assert.equal(await page.evaluate('document.activeElement.tagName'), 'BUTTON');
    await window.assertClean();
  },
);
