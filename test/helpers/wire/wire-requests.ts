/** Generates requests for every route, some valid and some mutated, for the model of the wire. */
import fc from 'fast-check';
import { codePoint } from '../code-point.ts';
import type { Asked, Fields } from './wire-model.ts';

export type Step = { do: 'ask'; asked: Asked } | { do: 'pass' | 'miss'; ms: number };

const junk = fc.oneof(
  fc.constantFrom<unknown>(null, true, false, 0, -0, 1.5, -1, 65_536, 1e300, '', ' ', [], {}, [null], '\0', 'a\nb'),
  fc.constantFrom('x'.repeat(1024), 'x'.repeat(1025), '\ud800', 'é'.repeat(700), '.', '..', '__proto__', '%2e%2e'),
  fc.string({ unit: codePoint, maxLength: 20 }),
  fc.jsonValue({ maxDepth: 3 }),
);
/** Few ids, so that requests affect each other. */
const ids = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom('a', 'b', 'c') },
  { weight: 1, arbitrary: fc.constantFrom('d', 'a/b', 'ü', 'x y', '%41', 'constructor', 'heartbeat') },
);
const anyId = fc.oneof(
  { weight: 20, arbitrary: ids },
  { weight: 1, arbitrary: fc.constantFrom('..', '__proto__', 'é'.repeat(1025), ' a ', 'a\0', '\ufeff') },
);
const service = fc.oneof(
  {
    weight: 20,
    arbitrary: fc.record({ name: fc.constantFrom('web', 'db', ' api '), port: fc.integer({ min: 1, max: 65_535 }) }),
  },
  {
    weight: 1,
    arbitrary: fc.record(
      {
        name: junk,
        port: fc.constantFrom<unknown>(0, 1, 65_535, 65_536, '80', 1.5, null),
        healthPath: junk,
        more: junk,
      },
      { requiredKeys: ['name', 'port'] },
    ),
  },
);
const fields: Readonly<Record<string, fc.Arbitrary<unknown>>> = {
  id: anyId,
  name: fc.constantFrom('one', 'two', ' three '),
  role: fc.constantFrom('infra', 'worker', 'worker', 'golden'),
  status: fc.constantFrom('running', 'running', 'paused', 'stopped', ''),
  address: fc.constantFrom('a.b', '10.0.0.1', ' a:81 ', 'http://a.b:82/'),
  services: fc.oneof(fc.constant(null), fc.array(service, { maxLength: 3 })),
  metadata: fc.oneof(
    { weight: 1, arbitrary: fc.constant(null) },
    {
      weight: 8,
      arbitrary: fc.dictionary(fc.constantFrom('task', 'env', 'a b'), fc.constantFrom<unknown>('x', 'y', 1, true), {
        maxKeys: 3,
      }),
    },
    { weight: 1, arbitrary: fc.dictionary(fc.constantFrom('task', 'env', 'constructor'), junk, { maxKeys: 3 }) },
    // About the size limits of an entry and of a body.
    { weight: 1, arbitrary: fc.integer({ min: 1700, max: 2100 }).map((length) => ({ pad: 'x'.repeat(length) })) },
    { weight: 1, arbitrary: fc.integer({ min: 3800, max: 4200 }).map((length) => ({ pad: 'x'.repeat(length) })) },
  ),
  parentId: ids,
  // Mostly empty, because a registration with two different parents is refused.
  parentVmId: fc.oneof({ weight: 1, arbitrary: ids }, { weight: 4, arbitrary: fc.constant('') }),
  reefConfig: fc.oneof(
    { weight: 10, arbitrary: fc.constant(null) },
    {
      weight: 10,
      arbitrary: fc.record(
        {
          services: fc.array(fc.constantFrom('web', 'db', ' api '), { maxLength: 3 }),
          capabilities: fc.array(fc.constantFrom('gpu', 'ssh'), { maxLength: 3 }),
          more: fc.oneof({ weight: 1, arbitrary: junk }, { weight: 8, arbitrary: fc.constant(1) }),
        },
        { requiredKeys: [] },
      ),
    },
    { weight: 1, arbitrary: fc.record({ services: junk }) },
  ),
  registeredBy: fc.constantFrom('fuzz', 'me'),
};
const optional = ['status', 'services', 'metadata', 'parentId', 'parentVmId', 'reefConfig'];
const required = Object.keys(fields).filter((field) => !optional.includes(field));

