import assert from 'node:assert/strict';
import test from 'node:test';
import type { Authenticator, Credentials } from '../../../daemon/access/authenticator.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import { anAuthenticator, credentialsWith } from '../../helpers/access.ts';

function refusal(authenticator: Authenticator, credentials: Credentials): VregError | undefined {
  try {
    authenticator.authenticate(credentials);
    return undefined;
  } catch (error) {
    assert.ok(error instanceof VregError);
    return error;
  }
}

const withHeader = (authorization: string | undefined) => credentialsWith(undefined, { authorization });

test('the root token is accepted with any case of the scheme and any space after it', () => {
  const { authenticator } = anAuthenticator({ root: 's3cret' });
  for (const header of ['Bearer s3cret', 'bearer s3cret', 'BEARER   s3cret', 'Bearer\ts3cret']) {
    assert.equal(refusal(authenticator, withHeader(header)), undefined, header);
  }
  assert.equal(refusal(anAuthenticator({ root: 'a b' }).authenticator, withHeader('Bearer a b')), undefined);
});

test('an absent header is missing, and anything but the token is invalid', () => {
  const { authenticator } = anAuthenticator({ root: 's3cret' });
  for (const header of [undefined, '']) assert.match(refusal(authenticator, withHeader(header))!.message, /missing/);
  for (const header of [
    'Bearer',
    'Bearer ',
    's3cret',
    'Basic s3cret',
    'Bearer s3cre',
    'Bearer s3cret2',
    'Bearer S3CRET',
  ]) {
    const error = refusal(authenticator, withHeader(header));
    assert.equal(error?.code, 'UNAUTHORIZED', header);
    assert.match(error.message, /invalid/);
  }
});

test('an error contains neither the correct token nor the given one', () => {
  const error = refusal(anAuthenticator({ root: 's3cret' }).authenticator, withHeader('Bearer guessed'))!;
  assert.doesNotMatch(`${error.message} ${error.hint}`, /guessed|s3cret/);
});

test('clients need no token until the first one is created, and always from then on', async () => {
  const { authenticator, create, tokens } = anAuthenticator();
  const before = authenticator.authenticate(credentialsWith());
  assert.deepEqual([before.name, before.scope, authenticator.isOpen], ['anonymous', 'admin', true]);
  const { name, token } = await create({ name: 'ops', scope: 'admin' });
  assert.equal(refusal(authenticator, credentialsWith())?.code, 'UNAUTHORIZED');
  assert.equal(authenticator.authenticate(credentialsWith(token)).name, 'ops');
  // A registry whose tokens are all revoked stays closed.
  await tokens.revoke(name, 'test');
  assert.equal(refusal(authenticator, credentialsWith())?.code, 'UNAUTHORIZED');
});

test('a registry that once created a token remains closed after a restart', async () => {
  const { create, tokens, store } = anAuthenticator();
  await create({ name: 'ops', scope: 'admin' });
  await tokens.revoke('ops', 'test');
  assert.equal(anAuthenticator({ store }).authenticator.isOpen, false);
});

test('the unix socket needs no token, but a given token is checked', async () => {
  const { authenticator, create } = anAuthenticator({ root: 's3cret' });
  const { token } = await create({ name: 'reader', scope: 'read' });
  const local = { isLocal: true, address: undefined };
  assert.deepEqual(pick(authenticator.authenticate(credentialsWith(undefined, local))), ['socket', 'admin']);
  assert.deepEqual(pick(authenticator.authenticate(credentialsWith(token, local))), ['reader', 'read']);
  assert.equal(refusal(authenticator, credentialsWith('wrong', local))?.code, 'UNAUTHORIZED');
});

