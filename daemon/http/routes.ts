/** The table of routes. A handler parses the request, makes one call to the registry, and encodes the response. */
import { PATHS } from '../../src/protocol/api.ts';
import type { Scope } from '../../src/protocol/token.ts';
import type { RequestContext, Result } from './context.ts';
import { sendBackup } from './handlers/backup.ts';
import { clearConflicts, listConflicts } from './handlers/conflicts.ts';
import { discover } from './handlers/discover.ts';
import { streamEvents } from './handlers/events.ts';
import { history } from './handlers/history.ts';
import { ancestors, children, subtree } from './handlers/lineage.ts';
import { health, metrics } from './handlers/metrics.ts';
import { createToken, listTokens, revokeEnrolledBy, revokeToken, whoami } from './handlers/tokens.ts';
import {
  explainVm,
  heartbeat,
  heartbeats,
  listVms,
  readVm,
  registerVm,
  removeVm,
  replaceVm,
  updateVm,
} from './handlers/vms.ts';

export interface Route {
  method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  path: string;
  /** The least scope that may ask; `any` asks only that there is a token, and `open` not even for that. */
  access: Scope | 'any' | 'open';
  /** True of a route by which a VM may enrol. */
  enrols?: true;
  /** True of a route for signs of life: they change nothing that anybody declared. */
  isBeat?: true;
  /** True of a route that looks at all VMs, or may answer them: where that takes long, it has its turn. */
  isLong?: true;
  /** @returns undefined when it has taken the reply into its own hands */
  handle(ctx: RequestContext): Result | undefined | Promise<Result | undefined>;
}

const VM = `${PATHS.vms}/:id`;

export const ROUTES: readonly Route[] = [
  { method: 'GET', path: PATHS.health, access: 'open', handle: health },
  { method: 'POST', path: PATHS.vms, access: 'register', enrols: true, handle: registerVm },
  { method: 'GET', path: PATHS.vms, access: 'read', isLong: true, handle: listVms },
  { method: 'GET', path: VM, access: 'read', handle: readVm },
  { method: 'PUT', path: VM, access: 'write', handle: replaceVm },
  { method: 'PATCH', path: VM, access: 'write', handle: updateVm },
  { method: 'DELETE', path: VM, access: 'write', handle: removeVm },
  { method: 'POST', path: `${VM}/heartbeat`, access: 'heartbeat', isBeat: true, handle: heartbeat },
  { method: 'POST', path: PATHS.heartbeats, access: 'heartbeat', isBeat: true, handle: heartbeats },
  { method: 'GET', path: `${VM}/history`, access: 'read', handle: history },
  { method: 'GET', path: `${VM}/why`, access: 'read', handle: explainVm },
  { method: 'GET', path: `${VM}/children`, access: 'read', isLong: true, handle: children },
  { method: 'GET', path: `${VM}/ancestors`, access: 'read', isLong: true, handle: ancestors },
  { method: 'GET', path: `${VM}/subtree`, access: 'read', isLong: true, handle: subtree },
  { method: 'GET', path: PATHS.conflicts, access: 'read', isLong: true, handle: listConflicts },
  { method: 'DELETE', path: PATHS.conflicts, access: 'write', handle: clearConflicts },
  { method: 'GET', path: '/registry/discover/:role', access: 'read', isLong: true, handle: discover },
  { method: 'GET', path: PATHS.events, access: 'read', isLong: true, handle: streamEvents },
  { method: 'GET', path: PATHS.backup, access: 'admin', handle: sendBackup },
  { method: 'GET', path: PATHS.metrics, access: 'read', isLong: true, handle: metrics },
  { method: 'GET', path: PATHS.whoami, access: 'any', handle: whoami },
  { method: 'GET', path: PATHS.tokens, access: 'admin', handle: listTokens },
  { method: 'POST', path: PATHS.tokens, access: 'admin', handle: createToken },
  { method: 'DELETE', path: PATHS.tokens, access: 'admin', handle: revokeEnrolledBy },
  { method: 'DELETE', path: `${PATHS.tokens}/:name`, access: 'admin', handle: revokeToken },
];

/** Methods that a path knows, for a 405's `Allow`; none for an unknown path. */
export function methodsOf(path: string): string[] {
  const methods = ROUTES.filter((route) => patternOf(route.path).test(path)).map((route) => route.method);
  return methods.includes('GET') ? ['HEAD', ...methods] : methods;
}

function patternOf(path: string): RegExp {
  return new RegExp(`^${path.replace(/:\w+/g, '[^/]+')}$`);
}
