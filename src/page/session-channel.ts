/** Notifies the other tabs of the browser of a log-in or a log-out: a tab without a session has no event stream. */
import { BASE } from './requests.ts';

const channel = new BroadcastChannel(`session of ${BASE.pathname}`);

/** Call it when the session of the browser has changed. @param usedLink the secret of the link that was used for that */
export function announceSession(usedLink?: string): void {
  channel.postMessage(usedLink);
}

/** @param onChange called when another tab has announced a change */
export function observeSession(onChange: (usedLink: string | undefined) => void): void {
  channel.onmessage = ({ data }: MessageEvent<string | undefined>) => onChange(data);
}
