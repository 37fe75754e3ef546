/** The schemas of requests and responses, in JSON Schema 2020-12. Tests compare them with the responses of every route. */
import { MAX_BATCH, MAX_IMPORT } from '../../../src/protocol/api.ts';
import { ERRORS } from '../../../src/protocol/errors.ts';
import { CHANGE_TYPES } from '../../../src/protocol/events.ts';
import { HEALTHS } from '../../../src/protocol/heartbeat.ts';
import { SCOPES } from '../../../src/protocol/token.ts';
import { MAX_SERVICES, MAX_TEXT, ROLES, STATUSES } from '../../../src/protocol/vm.ts';

export type Schema = Readonly<Record<string, unknown>>;

export const ref = (name: string): Schema => ({ $ref: `#/components/schemas/${name}` });
const described = (schema: Schema, description: string): Schema => ({ ...schema, description });

const text: Schema = { type: 'string' };
const line: Schema = { type: 'string', minLength: 1, maxLength: MAX_TEXT };
const time: Schema = { type: 'string', format: 'date-time' };
const count: Schema = { type: 'integer', minimum: 0 };
const position: Schema = { type: 'string', pattern: '^\\d+-[0-9a-f]+$' };
const open: Schema = { type: 'object' };
const arrayOf = (items: Schema, more: Schema = {}): Schema => ({ type: 'array', items, ...more });

/** An object with these properties only. @param optional names of the properties that may be absent */
function only(properties: Record<string, Schema>, optional: readonly string[] = []): Schema {
  const required = Object.keys(properties).filter((name) => !optional.includes(name));
  return { type: 'object', properties, required, additionalProperties: false };
}

/** The fields that a client declares. */
const DECLARED: Record<string, Schema> = {
  name: line,
  role: ref('Role'),
  status: described(ref('Status'), 'Default: running.'),
  address: described(line, 'Host name, IPv4 or IPv6 address, optionally with a port. A URL is stored as its host.'),
  services: arrayOf(ref('Service'), { maxItems: MAX_SERVICES }),
  metadata: open,
  parentId: described(line, 'Id of the VM from which this one was created.'),
  parentVmId: described(line, 'Another name of parentId.'),
  reefConfig: ref('ReefConfig'),
  registeredBy: line,
};

const nullable = (schema: Schema): Schema => ({ anyOf: [schema, { type: 'null' }] });

/** The fields that a client declares, in a request, where null is the same as an absent field. */
const SENT: Record<string, Schema> = {
  ...DECLARED,
  ...Object.fromEntries(
    ['status', 'metadata', 'parentId', 'parentVmId', 'reefConfig'].map((name) => [name, nullable(DECLARED[name]!)]),
  ),
  services: nullable(arrayOf(ref('SentService'), { maxItems: MAX_SERVICES })),
};

/** A body, whose unknown fields are ignored. */
function body(properties: Record<string, Schema>, required: readonly string[] = []): Schema {
  return { type: 'object', properties, ...(required.length > 0 ? { required } : {}) };
}

const { registeredBy: _registeredBy, role: _role, parentId: _parentId, ...UPDATABLE } = SENT;

const claim = only({ incarnation: text, address: text, from: text, at: time }, ['incarnation', 'address', 'from']);
const listOfVms = (name: string) =>
  only({ [name]: arrayOf(ref('Vm')), vms: arrayOf(ref('Vm')), count }, name === 'vms' ? [] : ['vms']);

const TOKEN_FIELDS: Record<string, Schema> = {
  name: text,
  scope: ref('Scope'),
  vm: text,
  role: ref('Role'),
  createdAt: time,
  createdBy: text,
  expiresAt: time,
  lastUsedAt: time,
  lastUsedFrom: text,
  enrolledBy: text,
};
const TOKEN_OPTIONS = ['vm', 'role', 'expiresAt', 'lastUsedAt', 'lastUsedFrom', 'enrolledBy'];

const codes = Object.entries(ERRORS)
  .filter(([, { status }]) => status > 0)
  .map(([code]) => code);

const VM_FIELDS: Record<string, Schema> = {
  id: line,
  ...DECLARED,
  registeredAt: time,
  lastSeen: described(time, 'Last sign of life.'),
  stale: described({ type: 'boolean' }, 'The lease has expired. Only with include=liveness.'),
  suspect: described({ const: true }, 'Silent together with a large share of the fleet. Only with include=liveness.'),
  health: described(
    { type: 'object', additionalProperties: { enum: HEALTHS } },
    'Results of the health checks of its agent, by service. Only with include=liveness.',
  ),
};
const VM_OPTIONS = ['services', 'metadata', 'parentId', 'parentVmId', 'reefConfig', 'stale', 'suspect', 'health'];

