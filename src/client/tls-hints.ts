/** Hints for TLS errors, selected by the error codes of Node and OpenSSL. */
import { INVALID_HTTP } from './transport.ts';

/** The server's certificate is not trusted (nodejs.org/api/tls.html, X509 certificate errors). */
const UNTRUSTED = /^(DEPTH_ZERO_SELF_SIGNED_CERT|SELF_SIGNED_CERT_IN_CHAIN|UNABLE_TO_\w+|CERT_\w+|ERR_TLS_\w+)$/;
/**
 * The server requires a client certificate: the alerts in TLS 1.3 and in TLS 1.2, which has only a general one. OpenSSL 3.5
 * writes `SSL/TLS_ALERT_…` where older ones write `SSLV3_ALERT_…`.
 */
const REQUIRES_CERTIFICATE = /ALERT_(CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE)$/;
/** The server rejects the client's certificate (RFC 8446, 6.2). */
const REJECTS_CERTIFICATE =
  /ALERT_(UNKNOWN_CA|BAD_CERTIFICATE|\w*CERTIFICATE_(EXPIRED|REVOKED|UNKNOWN)|ACCESS_DENIED)$/;
const OTHER_VERSION = /ALERT_PROTOCOL_VERSION$|UNSUPPORTED_PROTOCOL$/;
/** The server closed the connection without a response. */
const CLOSED = ['ECONNRESET', 'EPIPE'];

/** True for a TLS error, false for a network error. */
export function isTlsError(code: string): boolean {
  return UNTRUSTED.test(code) || code === 'EPROTO' || code.startsWith('ERR_SSL_');
}

/** True if the server ended the handshake because of the client's certificate, so it has not read the request. */
export function isCertificateRefused(code: string): boolean {
  return REQUIRES_CERTIFICATE.test(code) || REJECTS_CERTIFICATE.test(code);
}

interface Situation {
  isHttps: boolean;
  /** The client is configured with a certificate. */
  sendsCertificate: boolean;
}

/** The hint for a connection error; undefined if TLS is not involved. */
export function tlsHint(cause: NodeJS.ErrnoException, { isHttps, sendsCertificate }: Situation): string | undefined {
  const code = String(cause.code);
  if (!isHttps) {
    // A TLS server responds to plain HTTP with an alert.
    if (code === INVALID_HTTP) return 'does the server use https? write the URL with https://';
    return undefined;
  }
  if (code === 'CERT_NOT_YET_VALID')
    return `${clock()} is it behind, for example after a restore? set it: timedatectl set-ntp true`;
  if (code === 'CERT_HAS_EXPIRED') return `renew the certificate on the server; ${clock()} is that correct?`;
  if (code === 'ERR_TLS_CERT_ALTNAME_INVALID')
    return `the certificate is for ${certificateNames(cause)}: use one of these names in the URL`;
  if (UNTRUSTED.test(code)) return 'trust its CA with --ca-file FILE, and use its host name in the URL';
  if (sendsCertificate && (REJECTS_CERTIFICATE.test(code) || REQUIRES_CERTIFICATE.test(code) || CLOSED.includes(code)))
    return 'the server may have rejected the certificate from --cert-file: it must be signed by the client CA of the server and must not have expired';
  if (REQUIRES_CERTIFICATE.test(code))
    return 'the server requires a client certificate: --cert-file FILE --key-file FILE';
  if (CLOSED.includes(code))
    return 'the server closed the connection; if it requires a client certificate: --cert-file FILE --key-file FILE';
  if (OTHER_VERSION.test(code))
    return 'the server supports only old versions of TLS; this client requires 1.2 or newer';
  if (isTlsError(code)) return 'does the server use https? if not, write the URL with http://';
  return undefined;
}

function clock(): string {
  return `the local clock is at ${new Date().toISOString().replace(/\.\d+Z$/, 'Z')};`;
}

/** `localhost, 127.0.0.1`, from `DNS:localhost, IP Address:127.0.0.1` (nodejs.org/api/tls.html, getPeerCertificate). */
function certificateNames(cause: NodeJS.ErrnoException): string {
  const names = (cause as { cert?: { subjectaltname?: string } }).cert?.subjectaltname;
  return names?.replaceAll(/(^|, )(?:DNS|IP Address):/g, '$1') || 'other names';
}
