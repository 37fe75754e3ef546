import assert from 'node:assert/strict';
import test from 'node:test';
import {
  ERRORS,
  type ErrorCode,
  EXIT,
  EXIT_MEANING,
  formatBytes,
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

/** Codes that share the status of a more general code, for clients that know only the status. */
const SHARED: Partial<Record<ErrorCode, ErrorCode>> = {
  IDENTITY_CONFLICT: 'CONFLICT',
  STORE_FAILED: 'BUSY',
  OUTCOME_UNKNOWN: 'BUSY',
};
const withOwnStatus = onTheWire.filter((code) => !SHARED[code]);

test('error codes share a status only if they mean the same, and every status is 4xx or 5xx', () => {
  const statuses = withOwnStatus.map((code) => ERRORS[code].status);
  assert.deepEqual([...new Set(statuses)], statuses);
  for (const [code, other] of Object.entries(SHARED))
    assert.equal(ERRORS[code as ErrorCode].status, ERRORS[other].status);
  for (const status of statuses) assert.ok(status >= 400 && status < 600, String(status));
});

test('an error that crosses the wire keeps its code, message, field, hint and Retry-After, even without that header', () => {
  for (const code of onTheWire) {
    const sent = new VregError(code, 'it went wrong', { field: 'id', hint: 'try that', retryAfter: 3 });
    const body = JSON.parse(JSON.stringify(toErrorBody(sent)));
    const got = fromAnswer(sent.status, body, 'fallback');
    const { message, field, hint, retryAfter } = got;
    assert.deepEqual([got.code, message, field, hint, retryAfter], [code, 'it went wrong', 'id', 'try that', 3]);
    assert.equal(fromAnswer(sent.status, body, 'fallback', 7).retryAfter, 7, 'the header takes precedence');
    assert.equal(got.exit, sent.exit);
  }
});

test('an error without a code gets the code of its status', () => {
  for (const code of withOwnStatus) assert.equal(fromAnswer(ERRORS[code].status, { error: 'x' }, '').code, code);
  assert.equal(fromAnswer(418, { error: 'x' }, '').code, 'INVALID');
  assert.equal(fromAnswer(502, undefined, '').code, 'BUSY');
  assert.equal(fromAnswer(504, undefined, '').code, 'BUSY');
  assert.equal(fromAnswer(599, undefined, '').code, 'INTERNAL');
});

test('a malformed error response still gives an error with a message', () => {
  for (const body of [undefined, null, 'x', 5, [], {}, { error: '' }, { error: 5 }, { error: { a: 1 } }]) {
    assert.equal(fromAnswer(404, body, 'fallback').message, 'fallback');
  }
  for (const code of ['NOPE', '__proto__', 'toString', 7]) {
    assert.equal(fromAnswer(404, { error: 'x', code }, '').code, 'NOT_FOUND');
  }
  assert.equal(fromAnswer(404, { error: 'x', field: 1, hint: {} }, '').field, undefined);
  for (const retryAfter of ['5', -1, null, {}])
    assert.equal(fromAnswer(409, { error: 'x', retryAfter }, '').retryAfter, undefined);
});

test('a client-only error has status 500', () => {
  for (const code of codes.filter((code) => ERRORS[code].status === 0))
    assert.equal(new VregError(code, 'x').status, 500);
});

test('an error body contains only the given fields, and never the cause', () => {
  assert.deepEqual(toErrorBody(new VregError('CONFLICT', 'taken')), { error: 'taken', code: 'CONFLICT' });
  const caused = new VregError('INTERNAL', 'x', { cause: new Error('secret'), retryAfter: 3 });
  assert.deepEqual(toErrorBody(caused), { error: 'x', code: 'INTERNAL', retryAfter: 3 });
  assert.match(String((caused.cause as Error).message), /secret/);
});

test('bytes are formatted in the largest unit that fits, with at most one decimal', () => {
  const texts = [0, 1000, 1024, 1536, 1_500_000, 1024 ** 2, 2.25 * 1024 ** 3, 5000 * 1024 ** 3].map(formatBytes);
  assert.deepEqual(texts, ['0 bytes', '1000 bytes', '1 KiB', '1.5 KiB', '1.4 MiB', '1 MiB', '2.3 GiB', '5000 GiB']);
});
