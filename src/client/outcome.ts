/** Writes whose response did not arrive: the registry may have made the change, so a script must look before it repeats it. */
import { PATHS } from '../protocol/api.ts';

/** Methods of requests that can be repeated without a second effect. The client uses PUT only to replace a whole entry. */
const REPEATABLE: readonly string[] = ['GET', 'HEAD', 'PUT'];
/** Codes of Node and undici for a connection that broke after it had been established. */
const BROKEN: readonly string[] = ['ECONNRESET', 'EPIPE', 'ETIMEDOUT', 'UND_ERR_SOCKET'];
/** Ids that a shell takes as one word. */
const PLAIN = /^[\w.:@/-]+$/;

/** True if the request is a write that the registry may have received. A heartbeat can be repeated. */
export function isOutcomeUnknown(method: string, path: string, cause: NodeJS.ErrnoException): boolean {
  const [route] = path.split('?');
  if (REPEATABLE.includes(method) || route === PATHS.heartbeats || route!.endsWith('/heartbeat')) return false;
  if (cause.name === 'TimeoutError') return true;
  return cause.syscall !== 'connect' && BROKEN.includes(String(cause.code));
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
