/** Which certificates a client trusts: those of the flag, the variables, the system, and Node's own. */
import assert from 'node:assert/strict';
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { trustedCertificates } from '../../src/config/tls-files.ts';
import { Config } from '../../src/config.ts';
import { makeAuthority } from '../helpers/certificates.ts';
import { vreg } from '../helpers/cli.ts';
import { tempDir } from '../helpers/daemon.ts';
import { runVreg, startVreg } from '../helpers/running.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';

const OPENSSL = unless('openssl');

/** A registry without VMs, whose certificate is signed by a CA of its own. */
async function secureRegistry(t: TestContext): Promise<{ url: string; ca: string; requests: string[] }> {
  const authority = makeAuthority(t);
  const { cert, key } = authority.issue('server');
  const requests: string[] = [];
  const server = createServer({ cert: readFileSync(cert), key: readFileSync(key) }, (request, response) => {
    requests.push(`${request.method} ${request.url}`);
    response.setHeader('content-type', 'application/json').end('{"vms": [], "count": 0}');
  });
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return { url: `https://localhost:${(server.address() as AddressInfo).port}`, ca: authority.ca, requests };
}

test('--ca-file adds to the CAs that NODE_EXTRA_CA_CERTS, SSL_CERT_FILE and SSL_CERT_DIR name', OPENSSL, async (t) => {
  const registries = await Promise.all([1, 2, 3, 4].map(() => secureRegistry(t)));
  const [byFlag, byNode, byFile, byFolder] = registries.map(({ ca }) => ca) as [string, string, string, string];
  const SSL_CERT_DIR = join(tempDir(t), 'certs');
  mkdirSync(SSL_CERT_DIR);
  copyFileSync(byFolder, join(SSL_CERT_DIR, 'ca.pem'));
  const env = { NODE_EXTRA_CA_CERTS: byNode, SSL_CERT_FILE: byFile, SSL_CERT_DIR: `/none:${SSL_CERT_DIR}` };
  for (const { url } of registries) {
    const { code, stderr } = await runVreg(['ls', '--ca-file', byFlag], { url, env });
    assert.deepEqual([code, stderr], [0, ''], url);
  }
  const stranger = await secureRegistry(t);
  assert.equal((await runVreg(['ls', '--ca-file', byFlag], { url: stranger.url, env })).code, 8);
});

test('without --ca-file, the CAs of the variables are trusted too', OPENSSL, async (t) => {
  const { url, ca } = await secureRegistry(t);
  assert.equal((await runVreg(['ls'], { url })).code, 8);
  for (const name of ['NODE_EXTRA_CA_CERTS', 'SSL_CERT_FILE'])
    assert.equal((await runVreg(['ls'], { url, env: { [name]: ca } })).code, 0, name);
});

for (const argv of [['watch'], ['daemon', 'agent', '--id', 'a']]) {
  test(`vreg ${argv.join(' ')} trusts the CA in SSL_CERT_FILE together with --ca-file`, OPENSSL, async (t) => {
    const [{ url, ca, requests }, other] = [await secureRegistry(t), await secureRegistry(t)];
    const home = tempDir(t);
    const running = startVreg(t, [...argv, '--ca-file', other.ca], { url, home, env: { SSL_CERT_FILE: ca } });
    await until('the first request', () => requests.length > 0);
    await running.end();
  });
}

test('--ca-file adds to the certificates of the system', OPENSSL, (t) => {
  const { ca } = makeAuthority(t);
  const trusted = trustedCertificates(new Config({ HOME: '/nonexistent', VREG_CA_FILE: ca }))!();
  assert.ok(trusted.includes(readFileSync(ca, 'utf8').trim()));
  const bundle = '/etc/ssl/certs/ca-certificates.crt';
  if (existsSync(bundle)) assert.ok(trusted.length > readFileSync(bundle, 'utf8').split('-----BEGIN').length - 1);
});

test('files of variables that are missing or damaged are ignored', OPENSSL, async (t) => {
  const { url, ca } = await secureRegistry(t);
  const damaged = join(tempDir(t), 'damaged.pem');
  writeFileSync(damaged, '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n');
  for (const SSL_CERT_FILE of ['/none', damaged, tempDir(t)]) {
    const env = { VREG_CA_FILE: ca, SSL_CERT_FILE, SSL_CERT_DIR: '/none' };
    const { code, stderr } = await vreg(['ls'], { url, env });
    assert.deepEqual([code, stderr], [0, ''], SSL_CERT_FILE);
  }
});
