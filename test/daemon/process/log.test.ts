import assert from 'node:assert/strict';
import test from 'node:test';
import { pino } from 'pino';
import { lineFormatter } from '../../../daemon/process/log.ts';

const HOSTILE = 'a\u001b[2J\u009b2J\u202e\u2028b\n[10:00:00] INFO: forged\r\tc';
const FOREIGN = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028-\u202e]/;

/** @returns the text of one event in the log */
async function logged(format: 'json' | 'pretty', fields: object, message: string): Promise<string> {
  const write = await lineFormatter(format, false);
  let text = '';
  pino({ base: null }, { write: (line) => (text += write(line)) }).warn(fields, message);
  return text;
}

test('text from outside neither moves the cursor nor begins a line, in either format', async () => {
  const json = await logged('json', { url: HOSTILE }, HOSTILE);
  const pretty = await logged('pretty', { url: HOSTILE, deep: [{ x: HOSTILE }] }, HOSTILE);
  for (const text of [json, pretty]) {
    assert.doesNotMatch(text, FOREIGN);
    assert.equal(text.indexOf('\n'), text.length - 1, text);
  }
  const { url, msg } = JSON.parse(json) as Record<string, string>;
  assert.deepEqual([url, msg], [HOSTILE, HOSTILE]);
  assert.match(pretty, /WARN: a�\[2J�2J��b�\[10:00:00\] INFO: forged��c \{"url":"a�/);
});

test('the stack of an error remains readable, and none of its lines looks like an event', async () => {
  const text = await logged('pretty', { err: new Error(HOSTILE) }, 'failed');
  const [first, ...others] = text.trimEnd().split('\n');
  assert.match(first!, /WARN: failed/);
  assert.doesNotMatch(text, FOREIGN);
  assert.ok(others.length > 5);
  for (const line of others) assert.match(line, /^ {4}/);
  assert.match(text, /\n +at .*log\.test\.ts/);
});

test('a line whose JSON was broken by masking a number is still written', async () => {
  const write = await lineFormatter('pretty', false);
  assert.equal(write('{"level":30,"ms":***,"msg":"a\u001bb"}\n'), '{"level":30,"ms":***,"msg":"a\ufffdb"}\n');
});

test('in the readable format, the line of a request is short and contains what happened, to what, and by whom', async () => {
  const line = async (fields: object) =>
    (await logged('pretty', { requestId: 'r-1', by: 'root', from: '10.0.0.1', ...fields }, 'change')).replace(
      /^\[[\d:]+\] WARN: /,
      '',
    );
  assert.equal(
    await line({ audit: true, method: 'POST', url: '/registry/vms', vm: 'a', status: 201, ms: 3 }),
    'POST /registry/vms 201 a 3ms by root from 10.0.0.1\n',
  );
  assert.equal(
    await line({
      method: 'GET',
      url: '/registry/vms/a',
      vm: 'a',
      status: 404,
      code: 'NOT_FOUND',
      ms: 0,
      by: 'anonymous',
    }),
    'GET /registry/vms/a 404 NOT_FOUND 0ms from 10.0.0.1\n',
  );
  const long = await line({ method: 'GET', url: `/${'x'.repeat(500)}end`, status: 0 });
  assert.match(long, /^GET \/x{19}…x{16}end disconnected by/);
  assert.equal(
    await line({ audit: true, by: 'anonymous', status: 400, code: 'BAD_REQUEST' }),
    'invalid request 400 BAD_REQUEST from 10.0.0.1\n',
  );
  const texts = await line({
    method: 'POST',
    url: '/registry/vms',
    vm: 'v'.repeat(500),
    by: 'b'.repeat(500),
    status: 201,
  });
  assert.match(texts, /^POST \/registry\/vms 201 v{20}…v{19} by b{20}…b{19} from/);
  assert.doesNotMatch(await line({ method: 'GET', url: HOSTILE, vm: HOSTILE, status: 200 }), FOREIGN);
});
