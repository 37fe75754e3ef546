/** The real daemon over TLS: with curl, with vreg, with the agent, and with certificates that are replaced while it runs. */
import assert from 'node:assert/strict';
import { chmodSync, copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { Agent } from 'node:https';
import { join } from 'node:path';
import test from 'node:test';
import { startAgent } from '../helpers/agent/agent.ts';
import { type Authority, type Issued, makeAuthority } from '../helpers/certificates.ts';
import { vreg } from '../helpers/cli.ts';
import {
  cleanEnv,
  type Daemon,
  type DaemonOptions,
  ENTRY,
  PROGRAM,
  run,
  startDaemon,
  tempDir,
} from '../helpers/daemon.ts';
import { ask } from '../helpers/https.ts';
import { startVreg } from '../helpers/running.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';

const OPENSSL = unless('openssl');

const flagsOf = ({ cert, key }: Issued) => ['--tls-cert', cert, '--tls-key', key];
const shownBy = ({ ca }: Authority, own?: Issued) => ({
  VREG_CA_FILE: ca,
  ...(own ? { VREG_CERT_FILE: own.cert, VREG_KEY_FILE: own.key } : {}),
});

/** Has the files of one certificate under the names of another, as a renewal does. */
function renew(old: Issued, { cert, key }: Issued): void {
  copyFileSync(cert, old.cert);
  copyFileSync(key, old.key);
}

async function hangUp(daemon: Daemon, said: RegExp): Promise<void> {
  const before = daemon.said().length;
  daemon.child.kill('SIGHUP');
  await until(`the daemon to say ${said}`, () => said.test(daemon.said().slice(before)));
}

test('curl and vreg use the registry over https, and its socket stays plain', unless('openssl', 'curl'), async (t) => {
  const authority = makeAuthority(t);
  const socket = join(authority.dir, 'vreg.sock');
  const daemon = await startDaemon(t, { args: [...flagsOf(authority.issue('server')), '--socket', socket] });
  assert.match(daemon.url, /^https:\/\/127\.0\.0\.1:\d+$/);
  const info = JSON.parse(readFileSync(join(daemon.dataDir, 'daemon.json'), 'utf8')) as { urls: string[] };
  assert.deepEqual(info.urls, [daemon.url, `unix:${socket}`]);
  const env = cleanEnv(daemon.home);
  const body = JSON.stringify({ id: 'a', name: 'a', role: 'infra', address: 'a', registeredBy: 'curl' });
  const curl = (...args: string[]) => run('curl', ['-sS', '--cacert', authority.ca, ...args], { env });
  const made = await curl(
    '-d',
    body,
    `${daemon.url}/registry/vms`,
    '-w',
    '%{http_version} %{http_code}',
    '-o',
    '/dev/null',
  );
  assert.deepEqual([made.stdout, made.stderr], ['1.1 201', '']);
  await until('the line of the change', () => /"audit":true.*"scheme":"https".*"msg":"change"/.test(daemon.said()));
  const addr = await daemon.command(['addr', 'infra'], { env: shownBy(authority) });
  assert.deepEqual([addr.code, addr.stdout, addr.stderr], [0, 'a\n', '']);
  assert.equal((await daemon.command(['addr', 'infra', '--url', `unix:${socket}`])).stdout, 'a\n');
  const untrusted = await daemon.command(['addr', 'infra']);
  assert.equal(untrusted.code, 8);
  assert.match(untrusted.stderr, /\nhint: trust its CA with --ca-file/);
  assert.deepEqual(await daemon.end(), { code: 0, signal: null });
});

test('a daemon with TLS registers itself with the protocol https, and vreg url uses it', OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const own = ['--self-register', '--id', 'me', '--address', '127.0.0.1'];
  const daemon = await startDaemon(t, { args: [...flagsOf(authority.issue('server')), ...own] });
  const env = shownBy(authority);
  assert.equal((await daemon.command(['url', 'infra'], { env })).stdout, `${daemon.url}\n`);
  const { stdout } = await daemon.command(['get', 'me', '-o', 'jsonpath={.services[*].protocol}'], { env });
  assert.equal(stdout, 'https https https\n');
});

test('https works at every address of localhost', OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const daemon = await startDaemon(t, { args: ['--host', 'localhost', ...flagsOf(authority.issue('server'))] });
  for (const host of ['127.0.0.1', 'localhost'])
    assert.equal((await ask(`https://${host}:${new URL(daemon.url).port}/health`, authority)).status, 200);
});

