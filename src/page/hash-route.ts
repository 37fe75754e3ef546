/** The view and its parameters, in the fragment of the URL: `#/vms?q=role:worker`. */
import { effect, signal } from '@preact/signals';

export interface Route {
  /** `overview`, `vms`, `vm`, `tree`, `conflicts` or `history`. */
  view: string;
  /** The id of the view `vm`. */
  id: string;
  params: URLSearchParams;
}

function parse(hash: string): Route {
  const [path = '', query = ''] = hash.replace(/^#\/?/, '').split(/\?(.*)/s);
  const [view = '', id = ''] = path.split(/\/(.*)/s);
  return { view: view || 'overview', id: decoded(id), params: new URLSearchParams(query) };
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export const route = signal(parse(location.hash));

/** The table of VMs as the user has left it. */
export const tableHref = signal('#/vms');

effect(() => {
  const { view, params } = route.value;
  if (view === 'vms') tableHref.value = hrefOf('vms', Object.fromEntries(params));
});

addEventListener('hashchange', () => {
  route.value = parse(location.hash);
});

export function hrefOf(view: string, params: Readonly<Record<string, string>> = {}): string {
  const given = Object.entries(params).filter(([, value]) => value !== '');
  const query = new URLSearchParams(given).toString();
  return `#/${view}${query === '' ? '' : `?${query}`}`;
}

export function hrefOfVm(id: string): string {
  return `#/vm/${encodeURIComponent(id)}`;
}

/** Changes parameters of the current view, without a new entry in the browser's history. */
export function setParams(change: Readonly<Record<string, string>>): void {
  const { view, id, params } = route.value;
  const path = id === '' ? view : `${view}/${encodeURIComponent(id)}`;
  const href = hrefOf(path, { ...Object.fromEntries(params), ...change });
  history.replaceState(null, '', href);
  route.value = parse(href);
}
