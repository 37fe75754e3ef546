/** Errors of the command line after TLS failures: one cause, one hint. */
import assert from 'node:assert/strict';
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer, type ServerOptions } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import {
  type Authority,
  FAR_AHEAD,
  FARTHER_AHEAD,
  type Issued,
  LONG_AGO,
  makeAuthority,
  YESTERYEAR,
} from '../helpers/certificates.ts';
import { type Result, vreg } from '../helpers/cli.ts';
import { tempDir } from '../helpers/daemon.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { unless } from '../helpers/tools.ts';

const OPENSSL = unless('openssl');

/** An https server with an empty registry. */
async function serve(t: TestContext, { cert, key }: Issued, more: ServerOptions = {}): Promise<string> {
  const files = { cert: readFileSync(cert), key: readFileSync(key) };
  const server = createServer({ ...files, ...more }, (_request, response) => response.end('{"vms":[],"count":0}'));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function assertFails({ code, stderr }: Result, cause: RegExp, hint: RegExp): void {
  assert.equal(code, 8, stderr);
  const [said, next] = stderr.split('\nhint: ');
  assert.match(said!, cause);
  assert.match(next!, hint);
}

const SERVERS: readonly [name: string, Parameters<Authority['issue']>[1], cause: RegExp, hint: RegExp][] = [
  [
    'is for another name',
    { names: 'DNS:registry.example,IP:10.0.0.5' },
    /ERR_TLS_CERT_ALTNAME_INVALID/,
    /^the certificate is for registry\.example, 10\.0\.0\.5: use one of these names in the URL/,
  ],
  [
    'has expired',
    { from: LONG_AGO, until: YESTERYEAR },
    /CERT_HAS_EXPIRED/,
    /^renew the certificate on the server; the local clock is at \d{4}-\d\d-\d\dT\S+Z; is that correct\?/,
  ],
  [
    'is not valid yet, as on a restored VM',
    { from: FAR_AHEAD, until: FARTHER_AHEAD },
    /CERT_NOT_YET_VALID/,
    /^the local clock is at \S+; is it behind, for example after a restore\? set it: timedatectl/,
  ],
];

for (const [name, options, cause, hint] of SERVERS) {
  test(`a certificate that ${name} is reported with a hint, also by doctor`, OPENSSL, async (t) => {
    const authority = makeAuthority(t);
    const url = await serve(t, authority.issue('server', options));
    assertFails(await vreg(['ls', '--ca-file', authority.ca], { url }), cause, hint);
    const { stdout, code } = await vreg(['doctor', '--json', '--ca-file', authority.ca], { url });
    const tls = (JSON.parse(stdout) as Record<string, string>[]).find(({ check }) => check === 'tls')!;
    assert.deepEqual([code, tls.result], [8, 'fail']);
    assert.match(tls.fix!, hint);
  });
}

test('an untrusted certificate is reported', OPENSSL, async (t) => {
  const url = await serve(t, makeAuthority(t).issue('server'));
  assertFails(await vreg(['ls'], { url }), /UNABLE_TO_VERIFY_LEAF_SIGNATURE/, /--ca-file/);
});

for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
  test(
    `a ${maxVersion} server that requires a certificate receives that of --cert-file and --key-file`,
    OPENSSL,
    async (t) => {
      const authority = makeAuthority(t);
      const more = { requestCert: true, rejectUnauthorized: true, ca: readFileSync(authority.ca), maxVersion };
      const url = await serve(t, authority.issue('server'), more);
      const ls = (own?: Issued) => {
        const words = own ? ['--cert-file', own.cert, '--key-file', own.key] : [];
        return vreg(['ls', '--ca-file', authority.ca, ...words], { url });
      };
      assertFails(await ls(), /cannot reach/, /client certificate: --cert-file FILE --key-file FILE/);
      assertFails(
        await ls(makeAuthority(t).issue('client')),
        /cannot reach/,
        /^the server may have rejected the certificate from --cert-file/,
      );
      assert.deepEqual((await ls(authority.issue('client'))).code, 0);
    },
  );
}

