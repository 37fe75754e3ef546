/** The TLS settings of both transports. */
import type { SecureContext } from 'node:tls';
import type { ClientTls } from '../transport.ts';

/** Creates the TLS context for all connections of a transport, because creating one takes longer than a request. */
export function createTlsContext({ ca, cert, key }: ClientTls): SecureContext {
  // Loaded for https only, because it would slow down the start of every other command.
  const { createSecureContext, rootCertificates } = process.getBuiltinModule('node:tls');
  return createSecureContext({
    minVersion: 'TLSv1.2',
    ...(ca === undefined ? {} : { ca: distinct([...rootCertificates, ...ca()]) }),
    ...(cert === undefined || key === undefined ? {} : { cert, key }),
  });
}

/** Removes duplicates: most certificates of the system are also Node's own, and parsing one takes about half a millisecond. */
function distinct(certificates: readonly string[]): string[] {
  return [...new Map(certificates.map((pem) => [pem.replaceAll(/\s/g, ''), pem])).values()];
}
