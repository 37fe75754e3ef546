import assert from 'node:assert/strict';
import test from 'node:test';
import { BearerAuth, isLoopback } from '../../../daemon/http/auth.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import { serveApp } from '../../helpers/app.ts';
import { call, errorOf } from '../../helpers/http.ts';
import { aVm } from '../../helpers/vm.ts';

function refusal(header: string | undefined, token = 's3cret'): VregError | undefined {
  try {
    new BearerAuth(token).check(header);
    return undefined;
  } catch (error) {
    assert.ok(error instanceof VregError);
    return error;
  }
}

test('the token is taken with any spelling of the scheme and any space after it', () => {
  for (const header of ['Bearer s3cret', 'bearer s3cret', 'BEARER   s3cret', 'Bearer\ts3cret']) {
    assert.equal(refusal(header), undefined, header);
  }
  assert.equal(refusal('Bearer a b', 'a b'), undefined);
});

test('no header is missing, and anything but the token is invalid', () => {
  for (const header of [undefined, '']) assert.match(refusal(header)!.message, /missing/);
  for (const header of [
    'Bearer',
    'Bearer ',
    's3cret',
    'Basic s3cret',
    'Bearer s3cre',
    'Bearer s3cret2',
    'Bearer S3CRET',
  ]) {
    const error = refusal(header);
    assert.equal(error?.code, 'UNAUTHORIZED', header);
    assert.match(error.message, /invalid/);
  }
});

test('an error never repeats a token, neither the right one nor the given', () => {
  const error = refusal('Bearer guessed')!;
  assert.doesNotMatch(`${error.message} ${error.hint}`, /guessed|s3cret/);
});

test('loopback is 127.0.0.0/8, ::1 and localhost, and nothing that only looks like it', () => {
  for (const host of ['127.0.0.1', '127.9.9.9', '::1', 'localhost']) assert.equal(isLoopback(host), true, host);
  for (const host of [
    '0.0.0.0',
    '::',
    '10.0.0.1',
    '128.0.0.1',
    '::2',
    'localhost.evil.com',
    '127.0.0.1.evil.com',
    '',
  ]) {
    assert.equal(isLoopback(host), false, host);
  }
});

test('without a token, a page from elsewhere is refused, and one of this machine is not', async (t) => {
  const { url } = await serveApp(t);
  const send = (origin: string) =>
    call(url, 'POST', '/registry/vms', { body: aVm({ id: origin }), headers: { origin } });
  for (const origin of ['https://evil.example', 'null', 'http://127.0.0.1.evil.example']) {
    const answer = await send(origin);
    assert.equal(answer.status, 403, origin);
    assert.match(errorOf(answer), /a page of .* may not use a registry that asks for no token/);
  }
  for (const origin of ['http://localhost:8080', 'http://[::1]:3000']) assert.equal((await send(origin)).status, 201);
});

test('with a token, the token decides, whatever the page', async (t) => {
  const { url } = await serveApp(t, { token: 's3cret' });
  const headers = { origin: 'https://dash.example', authorization: 'Bearer s3cret' };
  assert.equal((await call(url, 'GET', '/registry/vms', { headers })).status, 200);
});