test('names in the certificate are accepted as Host, and a rebound name is refused', OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const server = authority.issue('server', { names: 'DNS:registry.example,DNS:*.fleet.example' });
  const { url } = await startDaemon(t, { args: flagsOf(server) });
  for (const [host, status] of [
    ['registry.example', 200],
    ['a.fleet.example:3000', 200],
    ['evil.example', 403],
  ] as const) {
    const options = { servername: 'registry.example', headers: { host } };
    assert.equal((await ask(`${url}/registry/vms`, authority, options)).status, status, host);
  }
});

test('SIGHUP reloads a renewed certificate without failing a request', OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const server = authority.issue('server');
  const daemon = await startDaemon(t, { args: flagsOf(server) });
  const [pinned, shared] = [1, 2].map((maxSockets) => new Agent({ keepAlive: true, maxSockets })) as [Agent, Agent];
  t.after(() => [pinned, shared].map((agent) => agent.destroy()));
  const first = await ask(`${daemon.url}/health`, authority, { agent: pinned });
  const renewed = authority.issue('renewed');
  const seen = new Set([first.fingerprint]);
  let answered = 0;
  let stop = false;
  const busy = Array.from({ length: 4 }, async (_, index) => {
    while (!stop) {
      const { status, fingerprint } = await ask(
        `${daemon.url}/registry/vms`,
        authority,
        index < 2 ? { agent: shared } : {},
      );
      assert.equal(status, 200);
      seen.add(fingerprint);
      answered++;
    }
  });
  await until('requests under way', () => answered > 20);
  renew(server, renewed);
  await hangUp(daemon, /"reloaded the certificate/);
  await until('the renewed certificate', () => seen.size === 2);
  stop = true;
  await Promise.all(busy);
  assert.equal((await ask(`${daemon.url}/health`, authority, { agent: pinned })).fingerprint, first.fingerprint);
  assert.notEqual((await ask(`${daemon.url}/health`, authority)).fingerprint, first.fingerprint);
});

test('SIGHUP with an invalid file keeps the current certificate and logs the cause', OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const server = authority.issue('server');
  const daemon = await startDaemon(t, { args: flagsOf(server) });
  const { fingerprint } = await ask(`${daemon.url}/health`, authority);
  copyFileSync(authority.issue('other').cert, server.cert);
  await hangUp(
    daemon,
    /cannot reload the certificate: the private key .*server\.key does not belong to the certificate/,
  );
  writeFileSync(server.cert, 'half a fi');
  await hangUp(
    daemon,
    /cannot reload the certificate: .*server\.crt contains no PEM certificate \(from flag --tls-cert\); nothing changed/,
  );
  assert.equal((await ask(`${daemon.url}/health`, authority)).fingerprint, fingerprint);
});

test('clients with a certificate are accepted on a public address, and others get a hint', OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const foreign = makeAuthority(t);
  const words = [...flagsOf(authority.issue('server')), '--tls-client-ca', authority.ca, '--host', '0.0.0.0'];
  const daemon = await startDaemon(t, { args: words });
  const url = daemon.url.replace('0.0.0.0', '127.0.0.1');
  const ls = (own?: Issued) => daemon.command(['ls', '--url', url], { env: shownBy(authority, own) });
  const own = authority.issue('client', { subject: '/CN=worker-1' });
  assert.deepEqual(await ls(own), { code: 0, signal: null, stdout: '', stderr: '' });
  const without = await ls();
  assert.equal(without.code, 8);
  assert.match(without.stderr, /\nhint: .*certificate.*--cert-file FILE --key-file FILE/);
  const stranger = await ls(foreign.issue('client'));
  assert.equal(stranger.code, 8);
  assert.match(stranger.stderr, /\nhint: the server may have rejected the certificate from --cert-file/);
  await until('the line', () => /refused a connection: the TLS handshake failed/.test(daemon.said()));
});

