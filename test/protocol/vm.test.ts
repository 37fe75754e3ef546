import assert from 'node:assert/strict';
import test from 'node:test';
import { VregError } from '../../src/protocol/errors.ts';
import { MAX_SERVICES, MAX_TEXT, parseRegistration, parseUpdate, ROLES, STATUSES } from '../../src/protocol/vm.ts';
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
  test(`${field} must be a string that is not empty, and its absence is said as such`, () => {
    for (const [value, kind] of NOT_TEXT) refuses(field, value, new RegExp(`must be a string, not ${kind}`));
    for (const value of ['', ' ', '\t\n', '\u00a0']) refuses(field, value, /is required|cannot be empty/);
    assert.match(refusal(() => parseRegistration({ ...aVm(), [field]: undefined })).message, /is required/);
    refuses(field, null, /is required|cannot be empty/);
  });

  test(`${field} may have ${MAX_TEXT} characters and not one more`, () => {
    const longest = 'x'.repeat(MAX_TEXT);
    assert.equal(parseRegistration({ ...aVm(), [field]: ` ${longest} ` })[field], longest);
    refuses(field, `${longest}x`, /is too long: 1025 characters, at most 1024/);
  });

  test(`${field} may have any script and no control characters or lone surrogates`, () => {
    for (const value of ['日本', 'é', '🦊', 'a/b c', '\u202e', "'; drop table vms"]) {
      assert.equal(parseRegistration({ ...aVm(), [field]: value })[field], value);
    }
    for (const value of ['a\0b', 'a\nb', 'a\u001bb', 'a\u007fb']) refuses(field, value, /control characters/);
    for (const value of ['\ud800', 'a\udc00b', '\udc00\ud800']) refuses(field, value, /well-formed Unicode/);
  });
}

test('an id that a URL cannot hold is refused', () => {
  for (const id of ['.', '..', ' .. ']) refuses('id', id, /no URL can address it/);
  for (const id of ['...', '.a', 'a.', './.']) assert.equal(parseRegistration(aVm({ id })).id, id);
});

test('role and status take their words only, and name them', () => {
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

test('what a message repeats of the input is short and on one line', () => {
  const { message } = refusal(() => parseRegistration({ ...aVm(), role: `a\nb\u001b${'x'.repeat(5000)}` }));
  assert.ok(message.length < 200);
  assert.doesNotMatch(message, /[\n\u001b]/);
});

test('services is an array of objects, and each wrong one is named by its place', () => {
  for (const value of ['x', 1, {}, true]) refuses('services', value, /must be an array of \{name, port\}/);
  const good = { name: 'a', port: 1 };
  for (const value of ['x', 1, null, []]) refuses('services[1]', [good, value], /must be a JSON object/);
  for (const name of [undefined, null, '', 5]) refuses('services[0].name', [{ ...good, name }], /services\[0\]\.name/);
  for (const name of ['a\nb', '\ud800', 'x'.repeat(1025)]) refuses('services[0].name', [{ ...good, name }], /name/);
  for (const port of [undefined, null, '80', 0, -1, 65_536, 1.5, Number.NaN, [80]]) {
    refuses('services[0].port', [{ ...good, port }], /integer from 1 to 65535/);
  }
  for (const healthPath of [1, true, {}])
    refuses('services[0].healthPath', [{ ...good, healthPath }], /must be a string/);
  refuses('services', Array(MAX_SERVICES + 1).fill(good), /257 given, at most 256/);
  assert.equal(
    parseRegistration({ ...aVm(), services: Array(MAX_SERVICES).fill(good) }).services?.length,
    MAX_SERVICES,
  );
});

test('metadata is an object, and is kept as it came', () => {
  for (const value of ['x', 1, [], true]) refuses('metadata', value, /must be a JSON object/);
  const metadata = { a: { b: [null, 1.5, 'x'] }, '': '', lone: '\ud800' };
  assert.deepEqual(parseRegistration({ ...aVm(), metadata }).metadata, metadata);
});

test('a body that is no object is refused as such', () => {
  for (const parse of [parseRegistration, parseUpdate]) {
    assert.match(refusal(() => parse(undefined)).message, /^body is required/);
    for (const value of [null, [], 'x', 1])
      assert.match(refusal(() => parse(value)).message, /^body must be a JSON object/);
  }
});

test('an update holds what was named and nothing else; null takes services and metadata away', () => {
  assert.deepEqual(parseUpdate({}), {});
  assert.deepEqual(parseUpdate({ id: 1, role: 2, registeredBy: 3, registeredAt: 4, lastSeen: 5, color: 6 }), {});
  assert.deepEqual(parseUpdate({ services: null, metadata: null }), { services: null, metadata: null });
  assert.deepEqual(parseUpdate({ services: [], metadata: {} }), { services: [], metadata: {} });
  assert.deepEqual(parseUpdate({ name: ' a ' }), { name: 'a' });
});
