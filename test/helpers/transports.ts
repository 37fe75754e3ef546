/** The two transports of the client, by name. */
import { NodeHttpTransport } from '../../src/client/transport/node-http.ts';
import { UndiciTransport } from '../../src/client/transport/undici.ts';
import type { OpenTransport } from '../../src/client/transport.ts';

export const openUndici: OpenTransport = (...to) => new UndiciTransport(...to);
export const openNodeHttp: OpenTransport = (...to) => new NodeHttpTransport(...to);

export const TRANSPORTS: Readonly<Record<string, OpenTransport>> = { undici: openUndici, 'node:http': openNodeHttp };
