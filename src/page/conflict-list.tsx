/** Identity conflicts, and the claim that another registry answers at the same URL. */
import { signal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import { PATHS } from '../protocol/api.ts';
import type { Conflicts } from '../protocol/heartbeat.ts';
import { ask } from './action-dialog.tsx';
import { ConflictCard } from './conflict-card.tsx';
import { eventCount, events, refusalOf, session } from './fleet-store.ts';
import { request } from './requests.ts';
import { numberText, timeText } from './times.ts';
import { CopyButton, Notice, VmLink } from './widgets.tsx';

/** Milliseconds between two reads: conflicts also change without an event. */
const READ_INTERVAL = 30_000;

/** Undefined before the first answer. */
export const conflicts = signal<Conflicts | undefined>(undefined);

async function readConflicts(): Promise<void> {
  if (!session.value?.authenticated) return;
  conflicts.value = await request<Conflicts>('GET', PATHS.conflicts).catch(() => conflicts.value);
}

/** Reads the conflicts now, periodically, and after each event about one. */
export function useConflicts(): void {
  const isLoggedIn = session.value?.authenticated === true;
  eventCount.value;
  const last = events().find(({ type }) => type === 'conflict');
  useEffect(() => {
    void readConflicts();
    const timer = setInterval(() => void readConflicts(), READ_INTERVAL);
    return () => clearInterval(timer);
  }, [isLoggedIn, last]);
}

export function ConflictList() {
  const { conflicts: found = [], otherRegistry } = conflicts.value ?? {};
  const refusal = refusalOf('write');
  const then = () => void readConflicts();
  return (
    <div class="view">
      <header class="detail-header">
        <h1>Conflicts</h1>
        <span class="muted">{numberText(found.length)} on record</span>
        <span class="spacer" />
        <CopyButton text="vreg conflicts">Copy vreg command</CopyButton>
        <button
          type="button"
          class="danger-quiet"
          disabled={refusal !== undefined || (found.length === 0 && !otherRegistry)}
          title={refusal ?? ''}
          onClick={() => ask('clear', [], then)}
        >
          Clear all…
        </button>
      </header>
      {otherRegistry && (
        <Notice kind="warning">
          Another registry answers at the URL of this one, so that one of them is a copy:{' '}
          {numberText(otherRegistry.vms)} {otherRegistry.vms === 1 ? 'agent has' : 'agents have'} received answers of
          both, last at {timeText(otherRegistry.lastAt)}. This registry is at {otherRegistry.position}, the other one at{' '}
          {otherRegistry.otherPosition}.
        </Notice>
      )}
      {conflicts.value && found.length === 0 && <p class="empty">No two incarnations claim to be the same VM.</p>}
      {found.map((conflict) => (
        <section key={`${conflict.id} ${conflict.firstAt} ${conflict.other.incarnation}`} class="panel">
          <h2>
            <VmLink id={conflict.id} />
            <span class="spacer" />
            <button
              type="button"
              class="quiet"
              disabled={refusal !== undefined}
              title={refusal ?? ''}
              onClick={() => ask('clear', [conflict.id], then)}
            >
              Clear…
            </button>
          </h2>
          <ConflictCard conflict={conflict} />
        </section>
      ))}
    </div>
  );
}