test('a certificate authenticates as the token with its name, and as no other', async () => {
  const { authenticator, create } = anAuthenticator({ root: 's3cret' });
  await create({ name: 'worker-7', scope: 'write', vm: 'worker-7' });
  const principal = authenticator.authenticate(credentialsWith(undefined, { certificate: 'worker-7' }));
  assert.deepEqual([...pick(principal), principal.restriction?.vm], ['worker-7', 'write', 'worker-7']);
  const stranger = refusal(authenticator, credentialsWith(undefined, { certificate: 'stranger' }))!;
  assert.deepEqual([stranger.code, /"stranger"/.test(stranger.message)], ['UNAUTHORIZED', true]);
  assert.deepEqual(pick(authenticator.authenticate(credentialsWith('s3cret', { certificate: 'stranger' }))), [
    'VERS_AUTH_TOKEN',
    'admin',
  ]);
});

test('rejected credentials have the name of their expired token, or none', async () => {
  const { authenticator, create, clock } = anAuthenticator({ root: 's3cret' });
  await create({ name: 'brief', scope: 'read', expiresIn: 5 });
  clock.pass(5000);
  const own = credentialsWith(undefined, { certificate: 'brief' });
  assert.match(refusal(authenticator, own)!.message, /"brief" expired/);
  assert.equal(authenticator.nameOfRejected(own), 'brief');
  for (const certificate of ['stranger', 'image/w', undefined])
    assert.equal(authenticator.nameOfRejected(credentialsWith(undefined, { certificate })), undefined);
  assert.equal(
    authenticator.nameOfRejected(credentialsWith('wrong', { certificate: 'brief' })),
    undefined,
    'the header takes precedence over the certificate',
  );
});

test('in an open registry a certificate names the principal, except with a reserved name', () => {
  const { authenticator } = anAuthenticator();
  const nameOf = (certificate: string) => authenticator.authenticate(credentialsWith(undefined, { certificate })).name;
  assert.deepEqual(['worker-7', 'vers_auth_token', 'Socket'].map(nameOf), ['worker-7', 'anonymous', 'anonymous']);
});

test('a token is refused from the millisecond of its expiry on, with the time in the error', async () => {
  const { authenticator, create, clock } = anAuthenticator({ root: 's3cret' });
  const { token, expiresAt } = await create({ name: 'brief', scope: 'read', expiresIn: 60 });
  clock.pass(59_999);
  assert.equal(refusal(authenticator, credentialsWith(token)), undefined);
  clock.pass(1);
  const { code, message } = refusal(authenticator, credentialsWith(token))!;
  assert.equal(code, 'UNAUTHORIZED');
  assert.ok(message.includes(expiresAt!));
});

test('a new root token replaces the old one immediately and revokes its principals', () => {
  const { authenticator } = anAuthenticator({ root: 'old' });
  const principal = authenticator.authenticate(credentialsWith('old'));
  authenticator.replaceRoot('old');
  assert.equal(principal.revoked.aborted, false);
  authenticator.replaceRoot('new');
  assert.equal(principal.revoked.aborted, true);
  assert.equal(refusal(authenticator, credentialsWith('old'))?.code, 'UNAUTHORIZED');
  assert.equal(authenticator.authenticate(credentialsWith('new')).revoked.aborted, false);
});

test('an address that guesses tokens must wait, during which even the correct token is refused', () => {
  const { authenticator, clock } = anAuthenticator({ root: 's3cret' });
  const codes = Array.from({ length: 100 }, (_, n) => refusal(authenticator, credentialsWith(`guess-${n}`))!.code);
  assert.ok(codes.slice(0, 60).every((code) => code === 'UNAUTHORIZED'));
  assert.ok(codes.slice(60).every((code) => code === 'TOO_MANY_REQUESTS'));
  const { retryAfter } = refusal(authenticator, credentialsWith('s3cret'))!;
  assert.ok(retryAfter! > 0 && retryAfter! <= 6, String(retryAfter));
  assert.equal(
    refusal(authenticator, credentialsWith('s3cret', { address: '192.0.2.2' })),
    undefined,
    'other addresses are not affected',
  );
  clock.pass(retryAfter! * 1000);
  assert.equal(refusal(authenticator, credentialsWith('s3cret')), undefined);
});