/** Gives some fields of a body an invalid value. */
function mutated(base: fc.Arbitrary<Fields>): fc.Arbitrary<unknown> {
  const change = fc.dictionary(fc.constantFrom(...Object.keys(fields), 'ids', 'health', 'spend', 'lastSeen'), junk, {
    minKeys: 1,
    maxKeys: 2,
  });
  const dropped = fc.tuple(base, fc.constantFrom(...required)).map(([{ ...body }, field]) => {
    delete body[field];
    return body;
  });
  return fc.oneof(
    { weight: 25, arbitrary: base },
    { weight: 2, arbitrary: fc.tuple(base, change).map(([body, wrong]) => ({ ...body, ...wrong })) },
    { weight: 1, arbitrary: dropped },
    { weight: 1, arbitrary: junk },
  );
}

const registration = mutated(fc.record(fields, { requiredKeys: required }));
const times = fc.constantFrom(
  '2020-01-01T00:00:00.000Z',
  '2020-01-02T00:00:00Z',
  '2999-01-01T00:00:00.000Z',
  null,
  'now',
);
const withTimes = fc
  .tuple(
    fc.record(fields, { requiredKeys: required }),
    fc.record({ registeredAt: times, lastSeen: times }, { requiredKeys: [] }),
  )
  .map(([entry, known]) => ({ ...entry, ...known }));
const imported = mutated(withTimes);
const list = fc.array(imported, { maxLength: 3 });
const imports = fc.oneof(
  { weight: 6, arbitrary: list.map((vms) => ({ vms })) },
  { weight: 3, arbitrary: list },
  { weight: 1, arbitrary: junk },
);
const update = mutated(fc.record(fields, { requiredKeys: [] }));
const batch = fc.oneof(
  fc.array(anyId, { maxLength: 5 }).map((list) => ({ ids: list })),
  fc.array(fc.oneof(anyId, junk), { maxLength: 3 }).map((list) => ({ ids: list })),
  junk,
);
const beat = fc.oneof(
  { weight: 4, arbitrary: fc.constant(undefined) },
  {
    weight: 3,
    arbitrary: fc
      .dictionary(fc.constantFrom('web', 'db', 'api'), fc.constantFrom('passing', 'failing'))
      .map((health) => ({ health })),
  },
  {
    weight: 2,
    arbitrary: fc.record(
      {
        health: fc.oneof(fc.dictionary(fc.string({ maxLength: 70 }), junk), junk),
        spend: junk,
        next: junk,
        incarnation: junk,
        address: junk,
        replace: junk,
        revision: junk,
      },
      { requiredKeys: [] },
    ),
  },
  { weight: 1, arbitrary: junk },
);

/** JSON text that values cannot express. It is inserted after the first brace; later keys of a body win. */
const oddities = fc.oneof(
  fc.constantFrom(
    '"name":1e999,',
    '"metadata":{"n":1e999},',
    '"metadata":{"n":[-1e999]},',
    '"metadata":{"n":-0,"m":1e400},',
  ),
  fc.constantFrom(
    '"__proto__":{},',
    '"metadata":{"\\u005f_proto__":1},',
    '"metadata":{"constructor":{"prototype":1}},',
  ),
  fc.constantFrom(
    '"id":"z","id":"b",',
    '"metadata":{"a":"\\ud800"},',
    '"metadata":{"a":"\\u0000"},',
    ' \n\t',
    '/* */',
    ',',
  ),
  // The body itself counts as the first level of nesting.
  fc.integer({ min: 124, max: 130 }).map((depth) => `"metadata":${'{"a":'.repeat(depth)}1${'}'.repeat(depth)},`),
  fc.integer({ min: 124, max: 130 }).map((depth) => `"more":${'['.repeat(depth)}${']'.repeat(depth)},`),
);
const encode = fc.oneof(
  { weight: 40, arbitrary: fc.constant((text: string) => Buffer.from(text)) },
  { weight: 2, arbitrary: oddities.map((odd) => (text: string) => Buffer.from(text.replace('{', `{${odd}`))) },
  { weight: 1, arbitrary: fc.nat({ max: 200 }).map((at) => (text: string) => Buffer.from(text).subarray(0, at)) },
  {
    weight: 1,
    arbitrary: fc.nat({ max: 200 }).map((at) => (text: string) => {
      const bytes = Buffer.from(text);
      if (at < bytes.length) bytes[at] = 0xff;
      return bytes;
    }),
  },
  {
    weight: 1,
    arbitrary: fc.constantFrom('\ufeff', 'x', '[', ' ').map((text) => (body: string) => Buffer.from(text + body)),
  },
);

