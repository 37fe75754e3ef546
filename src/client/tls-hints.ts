/** What went wrong with TLS, and what to do about it: by the names that Node, OpenSSL and undici give to errors. */

/** A certificate that is not trusted (nodejs.org/api/tls.html, X509 certificate errors). */
const UNTRUSTED = /^(DEPTH_ZERO_SELF_SIGNED_CERT|SELF_SIGNED_CERT_IN_CHAIN|UNABLE_TO_\w+|CERT_\w+|ERR_TLS_\w+)$/;
/**
 * What a server says that takes no client without a certificate: of TLS 1.3, and of 1.2, which has no word of its own.
 * OpenSSL 3.5 writes `SSL/TLS_ALERT_…` where older ones write `SSLV3_ALERT_…`.
 */
const WANTS_CERTIFICATE = /ALERT_(CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE)$/;
/** What a server says that does not like the certificate which it was shown (RFC 8446, 6.2). */
const DISLIKES_CERTIFICATE =
  /ALERT_(UNKNOWN_CA|BAD_CERTIFICATE|\w*CERTIFICATE_(EXPIRED|REVOKED|UNKNOWN)|ACCESS_DENIED)$/;
const OTHER_VERSION = /ALERT_PROTOCOL_VERSION$|UNSUPPORTED_PROTOCOL$/;
/** A connection that was closed instead of an answer. */
const CLOSED = ['ECONNRESET', 'EPIPE', 'UND_ERR_SOCKET'];

/** True of a failure of TLS, not of the network below it. */
export function isTlsTrouble(code: string): boolean {
  return UNTRUSTED.test(code) || code === 'EPROTO' || code.startsWith('ERR_SSL_');
}

interface Situation {
  isHttps: boolean;
  /** This client shows a certificate of its own. */
  showsCertificate: boolean;
}

/** The next step after an error of a connection; undefined when TLS has nothing to do with it. */
export function hintOfTls(cause: NodeJS.ErrnoException, { isHttps, showsCertificate }: Situation): string | undefined {
  const code = String(cause.code);
  if (!isHttps) {
    // The alert of a TLS server is no HTTP; others close the connection.
    if (code.startsWith('HPE_')) return 'does it speak https there? write the URL with https://';
    return undefined;
  }
  if (code === 'CERT_NOT_YET_VALID') return `${clock()} is that behind, as after a restore? timedatectl set-ntp true`;
  if (code === 'CERT_HAS_EXPIRED') return `renew it on the server; ${clock()} is that right?`;
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID')
    return `the certificate is for ${namesOf(cause)}: write one of its names into the URL`;
  if (UNTRUSTED.test(code))
    return 'name the certificate to trust with --ca-file, and see that the URL has its host name';
  if (showsCertificate && (DISLIKES_CERTIFICATE.test(code) || WANTS_CERTIFICATE.test(code) || CLOSED.includes(code)))
    return 'does it take the certificate of --cert-file? its CA must have signed that, and it must not have expired';
  if (WANTS_CERTIFICATE.test(code))
    return 'it wants a certificate of its clients: name yours with --cert-file and --key-file';
  if (CLOSED.includes(code))
    return 'it closed the connection: if it wants a certificate, name yours with --cert-file and --key-file';
  if (OTHER_VERSION.test(code)) return 'it speaks an old version of TLS only: this client needs 1.2 or newer';
  if (isTlsTrouble(code)) return 'does it speak https there? if not, write the URL with http://';
  return undefined;
}

function clock(): string {
  return `this clock says ${new Date().toISOString().replace(/\.\d+Z$/, 'Z')}:`;
}

/** `localhost, 127.0.0.1`, from `DNS:localhost, IP Address:127.0.0.1` (nodejs.org/api/tls.html, getPeerCertificate). */
function namesOf(cause: NodeJS.ErrnoException): string {
  const names = (cause as { cert?: { subjectaltname?: string } }).cert?.subjectaltname;
  return names?.replaceAll(/(^|, )(?:DNS|IP Address):/g, '$1') || 'other names';
}