test('https to an http server and http to an https server get different hints', OPENSSL, async (t) => {
  const plain = await startPlainServer(t);
  const to = plain.url.replace('http:', 'https:');
  assertFails(await vreg(['ls'], { url: to }), /cannot reach/, /write the URL with http:\/\//);
  const url = await serve(t, makeAuthority(t).issue('server'));
  const { code, stderr } = await vreg(['ls'], { url: url.replace('https:', 'http:') });
  assert.equal(code, 8, stderr);
});

test('invalid certificate and key files are reported before any request', OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const { cert, key } = authority.issue('client');
  const other = authority.issue('other');
  const junk = join(authority.dir, 'junk');
  writeFileSync(junk, 'junk', { mode: 0o600 });
  chmodSync(other.key, 0o644);
  const whole = readFileSync(authority.ca, 'utf8');
  // A truncated copy, and a file with a changed character.
  for (const [name, text] of Object.entries({
    cut: whole + whole.slice(0, 200),
    garbled: whole.replace(/^MII/m, 'MIJ'),
  }))
    writeFileSync(join(authority.dir, name), text);
  for (const [words, said] of [
    [['--cert-file', cert], /^vreg: --cert-file requires --key-file/],
    [['--key-file', key], /^vreg: --key-file requires --cert-file/],
    [
      ['--cert-file', cert, '--key-file', other.key],
      /^vreg: the private key .* can be read by other users \(mode 0644, from flag --key-file\)\nhint: chmod 600/,
    ],
    [['--cert-file', other.cert, '--key-file', key], /^vreg: the private key .* does not belong to the certificate/],
    [['--cert-file', junk, '--key-file', key], /^vreg: the certificate .*junk contains no PEM certificate/],
    [['--cert-file', cert, '--key-file', junk], /^vreg: the private key .*junk cannot be read as PEM/],
    [
      ['--ca-file', join(authority.dir, 'cut')],
      /^vreg: a certificate in .*cut cannot be read \(from flag --ca-file\)\nhint: is the file complete\?/,
    ],
    [
      ['--ca-file', join(authority.dir, 'garbled')],
      /^vreg: a certificate in .*garbled cannot be read \(from flag --ca-file\)\nhint: is the/,
    ],
    [['--ca-file', junk], /^vreg: the CA file .*junk contains no PEM certificate/],
  ] as const) {
    const { code, stderr } = await vreg(['ls', ...words], { url: 'https://127.0.0.1:1' });
    assert.equal(code, 5, words.join(' '));
    assert.match(stderr, said);
    const doctor = await vreg(['doctor', '--json', ...words], { url: 'https://127.0.0.1:1' });
    const [config] = JSON.parse(doctor.stdout) as Record<string, string>[];
    assert.deepEqual([doctor.code, config!.check, config!.result], [5, 'config', 'fail']);
    assert.match(`vreg: ${config!.detail}\nhint: ${config!.fix}`, said);
  }
});

test('a file with a certificate and its key must have mode 0600, for every setting', OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const { cert, key } = authority.issue('both');
  const both = join(authority.dir, 'both.pem');
  writeFileSync(both, readFileSync(cert, 'utf8') + readFileSync(key, 'utf8'), { mode: 0o600 });
  const ls = (...words: string[]) => vreg(['ls', ...words], { url: 'https://127.0.0.1:1' });
  const ways = [
    ['--cert-file', both, '--key-file', key],
    ['--ca-file', both],
  ] as const;
  for (const words of ways) assert.equal((await ls(...words)).code, 8, words.join(' '));
  chmodSync(both, 0o644);
  for (const words of ways) {
    const { code, stderr } = await ls(...words);
    assert.equal(code, 5, words.join(' '));
    assert.match(
      stderr,
      /both\.pem contains a private key and can be read by other users \(mode 0644, from flag --\w+-file\)\nhint: chmod 600 /,
    );
  }
  const words = ['daemon', '--port', '0', '--tls-cert', both, '--tls-key', key];
  assert.match((await vreg(words)).stderr, /^vreg: the certificate .*both\.pem contains a private key and can be read/);
});

test('a context sets the client certificate', OPENSSL, async (t) => {
  const authority = makeAuthority(t);
  const more = { requestCert: true, rejectUnauthorized: true, ca: readFileSync(authority.ca) };
  const url = await serve(t, authority.issue('server'), more);
  const { cert, key } = authority.issue('client');
  const home = tempDir(t);
  const words = ['--url', url, '--ca-file', authority.ca, '--cert-file', cert, '--key-file', key];
  assert.equal((await vreg(['context', 'add', 'prod', ...words], { home })).code, 0);
  assert.deepEqual(await vreg(['ls', '-c', 'prod'], { home }), { code: 0, stdout: '', stderr: '' });
  const { stdout } = await vreg(['context', 'show', 'prod', '-o', 'json'], { home });
  const shown = JSON.parse(stdout) as Record<string, string>;
  assert.deepEqual([shown['ca-file'], shown['cert-file'], shown['key-file']], [authority.ca, cert, key]);
});