const STARTS: readonly [name: string, (authority: Authority, server: Issued) => string[], said: RegExp][] = [
  ['a certificate without its key', (_, { cert }) => ['--tls-cert', cert], /^vreg: --tls-cert requires --tls-key/],
  ['a key without its certificate', (_, { key }) => ['--tls-key', key], /^vreg: --tls-key requires --tls-cert/],
  ['a CA for clients without https', ({ ca }) => ['--tls-client-ca', ca], /^vreg: --tls-client-ca requires --tls-cert/],
  [
    'a certificate that is not there',
    ({ dir }, server) => flagsOf({ ...server, cert: join(dir, 'none.crt') }),
    /^vreg: cannot read the certificate .*none\.crt \(ENOENT, from flag --tls-cert\)/,
  ],
  [
    'a key that others can read',
    (_, server) => {
      chmodSync(server.key, 0o640);
      return flagsOf(server);
    },
    /^vreg: the private key .*server\.key can be read by other users \(mode 0640, from flag --tls-key\)\nhint: chmod 600 /,
  ],
  [
    'the key of another certificate',
    (authority, server) => flagsOf({ ...server, key: authority.issue('other').key }),
    /^vreg: the private key .*other\.key does not belong to the certificate .*server\.crt/,
  ],
  [
    'a certificate that is cut off',
    (_, server) => {
      const text = readFileSync(server.cert, 'utf8');
      writeFileSync(server.cert, `${text.slice(0, 200)}\n-----END CERTIFICATE-----\n`);
      return flagsOf(server);
    },
    /^vreg: a certificate in .*server\.crt cannot be read/,
  ],
  [
    'a key that is none',
    (_, server) => {
      writeFileSync(server.key, '-----BEGIN PRIVATE KEY-----\nc2VjcmV0LWtleQ==\n-----END PRIVATE KEY-----\n');
      return flagsOf(server);
    },
    /^vreg: the private key .*server\.key cannot be read as PEM/,
  ],
  [
    'an open address with a certificate of its own alone',
    (_, server) => [...flagsOf(server), '--host', '0.0.0.0'],
    /^vreg: refusing to listen on 0\.0\.0\.0 without a token/,
  ],
];

for (const [name, words, said] of STARTS) {
  test(`${name} is refused at the start, with exit 5`, OPENSSL, async (t) => {
    const authority = makeAuthority(t);
    const args = words(authority, authority.issue('server'));
    const home = tempDir(t);
    const ran = await vreg(['daemon', 'serve', '--port', '0', '--data-dir', join(home, 'data'), ...args], { home });
    assert.equal(ran.code, 5, ran.stderr);
    assert.match(ran.stderr, said);
    assert.match(ran.stderr, /\nhint: /);
    assert.doesNotMatch(ran.stderr, /c2VjcmV0|secret-key/);
  });
}

test('a key with a passphrase is refused, and the hint is the command that removes it', OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const { cert, key } = authority.issue('server');
  const locked = join(authority.dir, 'locked.key');
  const env = cleanEnv(authority.dir);
  await run('openssl', ['pkey', '-in', key, '-aes256', '-passout', 'pass:x', '-out', locked], { env });
  chmodSync(locked, 0o600);
  const ran = await vreg(['daemon', '--port', '0', ...flagsOf({ cert, key: locked })]);
  assert.equal(ran.code, 5);
  assert.match(
    ran.stderr,
    /^vreg: the private key .*locked\.key is encrypted \(from flag --tls-key\)\nhint: .*openssl pkey -in /,
  );
});

test(
  'without other settings, the certificate is read from the systemd credentials, whatever their mode',
  OPENSSL,
  async (t) => {
    const authority = makeAuthority(t);
    const credentials = join(authority.dir, 'credentials');
    mkdirSync(credentials);
    const { cert, key } = authority.issue('server');
    for (const [from, name] of [
      [cert, 'tls-cert'],
      [key, 'tls-key'],
    ] as const) {
      copyFileSync(from, join(credentials, name));
      chmodSync(join(credentials, name), 0o444);
    }
    const { url } = await startDaemon(t, { env: { CREDENTIALS_DIRECTORY: credentials } });
    assert.equal((await ask(`${url}/health`, authority)).status, 200);
  },
);

/** A registry that takes clients with a certificate only, one of those, and vreg as that one. */
async function startMutual(t: Parameters<typeof startDaemon>[0], more: DaemonOptions = {}) {
  const authority = makeAuthority(t);
  const server = authority.issue('server');
  const clientCa = join(authority.dir, 'client-ca.crt');
  copyFileSync(authority.ca, clientCa);
  const args = [...flagsOf(server), '--tls-client-ca', clientCa, ...(more.args ?? [])];
  const daemon = await startDaemon(t, { ...more, args });
  const own = authority.issue('client', { subject: '/CN=vm-1' });
  const env = shownBy(authority, own);
  return {
    authority,
    server,
    clientCa,
    daemon,
    own,
    env,
    vreg: (...words: string[]) => daemon.command(words, { env }),
  };
}

test('doctor, heartbeat, watch and backup send the client certificate', OPENSSL, async (t) => {
  const { daemon, env, vreg } = await startMutual(t);
  assert.equal((await vreg('heartbeat', 'vm-1', '--register-if-missing')).code, 0);
  const state = join(daemon.home, 'beat-state');
  assert.equal((await vreg('heartbeat', 'vm-1', '--state-dir', state)).code, 0);
  const doctor = await vreg('doctor', '--json');
  const findings = JSON.parse(doctor.stdout) as { check: string; result: string }[];
  for (const check of ['config', 'tls', 'reach', 'token'])
    assert.equal(findings.find((finding) => finding.check === check)?.result, 'ok', check);
  const watch = startVreg(t, ['watch', '--since', 'start'], { url: daemon.url, env });
  await until('the watcher to know the VM', () => /vm-1/.test(watch.stdout()));
  const file = join(daemon.home, 'copy.db');
  const backup = await vreg('backup', file);
  assert.equal(backup.code, 0, backup.stderr);
  assert.ok(existsSync(file));
});

