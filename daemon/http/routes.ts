/** The table of routes. A handler parses the request, makes one call to the registry, and encodes the response. */
import { MAX_IMPORT_BODY, PATHS } from '../../src/protocol/api.ts';
import { isAgentHeartbeat } from '../../src/protocol/heartbeat.ts';
import type { Route } from './context.ts';
import { readActivity } from './handlers/activity.ts';
import { sendBackup } from './handlers/backup.ts';
import { clearConflicts, listConflicts } from './handlers/conflicts.ts';
import { discover } from './handlers/discover.ts';
import { streamEvents } from './handlers/events.ts';
import { history } from './handlers/history.ts';
import { importVms } from './handlers/import-vms.ts';
import { ancestors, children, diffVms, subtree } from './handlers/lineage.ts';
import { listVms } from './handlers/list-vms.ts';
import { health, metrics } from './handlers/metrics.ts';
import { openApi } from './handlers/openapi.ts';
import { redirectToPage, sendIndex, sendIndexAtRoot, sendLogIn, sendPageFile } from './handlers/page.ts';
import { isVerbose, livez, readyz } from './handlers/probes.ts';
import { recentEvents } from './handlers/recent-events.ts';
import { listReplicas } from './handlers/replicas.ts';
import { createMagicLink, logIn, logOut, MAX_LOG_IN_BODY, readSession } from './handlers/sessions.ts';
import { createToken, listTokens, revokeEnrolledBy, revokeToken, whoami } from './handlers/tokens.ts';
import { explainVm, heartbeat, heartbeats, readVm, registerVm, removeVm, replaceVm, updateVm } from './handlers/vms.ts';

const VM = `${PATHS.vms}/:id`;

/** Query parameters of responses that show entries. */
const ENTRY = ['include'];
const READ = ['minPosition'];
const LIST = ['role', 'status', 'parentId', 'parentVmId', 'selector', 'sort', 'limit', 'after', ...ENTRY, ...READ];
const DISCOVER = ['service', 'passing', 'strict', 'wait', 'min', ...ENTRY, ...READ];
const PROBE = ['verbose'];
const RECENT = ['role', 'status', 'id', 'limit'];
const EVENTS = ['role', 'status', 'id', 'since', 'heartbeats'];

export const ROUTES: readonly Route[] = [
  { method: 'GET', path: PATHS.health, query: [], access: 'open', handle: health },
  { method: 'GET', path: PATHS.livez, query: PROBE, access: 'open', needsToken: isVerbose, handle: livez },
  { method: 'GET', path: PATHS.readyz, query: PROBE, access: 'open', needsToken: isVerbose, handle: readyz },
  { method: 'POST', path: PATHS.vms, query: ENTRY, access: 'register', enrols: true, handle: registerVm },
  { method: 'GET', path: PATHS.vms, query: LIST, access: 'read', isLong: true, handle: listVms },
  { method: 'GET', path: VM, query: [...ENTRY, ...READ], access: 'read', handle: readVm },
  { method: 'PUT', path: VM, query: ENTRY, access: 'write', handle: replaceVm },
  { method: 'PATCH', path: VM, query: ENTRY, access: 'write', handle: updateVm },
  { method: 'DELETE', path: VM, query: ENTRY, access: 'write', handle: removeVm },
  {
    method: 'POST',
    path: `${VM}/heartbeat`,
    query: [],
    access: 'heartbeat',
    isHeartbeat: true,
    readsBody: isAgentHeartbeat,
    handle: heartbeat,
  },
  { method: 'POST', path: PATHS.heartbeats, query: [], access: 'heartbeat', isHeartbeat: true, handle: heartbeats },
  { method: 'POST', path: PATHS.import, query: [], access: 'admin', listBody: MAX_IMPORT_BODY, handle: importVms },
  { method: 'GET', path: `${VM}/history`, query: ['limit', ...READ], access: 'read', handle: history },
  { method: 'GET', path: `${VM}/why`, query: READ, access: 'read', handle: explainVm },
  { method: 'GET', path: `${VM}/children`, query: ENTRY, access: 'read', isLong: true, handle: children },
  { method: 'GET', path: `${VM}/ancestors`, query: ENTRY, access: 'read', isLong: true, handle: ancestors },
  { method: 'GET', path: `${VM}/subtree`, query: ENTRY, access: 'read', isLong: true, handle: subtree },
  { method: 'GET', path: `${VM}/diff/:other`, query: [], access: 'read', handle: diffVms },
  { method: 'GET', path: PATHS.conflicts, query: [], access: 'read', isLong: true, handle: listConflicts },
  {
    method: 'DELETE',
    path: PATHS.conflicts,
    query: ['id'],
    access: 'write',
    isFleetWide: true,
    handle: clearConflicts,
  },
  { method: 'GET', path: '/registry/discover/:role', query: DISCOVER, access: 'read', isLong: true, handle: discover },
  { method: 'GET', path: PATHS.events, query: EVENTS, access: 'read', isLong: true, handle: streamEvents },
  { method: 'GET', path: PATHS.backup, query: [], access: 'admin', handle: sendBackup },
  { method: 'GET', path: PATHS.metrics, query: [], access: 'read', isFleetWide: true, isLong: true, handle: metrics },
  { method: 'GET', path: PATHS.openapi, query: [], access: 'any', handle: openApi },
  { method: 'GET', path: PATHS.whoami, query: [], access: 'any', handle: whoami },
  { method: 'GET', path: PATHS.recent, query: RECENT, access: 'read', isLong: true, handle: recentEvents },
  { method: 'GET', path: PATHS.activity, query: [], access: 'read', isFleetWide: true, handle: readActivity },
  { method: 'GET', path: PATHS.replicas, query: [], access: 'read', isFleetWide: true, handle: listReplicas },
  { method: 'POST', path: PATHS.magicLink, query: [], access: 'read', handle: createMagicLink },
  { method: 'GET', path: '/', query: [], access: 'open', prefersHtml: true, handle: sendIndexAtRoot },
  { method: 'GET', path: '/ui', query: [], access: 'open', handle: redirectToPage },
  { method: 'GET', path: PATHS.page, query: [], access: 'open', handle: sendIndex },
  { method: 'GET', path: PATHS.logIn, query: ['token'], access: 'open', handle: sendLogIn },
  { method: 'GET', path: `${PATHS.page}:file`, query: [], access: 'open', handle: sendPageFile },
  { method: 'POST', path: PATHS.logIn, query: [], access: 'open', maxBody: MAX_LOG_IN_BODY, handle: logIn },
  { method: 'GET', path: PATHS.session, query: [], access: 'open', handle: readSession },
  { method: 'DELETE', path: PATHS.session, query: [], access: 'open', handle: logOut },
  { method: 'GET', path: PATHS.tokens, query: [], access: 'admin', handle: listTokens },
  { method: 'POST', path: PATHS.tokens, query: [], access: 'admin', handle: createToken },
  { method: 'DELETE', path: PATHS.tokens, query: ['enrolledBy'], access: 'admin', handle: revokeEnrolledBy },
  { method: 'DELETE', path: `${PATHS.tokens}/:name`, query: [], access: 'admin', handle: revokeToken },
];
