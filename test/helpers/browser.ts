/** Runs the fleet page in Debian's Chromium, headless, and records everything that the page must not do. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { after } from 'node:test';
import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';
import type { MagicLink } from '../../src/protocol/api.ts';
import { call } from './http.ts';

/** Names of the program in distributions. */
const PROGRAMS = ['chromium', 'chromium-browser', 'google-chrome'];
/** The first major version with everything that the page uses. */
const MIN_VERSION = 123;
/** Milliseconds until an expected change of the page must have happened. */
const TIMEOUT = 15_000;
/** Folder for screenshots, which CI keeps and Git ignores. */
const SCREENSHOTS = join(import.meta.dirname, '../../artifacts/page');

const program = PROGRAMS.map((name) =>
  spawnSync('sh', ['-c', `command -v ${name}`], { encoding: 'utf8' }).stdout.trim(),
).find((path) => path !== '');

/** The `skip` option of a test that needs a browser. In CI the test always runs. */
export const UNLESS_BROWSER: { skip: string | false } = {
  skip: program === undefined && !process.env.CI && 'needs chromium, which this machine lacks',
};

/** Starts Chromium when the first test of a file opens a window, and closes it when the file ends. Call it once per file. */
export function browserOfFile(): () => Promise<Browser> {
  let browser: Promise<Browser> | undefined;
  after(async () => (await browser)?.close());
  return () => {
    browser ??= startBrowser();
    return browser;
  };
}

async function startBrowser(): Promise<Browser> {
  assert.ok(program, 'chromium is not installed: apt-get install chromium');
  const browser = await chromium.launch({
    executablePath: program,
    // Containers have a small /dev/shm, and root may not use the sandbox.
    args: ['--disable-dev-shm-usage', ...(process.getuid?.() === 0 ? ['--no-sandbox'] : [])],
  });
  const [major] = browser.version().split('.');
  assert.ok(Number(major) >= MIN_VERSION, `chromium ${browser.version()} is older than ${MIN_VERSION}`);
  return browser;
}

export interface OpenedPage {
  page: Page;
  context: BrowserContext;
  /** Asserts that the page has violated no policy, logged no error, and sent no request elsewhere. */
  assertClean(): Promise<void>;
}

export interface PageOptions {
  width?: number;
  colorScheme?: 'light' | 'dark';
  /** Failed requests and console errors are expected, for example because the registry is restarted. */
  mayFail?: boolean;
}

/** Opens a new window without cookies. */
export async function openWindow(
  browser: () => Promise<Browser>,
  url: string,
  { width = 1280, colorScheme = 'light', mayFail = false }: PageOptions = {},
): Promise<OpenedPage> {
  const context = await (await browser()).newContext({
    viewport: { width, height: width < 600 ? 740 : 800 },
    colorScheme,
    reducedMotion: 'reduce',
    timezoneId: 'UTC',
    acceptDownloads: true,
  });
  context.setDefaultTimeout(TIMEOUT);
  const problems: string[] = [];
  context.on('request', (request) => {
    const target = request.url();
    if (!target.startsWith(url) && !/^(blob|data):/.test(target)) problems.push(`request to ${target}`);
  });
  context.on('weberror', (error) => problems.push(`error: ${error.error().message}`));
  context.on('console', (message) => {
    if (message.type() === 'error' && !(mayFail && /Failed to load resource/.test(message.text())))
      problems.push(`console: ${message.text()}`);
  });
  await context.addInitScript(
    "globalThis.violations = []; addEventListener('securitypolicyviolation', (e) => violations.push(e.violatedDirective + ' ' + e.blockedURI));",
  );
  const page = await context.newPage();
  const assertClean = async () => {
    assert.deepEqual(await page.evaluate('violations'), []);
    assert.deepEqual(problems, []);
  };
  return { page, context, assertClean };
}

/** Opens the page with a magic link, and presses its button. @param token whose rights the session gets */
export async function logIn({ page }: OpenedPage, url: string, token: string): Promise<void> {
  const { body } = await call(url, 'POST', '/auth/magic-link', { headers: { authorization: `Bearer ${token}` } });
  await page.goto((body as MagicLink).url);
  await page.getByRole('button', { name: 'Log in' }).click();
  await untilLive({ page });
}

/** Resolves when the page shows the current fleet. */
export async function untilLive({ page }: Pick<OpenedPage, 'page'>): Promise<void> {
  await page.locator('.data-age.is-live').waitFor();
}

/** Goes to a view by its URL. @param fragment for example `#/vms?q=role:worker` */
export async function show({ page }: Pick<OpenedPage, 'page'>, fragment: string): Promise<void> {
  await page.evaluate(`location.hash = ${JSON.stringify(fragment)}`);
}

/** Saves a screenshot, which CI keeps and reviewers look at. */
export async function screenshot({ page }: Pick<OpenedPage, 'page'>, name: string): Promise<void> {
  mkdirSync(SCREENSHOTS, { recursive: true });
  await page.screenshot({ path: join(SCREENSHOTS, `${name}.png`), animations: 'disabled' });
}

const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

interface AxeResult {
  violations: { id: string; nodes: { html: string; failureSummary: string }[] }[];
}

/** Asserts that axe-core finds no violation. Evaluated by the debugger, which the policy of the page does not concern. */
export async function assertAccessible({ page }: Pick<OpenedPage, 'page'>, name: string): Promise<void> {
  await page.evaluate(`${AXE}; 0`);
  const { violations } = (await page.evaluate('axe.run()')) as AxeResult;
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes[0]!.html.slice(0, 200)} ${nodes[0]!.failureSummary}`);
  assert.deepEqual(found, [], name);
}
