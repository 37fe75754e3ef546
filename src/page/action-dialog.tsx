/** The dialog that shows what an action will send, asks before it sends anything, and shows the outcome. */
import { signal } from '@preact/signals';
import { useEffect, useMemo, useRef } from 'preact/hooks';
import { durationOf } from '../protocol/duration.ts';
import { type ActionName, type PlannedRequest, planOf } from './action-plan.ts';
import { restoreFocus } from './focus.ts';
import { messageOf, Refused, request } from './requests.ts';
import { numberText, vmsText } from './times.ts';
import { CopyButton, Notice, Untrusted } from './widgets.tsx';

/** Concurrent requests: a browser opens six connections to a host, and the event stream uses one. */
const CONCURRENCY = 4;
/** Requests and failures that the dialog lists. */
const MAX_LISTED = 5;

interface Prompt {
  name: ActionName;
  ids: readonly string[];
  /** Called when all requests were sent. */
  then: (() => void) | undefined;
  /** A fact about the VMs that the user may have overlooked, such as that the filter hides some of them. */
  notice: string | undefined;
}

interface Failure {
  subject: string;
  message: string;
}

/** One confirmed action: its requests, which are sent a few at a time, and their outcome. */
class Run {
  readonly total: number;
  readonly sent = signal(0);
  /** VMs that sent a heartbeat after the action was planned, and were not changed. */
  readonly skipped = signal(0);
  readonly failureCount = signal(0);
  /** The first failures. */
  readonly failures: Failure[] = [];
  readonly isStopped = signal(false);
  readonly isDone = signal(false);
  readonly #pending: PlannedRequest[];

  constructor(requests: readonly PlannedRequest[]) {
    this.total = requests.length;
    this.#pending = [...requests];
  }

