import assert from 'node:assert/strict';
import test from 'node:test';
import type { Principal } from '../../../daemon/access/principal.ts';
import { Sessions } from '../../../daemon/access/sessions.ts';
import type { VregError } from '../../../src/protocol/errors.ts';
import { type AuthenticatorSetup, anAuthenticator, credentialsWith } from '../../helpers/access.ts';

const DAY = 86_400_000;
const ROOT = 's3cret';

/** Logs in with a token. @returns the secret of the session */
function logIn({ authenticator }: AuthenticatorSetup, token: string): string {
  const link = authenticator.createLink(authenticator.authenticate(credentialsWith(token)));
  return authenticator.sessions.logIn(link.secret).secret;
}

function authenticated({ authenticator }: AuthenticatorSetup, session: string): Principal {
  return authenticator.authenticate(credentialsWith(undefined, { session }));
}

const UNAUTHORIZED = { code: 'UNAUTHORIZED' };

test('a session has the name, scope and restriction of the token that made it', async () => {
  const setup = anAuthenticator({ root: ROOT });
  const { token } = await setup.create({ name: 'reader', scope: 'read', role: 'worker' });
  const { name, scope, restriction } = authenticated(setup, logIn(setup, token));
  assert.deepEqual({ name, scope, restriction }, { name: 'reader', scope: 'read', restriction: { role: 'worker' } });
  const root = authenticated(setup, logIn(setup, ROOT));
  assert.deepEqual([root.name, root.scope], ['VERS_AUTH_TOKEN', 'admin']);
});

test('a link works once, within five minutes', () => {
  const setup = anAuthenticator({ root: ROOT });
  const { authenticator, clock } = setup;
  const create = () => authenticator.createLink(authenticator.authenticate(credentialsWith(ROOT)));
  const { secret, expiresAt } = create();
  assert.equal(expiresAt - clock.now(), 300_000);
  authenticator.sessions.logIn(secret);
  assert.throws(() => authenticator.sessions.logIn(secret), { ...UNAUTHORIZED, message: /was used, has expired/ });
  const late = create();
  clock.pass(300_000);
  assert.throws(() => authenticator.sessions.logIn(late.secret), UNAUTHORIZED);
});

test('a link and a session end with the revocation of their token', async () => {
  const setup = anAuthenticator({ root: ROOT });
  const { authenticator, tokens } = setup;
  const { token } = await setup.create({ name: 'ops', scope: 'write' });
  const session = logIn(setup, token);
  const link = authenticator.createLink(authenticator.authenticate(credentialsWith(token)));
  const { revoked } = authenticated(setup, session);
  await tokens.revoke('ops', 'test');
  assert.match((revoked.reason as VregError).message, /the token "ops" was revoked/);
  assert.throws(() => authenticated(setup, session), UNAUTHORIZED);
  assert.throws(() => authenticator.sessions.logIn(link.secret), UNAUTHORIZED);
  // A new token with the same name does not revive the session.
  await setup.create({ name: 'ops', scope: 'admin' });
  assert.throws(() => authenticated(setup, session), UNAUTHORIZED);
});

test('a session ends when the root token is replaced', () => {
  const setup = anAuthenticator({ root: ROOT });
  const session = logIn(setup, ROOT);
  const { revoked } = authenticated(setup, session);
  setup.authenticator.replaceRoot('another');
  assert.equal(revoked.aborted, true);
  assert.throws(() => authenticated(setup, session), UNAUTHORIZED);
});

test('a session ends after 24 hours, at a log-out, and when its token expires', async () => {
  const setup = anAuthenticator({ root: ROOT });
  const { authenticator, clock } = setup;
  const [first, second] = [logIn(setup, ROOT), logIn(setup, ROOT)];
  const { revoked, session } = authenticated(setup, first);
  authenticator.sessions.logOut(session!.key);
  assert.equal(revoked.aborted, true);
  assert.throws(() => authenticated(setup, first), UNAUTHORIZED);
  const { token } = await setup.create({ name: 'short', scope: 'read', expiresIn: 60 });
  const short = logIn(setup, token);
  clock.pass(60_000);
  assert.throws(() => authenticated(setup, short), { ...UNAUTHORIZED, message: /the token "short" expired/ });
  const open = authenticated(setup, second);
  clock.pass(DAY);
  authenticator.sessions.expire();
  assert.match((open.revoked.reason as VregError).message, /the session has expired/);
  assert.throws(() => authenticated(setup, second), UNAUTHORIZED);
});

test('sessions survive a restart, and links do not', async () => {
  const setup = anAuthenticator({ root: ROOT });
  const { authenticator, registry, store } = setup;
  const { token } = await setup.create({ name: 'ops', scope: 'write' });
  const sessions = [logIn(setup, ROOT), logIn(setup, token)] as const;
  const link = authenticator.createLink(authenticator.authenticate(credentialsWith(ROOT)));
  await registry.saveHeartbeats();
  const again = anAuthenticator({ root: ROOT, store });
  assert.deepEqual(
    sessions.map((session) => authenticated(again, session).name),
    ['VERS_AUTH_TOKEN', 'ops'],
  );
  assert.throws(() => again.authenticator.sessions.logIn(link.secret), { message: /before a restart/ });
  // The root token is another one after this restart.
  const changed = anAuthenticator({ root: 'another', store });
  assert.throws(() => authenticated(changed, sessions[0]), UNAUTHORIZED);
  assert.equal(authenticated(changed, sessions[1]).name, 'ops');
});

test('the stored record of a session reveals neither its secret nor a hash of the token', async () => {
  const setup = anAuthenticator({ root: ROOT });
  const secret = logIn(setup, ROOT);
  await setup.registry.saveHeartbeats();
  const { key, body } = setup.store.contents().records.find(({ kind }) => kind === 'session')!;
  assert.doesNotMatch(key + body, new RegExp(secret));
  const { createHash } = await import('node:crypto');
  assert.doesNotMatch(body, new RegExp(createHash('sha256').update(ROOT).digest('hex')));
});

test('only a token can make a link: neither a session nor the unix socket can', () => {
  const setup = anAuthenticator({ root: ROOT });
  const { authenticator } = setup;
  const bySession = authenticated(setup, logIn(setup, ROOT));
  const bySocket = authenticator.authenticate(credentialsWith(undefined, { isLocal: true, address: undefined }));
  for (const principal of [bySession, bySocket])
    assert.throws(() => authenticator.createLink(principal), { code: 'FORBIDDEN', message: /requires a token/ });
});

test('the 101st session of a token replaces the oldest one', () => {
  const setup = anAuthenticator({ root: ROOT });
  const [first, second] = Array.from({ length: 101 }, () => logIn(setup, ROOT));
  assert.throws(() => authenticated(setup, first!), UNAUTHORIZED);
  assert.equal(authenticated(setup, second!).name, 'VERS_AUTH_TOKEN');
});

test('records of sessions that expired during a downtime are removed', async () => {
  const setup = anAuthenticator({ root: ROOT });
  logIn(setup, ROOT);
  const { registry, store } = setup;
  await registry.saveHeartbeats();
  const later = registry.clock.now() + DAY;
  const sessions = new Sessions(store.contents(), { queue: registry.unsaved.records, now: () => later });
  sessions.expire();
  await registry.saveHeartbeats();
  assert.deepEqual(
    store.contents().records.filter(({ kind }) => kind === 'session'),
    [],
  );
});
