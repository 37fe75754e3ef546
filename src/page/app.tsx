/** The fleet page: log-in, navigation, banners, and the view that the URL names. */
import { computed, effect, signal, useSignal } from '@preact/signals';
import { render } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import { PATHS, type SessionStatus } from '../protocol/api.ts';
import { ActionDialog } from './action-dialog.tsx';
import { ChangeList } from './change-list.tsx';
import { ConflictList, conflicts, useConflicts } from './conflict-list.tsx';
import { counts, link, session } from './fleet-store.ts';
import { restoreFocus } from './focus.ts';
import { hrefOf, route, tableHref } from './hash-route.ts';
import { LineageTree } from './lineage-tree.tsx';
import { LogIn, Logo, leaveLogInUrl, linkToken, rightsOf, Title } from './log-in.tsx';
import { Overview } from './overview.tsx';
import { RegistryHealth } from './registry-health.tsx';
import { messageOf, Refused, request } from './requests.ts';
import { announceSession, observeSession } from './session-channel.ts';
import { connect } from './tab-link.ts';
import { ThemeButton } from './theme.tsx';
import { numberText, vmsText } from './times.ts';
import { VmDetail } from './vm-detail.tsx';
import { VmTable } from './vm-table.tsx';
import { DataAge, Notice, Untrusted } from './widgets.tsx';

const VIEWS = [
  ['overview', 'Overview'],
  ['vms', 'VMs'],
  ['tree', 'Lineage'],
  ['conflicts', 'Conflicts'],
  ['history', 'History'],
] as const;

/** Milliseconds without an answer after which the page says that it waits: faster answers would make the text flicker. */
const SLOW = 1000;

function View() {
  const { view, id } = route.value;
  switch (view) {
    case 'vms':
      return <VmTable />;
    case 'vm':
      return <VmDetail key={id} id={id} />;
    case 'tree':
      return <LineageTree />;
    case 'conflicts':
      return <ConflictList />;
    case 'history':
      return <ChangeList />;
    default:
      return <Overview />;
  }
}

function App() {
  const status = session.value;
  useConflicts();
  useEffect(() => {
    const onKeyDown = (event: KeyboardEvent) => {
      if (event.target instanceof HTMLInputElement || document.querySelector('dialog[open]')) return;
      if (event.key === 'Escape' && route.value.view === 'vm') location.hash = tableHref.value;
      if (event.key !== '/') return;
      event.preventDefault();
      if (route.value.view !== 'vms') location.hash = hrefOf('vms');
      setTimeout(() => document.getElementById('filter')?.focus());
    };
    addEventListener('keydown', onKeyDown);
    return () => removeEventListener('keydown', onKeyDown);
  }, []);
  const { view, id } = route.value;
  const isFirst = useRef(true);
  useEffect(() => {
    if (!isFirst.current) restoreFocus();
    isFirst.current = false;
  }, [view, id]);
  if (status === undefined) return <Waiting />;
  if (!status.authenticated) return <LogIn />;
  if (isSwitchOffered(status)) return <LogIn current={status} />;
  return (
    <>
      <a class="skip" href="#main" onClick={focusMain}>
        Skip to content
      </a>
      <TopBar status={status} />
      <Banners />
      {/* The focus moves here from the link above. */}
      <main id="main" tabIndex={-1}>
        <View />
      </main>
      <ActionDialog />
    </>
  );
}

/** Until the registry answers for the first time. It may be loading its store. */
function Waiting() {
  const { reason } = link.value;
  const isSlow = useSignal(false);
  useEffect(() => {
    const timer = setTimeout(() => {
      isSlow.value = true;
    }, SLOW);
    return () => clearTimeout(timer);
  }, []);
  return (
    <main class="log-in">
      <Title />
      <p role="status">
        {(reason !== undefined || isSlow.value) && 'Waiting for the registry'}
        {reason !== undefined && (
          <>
            : <Untrusted text={reason} />
          </>
        )}
      </p>
    </main>
  );
}

/** True if the page was opened with a link although the browser has a session. A registry without tokens needs neither. */
function isSwitchOffered({ expiresAt }: SessionStatus & { authenticated: true }): boolean {
  return linkToken.value !== undefined && expiresAt !== undefined;
}

