import assert from 'node:assert/strict';
import test from 'node:test';
import {
  ERRORS,
  type ErrorCode,
  EXIT,
  EXIT_MEANING,
  fromAnswer,
  toErrorBody,
  VregError,
} from '../../src/protocol/errors.ts';

const codes = Object.keys(ERRORS) as ErrorCode[];
const onTheWire = codes.filter((code) => ERRORS[code].status !== 0);

test('every exit code of the table has a meaning, and every meaning an exit code', () => {
  assert.deepEqual(
    Object.values(EXIT).sort((a, b) => a - b),
    Object.keys(EXIT_MEANING).map(Number),
  );
  for (const code of codes) assert.ok(EXIT_MEANING[ERRORS[code].exit], code);
});

/** To who does not know more, a clone is a conflict, and a broken disk is a registry to be asked later: they share the status. */
const SHARED: Partial<Record<ErrorCode, ErrorCode>> = { IDENTITY_CONFLICT: 'CONFLICT', STORE_FAILED: 'BUSY' };
const withStatusOfTheirOwn = onTheWire.filter((code) => !SHARED[code]);

test('no two codes share a status but those that mean one thing, and each status is that of an error', () => {
  const statuses = withStatusOfTheirOwn.map((code) => ERRORS[code].status);
  assert.deepEqual([...new Set(statuses)], statuses);
  for (const [code, other] of Object.entries(SHARED))
    assert.equal(ERRORS[code as ErrorCode].status, ERRORS[other].status);
  for (const status of statuses) assert.ok(status >= 400 && status < 600, String(status));
});

test('an error that crosses the wire keeps its code, message, field and hint', () => {
  for (const code of onTheWire) {
    const sent = new VregError(code, 'it went wrong', { field: 'id', hint: 'try that' });
    const body = JSON.parse(JSON.stringify(toErrorBody(sent)));
    const got = fromAnswer(sent.status, body, 'fallback');
    assert.deepEqual([got.code, got.message, got.field, got.hint], [code, 'it went wrong', 'id', 'try that']);
    assert.equal(got.exit, sent.exit);
  }
});

test('a server that knows no codes is read by its status', () => {
  for (const code of withStatusOfTheirOwn) assert.equal(fromAnswer(ERRORS[code].status, { error: 'x' }, '').code, code);
  assert.equal(fromAnswer(418, { error: 'x' }, '').code, 'INVALID');
  assert.equal(fromAnswer(502, undefined, '').code, 'BUSY');
  assert.equal(fromAnswer(504, undefined, '').code, 'BUSY');
  assert.equal(fromAnswer(599, undefined, '').code, 'INTERNAL');
});

test('an answer that makes no sense still gives an error with a message', () => {
  for (const body of [undefined, null, 'x', 5, [], {}, { error: '' }, { error: 5 }, { error: { a: 1 } }]) {
    assert.equal(fromAnswer(404, body, 'fallback').message, 'fallback');
  }
  for (const code of ['NOPE', '__proto__', 'toString', 7]) {
    assert.equal(fromAnswer(404, { error: 'x', code }, '').code, 'NOT_FOUND');
  }
  assert.equal(fromAnswer(404, { error: 'x', field: 1, hint: {} }, '').field, undefined);
});

test('an error that only a client can have is a 500 if it ever gets onto the wire', () => {
  for (const code of codes.filter((code) => ERRORS[code].status === 0))
    assert.equal(new VregError(code, 'x').status, 500);
});

test('an error body has no more than was given, and never the cause', () => {
  assert.deepEqual(toErrorBody(new VregError('CONFLICT', 'taken')), { error: 'taken', code: 'CONFLICT' });
  const caused = new VregError('INTERNAL', 'x', { cause: new Error('secret'), retryAfter: 3 });
  assert.deepEqual(toErrorBody(caused), { error: 'x', code: 'INTERNAL' });
  assert.match(String((caused.cause as Error).message), /secret/);
});