test('an address that has sent the right token is not locked out by another client behind it', () => {
  const { authenticator } = anAuthenticator({ root: 's3cret' });
  authenticator.authenticate(credentialsWith('s3cret'));
  for (let n = 0; n < 100; n++) refusal(authenticator, credentialsWith(`guess-${n}`));
  assert.equal(refusal(authenticator, credentialsWith('guess'))?.code, 'TOO_MANY_REQUESTS');
  assert.equal(refusal(authenticator, credentialsWith('s3cret')), undefined);
});

test('an issued token does not make an address trusted, and old issued tokens do not count as guesses', async () => {
  const { authenticator, create } = anAuthenticator({ root: 's3cret' });
  const { token } = await create({ name: 'image', scope: 'enrol' });
  const stale = `vreg_${'a'.repeat(43)}`;
  for (let n = 0; n < 100; n++) refusal(authenticator, credentialsWith(stale));
  assert.equal(
    refusal(authenticator, credentialsWith(stale))?.code,
    'UNAUTHORIZED',
    'so that its agent can enrol again',
  );
  assert.equal(refusal(authenticator, credentialsWith('s3cret')), undefined, 'old tokens do not lock an address out');
  const elsewhere = { address: '192.0.2.77' };
  authenticator.authenticate(credentialsWith(token, elsewhere));
  for (let n = 0; n < 100; n++) refusal(authenticator, credentialsWith(`guess-${n}`, elsewhere));
  assert.equal(refusal(authenticator, credentialsWith('s3cret', elsewhere))?.code, 'TOO_MANY_REQUESTS');
});

test('old tokens have a separate allowance, ten times as large, which cannot lock out the root token', async () => {
  const { authenticator, create, clock } = anAuthenticator({ root: 's3cret' });
  const { token } = await create({ name: 'agent', scope: 'heartbeat' });
  const stale = credentialsWith(`vreg_${'a'.repeat(43)}`);
  const codes = Array.from({ length: 601 }, () => refusal(authenticator, stale)!.code);
  assert.deepEqual([codes.indexOf('TOO_MANY_REQUESTS'), refusal(authenticator, stale)!.retryAfter], [600, 1]);
  assert.equal(authenticator.authenticate(credentialsWith(token)).name, 'agent');
  assert.equal(refusal(authenticator, credentialsWith('guess'))?.code, 'UNAUTHORIZED');
  assert.equal(refusal(authenticator, credentialsWith('s3cret')), undefined);
  clock.pass(1000);
  assert.equal(refusal(authenticator, stale)?.code, 'UNAUTHORIZED');
});

test('another scheme than Bearer counts as a guess', () => {
  const { authenticator } = anAuthenticator({ root: 's3cret' });
  const basic = (n: number) => refusal(authenticator, withHeader(`Basic guess-${n}`))!.code;
  const codes = Array.from({ length: 61 }, (_, n) => basic(n));
  assert.equal(codes.indexOf('TOO_MANY_REQUESTS'), 60);
});

test('issued tokens are accepted regardless of failures with other tokens', async () => {
  const { authenticator, create } = anAuthenticator({ root: 's3cret' });
  const { token } = await create({ name: 'agent', scope: 'heartbeat' });
  for (let n = 0; n < 100; n++) refusal(authenticator, credentialsWith(`guess-${n}`));
  assert.equal(authenticator.authenticate(credentialsWith(token)).name, 'agent');
});

test('a request without a token does not count as a guess', () => {
  const { authenticator } = anAuthenticator({ root: 's3cret' });
  for (let n = 0; n < 200; n++) assert.equal(refusal(authenticator, credentialsWith())?.code, 'UNAUTHORIZED');
});

test('all addresses of an IPv6 /64 network count as one', () => {
  const { authenticator } = anAuthenticator({ root: 's3cret' });
  const from = (n: number) => credentialsWith('wrong', { address: `2001:db8:1:2::${n.toString(16)}` });
  for (let n = 0; n < 60; n++) refusal(authenticator, from(n));
  assert.equal(refusal(authenticator, from(99))?.code, 'TOO_MANY_REQUESTS');
  assert.equal(refusal(authenticator, credentialsWith('wrong', { address: '2001:db8:1:3::1' }))?.code, 'UNAUTHORIZED');
  assert.equal(refusal(authenticator, credentialsWith('wrong', { address: '::ffff:192.0.2.9' }))?.code, 'UNAUTHORIZED');
});