  async send(): Promise<void> {
    await Promise.all(Array.from({ length: CONCURRENCY }, () => this.#sendPending()));
    this.isDone.value = true;
  }

  /** Sends no further request. The requests on their way end, so that the outcome is true. */
  stop(): void {
    if (this.#pending.length > 0) this.isStopped.value = true;
    this.#pending.length = 0;
  }

  async #sendPending(): Promise<void> {
    for (let next = this.#pending.shift(); next !== undefined; next = this.#pending.shift()) {
      await this.#send(next);
      this.sent.value++;
    }
  }

  async #send({ subject, method, path, body, isStillDue }: PlannedRequest): Promise<void> {
    try {
      if (isStillDue && !(await isStillDue())) this.skipped.value++;
      else await request(method, path, body);
    } catch (error) {
      const status = error instanceof Refused ? error.status : undefined;
      // Somebody else has removed it.
      if (status === 404) return;
      if (this.failures.length < MAX_LISTED) this.failures.push({ subject, message: messageOf(error) });
      this.failureCount.value++;
      // The session has ended: the next one, possibly of another user, has not confirmed the action.
      if (status === 401) this.stop();
    }
  }
}

const prompt = signal<Prompt | undefined>(undefined);
/** Undefined before the action of the dialog was confirmed. */
const run = signal<Run | undefined>(undefined);
const olderThan = signal('1h');

/** Opens the dialog. @param ids VMs; for `clear` none to clear all conflicts */
export function ask(name: ActionName, ids: readonly string[], then?: () => void, notice?: string): void {
  run.value = undefined;
  prompt.value = { name, ids, then, notice };
}

function close(): void {
  run.value?.stop();
  prompt.value = undefined;
}

/** The first Escape or click stops an action that is being sent, and leaves the dialog open to show what was sent. */
function stopOrClose(event: Event): void {
  const current = run.value;
  if (!current || current.isDone.value) {
    close();
  } else {
    event.preventDefault();
    current.stop();
  }
}

/** Sends the requests. The dialog closes by itself if all have succeeded. */
async function confirm(requests: readonly PlannedRequest[], then: (() => void) | undefined): Promise<void> {
  const confirmed = new Run(requests);
  run.value = confirmed;
  await confirmed.send();
  if (confirmed.isStopped.value) return;
  then?.();
  const isFlawless = confirmed.failureCount.value === 0 && confirmed.skipped.value === 0;
  if (isFlawless && run.value === confirmed) close();
}

export function ActionDialog() {
  const dialog = useRef<HTMLDialogElement>(null);
  const shown = useRef<Prompt | undefined>(undefined);
  const current = prompt.value;
  useEffect(() => {
    const wasOpen = shown.current !== undefined;
    shown.current = current;
    if (current) dialog.current?.showModal();
    else if (wasOpen) {
      dialog.current?.close();
      restoreFocus();
    }
  }, [current]);
  // The page of the log-in replaces the dialog. The next session may be that of another user.
  useEffect(() => close, []);
  // The browser can close the dialog by itself. Its event comes later, when the next action may already be asked for.
  const followBrowser = () => {
    if (!dialog.current?.open && shown.current === prompt.value) close();
  };
  return (
    <dialog ref={dialog} class="dialog" aria-labelledby="dialog-title" onCancel={stopOrClose} onClose={followBrowser}>
      {current && <Confirmation {...current} />}
    </dialog>
  );
}

function Confirmation({ name, ids, then, notice }: Prompt) {
  const silence = olderThan.value;
  // The plan stays as it was confirmed while the fleet changes.
  const plan = useMemo(() => planOf(name, ids, silence), [name, ids, silence]);
  const { title, isDangerous, requests, command, note, warning } = plan;
  const count = requests.length;
  const sending = run.value;
  return (
    <form
      method="dialog"
      onSubmit={(event) => {
        event.preventDefault();
        if (run.value) stopOrClose(event);
        else void confirm(requests, then);
      }}
    >
      <h2 id="dialog-title">{title}?</h2>
      {name === 'prune' && <SilenceField />}
      {notice !== undefined && <Notice kind="warning">{notice}</Notice>}
      {note !== undefined && <p class="muted">{note}</p>}
      {warning !== undefined && <Notice kind="warning">{warning}</Notice>}
      {count === 0 ? (
        <p>Nothing will be sent.</p>
      ) : (
        <div class="requests">
          <header>
            This will be sent to the registry:
            <CopyButton text={command}>Copy vreg command</CopyButton>
          </header>
          <ul>
            {requests.slice(0, MAX_LISTED).map((each) => (
              <RequestItem key={each.path} planned={each} />
            ))}
            {count > MAX_LISTED && <li class="muted">and {numberText(count - MAX_LISTED)} more</li>}
          </ul>
        </div>
      )}
      {sending && <Outcome run={sending} />}
      <div class="buttons">
        <button type="button" onClick={stopOrClose}>
          {!sending ? 'Cancel' : sending.isDone.value ? 'Close' : 'Stop'}
        </button>
        {!sending?.isDone.value && (
          <button
            type="submit"
            class={isDangerous ? 'danger' : 'primary'}
            disabled={count === 0 || sending !== undefined}
          >
            {title}
          </button>
        )}
      </div>
    </form>
  );
}

function SilenceField() {
  const isInvalid = durationOf(olderThan.value) === undefined;
  return (
    <label class="field">
      Remove stale VMs that have been silent for longer than
      <input
        value={olderThan.value}
        aria-invalid={isInvalid}
        onInput={({ currentTarget }) => {
          olderThan.value = currentTarget.value.trim();
        }}
      />
      {isInvalid && <span class="field-error">enter a duration such as 90s, 5m or 1h30m</span>}
    </label>
  );
}

function RequestItem({ planned: { method, path, body, name } }: { planned: PlannedRequest }) {
  return (
    <li>
      <code>
        {method} <Untrusted text={path} />
        {body && ` ${JSON.stringify(body)}`}
      </code>
      {name !== undefined && (
        <span class="muted">
          {' '}
          <Untrusted text={name} />
        </span>
      )}
    </li>
  );
}

function Outcome({ run: { sent, total, isStopped, skipped, failureCount, failures } }: { run: Run }) {
  return (
    <div aria-live="polite">
      <p>
        {numberText(sent.value)} of {numberText(total)} sent
        {isStopped.value && ', then stopped'}
      </p>
      {skipped.value > 0 && <p>{vmsText(skipped.value)} sent a heartbeat in the meantime and were not changed.</p>}
      {failureCount.value > 0 && (
        <Notice kind="error">
          {numberText(failureCount.value)} failed:{' '}
          {failures.map(({ subject, message }) => (
            <span key={subject}>
              <Untrusted text={subject} />: <Untrusted text={message} />.{' '}
            </span>
          ))}
        </Notice>
      )}
    </div>
  );
}
