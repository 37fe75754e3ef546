/** Small parts that all views share. All text of a VM goes through {@link Untrusted}. */
import { useSignal } from '@preact/signals';
import type { ComponentChildren } from 'preact';
import { useMemo } from 'preact/hooks';
import type { Liveness } from '../protocol/liveness.ts';
import { printable } from '../protocol/redact.ts';
import { link } from './fleet-store.ts';
import { hrefOfVm } from './hash-route.ts';
import { clock, serverNow } from './server-clock.ts';
import { ageText, timeText } from './times.ts';

/** Milliseconds for which a button says that it has copied. */
const COPIED_TIME = 1500;
/** UTF-16 units of a text of a VM: more than a name has, while a value of the metadata may be a megabyte. */
const MAX_SHOWN = 2000;

/**
 * Text of a VM. Characters that change the writing direction or are invisible are replaced, it cannot affect its surroundings,
 * and a long one is cut off.
 */
export function Untrusted({ text }: { text: unknown }) {
  const full = typeof text === 'string' ? text : (JSON.stringify(text) ?? '');
  const shown = printable(full.length > MAX_SHOWN ? `${full.slice(0, MAX_SHOWN)}…` : full);
  return (
    <bdi class="untrusted" title={shown}>
      {shown}
    </bdi>
  );
}

export function VmLink({ id, name = id }: { id: string; name?: string }) {
  return (
    <a href={hrefOfVm(id)}>
      <Untrusted text={name} />
    </a>
  );
}

/** The state in words, with a mark whose colour and shape differ by state. */
export function State({ state }: { state: Liveness }) {
  return (
    <span class={`state state-${state}`}>
      <i aria-hidden="true" />
      {state}
    </span>
  );
}

/** The age of a time by the clock of the registry, which grows every second. */
export function Age({ at }: { at: number }) {
  return (
    <time dateTime={Number.isNaN(at) ? '' : new Date(at).toISOString()} title={timeText(at)}>
      {ageText(serverNow() - at)}
    </time>
  );
}

/** Whether the page shows the current fleet, and how old it is otherwise. */
export function DataAge() {
  const { connection, heardAt, reason } = link.value;
  const age = clock.value - heardAt;
  // The registry sends a comment every 15 s, and heartbeats more often.
  const isQuiet = connection === 'live' && age > 20_000;
  const text =
    connection === 'live' && !isQuiet
      ? 'live'
      : connection === 'loading'
        ? 'loading'
        : heardAt === 0
          ? 'reconnecting'
          : `${ageText(age)} old${connection === 'live' ? '' : ', reconnecting'}`;
  return (
    <output
      class={`data-age ${connection === 'live' && !isQuiet ? 'is-live' : 'is-old'}`}
      title={reason ?? ''}
      aria-live="off"
    >
      <i aria-hidden="true" />
      {text}
    </output>
  );
}

export function CopyButton({ text, children = 'Copy' }: { text: string; children?: ComponentChildren }) {
  const outcome = useSignal<string | undefined>(undefined);
  const copy = async () => {
    outcome.value = (await copyText(text)) ? 'Copied' : 'Not copied';
    setTimeout(() => {
      outcome.value = undefined;
    }, COPIED_TIME);
  };
  return (
    <button type="button" class="quiet" onClick={() => void copy()}>
      {outcome.value ?? children}
    </button>
  );
}

/**
 * The clipboard needs https or localhost, and the permission of the user. Otherwise, the browser copies a selection.
 * @returns false if the browser refuses that, too
 */
async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copySelection(text);
  }
}

function copySelection(text: string): boolean {
  const focused = document.activeElement;
  const area = document.createElement('textarea');
  area.value = text;
  // An open dialog makes all other parts of the document inert.
  (document.querySelector('dialog[open]') ?? document.body).append(area);
  area.select();
  const isCopied = document.execCommand('copy');
  area.remove();
  if (focused instanceof HTMLElement) focused.focus();
  return isCopied;
}

/** A row of a list of facts, `dl.facts`. */
export function Fact({ term, children }: { term: ComponentChildren; children: ComponentChildren }) {
  return (
    <>
      <dt>{term}</dt>
      <dd>{children}</dd>
    </>
  );
}

/** A command or a JSON text, and a button that copies it. */
export function Snippet({ title, text }: { title: string; text: string }) {
  return (
    <section class="snippet">
      <header>
        <h3>{title}</h3>
        <CopyButton text={text} />
      </header>
      <pre tabIndex={0}>{useMemo(() => printableLines(text), [text])}</pre>
    </section>
  );
}

function printableLines(text: string): string {
  return text.split('\n').map(printable).join('\n');
}

export function Notice({ kind, children }: { kind: 'warning' | 'error' | 'info'; children: ComponentChildren }) {
  return (
    <p class={`notice notice-${kind}`} role={kind === 'error' ? 'alert' : 'status'}>
      {children}
    </p>
  );
}

/** Why actions are disabled. @param text undefined if they are not */
export function Refusal({ text }: { text: string | undefined }) {
  return text === undefined ? null : (
    <span class="refusal muted">
      <Untrusted text={text} />
    </span>
  );
}

export function download(name: string, type: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const anchor = document.createElement('a');
  anchor.href = url;
  anchor.download = name;
  anchor.click();
  URL.revokeObjectURL(url);
}
