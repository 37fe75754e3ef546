/** The keyboard focus, when what had it has left the document. */

/** Focuses the list or the heading of the view, or else the view itself, if nothing that can be used has the focus. */
export function restoreFocus(): void {
  const focused = document.activeElement;
  const isLost = focused === null || focused === document.body || focused.matches(':disabled');
  if (!isLost || document.querySelector('dialog[open]')) return;
  const view = document.getElementById('main');
  (view?.querySelector<HTMLElement>('.virtual, h1[tabindex]') ?? view)?.focus();
}
