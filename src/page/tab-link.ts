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
const START_TIMEOUT = 3000;
/** Milliseconds without a message after which the tab pings the worker, which sends one every 15 s while the page is live. */
const PING_AFTER = 20_000;
/** Milliseconds in which the worker must answer a ping, also while it reads the list of a large fleet. */
const PING_TIMEOUT = 10_000;

interface Stream extends Pick<FleetStream, 'wake' | 'renew'> {
  /** Called before the browser closes or freezes the tab. */
  leave(): void;
  /** Called when the browser runs the tab again. */
  resume(): void;
}

let stream: Stream | undefined;

function openStream(): Stream {
  if (stream) return stream;
  stream = followTogether();
  addEventListener('online', () => stream?.wake());
  addEventListener('pagehide', () => stream?.leave());
  // A page from the back-forward cache has missed events.
  addEventListener('pageshow', ({ persisted }) => {
    if (persisted) location.reload();
  });
  document.addEventListener('freeze', () => stream?.leave());
  document.addEventListener('resume', () => stream?.resume());
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

/** The stream of the shared worker. A worker that ends without a message is replaced, for example after it ran out of memory. */
class SharedStream implements Stream {
  readonly #worker: SharedWorker;
  #hasAnswered = false;
  #timer: ReturnType<typeof setTimeout> | undefined;

  /** @throws DOMException if the browser permits no shared workers, because it blocks the storage of the page */
  constructor() {
    this.#worker = new SharedWorker(trustedUrl(WORKER_URL), { type: 'module', name: 'vreg' });
    this.#worker.onerror = () => this.#giveUp();
    this.#worker.port.onmessage = ({ data }: MessageEvent<FleetMessage>) => {
      this.#hasAnswered = true;
      this.#wait(PING_AFTER, () => this.#ping());
      applyMessage(data);
    };
    // The worker's file is gone if the registry was updated since the page was loaded. Chromium sometimes sends no error event then.
    this.#wait(START_TIMEOUT, () => this.#giveUp());
  }

  wake(): void {
    this.#send('wake');
  }

  renew(): void {
    this.#send('renew');
  }

  leave(): void {
    clearTimeout(this.#timer);
    this.#send('goodbye');
  }

  resume(): void {
    this.#send('hello');
    this.#wait(PING_TIMEOUT, () => this.#giveUp());
  }

  #ping(): void {
    this.#send('ping');
    this.#wait(PING_TIMEOUT, () => this.#giveUp());
  }

  #giveUp(): void {
    this.leave();
    this.#worker.onerror = null;
    this.#worker.port.close();
    stream = this.#hasAnswered ? followTogether() : followAlone();
  }

  #send(message: TabMessage): void {
    this.#worker.port.postMessage(message);
  }

  #wait(ms: number, then: () => void): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(then, ms);
  }
}

function followTogether(): Stream {
  try {
    return new SharedStream();
  } catch {
    return followAlone();
  }
}

const WORKER_URL = new URL(__WORKER__, import.meta.url).href;

function trustedUrl(url: string): string {
  const { trustedTypes } = globalThis as { trustedTypes?: TrustedTypes };
  const policy = trustedTypes?.createPolicy('vreg', { createScriptURL: (text) => (text === url ? text : '') });
  return (policy?.createScriptURL(url) ?? url) as string;
}

/** Follows the fleet while the tab is visible: a browser opens six connections to a host at most, for all its tabs. */
function followAlone(): Stream {
  const own = new FleetStream(BASE, applyMessage);
  const restOrWake = () => (document.hidden ? own.rest() : own.wake());
  document.addEventListener('visibilitychange', restOrWake);
  void own.run();
  restOrWake();
  const renew = () => {
    own.renew();
    restOrWake();
  };
  return { wake: restOrWake, renew, leave: () => {}, resume: () => {} };
}
