/** Issues certificates with openssl, in a temporary folder. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { tempDir } from './daemon.ts';

/** Paths of PEM files; the key has mode 0600. */
export interface Issued {
  cert: string;
  key: string;
}

export interface Authority {
  /** The folder of all its files. */
  dir: string;
  /** Path of the authority's own certificate. */
  ca: string;
  /** @param file base name of the files @param names subjectAltName in openssl's syntax; localhost by default */
  issue(file: string, options?: { subject?: string; names?: string; from?: string; until?: string }): Issued;
}

/** Times in openssl's syntax, far in the past and far in the future. */
export const LONG_AGO = '20200101000000Z';
export const YESTERYEAR = '20210101000000Z';
export const FAR_AHEAD = '20480101000000Z';
export const FARTHER_AHEAD = '20490101000000Z';

const EC = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];

export function makeAuthority(t: TestContext, name = 'Test CA'): Authority {
  return makeAuthorityIn(tempDir(t), name);
}

/** @param dir an empty folder */
export function makeAuthorityIn(dir: string, name: string): Authority {
  mkdirSync(join(dir, 'issued'));
  writeFileSync(join(dir, 'index.txt'), '');
  const config = join(dir, 'ca.cnf');
  writeFileSync(
    config,
    `[req]
distinguished_name=dn
[dn]
[ca]
default_ca=own
[own]
database=${dir}/index.txt
new_certs_dir=${dir}/issued
rand_serial=yes
default_md=sha256
default_days=30
unique_subject=no
policy=any
copy_extensions=copy
[any]
commonName=optional
organizationName=optional
`,
  );
  const openssl = (...args: string[]) => execFileSync('openssl', args, { cwd: dir, stdio: ['ignore', 'pipe', 'pipe'] });
  const [ca, caKey] = [join(dir, 'ca.crt'), join(dir, 'ca.key')];
  const forCa = ['-addext', 'basicConstraints=critical,CA:TRUE', '-days', '30'];
  openssl('req', '-x509', '-config', config, ...EC, ...forCa, '-subj', `/CN=${name}`, '-keyout', caKey, '-out', ca);
  return {
    dir,
    ca,
    issue(file, { subject = '/CN=localhost', names = 'DNS:localhost,IP:127.0.0.1', from, until } = {}) {
      const [cert, key, request] = [`${file}.crt`, `${file}.key`, `${file}.csr`].map((each) => join(dir, each)) as [
        string,
        string,
        string,
      ];
      const extra = names === '' ? [] : ['-addext', `subjectAltName=${names}`];
      openssl('req', '-config', config, '-new', ...EC, '-subj', subject, ...extra, '-keyout', key, '-out', request);
      const signer = ['-config', config, '-batch', '-notext', '-cert', ca, '-keyfile', caKey];
      const dates = [...(from ? ['-startdate', from] : []), ...(until ? ['-enddate', until] : [])];
      openssl('ca', ...signer, ...dates, '-in', request, '-out', cert);
      execFileSync('chmod', ['600', key]);
      return { cert, key };
    },
  };
}
