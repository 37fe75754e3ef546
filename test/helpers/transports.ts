/** The two transports of the client, by name. */
import { NodeHttpTransport } from '../../src/client/transport/node-http.ts';
import { UndiciTransport } from '../../src/client/transport/undici.ts';
import type { OpenTransport } from '../../src/client/transport.ts';

export const openUndici: OpenTransport = (url, tls) => new UndiciTransport(url, tls);
export const openNodeHttp: OpenTransport = (url, tls) => new NodeHttpTransport(url, tls);

export const TRANSPORTS: Readonly<Record<string, OpenTransport>> = { undici: openUndici, 'node:http': openNodeHttp };
