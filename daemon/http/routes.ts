/** The table of routes. A handler parses the request, makes one call to the registry, and encodes the response. */
import { PATHS } from '../../src/protocol/api.ts';
import type { Route } from './context.ts';
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

const VM = `${PATHS.vms}/:id`;

export const ROUTES: readonly Route[] = [
  { method: 'GET', path: PATHS.health, access: 'open', handle: health },
  { method: 'POST', path: PATHS.vms, access: 'register', enrols: true, handle: registerVm },
  { method: 'GET', path: PATHS.vms, access: 'read', isLong: true, handle: listVms },
  { method: 'GET', path: VM, access: 'read', handle: readVm },
  { method: 'PUT', path: VM, access: 'write', handle: replaceVm },
  { method: 'PATCH', path: VM, access: 'write', handle: updateVm },
  { method: 'DELETE', path: VM, access: 'write', handle: removeVm },
  { method: 'POST', path: `${VM}/heartbeat`, access: 'heartbeat', isHeartbeat: true, handle: heartbeat },
  { method: 'POST', path: PATHS.heartbeats, access: 'heartbeat', isHeartbeat: true, handle: heartbeats },
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
