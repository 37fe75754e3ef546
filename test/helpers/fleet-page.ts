/** A daemon with a small fleet, and a browser window that is logged in to its page. */
import type { TestContext } from 'node:test';
import type { Browser } from 'playwright-core';
import type { Registration } from '../../src/protocol/vm.ts';
import { logIn, type OpenedPage, openWindow, type PageOptions } from './browser.ts';
import { type Daemon, startDaemon } from './daemon.ts';
import { call } from './http.ts';
import { aVm } from './vm.ts';

const ROOT = 's3cret-of-the-test';
const AUTH = { authorization: `Bearer ${ROOT}` };

/** An infra VM, a golden image, and 40 workers of which 4 are paused. */
export const FLEET: readonly Registration[] = [
  aVm({ id: 'infra-1', name: 'infra', role: 'infra', services: [{ name: 'board', port: 3000 }] }),
  aVm({ id: 'golden-1', name: 'image', role: 'golden', status: 'stopped' }),
  ...Array.from({ length: 40 }, (_, index) =>
    aVm({
      id: `worker-${index}`,
      name: `worker ${index}`,
      address: `10.0.0.${index}`,
      parentId: 'golden-1',
      metadata: { task: index % 2 === 0 ? 'billing' : 'search' },
      status: index % 10 === 9 ? 'paused' : 'running',
    }),
  ),
];

export interface OpenedFleet extends OpenedPage {
  daemon: Daemon;
  send(method: string, path: string, body?: unknown): Promise<unknown>;
}

/** @param token `ROOT` logs in with the root token, another text with a new token of that scope */
export async function openFleet(
  t: TestContext,
  browser: () => Promise<Browser>,
  { vms = FLEET, token = ROOT, ...options }: PageOptions & { vms?: readonly Registration[]; token?: string } = {},
): Promise<OpenedFleet> {
  const daemon = await startDaemon(t, { env: { VERS_AUTH_TOKEN: ROOT } });
  const send = async (method: string, path: string, body?: unknown) =>
    (await call(daemon.url, method, path, { headers: AUTH, body })).body;
  if (vms.length > 0) await send('POST', '/registry/import', { vms });
  const window = await openWindow(browser, daemon.url, options);
  await logIn(window, daemon.url, token === ROOT ? ROOT : await tokenOf(send, token));
  return { ...window, daemon, send };
}

/** @param scope of a new token */
async function tokenOf(send: OpenedFleet['send'], scope: string): Promise<string> {
  return ((await send('POST', '/registry/tokens', { name: scope, scope })) as { token: string }).token;
}