function pick({ name, scope }: { name: string; scope: string }): [string, string] {
  return [name, scope];
}

test('a header that was accepted before is refused once its token is revoked, replaced or has expired', async () => {
  const { authenticator, create, tokens, clock } = anAuthenticator({ root: 's3cret' });
  const { token } = await create({ name: 'ops', scope: 'admin' });
  const { token: brief } = await create({ name: 'brief', scope: 'read', expiresIn: 60 });
  const connections = new Map([token, brief, 's3cret', 'n3w'].map((secret) => [secret, {}]));
  const refused = (secret: string) =>
    refusal(authenticator, credentialsWith(secret, { connection: connections.get(secret) }));
  for (const secret of [token, brief, 's3cret', token, brief, 's3cret']) assert.equal(refused(secret), undefined);
  await tokens.revoke('ops', 'test');
  assert.match(refused(token)!.message, /invalid/);
  authenticator.replaceRoot('n3w');
  assert.match(refused('s3cret')!.message, /invalid/);
  assert.equal(refused('n3w'), undefined);
  clock.pass(60_000);
  for (let n = 0; n < 2; n++) assert.match(refused(brief)!.message, /expired/);
});

test('a connection remembers the token of its last header only, and forgets one that was revoked', async (t) => {
  const { authenticator, create, tokens } = anAuthenticator({ root: 's3cret' });
  const { token } = await create({ name: 'ops', scope: 'read' });
  const find = t.mock.method(tokens, 'find');
  const connection = {};
  const send = (authorization: string) =>
    refusal(authenticator, credentialsWith(undefined, { authorization, connection }));
  const searches = (authorization: string) => {
    find.mock.resetCalls();
    assert.equal(send(authorization), undefined);
    return find.mock.callCount();
  };
  /** Everything that the connection remembers. */
  const remembered = () =>
    Object.getOwnPropertySymbols(connection).flatMap((key) => [
      ...((connection as Record<symbol, Map<string, unknown> | undefined>)[key]?.keys() ?? []),
    ]);
  assert.deepEqual([searches(`Bearer ${token}`), searches(`Bearer ${token}`)], [1, 0]);
  // One token has many spellings, which must not fill the memory.
  for (let spaces = 2; spaces < 100; spaces++) assert.equal(searches(`Bearer${' '.repeat(spaces)}${token}`), 1);
  assert.equal(remembered().length, 1);
  assert.equal(searches('Bearer s3cret'), 1);
  assert.deepEqual(remembered(), ['Bearer s3cret']);
  assert.equal(searches(`Bearer ${token}`), 1);
  await tokens.revoke('ops', 'test');
  assert.equal(send(`Bearer ${token}`)?.code, 'UNAUTHORIZED');
  assert.deepEqual(remembered(), []);
});

test('a header that was accepted from one address does not end the lockout of another', () => {
  const { authenticator } = anAuthenticator({ root: 's3cret' });
  const connection = {};
  const from = (secret: string, address: string) =>
    refusal(authenticator, credentialsWith(secret, { address, connection }));
  assert.equal(from('s3cret', '10.0.0.1'), undefined);
  for (let n = 0; n < 60; n++) from('wrong', '10.0.0.2');
  assert.equal(from('s3cret', '10.0.0.2')?.code, 'TOO_MANY_REQUESTS');
  assert.equal(from('s3cret', '10.0.0.1'), undefined);
});

test('a token has the restriction of its current registration in every request', async () => {
  const { authenticator, create, tokens } = anAuthenticator({ root: 's3cret' });
  const { token } = await create({ name: 'w', scope: 'write', vm: 'w-1' });
  for (let n = 0; n < 2; n++)
    assert.deepEqual(authenticator.authenticate(credentialsWith(token)).restriction, { vm: 'w-1' });
  tokens.named('w')!.moveTo(7);
  assert.deepEqual(authenticator.authenticate(credentialsWith(token)).restriction, { vm: 'w-1', created: 7 });
});