const none = Buffer.alloc(0);
function bodyOf(value: fc.Arbitrary<unknown>): fc.Arbitrary<Buffer> {
  return fc.tuple(value, encode).map(([given, as]) => (given === undefined ? none : as(JSON.stringify(given))));
}

const contentTypes = fc.oneof(
  { weight: 30, arbitrary: fc.constant('application/json') },
  {
    weight: 2,
    arbitrary: fc.constantFrom(
      'application/json; charset=utf-8',
      'text/plain',
      'application/x-www-form-urlencoded',
      'application/merge-patch+json',
    ),
  },
  { weight: 1, arbitrary: fc.constantFrom('text/xml', 'application/octet-stream', 'multipart/form-data; boundary=x') },
);
const headersOfWrites = fc.record(
  {
    'content-type': contentTypes,
    'transfer-encoding': fc.constant('chunked'),
  },
  { requiredKeys: [] },
);
const preconditions = fc.oneof(
  { weight: 16, arbitrary: fc.constant({}) },
  { weight: 2, arbitrary: fc.integer({ min: 1, max: 12 }).map((revision) => ({ 'if-match': `"${revision}"` })) },
  {
    weight: 1,
    arbitrary: fc.constantFrom('*', '1', 'W/"1"', '"1", "2"', '"x"', '""').map((match) => ({ 'if-match': match })),
  },
  { weight: 1, arbitrary: fc.constantFrom('*', '"1"', '').map((match) => ({ 'if-none-match': match })) },
);

type Query = [string, string][];
const values: Readonly<Record<string, fc.Arbitrary<string>>> = {
  role: fc.constantFrom('infra', 'worker', 'golden', 'nobody', ''),
  status: fc.constantFrom('running', 'paused', 'stopped', 'odd', ''),
  selector: fc.oneof(
    fc.constantFrom(
      'task=x',
      'task!=x',
      'task',
      '!env',
      'task=x,env!=y',
      'a b=1',
      '!task=x',
      '',
      ',',
      '=',
      'constructor',
      'task==1',
    ),
    fc.string({ maxLength: 12 }),
  ),
  sort: fc.constantFrom('registered', 'id', 'name', 'role', 'seen', 'constructor', ''),
  limit: fc.constantFrom(
    '0',
    '1',
    '2',
    '10000',
    '10001',
    '1e3',
    '-1',
    ' 1',
    '9007199254740991',
    '9007199254740992',
    '',
  ),
  include: fc.constantFrom('liveness', 'liveness', 'liveness', 'liveness', 'more', ''),
  service: fc.constantFrom('web', 'db', 'api', 'nothing', '__proto__', ''),
  passing: fc.constantFrom('true', 'true', 'false', '1', ''),
  strict: fc.constantFrom('true', 'false', 'TRUE'),
  min: fc.constantFrom('0', '1', '3', '-1'),
  id: fc.oneof(ids, fc.constant('')),
  parentId: fc.oneof(ids, fc.constant('')),
  parentVmId: fc.oneof(ids, fc.constant('')),
};

/** Generates a few parameters, sometimes one of them twice. */
function queryOf(...names: readonly string[]): fc.Arbitrary<Query> {
  const one = fc.constantFrom(...names).chain((name) => values[name]!.map((value): [string, string] => [name, value]));
  return fc.oneof(
    { weight: 6, arbitrary: fc.constant<Query>([]) },
    { weight: 4, arbitrary: fc.uniqueArray(one, { maxLength: 3, selector: ([name]) => name }) },
    { weight: 1, arbitrary: fc.array(one, { minLength: 2, maxLength: 3 }) },
  );
}

interface Shape {
  method: string;
  path: fc.Arbitrary<string[]>;
  query?: fc.Arbitrary<Query>;
  body?: fc.Arbitrary<unknown>;
  weight?: number;
}

