/** Reads and checks the certificates and keys that the settings name. */
import type { KeyObject, X509Certificate } from 'node:crypto';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Config, Found } from '../config.ts';
import { readIfThere } from '../files.ts';
import { VregError } from '../protocol/errors.ts';
import { namingOrigin, readNamedFile, readSecretFile, refuseLoose } from './secret-file.ts';
import type { SettingKey } from './settings.ts';

/** Certificates in a PEM file (RFC 7468). Text between them is ignored. */
const CERTIFICATES = /-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g;
/** A private key in PKCS #8, encrypted or not, or in an older format, for example `RSA PRIVATE KEY`. */
const PRIVATE_KEY = /-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----/;

/** The text of a PEM file, and its path for error messages. */
export interface Pem {
  path: string;
  text: string;
}

export interface CertificateAndKey {
  cert: Pem;
  key: Pem;
}

/** Certificate, key and client CA of the daemon's TCP listener. */
export interface ServerCertificates extends CertificateAndKey {
  /** CAs, one of which must have signed each client's certificate. If absent, clients need no certificate. */
  clientCa?: Pem | undefined;
}

/** Files with the certificates of the system, one for each family of distributions, as in Go's crypto/x509 (root_linux.go). */
const SYSTEM_BUNDLES = [
  '/etc/ssl/certs/ca-certificates.crt',
  '/etc/pki/tls/certs/ca-bundle.crt',
  '/etc/ssl/ca-bundle.pem',
  '/etc/pki/tls/cacert.pem',
  '/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem',
  '/etc/ssl/cert.pem',
];

/**
 * The CA certificates to trust: those from `--ca-file`, of the system, and those that `NODE_EXTRA_CA_CERTS`, `SSL_CERT_FILE`
 * and `SSL_CERT_DIR` name. Node adds its own only if no certificates are passed to it, so the caller has to.
 * @returns a function that reads the files of the system and of the variables, which only https needs; undefined if Node's
 * default is sufficient. Files that cannot be read are ignored, as OpenSSL does
 * @throws VregError USAGE naming the CA file if it contains no certificate or a damaged one
 */
export function trustedCertificates(config: Config): (() => string[]) | undefined {
  const { NODE_EXTRA_CA_CERTS, SSL_CERT_FILE, SSL_CERT_DIR } = config.env;
  const found = config.find('ca-file');
  const own = found === undefined ? '' : readCertificates(found, 'ca-file', 'the CA file', config).text;
  if (found === undefined && !SSL_CERT_FILE && !SSL_CERT_DIR) return undefined;
  return () => {
    const system = SYSTEM_BUNDLES.find((bundle) => existsSync(bundle));
    const folders = SSL_CERT_DIR?.split(':').filter(Boolean) ?? [];
    const files = [system, NODE_EXTRA_CA_CERTS, SSL_CERT_FILE, ...folders.flatMap(filesIn)];
    const texts = [own, ...files.map((file) => (file && readIfThere(file)) || '')];
    return texts.flatMap((text) => text.match(CERTIFICATES) ?? []);
  };
}

/** Paths of the files in a folder; empty if it cannot be read. */
function filesIn(folder: string): string[] {
  try {
    return readdirSync(folder).map((name) => join(folder, name));
  } catch {
    return [];
  }
}

/**
 * The client certificate, if configured: from flags and variables, else from systemd's credentials `cert-file` and
 * `key-file`, else from the config file.
 * @throws VregError USAGE naming the setting
 */
export function clientCertificate(config: Config): CertificateAndKey | undefined {
  const cert = config.fileOrCredential('cert-file');
  const key = config.fileOrCredential('key-file');
  return readPair(config, { certKey: 'cert-file', cert, keyKey: 'key-file', key });
}

/**
 * The daemon's certificates, if configured: from flags and variables, else from systemd's credentials `tls-cert`, `tls-key`
 * and `tls-client-ca`, else from the config file.
 * @throws VregError USAGE naming the setting
 */
export function serverCertificates(config: Config): ServerCertificates | undefined {
  const cert = config.fileOrCredential('tls-cert');
  const key = config.fileOrCredential('tls-key');
  const ca = config.fileOrCredential('tls-client-ca');
  const pair = readPair(config, { certKey: 'tls-cert', cert, keyKey: 'tls-key', key });
  if (ca === undefined) return pair;
  const clientCa = readCertificates(ca, 'tls-client-ca', 'the client CA file', config);
  if (pair) return { ...pair, clientCa };
  throw new VregError('USAGE', '--tls-client-ca requires --tls-cert: clients send certificates over https only', {
    field: 'tls-cert',
    hint: 'add --tls-cert FILE --tls-key FILE',
  });
}