test('the agent sends heartbeats over TLS and reloads renewed files on SIGHUP', OPENSSL, async (t) => {
  const { authority, server, clientCa, daemon, own, env, vreg } = await startMutual(t);
  const agent = startAgent(t, daemon.url, [], { env });
  await until('the VM to be live', async () => /^vm-1\b/m.test((await vreg('discover', 'worker')).stdout));
  const others = makeAuthority(t, 'Other CA');
  renew(server, others.issue('server'));
  copyFileSync(others.ca, clientCa);
  await hangUp(daemon, /"reloaded the certificate/);
  renew(own, others.issue('client', { subject: '/CN=vm-1' }));
  copyFileSync(others.ca, authority.ca);
  const before = JSON.parse((await vreg('get', 'vm-1', '-o', 'json')).stdout) as { lastSeen: string };
  agent.child.kill('SIGHUP');
  await until('the agent to have read its files', () => /reloaded the settings/.test(agent.said()));
  await until('a beat over a new connection', async () => {
    const { lastSeen } = JSON.parse((await vreg('get', 'vm-1', '-o', 'json')).stdout) as { lastSeen: string };
    return lastSeen > before.lastSeen;
  });
  assert.deepEqual((await agent.end()).code, 0);
  assert.equal(JSON.parse((await vreg('get', 'vm-1', '-o', 'json')).stdout).status, 'stopped');
  assert.doesNotMatch(agent.said(), /cannot reach/);
});

test('a damaged CA file is logged on SIGHUP, and the agent uses the old one until it exits', OPENSSL, async (t) => {
  const { authority, daemon, env, vreg } = await startMutual(t);
  const agent = startAgent(t, daemon.url, [], { env });
  await until('the VM to be live', async () => /^vm-1\b/m.test((await vreg('discover', 'worker')).stdout));
  const whole = readFileSync(authority.ca, 'utf8');
  writeFileSync(authority.ca, whole.replace(/^MII/m, 'MIJ'));
  agent.child.kill('SIGHUP');
  await until('the agent to say so', () =>
    /cannot reload the settings: a certificate in .*ca\.crt cannot be read/.test(agent.said()),
  );
  assert.equal((await agent.end()).code, 0);
  writeFileSync(authority.ca, whole);
  assert.equal(JSON.parse((await vreg('get', 'vm-1', '-o', 'json')).stdout).status, 'stopped');
  assert.doesNotMatch(agent.said(), /cannot reach|could not (report|refresh)/);
});

test('--trust-proxy requires a token, even on loopback', OPENSSL, async (t) => {
  const home = tempDir(t);
  const ran = await run(PROGRAM, [...ENTRY, 'daemon', '--port', '0', '--trust-proxy'], { env: cleanEnv(home) });
  assert.equal(ran.code, 5);
  assert.match(
    ran.stderr,
    /^vreg: refusing to listen on 127\.0\.0\.1 behind a proxy without a token: .*\nhint: .*--token-file/,
  );
  // A client CA does not help either: the proxy sends its own certificate for every client.
  const authority = makeAuthority(t);
  const tls = [...flagsOf(authority.issue('server')), '--tls-client-ca', authority.ca];
  const words = [...ENTRY, 'daemon', '--port', '0', '--trust-proxy', ...tls];
  const withCa = await run(PROGRAM, words, { env: cleanEnv(home) });
  assert.deepEqual([withCa.code, /behind a proxy without a token/.test(withCa.stderr)], [5, true]);
  const env = { VREG_TRUST_PROXY: 'true', VERS_AUTH_TOKEN: 's3cret' };
  const { url, said } = await startDaemon(t, { env });
  const headers = { 'x-forwarded-for': '203.0.113.9', 'x-forwarded-proto': 'https', host: 'registry.example' };
  assert.equal((await fetch(`${url}/registry/vms`, { headers })).status, 401);
  const line = await until('the line', () =>
    said()
      .split('\n')
      .find((each) => each.includes('"audit":true')),
  );
  const { from, scheme } = JSON.parse(line) as { from: string; scheme: string };
  assert.deepEqual([from, scheme], ['203.0.113.9', 'https']);
});