const at = (...path: string[]) => fc.constant(path);
const vm = (...rest: string[]) => anyId.map((id) => ['registry', 'vms', id, ...rest]);
const include = queryOf('include');
const ROUTES: readonly Shape[] = [
  { method: 'POST', path: at('registry', 'vms'), query: include, body: registration, weight: 8 },
  { method: 'PUT', path: vm(), query: include, body: registration, weight: 5 },
  { method: 'PATCH', path: vm(), query: include, body: update, weight: 6 },
  { method: 'DELETE', path: vm(), query: include, body: fc.oneof(fc.constant(undefined), junk), weight: 2 },
  { method: 'POST', path: vm('heartbeat'), body: beat, weight: 4 },
  { method: 'POST', path: at('registry', 'heartbeats'), body: batch, weight: 2 },
  { method: 'POST', path: at('registry', 'import'), body: imports, weight: 2 },
  {
    method: 'GET',
    path: at('registry', 'vms'),
    query: queryOf('role', 'status', 'selector', 'sort', 'limit', 'parentId', 'parentVmId', 'include'),
    weight: 4,
  },
  { method: 'GET', path: vm(), query: include, weight: 2 },
  { method: 'GET', path: vm('history'), query: queryOf('limit'), weight: 2 },
  { method: 'GET', path: vm('why') },
  { method: 'GET', path: fc.tuple(anyId, ids).map(([a, b]) => ['registry', 'vms', a, 'diff', b]), weight: 2 },
  { method: 'GET', path: vm('children'), query: include },
  { method: 'GET', path: vm('ancestors'), query: include },
  { method: 'GET', path: vm('subtree'), query: include },
  {
    method: 'GET',
    path: values.role!.filter((role) => role !== '').map((role) => ['registry', 'discover', role]),
    query: queryOf('service', 'passing', 'strict', 'min', 'include'),
    weight: 4,
  },
  { method: 'GET', path: at('registry', 'conflicts') },
  { method: 'DELETE', path: at('registry', 'conflicts'), query: queryOf('id') },
  { method: 'GET', path: at('health') },
  { method: 'GET', path: at('metrics') },
  { method: 'POST', path: at('auth', 'magic-link'), body: junk },
  { method: 'POST', path: at('ui', 'login'), body: fc.record({ token: fc.oneof(junk, fc.constant('used')) }) },
  { method: 'GET', path: at('ui', 'session') },
  { method: 'DELETE', path: at('ui', 'session'), body: junk },
  { method: 'GET', path: at('ui') },
  { method: 'GET', path: at('ui', 'login'), query: fc.constantFrom<Query>([], [['token', 'x']]) },
  { method: 'GET', path: at('ui', 'nothing.js') },
  { method: 'GET', path: at('registry', 'nothing') },
  { method: 'GET', path: vm('heartbeat', 'more') },
];

function requestOf({
  method,
  path,
  query = fc.constant<Query>([]),
  body = fc.constant(undefined),
}: Shape): fc.Arbitrary<Asked> {
  const hasBody = method !== 'GET';
  return fc
    .record({
      // Sometimes another method.
      method: fc.oneof(
        { weight: 30, arbitrary: fc.constant(method) },
        {
          weight: 1,
          arbitrary: fc.constantFrom('HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'PROPFIND', 'TRACE'),
        },
      ),
      path,
      query,
      body: bodyOf(body),
      headers: hasBody ? fc.tuple(headersOfWrites, preconditions).map(([a, b]) => ({ ...a, ...b })) : fc.constant({}),
    })
    .map(({ headers, ...rest }) => {
      const { 'transfer-encoding': chunked, ...others } = headers as Record<string, string>;
      return {
        ...rest,
        headers: chunked && rest.body.length > 0 ? { ...others, 'transfer-encoding': chunked } : others,
      };
    });
}

const asked = fc.oneof(...ROUTES.map((shape) => ({ weight: shape.weight ?? 1, arbitrary: requestOf(shape) })));

export const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 20, arbitrary: asked.map((each) => ({ do: 'ask' as const, asked: each })) },
  { weight: 2, arbitrary: fc.constantFrom(1, 999, 1000, 1001).map((ms) => ({ do: 'pass' as const, ms })) },
  { weight: 1, arbitrary: fc.constantFrom(1, 60_000).map((ms) => ({ do: 'miss' as const, ms })) },
);
