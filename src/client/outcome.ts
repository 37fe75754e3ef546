/** Writes whose response did not arrive: the registry may have made the change, so a script must look before it repeats it. */
import { PATHS } from '../protocol/api.ts';

/**
 * Methods of requests that can be repeated without a second effect. The client uses PUT only to replace a whole entry; if another
 * client changes the entry between the two, the second one replaces that change, as the first one would have, had it come later.
 */
const REPEATABLE: readonly string[] = ['GET', 'HEAD', 'PUT'];
/** Statuses with which a proxy reports that it has no valid response to a request, which the registry may have received. */
const NO_RESPONSE: readonly number[] = [502, 504];
/** Ids that a shell takes as one word. */
const PLAIN = /^[\w.:@/-]+$/;

/** True if a script must not repeat the request before it has looked. It can repeat a heartbeat. */
export function isWrite(method: string, path: string): boolean {
  const [route] = path.split('?');
  return !REPEATABLE.includes(method) && route !== PATHS.heartbeats && !route!.endsWith('/heartbeat');
}

/** True if a proxy answered a write, but does not know whether the registry has made the change. */
export function isUnknownToProxy(method: string, path: string, status: number): boolean {
  return NO_RESPONSE.includes(status) && isWrite(method, path);
}

/** The next step after such a write: how to see whether the registry has made the change. */
export function outcomeHint(path: string, body: string | undefined): string {
  const [route] = path.split('?');
  const id = idInPath(route!) ?? (route === PATHS.vms ? idInBody(body) : undefined);
  if (id !== undefined) return `see whether it took effect: vreg get ${PLAIN.test(id) ? id : 'ID'}`;
  if (route!.startsWith(PATHS.tokens)) return 'see whether it took effect: vreg token ls';
  if (route === PATHS.conflicts) return 'see whether it took effect: vreg conflicts';
  return 'see whether it took effect: vreg ls';
}

function idInPath(route: string): string | undefined {
  const [, id] = /^\/registry\/vms\/([^/]+)$/.exec(route) ?? [];
  try {
    return id === undefined ? undefined : decodeURIComponent(id);
  } catch {
    return undefined;
  }
}

function idInBody(body = '{}'): string | undefined {
  try {
    const { id } = JSON.parse(body) as { id?: unknown };
    return typeof id === 'string' ? id : undefined;
  } catch {
    return undefined;
  }
}
