/** The checks of the registry that are not ok, from its probe, while the page is open. */
import { signal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import { PATHS } from '../protocol/api.ts';
import { type ProbeCheck, parseChecks } from '../protocol/probe.ts';
import { link } from './fleet-store.ts';
import { requestText } from './requests.ts';
import { Notice, Untrusted } from './widgets.tsx';

/** Milliseconds between two reads. */
const READ_INTERVAL = 10_000;

const TITLES: Readonly<Record<string, string>> = {
  writes: 'The registry is degraded',
  fleet: 'The registry is warming up after a restart or a pause',
  history: 'The registry may be a copy',
};

const problems = signal<readonly ProbeCheck[]>([]);

async function readProblems(): Promise<void> {
  const text = await requestText(`${PATHS.readyz}?verbose`).catch(() => undefined);
  if (text !== undefined) problems.value = parseChecks(text).filter(({ result }) => result !== 'ok');
}

/** One notice per check. An unreachable registry has a notice of its own. */
export function RegistryHealth() {
  const isLive = link.value.connection === 'live';
  useEffect(() => {
    if (!isLive) return;
    void readProblems();
    const timer = setInterval(() => void readProblems(), READ_INTERVAL);
    return () => clearInterval(timer);
  }, [isLive]);
  if (!isLive) return null;
  return (
    <>
      {problems.value.map(({ name, reason }) => (
        <Notice key={name} kind="warning">
          {Object.hasOwn(TITLES, name) ? TITLES[name] : 'The registry is not ready'}: <Untrusted text={reason} />
        </Notice>
      ))}
    </>
  );
}
