/** Identity conflicts, and the claim that another registry answers at the same URL. */
import { signal, useSignal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import { PATHS } from '../protocol/api.ts';
import type { Conflicts } from '../protocol/heartbeat.ts';
import { ask } from './action-dialog.tsx';
import { coalesce } from './coalesce.ts';
import { ConflictCard } from './conflict-card.tsx';
import { eventCount, events, refusalOf, session } from './fleet-store.ts';
import { request } from './requests.ts';
import { numberText, timeText } from './times.ts';
import { CopyButton, Notice, VmLink } from './widgets.tsx';

/** Milliseconds between two reads: conflicts also change without an event. */
const READ_INTERVAL = 30_000;

/** Conflicts on a page of the list: a conflict has many elements, and a registry may have a thousand. */
const PAGE_SIZE = 20;

/** Undefined before the first answer. */
export const conflicts = signal<Conflicts | undefined>(undefined);

const readConflicts = coalesce(async () => {
  if (!session.value?.authenticated) return;
  conflicts.value = await request<Conflicts>('GET', PATHS.conflicts).catch(() => conflicts.value);
});

/** Reads the conflicts now, periodically, and after each event about one. */
export function useConflicts(): void {
  const isLoggedIn = session.value?.authenticated === true;
  eventCount.value;
  const last = events().find(({ type }) => type === 'conflict');
  useEffect(() => {
    readConflicts();
    const timer = setInterval(readConflicts, READ_INTERVAL);
    return () => clearInterval(timer);
  }, [isLoggedIn, last]);
}

export function ConflictList() {
  const { conflicts: found = [], otherRegistry } = conflicts.value ?? {};
  const refusal = refusalOf('write');
  const heading = useRef<HTMLHeadingElement>(null);
  const page = useSignal(0);
  const last = Math.max(0, Math.ceil(found.length / PAGE_SIZE) - 1);
  const start = Math.min(page.value, last) * PAGE_SIZE;
  const shown = found.slice(start, start + PAGE_SIZE);
  const turnTo = (to: number) => {
    page.value = to;
    // The next page begins at the top.
    heading.current?.focus();
  };
  return (
    <div class="view">
      <header class="detail-header">
        <h1 ref={heading} tabIndex={-1}>
          Conflicts
        </h1>
        <span class="muted">{numberText(found.length)} on record</span>
        <span class="spacer" />
        <CopyButton text="vreg conflicts">Copy vreg command</CopyButton>
        <button
          type="button"
          class="danger-quiet"
          disabled={refusal !== undefined || (found.length === 0 && !otherRegistry)}
          title={refusal ?? ''}
          onClick={() => ask('clear', [], readConflicts)}
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
      {shown.map((conflict) => (
        <section key={`${conflict.id} ${conflict.firstAt} ${conflict.other.incarnation}`} class="panel">
          <h2>
            <VmLink id={conflict.id} />
            <span class="spacer" />
            <button
              type="button"
              class="quiet"
              disabled={refusal !== undefined}
              title={refusal ?? ''}
              onClick={() => ask('clear', [conflict.id], readConflicts)}
            >
              Clear…
            </button>
          </h2>
          <ConflictCard conflict={conflict} />
        </section>
      ))}
      {last > 0 && (
        <div class="actions" role="group" aria-label="Pages">
          <button type="button" disabled={start === 0} onClick={() => turnTo(start / PAGE_SIZE - 1)}>
            Previous
          </button>
          <span class="muted">
            {numberText(start + 1)} to {numberText(start + shown.length)} of {numberText(found.length)}
          </span>
          <button type="button" disabled={start / PAGE_SIZE === last} onClick={() => turnTo(start / PAGE_SIZE + 1)}>
            Next
          </button>
        </div>
      )}
    </div>
  );
}