function focusMain(event: Event): void {
  event.preventDefault();
  document.getElementById('main')?.focus();
}

/** Why the last log-out failed. */
const logOutError = signal<string | undefined>(undefined);

function TopBar({ status }: { status: SessionStatus & { authenticated: true } }) {
  const { view } = route.value;
  const open = conflicts.value?.conflicts.filter(({ state }) => state === 'open').length ?? 0;
  const { name, expiresAt } = status;
  const logOut = async () => {
    logOutError.value = undefined;
    try {
      session.value = await request<SessionStatus>('DELETE', PATHS.session);
      announceSession();
    } catch (error) {
      // The cookie is still valid, so the next load of the page would be logged in.
      logOutError.value = messageOf(error);
    }
  };
  return (
    <header class="top">
      <a class="brand" href="#/">
        <Logo />
        vreg
      </a>
      <nav aria-label="Views">
        {VIEWS.map(([key, title]) => (
          <a
            key={key}
            href={key === 'overview' ? '#/' : hrefOf(key)}
            aria-current={view === key ? 'page' : view === 'vm' && key === 'vms' ? true : undefined}
          >
            {title}
            {key === 'conflicts' && open > 0 && (
              <>
                {' '}
                <span class="badge">{numberText(open)}</span>
              </>
            )}
          </a>
        ))}
      </nav>
      <span class="spacer" />
      <DataAge />
      <ThemeButton />
      <span class="who" title={expiresAt ? `the session ends at ${expiresAt}` : 'this registry requires no log-in'}>
        <Untrusted text={name} />
        <span class="muted">{rightsOf(status)}</span>
      </span>
      {expiresAt !== undefined && (
        <button type="button" class="quiet" onClick={() => void logOut()}>
          Log out
        </button>
      )}
    </header>
  );
}

/** Reasons to distrust the page. */
function Banners() {
  const { connection, reason, isReachable } = link.value;
  const { all } = counts.value;
  return (
    <div class="banners">
      {logOutError.value !== undefined && (
        <Notice kind="error">
          You are still logged in: <Untrusted text={logOutError.value} />
        </Notice>
      )}
      {connection === 'reconnecting' && (
        <Notice kind="warning">
          {isReachable ? 'The registry does not answer requests yet' : 'The registry is unreachable'}
          {reason === undefined ? '' : ': '}
          {reason !== undefined && <Untrusted text={reason} />}. The page shows the last known fleet.
        </Notice>
      )}
      <RegistryHealth />
      {all.suspect > 0 && (
        <Notice kind="warning">
          {vmsText(all.suspect)} fell silent together and {all.suspect === 1 ? 'is' : 'are'} suspect. Is the network up?{' '}
          <a href={hrefOf('vms', { q: 'live:suspect' })}>Show</a>
        </Notice>
      )}
    </div>
  );
}

async function start(): Promise<void> {
  try {
    session.value = await request<SessionStatus>('GET', PATHS.session);
  } catch (error) {
    // The page itself follows the hint, which is to retry.
    const reason = error instanceof Refused ? error.message : messageOf(error);
    link.value = { ...link.value, reason };
    setTimeout(() => void start(), 2000);
  }
}

/** Rights of the session whose data this tab has; undefined before the first one. */
let identity: string | undefined;

effect(() => {
  const status = session.value;
  if (!status?.authenticated) {
    logOutError.value = undefined;
    return;
  }
  if (!isSwitchOffered(status)) leaveLogInUrl();
  const { name, scope, role, vm } = status;
  const current = JSON.stringify([name, scope, role, vm]);
  // The next user must not see what the previous one has seen: a reload forgets it all.
  if (identity !== undefined && identity !== current) {
    location.reload();
    return;
  }
  identity = current;
  connect();
});
const isLive = computed(() => link.value.connection === 'live');
observeSession((usedLink) => {
  if (usedLink !== undefined && usedLink === linkToken.value) leaveLogInUrl();
  void start();
});
// Another tab may have logged in, also as somebody else.
effect(() => {
  if (isLive.value) void start();
});
const root = document.getElementById('app')!;
root.replaceChildren();
render(<App />, root);
void start();
