/** Connects the tab to the event stream, which all tabs share if the browser supports it. */

import type { FleetMessage, TabMessage } from './fleet-message.ts';
import { applyMessage } from './fleet-store.ts';
import { FleetStream } from './fleet-stream.ts';
import { BASE } from './requests.ts';

/** Set by the build to the name of the worker's file. */
declare const __WORKER__: string;

/** The page's policy requires that a type of its own permits URLs of scripts. */
interface TrustedTypes {
  createPolicy(
    name: string,
    rules: { createScriptURL(url: string): string },
  ): { createScriptURL(url: string): unknown };
}

/** Milliseconds in which the shared worker must send its first message: it does so as soon as it runs. */
const WORKER_TIMEOUT = 3000;

type Stream = Pick<FleetStream, 'wake' | 'renew'>;

let stream: Stream | undefined;

function openStream(): Stream {
  if (stream) return stream;
  stream = typeof SharedWorker === 'undefined' ? followAlone() : followTogether();
  addEventListener('online', () => stream?.wake());
  return stream;
}

/** Starts to follow the fleet, or does so again after a log-in: the worker of another tab may be waiting for it. */
export function connect(): void {
  openStream().wake();
}

/** Follows the fleet in all tabs with the session that has just begun. */
export function reconnect(): void {
  openStream().renew();
}

function followTogether(): Stream {
  const worker = new SharedWorker(trustedUrl(new URL(__WORKER__, import.meta.url).href), {
    type: 'module',
    name: 'vreg',
  });
  const { port } = worker;
  // Its file is gone if the registry was updated since the page was loaded. Chromium sometimes sends no error event then.
  const giveUp = () => {
    clearTimeout(timer);
    worker.onerror = null;
    port.close();
    stream = followAlone();
  };
  const timer = setTimeout(giveUp, WORKER_TIMEOUT);
  worker.onerror = giveUp;
  port.onmessage = ({ data }: MessageEvent<FleetMessage>) => {
    clearTimeout(timer);
    applyMessage(data);
  };
  const send = (message: TabMessage) => port.postMessage(message);
  addEventListener('pagehide', () => send('goodbye'));
  // A page from the back-forward cache has missed events.
  addEventListener('pageshow', ({ persisted }) => {
    if (persisted) location.reload();
  });
  return { wake: () => send('wake'), renew: () => send('renew') };
}

function trustedUrl(url: string): string {
  const { trustedTypes } = globalThis as { trustedTypes?: TrustedTypes };
  const policy = trustedTypes?.createPolicy('vreg', { createScriptURL: (text) => (text === url ? text : '') });
  return (policy?.createScriptURL(url) ?? url) as string;
}

function followAlone(): Stream {
  const own = new FleetStream(BASE, applyMessage);
  void own.run();
  return { wake: () => own.wake(), renew: () => own.renew() };
}