interface Pair {
  certKey: SettingKey;
  cert: Found | undefined;
  keyKey: SettingKey;
  key: Found | undefined;
}

function readPair(config: Config, { certKey, cert, keyKey, key }: Pair): CertificateAndKey | undefined {
  if (cert === undefined && key === undefined) return undefined;
  if (cert !== undefined && key !== undefined) {
    const pair = {
      cert: readCertificates(cert, certKey, 'the certificate', config),
      key: namingOrigin(key.origin, () => ({
        path: key.value,
        text: readSecretFile(key.value, keyKey, 'the private key', config.env),
      })),
    };
    namingOrigin(key.origin, () => checkPair(pair, certKey, keyKey));
    return pair;
  }
  const [given, missing] = cert === undefined ? [keyKey, certKey] : [certKey, keyKey];
  throw new VregError('USAGE', `--${given} requires --${missing}`, {
    field: missing,
    hint: `pass both files: --${certKey} FILE --${keyKey} FILE`,
  });
}

/** Checks that key and certificate match. Otherwise each handshake would fail, and only clients would see the error. */
function checkPair({ cert, key }: CertificateAndKey, certKey: SettingKey, keyKey: SettingKey): void {
  const [leaf] = cert.text.match(CERTIFICATES)!;
  if (parseCertificate(leaf!, cert, certKey).checkPrivateKey(parseKey(key, keyKey))) return;
  throw new VregError('USAGE', `the private key ${key.path} does not belong to the certificate ${cert.path}`, {
    field: keyKey,
    hint: 'put the certificate first in its file, followed by the intermediate CAs',
  });
}

function parseCertificate(block: string, { path }: Pem, key: SettingKey): X509Certificate {
  // node:crypto takes a few milliseconds to load, so only commands that use certificates load it.
  const { X509Certificate } = process.getBuiltinModule('node:crypto');
  try {
    return new X509Certificate(block);
  } catch (cause) {
    throw new VregError('USAGE', `a certificate in ${path} cannot be read`, {
      field: key,
      hint: `is the file complete? check it: openssl x509 -noout -text -in ${path}`,
      cause,
    });
  }
}

function parseKey({ path, text }: Pem, key: SettingKey): KeyObject {
  if (/^-----BEGIN ENCRYPTED |^Proc-Type: 4,ENCRYPTED/m.test(text)) {
    throw new VregError('USAGE', `the private key ${path} is encrypted`, {
      field: key,
      hint: `the daemon cannot ask for a passphrase; remove it: openssl pkey -in ${path} -out FILE`,
    });
  }
  try {
    return process.getBuiltinModule('node:crypto').createPrivateKey(text);
  } catch {
    // The cause is omitted, because it could contain parts of the key.
    throw new VregError('USAGE', `the private key ${path} cannot be read as PEM`, {
      field: key,
      hint: 'a PEM private key begins with -----BEGIN PRIVATE KEY-----',
    });
  }
}

function readCertificates({ value: path, origin }: Found, key: SettingKey, what: string, { env }: Config): Pem {
  return namingOrigin(origin, () => readPem(path, key, what, env));
}

function readPem(path: string, key: SettingKey, what: string, env: NodeJS.ProcessEnv): Pem {
  const { bytes, mode } = readNamedFile(path, key, what);
  const pem = { path, text: bytes.toString() };
  // HAProxy, for example, expects certificate and key in one file.
  if (PRIVATE_KEY.test(pem.text)) refuseLoose(path, key, `${what} ${path} contains a private key and`, env, mode);
  const blocks: string[] = pem.text.match(CERTIFICATES) ?? [];
  // In a truncated file, the last certificate has no end marker.
  const last = pem.text.lastIndexOf('-----BEGIN CERTIFICATE-----');
  if (last > pem.text.lastIndexOf('-----END CERTIFICATE-----')) blocks.push(pem.text.slice(last));
  // OpenSSL silently skips unreadable certificates, and handshakes would fail later.
  for (const block of blocks) parseCertificate(block, pem, key);
  if (blocks.length > 0) return pem;
  throw new VregError('USAGE', `${what} ${path} contains no PEM certificate`, {
    field: key,
    hint: 'a PEM certificate begins with -----BEGIN CERTIFICATE-----; convert DER: openssl x509 -inform der -in FILE',
  });
}
