/** The certificates and keys that the settings name, as text. */
import type { KeyObject, X509Certificate } from 'node:crypto';
import type { Config } from '../config.ts';
import { VregError } from '../protocol/errors.ts';
import { readNamedFile, readSecretFile, refuseLoose } from './secret-file.ts';
import type { SettingKey } from './settings.ts';

/** The certificates in a PEM file (RFC 7468); text between them is none of them. */
const BLOCKS = /-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g;
/** PKCS #8, encrypted or not, and what came before it: `RSA PRIVATE KEY`, `EC PRIVATE KEY`. */
const PRIVATE_KEY = /-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----/;

/** A PEM file, with the name that errors give it. */
export interface Pem {
  path: string;
  text: string;
}

export interface CertificateAndKey {
  cert: Pem;
  key: Pem;
}

/** What the TCP address speaks https with. */
export interface ServerCertificates extends CertificateAndKey {
  /** Of which one must have signed the certificate of each client; without them, clients need none. */
  clientCa?: Pem | undefined;
}

/** Certificates to trust, if any were named. @throws VregError USAGE naming the file when it has none, or is damaged */
export function trustedCertificates(config: Config): Pem | undefined {
  const path = config.get('ca-file');
  return path === undefined ? undefined : readCertificates(path, 'ca-file', 'the CA file', config);
}

/**
 * What to show to a registry that asks for it: from flags and variables, else from systemd's credentials `cert-file` and
 * `key-file`, else from the config file.
 * @throws VregError USAGE naming what is wrong
 */
export function clientCertificate(config: Config): CertificateAndKey | undefined {
  const cert = config.fileOrCredential('cert-file');
  const key = config.fileOrCredential('key-file');
  return readPair(config, { certKey: 'cert-file', cert, keyKey: 'key-file', key });
}

/**
 * What `vreg daemon serve` shall speak https with: from flags and variables, else from systemd's credentials `tls-cert`,
 * `tls-key` and `tls-client-ca`, else from the config file.
 * @throws VregError USAGE naming what is wrong
 */
export function serverCertificates(config: Config): ServerCertificates | undefined {
  const cert = config.fileOrCredential('tls-cert');
  const key = config.fileOrCredential('tls-key');
  const ca = config.fileOrCredential('tls-client-ca');
  const pair = readPair(config, { certKey: 'tls-cert', cert, keyKey: 'tls-key', key });
  if (ca === undefined) return pair;
  const clientCa = readCertificates(ca, 'tls-client-ca', 'the client CA file', config);
  if (pair) return { ...pair, clientCa };
  throw new VregError('USAGE', 'clients can only show certificates over https, and --tls-cert is not given', {
    field: 'tls-cert',
    hint: 'give --tls-cert and --tls-key, too',
  });
}

interface Pair {
  certKey: SettingKey;
  cert: string | undefined;
  keyKey: SettingKey;
  key: string | undefined;
}

function readPair(config: Config, { certKey, cert, keyKey, key }: Pair): CertificateAndKey | undefined {
  if (cert === undefined && key === undefined) return undefined;
  if (cert !== undefined && key !== undefined) {
    const pair = {
      cert: readCertificates(cert, certKey, 'the certificate', config),
      key: { path: key, text: readSecretFile(key, keyKey, 'the private key', config.env) },
    };
    checkPair(pair, certKey, keyKey);
    return pair;
  }
  const [given, missing] = cert === undefined ? [keyKey, certKey] : [certKey, keyKey];
  throw new VregError('USAGE', `--${given} needs --${missing}, which is not given`, {
    field: missing,
    hint: `name both files: --${certKey} FILE --${keyKey} FILE`,
  });
}

/** OpenSSL would tell a connection of it, not who made the mistake. */
function checkPair({ cert, key }: CertificateAndKey, certKey: SettingKey, keyKey: SettingKey): void {
  const [leaf] = cert.text.match(BLOCKS)!;
  if (parseCertificate(leaf!, cert, certKey).checkPrivateKey(parseKey(key, keyKey))) return;
  throw new VregError('USAGE', `the private key ${key.path} is not that of the certificate ${cert.path}`, {
    field: keyKey,
    hint: 'in its file the certificate itself stands first, those that vouch for it behind it',
  });
}

function parseCertificate(block: string, { path }: Pem, key: SettingKey): X509Certificate {
  // Loaded by those only who have a certificate: it would cost each command a few milliseconds.
  const { X509Certificate } = process.getBuiltinModule('node:crypto');
  try {
    return new X509Certificate(block);
  } catch (cause) {
    throw new VregError('USAGE', `a certificate in ${path} cannot be read`, {
      field: key,
      hint: `is the file whole? see what is in it: openssl x509 -noout -text -in ${path}`,
      cause,
    });
  }
}

function parseKey({ path, text }: Pem, key: SettingKey): KeyObject {
  if (/^-----BEGIN ENCRYPTED |^Proc-Type: 4,ENCRYPTED/m.test(text)) {
    throw new VregError('USAGE', `the private key ${path} is encrypted`, {
      field: key,
      hint: `nobody is there to type its passphrase; write it without one: openssl pkey -in ${path} -out FILE`,
    });
  }
  try {
    return process.getBuiltinModule('node:crypto').createPrivateKey(text);
  } catch {
    // Without its cause: nothing of a key belongs into an error.
    throw new VregError('USAGE', `the private key ${path} cannot be read as PEM`, {
      field: key,
      hint: 'it begins with -----BEGIN PRIVATE KEY-----',
    });
  }
}

function readCertificates(path: string, key: SettingKey, what: string, { env }: Config): Pem {
  const { text, mode } = readNamedFile(path, key, what);
  const pem = { path, text };
  // Both in one file, as HAProxy has it.
  if (PRIVATE_KEY.test(pem.text)) refuseLoose(path, key, `${what} ${path} holds a private key, and`, env, mode);
  const blocks: string[] = pem.text.match(BLOCKS) ?? [];
  // Of a file that was cut, the last one has no end.
  const last = pem.text.lastIndexOf('-----BEGIN CERTIFICATE-----');
  if (last > pem.text.lastIndexOf('-----END CERTIFICATE-----')) blocks.push(pem.text.slice(last));
  // OpenSSL leaves out what it cannot read, and then the connections fail.
  for (const block of blocks) parseCertificate(block, pem, key);
  if (blocks.length > 0) return pem;
  throw new VregError('USAGE', `${what} ${path} holds no certificate in PEM`, {
    field: key,
    hint: 'it begins with -----BEGIN CERTIFICATE-----; from DER: openssl x509 -inform der -in FILE',
  });
}