export const SCHEMAS: Readonly<Record<string, Schema>> = {
  Role: { enum: ROLES },
  Status: described({ enum: STATUSES }, 'As declared. Time and heartbeats never change it.'),
  Scope: { enum: SCOPES },
  Service: {
    type: 'object',
    properties: { name: line, port: { type: 'integer', minimum: 1, maximum: 65535 }, healthPath: text },
    required: ['name', 'port'],
  },
  SentService: {
    type: 'object',
    properties: { name: line, port: { type: 'integer', minimum: 1, maximum: 65535 }, healthPath: nullable(text) },
    required: ['name', 'port'],
  },
  ReefConfig: {
    type: 'object',
    properties: { services: arrayOf(text), capabilities: arrayOf(text) },
    required: ['services', 'capabilities'],
  },
  Vm: only(VM_FIELDS, VM_OPTIONS),
  EnrolledVm: only({ ...VM_FIELDS, token: described(text, 'Only for an enrol token.') }, [...VM_OPTIONS, 'token']),
  Registration: body({ id: line, ...SENT }, ['id', 'name', 'role', 'address', 'registeredBy']),
  Replacement: body({ id: nullable(line), ...SENT }, ['name', 'role', 'address', 'registeredBy']),
  // Null removes the other optional fields.
  Update: body({ ...UPDATABLE, status: DECLARED.status! }),
  AgentHeartbeat: described(
    body({
      spend: described(text, 'Token of the previous heartbeat.'),
      next: described(text, 'Token of this heartbeat.'),
      incarnation: text,
      address: text,
      replace: { type: 'boolean' },
      position: text,
      leftPosition: text,
      alternates: { type: 'boolean' },
      health: { type: 'object', additionalProperties: { enum: HEALTHS } },
    }),
    'Any other body makes a plain heartbeat.',
  ),
  Heartbeat: only({ id: text, lastSeen: time, history: text, returned: { const: true } }, ['history', 'returned']),
  HeartbeatIds: body({ ids: arrayOf(line, { maxItems: MAX_BATCH }) }, ['ids']),
  Heartbeats: only({ lastSeen: time, count, unknown: arrayOf(text) }),
  Import: body({ vms: arrayOf(open, { maxItems: MAX_IMPORT }) }, ['vms']),
  Imported: only({
    entries: arrayOf({
      type: 'object',
      properties: { id: text, outcome: { enum: ['created', 'exists', 'invalid', 'refused'] } },
      required: ['outcome'],
    }),
    count,
    created: count,
  }),
  VmList: listOfVms('vms'),
  Children: listOfVms('children'),
  Ancestors: listOfVms('ancestors'),
  Subtree: listOfVms('subtree'),
  ReefDiff: only({
    added: only({ services: arrayOf(text), capabilities: arrayOf(text) }),
    removed: only({ services: arrayOf(text), capabilities: arrayOf(text) }),
  }),
  Deleted: only({ deleted: { const: true } }),
  Health: only({ status: { const: 'ok' }, uptime: described({ type: 'number' }, 'Seconds.') }),
  Why: only({
    id: text,
    offered: { type: 'boolean' },
    summary: text,
    reasons: arrayOf(only({ code: { enum: ['paused', 'stopped', 'stale', 'invalid'] }, message: text })),
  }),
  History: only({
    id: text,
    history: arrayOf(
      only({ revision: count, position, at: time, type: { enum: CHANGE_TYPES }, by: text, changes: open }, [
        'revision',
        'position',
      ]),
    ),
    count,
  }),
  Conflicts: only(
    {
      conflicts: arrayOf(
        only(
          {
            id: text,
            firstAt: time,
            lastAt: time,
            count,
            holder: claim,
            other: claim,
            state: { enum: ['open', 'replaced', 'reborn'] },
            rebornAs: text,
          },
          ['rebornAs'],
        ),
      ),
      count,
      otherRegistry: only({ position: text, otherPosition: text, vms: count, firstAt: time, lastAt: time }),
    },
    ['otherRegistry'],
  ),
  Cleared: only({ cleared: count }),
  TokenRequest: body(
    {
      name: line,
      scope: ref('Scope'),
      vm: nullable(line),
      role: nullable(ref('Role')),
      expiresIn: nullable({ type: 'integer', minimum: 1 }),
    },
    ['name', 'scope'],
  ),
  Token: only(TOKEN_FIELDS, TOKEN_OPTIONS),
  NewToken: only({ ...TOKEN_FIELDS, token: text }, TOKEN_OPTIONS),
  Tokens: only({ tokens: arrayOf(ref('Token')), count }),
  Revoked: only({ revoked: arrayOf(text) }),
  RecentEvents: only({ events: arrayOf(open), count }),
  ReplicaList: only({
    replicas: arrayOf(
      only({ id: text, url: text, host: text, version: text, since: time, answered: { type: 'boolean' } }, [
        'url',
        'host',
        'version',
        'since',
      ]),
    ),
    count,
  }),
  Activity: only({
    interval: described(count, 'Milliseconds between two points.'),
    points: arrayOf(only({ at: time, live: count, heartbeats: count, changes: count })),
  }),
  MagicLink: only({ url: text, expiresAt: time, warning: text }, ['warning']),
  LogIn: body({ token: text }, ['token']),
  Session: only(
    {
      authenticated: { type: 'boolean' },
      name: text,
      scope: ref('Scope'),
      vm: text,
      role: ref('Role'),
      expiresAt: time,
    },
    ['name', 'scope', 'vm', 'role', 'expiresAt'],
  ),
  Whoami: only({ name: text, scope: ref('Scope'), vm: text, role: ref('Role'), expiresAt: time }, [
    'vm',
    'role',
    'expiresAt',
  ]),
  Error: {
    type: 'object',
    description: 'One cause, the invalid field, and the next step.',
    properties: {
      error: described(line, 'One sentence.'),
      code: { enum: codes },
      field: text,
      hint: text,
      retryAfter: described({ type: 'number' }, 'Seconds, as in Retry-After.'),
    },
    required: ['error', 'code'],
  },
};
