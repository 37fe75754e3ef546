/** Access to the real daemon: over its socket and its addresses, with tokens that survive a restart, and with certificates. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, writeFileSync } from 'node:fs';
import { type IncomingMessage, request } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { join } from 'node:path';
import test from 'node:test';
import { makeAuthority } from '../helpers/certificates.ts';
import { cleanEnv, type Daemon, ENTRY, PROGRAM, run, startDaemon, tempDir } from '../helpers/daemon.ts';
import { tlsOf } from '../helpers/https.ts';
import { runScript, startVreg } from '../helpers/running.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';

const ROOT = 's3cret';

async function create({ command }: Daemon, name: string, scope: string, ...more: string[]): Promise<string> {
  const { code, stdout, stderr } = await command(['token', 'create', name, '--scope', scope, ...more]);
  assert.equal(code, 0, stderr);
  return stdout.trim();
}

const codeOf = async ({ command }: Daemon, argv: readonly string[], token: string) =>
  (await command(argv, { env: { VERS_AUTH_TOKEN: token } })).code;

test('the unix socket accepts its owner without a token, and the TCP port does not', async (t) => {
  const home = tempDir(t);
  const socket = join(home, 'vreg.sock');
  const daemon = await startDaemon(t, { home, env: { VERS_AUTH_TOKEN: ROOT }, args: ['--socket', socket] });
  const none = { VERS_AUTH_TOKEN: '' };
  assert.equal((await daemon.command(['ls'], { env: none })).code, 2);
  const self = await daemon.command(['whoami', '--json', '--url', `unix:${socket}`], { env: none });
  assert.deepEqual((JSON.parse(self.stdout) as { token: object }).token, { name: 'socket', scope: 'admin' });
  assert.equal(
    (await daemon.command(['ls', '--url', `unix:${socket}`], { env: { VERS_AUTH_TOKEN: 'wrong' } })).code,
    2,
  );
  const made = await daemon.command(['register', 'a', '--name', 'a', '--url', `unix:${socket}`], { env: none });
  assert.equal(made.code, 0, made.stderr);
  assert.match((await daemon.command(['history', 'a', '--json'])).stdout, /"by": ?"socket"/);
});

test('behind a trusted proxy, the unix socket requires a token', async (t) => {
  const home = tempDir(t);
  const socket = join(home, 'vreg.sock');
  const args = ['--socket', socket, '--trust-proxy'];
  const daemon = await startDaemon(t, { home, env: { VERS_AUTH_TOKEN: ROOT }, args });
  const at = ['--url', `unix:${socket}`];
  assert.equal((await daemon.command(['ls', ...at], { env: { VERS_AUTH_TOKEN: '' } })).code, 2);
  assert.equal((await daemon.command(['ls', ...at])).code, 0);
  // Nor are those whom the proxy passes on one and the same.
  const statusOf = async (from: string, token: string) => {
    const headers = { 'x-forwarded-for': from, authorization: `Bearer ${token}` };
    const asked = request({ socketPath: socket, path: '/registry/vms', headers }).end();
    const [answer] = (await once(asked, 'response')) as [IncomingMessage];
    answer.resume();
    return answer.statusCode;
  };
  for (let n = 0; n < 60; n++) assert.equal(await statusOf('203.0.113.6', `guess-${n}`), 401);
  assert.equal(await statusOf('203.0.113.6', ROOT), 429);
  assert.equal(await statusOf('203.0.113.7', ROOT), 200);
});

test('a request with a proxy header over the unix socket requires a token, even without --trust-proxy', async (t) => {
  const home = tempDir(t);
  const socketPath = join(home, 'vreg.sock');
  await startDaemon(t, { home, env: { VERS_AUTH_TOKEN: ROOT }, args: ['--socket', socketPath] });
  const statusWith = async (headers: Record<string, string>) => {
    const asked = request({ socketPath, path: '/registry/vms', headers }).end();
    const [answer] = (await once(asked, 'response')) as [IncomingMessage];
    answer.resume();
    return answer.statusCode;
  };
  assert.equal(await statusWith({}), 200);
  assert.equal(await statusWith({ 'x-request-id': 'mine' }), 200);
  for (const name of ['X-Forwarded-For', 'X-Forwarded-Proto', 'Forwarded', 'Via', 'CF-Connecting-IP', 'X-Real-IP'])
    assert.equal(await statusWith({ [name]: '192.0.2.1' }), 401, name);
});

test('without a token, a proxy cannot reach the registry through the unix socket', async (t) => {
  const home = tempDir(t);
  const socketPath = join(home, 'vreg.sock');
  const behind = await run(
    PROGRAM,
    [...ENTRY, 'daemon', '--socket', socketPath, '--trust-proxy', '--data-dir', join(home, 'other')],
    { env: cleanEnv(home) },
  );
  assert.deepEqual([behind.code, /behind a proxy without a token/.test(behind.stderr)], [5, true]);
  await startDaemon(t, { home, args: ['--socket', socketPath] });
  const status = await new Promise((resolve, reject) => {
    const headers = { 'X-Forwarded-For': '203.0.113.9', Host: 'evil.example' };
    const sent = request({ socketPath, path: '/registry/whoami', headers }, (answer) => {
      answer.resume();
      resolve(answer.statusCode);
    });
    sent.once('error', reject).end();
  });
  assert.equal(status, 403);
});

test('a registry with issued tokens may listen on all addresses without VERS_AUTH_TOKEN', async (t) => {
  const home = tempDir(t);
  const refused = await run(
    PROGRAM,
    [...ENTRY, 'daemon', '--port', '0', '--host', '0.0.0.0', '--data-dir', join(home, 'data')],
    { env: cleanEnv(home) },
  );
  assert.equal(refused.code, 5);
  assert.match(refused.stderr, /refusing to listen on 0\.0\.0\.0 without a token[^\n]*\nhint: .*--token-file/);
  const first = await startDaemon(t, { home });
  assert.equal(await codeOf(first, ['ls'], ''), 0);
  const lockout = await first.command(['token', 'create', 'reader', '--scope', 'read']);
  assert.deepEqual([lockout.code, /first token must have the scope admin/.test(lockout.stderr)], [5, true]);
  const token = await create(first, 'ops', 'admin');
  assert.equal(await codeOf(first, ['ls'], ''), 2);
  await first.end();
  const second = await startDaemon(t, { home, args: ['--host', '0.0.0.0'] });
  const url = second.url.replace('0.0.0.0', '127.0.0.1');
  const ls = (env: NodeJS.ProcessEnv) => second.command(['ls'], { env: { VERS_INFRA_URL: url, ...env } });
  assert.deepEqual([(await ls({})).code, (await ls({ VERS_AUTH_TOKEN: token })).code], [2, 0]);
});

test('created tokens and revocations survive kill -9', async (t) => {
  const env = { VERS_AUTH_TOKEN: ROOT };
  let daemon = await startDaemon(t, { env });
  const kept = await create(daemon, 'kept', 'read');
  const gone = await create(daemon, 'gone', 'read');
  assert.equal(await codeOf(daemon, ['ls'], gone), 0);
  await daemon.command(['token', 'revoke', 'gone', '--yes']);
  await daemon.end('SIGKILL');
  daemon = await startDaemon(t, { home: daemon.home, env });
  assert.deepEqual([await codeOf(daemon, ['ls'], kept), await codeOf(daemon, ['ls'], gone)], [0, 2]);
  assert.equal((await daemon.command(['token', 'ls', '-q'])).stdout, 'kept\n');
});

test('a token whose file cannot be written is revoked, and the file is removed', async (t) => {
  const daemon = await startDaemon(t, { env: { VERS_AUTH_TOKEN: ROOT } });
  const file = join(daemon.home, 'token');
  // Files may have no bytes, and who writes one is told so instead of killed.
  const script = `trap '' XFSZ; ulimit -f 0; vreg token create lost --scope read --to '${file}'`;
  const { code, stderr } = await runScript(['sh'], script, { url: daemon.url, env: { VERS_AUTH_TOKEN: ROOT } });
  assert.equal(code, 5, stderr);
  assert.match(stderr, /^vreg: cannot write .*token \(EFBIG\)\nhint: the token was revoked/);
  assert.equal(existsSync(file), false);
  assert.equal((await daemon.command(['token', 'ls', '-q'])).stdout, '');
});

test('an acknowledged enrolment survives kill -9, with its VM and token', async (t) => {
  const env = { VERS_AUTH_TOKEN: ROOT };
  let daemon = await startDaemon(t, { env });
  const image = await create(daemon, 'image', 'enrol');
  const { stdout } = await daemon.command(['register', 'w', '--name', 'w', '--json'], {
    env: { VERS_AUTH_TOKEN: image },
  });
  const { token } = JSON.parse(stdout) as { token: string };
  await daemon.end('SIGKILL');
  daemon = await startDaemon(t, { home: daemon.home, env });
  assert.equal(await codeOf(daemon, ['heartbeat', 'w'], token), 0);
  assert.equal(await codeOf(daemon, ['rm', 'w', '--yes'], token), 0);
});

test('a backup contains the tokens, and restoring it also restores tokens revoked since', async (t) => {
  const env = { VERS_AUTH_TOKEN: ROOT };
  const daemon = await startDaemon(t, { env });
  const token = await create(daemon, 'reader', 'read');
  const copy = join(daemon.home, 'copy.db');
  assert.equal((await daemon.command(['backup', copy])).code, 0);
  await daemon.command(['token', 'revoke', 'reader', '--yes']);
  await daemon.end();
  const restored = await daemon.command(['daemon', 'restore', copy, '--yes', '--data-dir', daemon.dataDir]);
  assert.equal(restored.code, 0, restored.stderr);
  const again = await startDaemon(t, { home: daemon.home, env });
  assert.equal(await codeOf(again, ['ls'], token), 0);
});

test('a stream ends with an error when SIGHUP replaces its token', async (t) => {
  const home = tempDir(t);
  const file = join(home, 'token');
  writeFileSync(file, 'one', { mode: 0o600 });
  const daemon = await startDaemon(t, { home, args: ['--token-file', file] });
  const watch = startVreg(t, ['watch', '-v'], { url: daemon.url, env: { VERS_AUTH_TOKEN: 'one' } });
  await until('the stream to be open', () => /GET .*events.* 200/.test(watch.stderr()));
  writeFileSync(file, 'two', { mode: 0o600 });
  daemon.child.kill('SIGHUP');
  assert.equal((await watch.ended).code, 2);
  assert.match(watch.stderr(), /invalid token/);
});

test(
  'a client certificate has the permissions of the token with its name, without a header',
  unless('openssl'),
  async (t) => {
    const authority = makeAuthority(t);
    const server = authority.issue('server');
    const args = ['--tls-cert', server.cert, '--tls-key', server.key, '--tls-client-ca', authority.ca];
    const daemon = await startDaemon(t, { env: { VERS_AUTH_TOKEN: ROOT }, args });
    const as = (name: string, token = '') => {
      const { cert, key } = authority.issue(name, { subject: `/CN=${name}` });
      return { VREG_CA_FILE: authority.ca, VREG_CERT_FILE: cert, VREG_KEY_FILE: key, VERS_AUTH_TOKEN: token };
    };
    const ops = as('ops', ROOT);
    const say = (argv: readonly string[], env: NodeJS.ProcessEnv) => daemon.command(argv, { env });
    assert.equal((await say(['token', 'create', 'worker-7', '--scope', 'write', '--vm', 'worker-7'], ops)).code, 0);
    const worker = as('worker-7');
    const made = await say(['register', 'worker-7', '--name', 'w'], worker);
    assert.equal(made.code, 0, made.stderr);
    const other = await say(['register', 'worker-8', '--name', 'w'], worker);
    assert.deepEqual([other.code, /restricted to VM "worker-7"/.test(other.stderr)], [2, true]);
    const stranger = await say(['ls'], as('stranger'));
    assert.deepEqual(
      [stranger.code, /there is no token with the name of the certificate, "stranger"/.test(stranger.stderr)],
      [2, true],
    );
    const page = {
      ...tlsOf({ ca: authority.ca, own: authority.issue('worker-7', { subject: '/CN=worker-7' }) }),
      agent: false,
    };
    const asPage = (headers: Record<string, string>) =>
      new Promise((resolve, reject) => {
        const sent = httpsRequest(
          `${daemon.url}/registry/vms/worker-7/heartbeat`,
          { ...page, method: 'POST', headers },
          (answer) => {
            answer.resume();
            resolve(answer.statusCode);
          },
        );
        sent.once('error', reject).end();
      });
    assert.equal(await asPage({}), 200);
    assert.equal(await asPage({ origin: 'https://evil.example' }), 403, 'a browser shows a certificate for any page');
    await say(['token', 'revoke', 'worker-7', '--yes'], ops);
    assert.equal((await say(['heartbeat', 'worker-7'], worker)).code, 2);
  },
);
