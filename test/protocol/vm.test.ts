import assert from 'node:assert/strict';
import test from 'node:test';
import { VregError } from '../../src/protocol/errors.ts';
import {
  MAX_SERVICES,
  MAX_TEXT,
  parseImported,
  parseRegistration,
  parseUpdate,
  ROLES,
  STATUSES,
} from '../../src/protocol/vm.ts';
import { aVm } from '../helpers/vm.ts';

function refusal(parse: () => unknown): VregError {
  try {
    parse();
  } catch (error) {
    assert.ok(error instanceof VregError, String(error));
    assert.equal(error.code, 'INVALID');
    return error;
  }
  throw new Error('it was taken');
}

/** Asserts that the value is refused in the field's name, when registering and, where it can be changed, when updating. */
function refuses(field: string, value: unknown, saying: RegExp): void {
  const top = field.split(/[.[]/, 1)[0]!;
  const parses: (() => unknown)[] = [() => parseRegistration({ ...aVm(), [top]: value })];
  if (['name', 'status', 'address', 'services', 'metadata'].includes(top))
    parses.push(() => parseUpdate({ [top]: value }));
  for (const parse of parses) {
    const { field: named, message } = refusal(parse);
    assert.equal(named, field);
    assert.ok(message.includes(field), `"${message}" does not name ${field}`);
    assert.match(message, saying);
    assert.doesNotMatch(message, /[\u0000-\u001f]/);
  }
}

const TEXTS = ['id', 'name', 'address', 'registeredBy'] as const;
const NOT_TEXT = [
  [1, 'a number'],
  [true, 'a boolean'],
  [[], 'an array'],
  [{}, 'an object'],
] as const;

for (const field of TEXTS) {
  test(`${field} must be a non-empty string, and a missing one is reported as required`, () => {
    for (const [value, kind] of NOT_TEXT) refuses(field, value, new RegExp(`must be a string, not ${kind}`));
    for (const value of ['', ' ', '\t\n', '\u00a0']) refuses(field, value, /is required|cannot be empty/);
    assert.match(refusal(() => parseRegistration({ ...aVm(), [field]: undefined })).message, /is required/);
    refuses(field, null, /is required|cannot be empty/);
  });

  test(`${field} may have ${MAX_TEXT} characters and not one more`, () => {
    const longest = 'x'.repeat(MAX_TEXT);
    assert.equal(parseRegistration({ ...aVm(), [field]: ` ${longest} ` })[field], longest);
    refuses(field, `${longest}x`, /is too long: 1025 characters \(limit 1024\)/);
  });

  test(`${field} has no control characters or lone surrogates`, () => {
    if (field !== 'address') {
      for (const value of ['日本', 'é', '🦊', 'a/b c', '\u202e', "'; drop table vms"])
        assert.equal(parseRegistration({ ...aVm(), [field]: value })[field], value);
    }
    for (const value of ['a\0b', 'a\nb', 'a\u001bb', 'a\u007fb', 'a\u0085b', 'a\u009bb'])
      refuses(field, value, /control characters/);
    for (const value of ['\ud800', 'a\udc00b', '\udc00\ud800']) refuses(field, value, /well-formed Unicode/);
  });
}

test('an id that cannot appear in a URL is refused', () => {
  for (const id of ['.', '..', ' .. ']) refuses('id', id, /no URL can address it/);
  for (const id of ['...', '.a', 'a.', './.']) assert.equal(parseRegistration(aVm({ id })).id, id);
});

test('an id or parent that a command would take for a flag is refused', () => {
  const flags = ['-', '-x', '--url=http://evil.example', ' -x', 'a -u', 'a  --url http://evil.example', 'a\u00a0-u'];
  // xargs removes quotes and backslashes.
  for (const id of [...flags, '"-u', "'-u'", '\\-u', 'a ""-u']) {
    refuses(
      'id',
      id,
      /^id cannot (begin with|contain a word that begins with) "-": a command would take it for a flag$/,
    );
    for (const field of ['parentId', 'parentVmId'])
      assert.match(
        refusal(() => parseRegistration({ ...aVm(), [field]: id })).message,
        new RegExp(`^${field} cannot `),
      );
  }
  for (const id of ['a-', 'a-b', 'a b-c', '_-x', '+-', 'é-'])
    assert.equal(parseRegistration(aVm({ id, parentId: `p${id}` })).id, id);
});

test('an address is a host name, an IPv4 or an IPv6 address, each optionally with a port', () => {
  const hosts = [
    'a',
    'vm-1.vm.vers.sh',
    'A_b.c-',
    '10.0.0.1',
    '[fd00::1]',
    '[::ffff:10.0.0.1]',
    'localhost',
    '1.2.3.4.5',
  ];
  const addresses = [
    ...hosts,
    ...hosts.map((host) => `${host}:3000`),
    'a:1',
    'a:65535',
    '::1',
    'fd00::1',
    'fd00::1:3000',
  ];
  for (const address of addresses) {
    assert.equal(parseRegistration(aVm({ address })).address, address);
    assert.equal(parseUpdate({ address }).address, address);
  }
});

test('an address that is a URL without a path is stored as host and port', () => {
  for (const [url, address] of [
    ['http://10.0.0.1', '10.0.0.1'],
    ['http://10.0.0.1:3000/', '10.0.0.1:3000'],
    ['https://a.b/', 'a.b'],
    ['HTTPS://a.b:443', 'a.b:443'],
    ['http://[fd00::1]:81/', '[fd00::1]:81'],
  ] as const) {
    assert.equal(parseRegistration(aVm({ address: url })).address, address);
    assert.equal(parseUpdate({ address: url }).address, address);
  }
});

test('every other address is refused', () => {
  const hostile = [
    '-oProxyCommand=reboot',
    '--',
    'a b',
    'a;reboot',
    '$(reboot)',
    '`id`',
    "a'b",
    'a"b',
    'a|b',
    'a&b',
    'a\\b',
  ];
  const nginx = [
    'a;} server { listen 81',
    'a{b',
    'a}',
    '#a',
    'a,b',
    '*',
    '~a',
    '<b>',
    'a%20b',
    'a=b',
    'a@b',
    'user:pw@a',
  ];
  const ports = ['a:', 'a:0', 'a:65536', 'a:080', 'a:99999', 'a:b', 'a:-1', 'a:1:2', ':80', ':'];
  const ips = [
    '256.1.1.1',
    '10.0.0.999:80',
    '::g',
    '[10.0.0.1]',
    '[a]',
    '[fd00::1',
    'fd00::1]',
    '[fd00::1]x',
    'fe80::1%eth0',
  ];
  const urls = [
    'http://',
    'http:///',
    'http://a/b',
    'http://a/?b',
    'http://a//',
    'http://u@a',
    'ftp://a',
    '//a',
    'http://http://a',
  ];
  const paths = ['unix:/run/a.sock', '/etc/passwd', '../a', '.a', '.', '日本', 'é.example', '\u202ea'];
  for (const address of [...hostile, ...nginx, ...ports, ...ips, ...urls, ...paths]) {
    refuses(
      'address',
      address,
      /^invalid address ".*": use a host name, an IPv4 or an IPv6 address, each optionally with :port$/,
    );
  }
});

test('role and status accept only their values, and the error lists them', () => {
  for (const role of ROLES) assert.equal(parseRegistration({ ...aVm(), role }).role, role);
  for (const status of STATUSES) assert.equal(parseRegistration({ ...aVm(), status }).status, status);
  for (const value of ['boss', 'Infra', ' infra', 1, {}, ['infra'], '__proto__']) {
    refuses('role', value, /invalid role.*infra, lieutenant, worker, golden, custom/);
    refuses('status', value, /invalid status.*running, paused, stopped/);
  }
  for (const value of ['', null, undefined]) refuses('role', value, /role is required.*infra, /);
  for (const status of ['', null, undefined, 0, false]) {
    assert.equal(parseRegistration({ ...aVm(), status }).status, 'running');
  }
  for (const status of ['', null]) assert.match(refusal(() => parseUpdate({ status })).message, /invalid status/);
});

test('an error quotes the input shortened and on one line', () => {
  const { message } = refusal(() => parseRegistration({ ...aVm(), role: `a\nb\u001b${'x'.repeat(5000)}` }));
  assert.ok(message.length < 200);
  assert.doesNotMatch(message, /[\n\u001b]/);
});

test('services is an array of objects, and an error names the index of an invalid one', () => {
  for (const value of ['x', 1, {}, true]) refuses('services', value, /must be an array of \{name, port\}/);
  const good = { name: 'a', port: 1 };
  for (const value of ['x', 1, null, []]) refuses('services[1]', [good, value], /must be a JSON object/);
  for (const name of [undefined, null, '', 5]) refuses('services[0].name', [{ ...good, name }], /services\[0\]\.name/);
  for (const name of ['a\nb', '\ud800', 'x'.repeat(1025)]) refuses('services[0].name', [{ ...good, name }], /name/);
  for (const port of [undefined, null, '80', 0, -1, 65_536, 1.5, Number.NaN, [80]]) {
    refuses('services[0].port', [{ ...good, port }], /integer from 1 to 65535/);
  }
  refuses('services[0].port', [{ ...good, port: '80' }], /port is "80": it must be an integer/);
  for (const healthPath of [1, true, {}])
    refuses('services[0].healthPath', [{ ...good, healthPath }], /must be a string/);
  refuses('services', Array(MAX_SERVICES + 1).fill(good), /^too many services: 257 \(limit 256\)$/);
  assert.equal(
    parseRegistration({ ...aVm(), services: Array(MAX_SERVICES).fill(good) }).services?.length,
    MAX_SERVICES,
  );
});

test('metadata is an object and is stored unchanged', () => {
  for (const value of ['x', 1, [], true]) refuses('metadata', value, /must be a JSON object/);
  const metadata = { a: { b: [null, 1.5, 'x'] }, '': '', lone: '\ud800' };
  assert.deepEqual(parseRegistration({ ...aVm(), metadata }).metadata, metadata);
});

test('a body that is not an object is refused', () => {
  for (const parse of [parseRegistration, parseUpdate]) {
    assert.match(refusal(() => parse(undefined)).message, /^body is required/);
    for (const value of [null, [], 'x', 1])
      assert.match(refusal(() => parse(value)).message, /^body must be a JSON object/);
  }
});

test('a time that does not exist is refused, also if Date.parse takes it for a time on the next day', () => {
  for (const field of ['registeredAt', 'lastSeen']) {
    const parse = (time: string) => parseImported({ ...aVm(), [field]: time });
    for (const day of [
      '2026-02-29',
      '2026-02-30',
      '2026-04-31',
      '2026-13-01',
      '2026-00-01',
      '2026-01-00',
      '2026-01-32',
    ])
      for (const zone of ['Z', '+02:00'])
        assert.match(refusal(() => parse(`${day}T00:00:00${zone}`)).message, new RegExp(`^invalid ${field}: ${day}T`));
    assert.match(refusal(() => parse('2026-01-31T24:00:00Z')).message, /^invalid /);
    assert.deepEqual(parse('2024-02-29t23:59:59.5z'), { ...parse(''), [field]: '2024-02-29T23:59:59.500Z' });
    assert.deepEqual(parse('2026-03-01T01:00:00+02:00'), { ...parse(''), [field]: '2026-02-28T23:00:00.000Z' });
  }
});

test('an update contains only the given fields; null removes services and metadata', () => {
  assert.deepEqual(parseUpdate({}), {});
  assert.deepEqual(parseUpdate({ id: 1, role: 2, registeredBy: 3, registeredAt: 4, lastSeen: 5, color: 6 }), {});
  assert.deepEqual(parseUpdate({ services: null, metadata: null }), { services: null, metadata: null });
  assert.deepEqual(parseUpdate({ services: [], metadata: {} }), { services: [], metadata: {} });
  assert.deepEqual(parseUpdate({ name: ' a ' }), { name: 'a' });
});
