/** Sends requests over TLS, each on its own connection unless they share an agent. */
import { readFileSync } from 'node:fs';
import { type Agent, type RequestOptions, request } from 'node:https';
import { text } from 'node:stream/consumers';
import { connect, type TLSSocket } from 'node:tls';
import type { Issued } from './certificates.ts';

export interface Shown {
  /** Path of the trusted certificates. */
  ca: string;
  /** Client certificate. */
  own?: Issued | undefined;
}

export function tlsOf({ ca, own }: Shown): { ca: Buffer; cert?: Buffer; key?: Buffer } {
  return {
    ca: readFileSync(ca),
    ...(own ? { cert: readFileSync(own.cert), key: readFileSync(own.key) } : {}),
  };
}

export interface HttpsAnswer {
  status: number;
  text: string;
  /** SHA-256 of the server's certificate. */
  fingerprint: string;
}

/** @throws Node's error if no response arrives */
export function ask(url: string, shown: Shown, { agent, ...more }: RequestOptions & { agent?: Agent | false } = {}) {
  return new Promise<HttpsAnswer>((resolve, reject) => {
    let fingerprint = '';
    const sent = request(url, { ...tlsOf(shown), agent: agent ?? false, ...more }, (answer) => {
      text(answer).then((body) => resolve({ status: answer.statusCode!, text: body, fingerprint }), reject);
    });
    // Read it before the connection closes: a closed connection has no certificate.
    sent.once('socket', (socket: TLSSocket) => {
      const look = () => {
        fingerprint = socket.getPeerCertificate().fingerprint256;
      };
      if (socket.authorized) look();
      else socket.once('secureConnect', look);
    });
    sent.once('error', reject).end();
  });
}

/** Opens a connection without a request. */
export function open(url: string, shown: Shown, more: object = {}): Promise<TLSSocket> {
  const { hostname: host, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port: Number(port), ...tlsOf(shown), ...more }, () => resolve(socket));
    socket.once('error', reject);
  });
}
