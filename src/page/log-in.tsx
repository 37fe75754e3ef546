/** The log-in: a button that uses a link up, or how to get one. Programs that scan links open them, but press no buttons. */
import { signal, useSignal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import { PATHS, type SessionStatus } from '../protocol/api.ts';
import type { Whoami } from '../protocol/token.ts';
import { session } from './fleet-store.ts';
import { restoreFocus } from './focus.ts';
import { BASE, messageOf, Refused, request } from './requests.ts';
import { announceSession } from './session-channel.ts';
import { reconnect } from './tab-link.ts';
import { CopyButton, Notice, Untrusted } from './widgets.tsx';

const isLogInUrl = () => location.pathname.endsWith(PATHS.logIn);

/** The secret of the link with which the page was opened; undefined without one, and after it was used or ignored. */
export const linkToken = signal(
  isLogInUrl() ? new URLSearchParams(location.search).get('token') || undefined : undefined,
);

/** Replaces the URL of the link, so that its secret is not in the history of the browser. */
export function leaveLogInUrl(): void {
  if (isLogInUrl()) history.replaceState(null, '', new URL('ui/', BASE));
  linkToken.value = undefined;
}

/** The scope of a session, and the role or VM to which it is restricted. */
export function rightsOf({ scope, role, vm }: Whoami): string {
  if (vm !== undefined) return `${scope}, VM ${vm}`;
  return role === undefined ? scope : `${scope}, role ${role}`;
}

/** True if it is useless to repeat a log-in. The link is still valid after a 429 or 5xx, and may be if there was no answer. */
function isFinal(reason: unknown): boolean {
  return reason instanceof Refused && reason.status < 500 && reason.status !== 429;
}

/** @param current the session that the browser already has, if the page was opened with a link */
export function LogIn({ current }: { current?: Whoami }) {
  const token = linkToken.value;
  const error = useSignal<string | undefined>(undefined);
  const isSpent = useSignal(false);
  const isBusy = useSignal(false);
  // The button that was pressed is gone when the fleet appears.
  useEffect(() => () => queueMicrotask(restoreFocus), []);
  const logIn = async () => {
    isBusy.value = true;
    try {
      const status = await request<SessionStatus>('POST', PATHS.logIn, { token });
      leaveLogInUrl();
      announceSession(token);
      reconnect();
      session.value = status;
    } catch (reason) {
      error.value = messageOf(reason);
      isSpent.value = isFinal(reason);
    } finally {
      isBusy.value = false;
    }
  };
  const command = 'vreg ui';
  return (
    <main class="log-in">
      <Title />
      {error.value !== undefined && (
        <Notice kind="error">
          <Untrusted text={error.value} />
        </Notice>
      )}
      {current && (
        <p>
          You are logged in as <Untrusted text={current.name} /> <Untrusted text={`(${rightsOf(current)})`} />.
        </p>
      )}
      {token !== undefined && !isSpent.value && (
        <>
          <p>
            This link logs this browser in to the registry for 24 hours{current && ', and ends the current session'}. It
            works once.
          </p>
          <button type="button" class="primary large" disabled={isBusy.value} onClick={() => void logIn()}>
            {current ? 'Log in with this link' : 'Log in'}
          </button>
        </>
      )}
      {current && (
        <button type="button" class="large" disabled={isBusy.value} onClick={leaveLogInUrl}>
          Continue as <Untrusted text={current.name} />
        </button>
      )}
      {!current && (token === undefined || isSpent.value) && (
        <>
          <p>This registry requires a token. Make a link that logs this browser in:</p>
          <div class="command">
            <code>{command}</code>
            <CopyButton text={command} />
          </div>
          <p class="muted">
            Run it where vreg is set up with a token for this registry. The session has the rights of that token.
          </p>
        </>
      )}
    </main>
  );
}

export function Title() {
  return (
    <h1>
      <Logo /> vreg
    </h1>
  );
}

export function Logo() {
  return <span class="logo" aria-hidden="true" />;
}
