/**
 * TLS for the TCP listener: the daemon's certificate, and client certificates if a client CA is configured. Both can be
 * replaced while the daemon runs: open connections continue, and new ones use the new files.
 */
import { X509Certificate } from 'node:crypto';
import type { RequestListener, ServerOptions } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { createSecureContext, type SecureContextOptions, TLSSocket } from 'node:tls';
import { MAX_TIMEOUT } from '../../../src/protocol/duration.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import { IdleSockets } from './idle-sockets.ts';
import { type Refused, rawAnswer } from './raw-answer.ts';

interface Pem {
  path: string;
  text: string;
}

/** Certificate chain, key, and the CA that must have signed client certificates. */
export interface TlsFiles {
  cert: Pem;
  key: Pem;
  /** If absent, clients need no certificate. */
  clientCa?: Pem | undefined;
}

export interface TlsLog {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

/** Certificates in a PEM file (RFC 7468). */
const CERTIFICATES = /-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g;
/** Milliseconds before its expiry at which a certificate causes a warning: a week is enough time to renew it. */
const EXPIRY_WARNING = 7 * 86_400_000;
/** Milliseconds for a client that sent plain HTTP to read the error. */
const PLAIN_HTTP_LINGER = 1000;
/** OpenSSL's errors for plain HTTP, depending on whether it recognizes the method. */
const PLAIN_HTTP: readonly (string | undefined)[] = ['ERR_SSL_HTTP_REQUEST', 'ERR_SSL_WRONG_VERSION_NUMBER'];

export class Tls {
  #files: TlsFiles;
  readonly #log: TlsLog;
  readonly #servers: Server[] = [];
  #leaf: X509Certificate;

  /** @throws VregError USAGE if OpenSSL cannot use the files */
  constructor(files: TlsFiles, log: TlsLog) {
    this.#log = log;
    this.#files = files;
    this.#leaf = this.#check(files);
  }

  /** True if the certificate covers this host name. A client that used it has verified the identity of the registry. */
  covers(name: string): boolean {
    return this.#leaf.checkHost(name) !== undefined;
  }

  /**
   * Uses other files for new connections.
   * @throws VregError USAGE if they cannot be used, or would change whether clients need a certificate; the old files then stay
   * in use
   */
  replace(files: TlsFiles | undefined): void {
    if (!files || (files.clientCa === undefined) !== (this.#files.clientCa === undefined)) {
      const what = files ? 'the client CA' : 'the certificate';
      throw new VregError('USAGE', `${what} cannot be added or removed while the registry is running`, {
        field: files ? 'tls-client-ca' : 'tls-cert',
        hint: 'restart it',
      });
    }
    this.#leaf = this.#check(files);
    this.#files = files;
    for (const server of this.#servers) server.setSecureContext(contextOf(files));
  }

  /** Same as `http.createServer`. A handshake has the same timeout as a request. */
  createServer(options: ServerOptions, listener: RequestListener): Server {
    const server = createServer(
      {
        ...options,
        ...contextOf(this.#files),
        handshakeTimeout: options.requestTimeout!,
        requestCert: this.#files.clientCa !== undefined,
        rejectUnauthorized: true,
      },
      listener,
    );
    this.#trackHandshakes(server);
    // Runs before Node reads a request that arrived with the handshake.
    server.prependListener('secureConnection', closeAtExpiry);
    this.#servers.push(server);
    return server;
  }

  /**
   * Tracks connections with an unfinished handshake, because Node's server neither closes them nor responds to plain HTTP on
   * them.
   */
  #trackHandshakes(server: Server): void {
    const pending = new Map<string, Socket>();
    const addresses = new WeakMap<Duplex, string>();
    server.on('connection', (socket: Socket) => {
      const name = peerOf(socket);
      pending.set(name, socket);
      if (socket.remoteAddress !== undefined) addresses.set(socket, socket.remoteAddress);
      socket.once('close', () => pending.delete(name));
    });
    server.on('secureConnection', (socket) => pending.delete(peerOf(socket)));
    const closeIdle = server.closeIdleConnections.bind(server);
    const idle = new IdleSockets();
    server.closeIdleConnections = () => {
      for (const socket of pending.values()) idle.end(socket);
      closeIdle();
    };
    const closeAll = server.closeAllConnections.bind(server);
    server.closeAllConnections = () => {
      for (const socket of pending.values()) socket.destroy();
      closeAll();
    };
    // Node's own listener would emit `clientError`, whose handler expects an HTTP connection; here the TLS handshake has not
    // finished.
    server.removeAllListeners('tlsClientError');
    server.on('tlsClientError', (error: NodeJS.ErrnoException, socket) => {
      const plain = PLAIN_HTTP.includes(error.code) ? pending.get(peerOf(socket)) : undefined;
      const from = addresses.get(tcpSocketOf(socket) ?? socket) ?? socket.remoteAddress;
      if (plain) {
        const refused: Refused = { error: plainHttpError(), from };
        server.emit('refused', refused);
        respondInPlainHttp(plain, socket, refused);
      } else socket.destroy();
      const reason = String(socket.authorizationError ?? error.code);
      // A missing or rejected client certificate may indicate an intruder; other errors are mistakes or port scans.
      const isUnauthorized = reason !== error.code || error.code === 'ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE';
      this.#log[isUnauthorized ? 'info' : 'debug']({ from, reason }, 'refused a connection: the TLS handshake failed');
    });
  }

  /** Checks the files, and warns about certificates that have expired or expire soon. @returns the daemon's certificate */
  #check(files: TlsFiles): X509Certificate {
    try {
      createSecureContext(contextOf(files));
    } catch (cause) {
      throw new VregError(
        'USAGE',
        `the certificate ${files.cert.path} with the key ${files.key.path} cannot be used for TLS: ${(cause as Error).message}`,
        { field: 'tls-cert', hint: `check it: openssl x509 -noout -text -in ${files.cert.path}` },
      );
    }
    for (const { path, text } of [files.cert, ...(files.clientCa ? [files.clientCa] : [])])
      for (const block of text.match(CERTIFICATES)!) this.#warnAboutDates(new X509Certificate(block), path);
    return new X509Certificate(files.cert.text);
  }

  #warnAboutDates({ validFrom, validTo, subject }: X509Certificate, path: string): void {
    const now = Date.now();
    const [begin, end] = [new Date(validFrom), new Date(validTo)];
    const fields = { path, subject: subject?.replaceAll('\n', ', ') };
    if (now > end.getTime()) this.#log.warn(fields, `a certificate in ${path} expired at ${end.toISOString()}`);
    else if (now < begin.getTime())
      this.#log.warn(
        fields,
        `a certificate in ${path} is not valid before ${begin.toISOString()}: is the clock correct?`,
      );
    else if (end.getTime() - now < EXPIRY_WARNING)
      this.#log.warn(fields, `a certificate in ${path} expires soon: at ${end.toISOString()}`);
  }
}

/** Closes a connection when the client's certificate expires. Node checks the expiry only in a full handshake. */
function closeAtExpiry(socket: TLSSocket): void {
  const { valid_to: expiresAt } = socket.getPeerCertificate();
  // The client has sent no certificate.
  if (!expiresAt) return;
  const left = Date.parse(expiresAt) - Date.now();
  if (left <= 0) socket.destroy();
  if (left <= 0 || left > MAX_TIMEOUT) return;
  const expiry = setTimeout(() => socket.destroy(), left).unref();
  socket.once('close', () => clearTimeout(expiry));
}

/** Caches client names by connection, because reading a certificate takes longer than handling a GET. */
const names = new WeakMap<Duplex, { name: string | undefined }>();

/**
 * The name in a client's certificate: the subject's common name, else the first DNS name. Undefined if the certificate is
 * missing, is not signed by a CA in `--tls-client-ca`, or has several common names, which is ambiguous.
 */
export function certificateName(socket: Duplex): string | undefined {
  if (!(socket instanceof TLSSocket) || !socket.authorized) return undefined;
  let known = names.get(socket);
  if (!known) {
    // A closed connection has no certificate.
    const { subject, subjectaltname } = socket.getPeerCertificate() ?? {};
    // Node's types declare a string, but a repeated name is an array.
    const commonName = subject?.CN as string | string[] | undefined;
    const name = typeof commonName === 'object' ? undefined : commonName || firstDnsName(subjectaltname);
    known = { name };
    names.set(socket, known);
  }
  return known.name;
}

/** The first DNS name in `DNS:a, IP Address:127.0.0.1`. A quoted entry contains a comma or a quote and is not a DNS name. */
function firstDnsName(names = ''): string | undefined {
  const entries = names.match(/[^,:"]+:(?:"(?:[^"\\]|\\.)*"|[^,"]*)(?:, |$)/g) ?? [];
  const dns = entries.map((entry) => /^DNS:([^",]+)/.exec(entry)?.[1]);
  return dns.find((name) => name !== undefined);
}

function contextOf({ cert, key, clientCa }: TlsFiles): SecureContextOptions {
  return {
    cert: cert.text,
    key: key.text,
    ...(clientCa ? { ca: clientCa.text } : {}),
    // Set explicitly, because Node's command-line options could lower it.
    minVersion: 'TLSv1.2',
  };
}

/** The peer's address and port, which identify an open connection of one listener. */
function peerOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}

/**
 * The TCP connection under TLS, from a private field of Node. If Node lacks the field, only the address is missing from the
 * log.
 */
function tcpSocketOf(socket: TLSSocket & { _parent?: Duplex }): Duplex | undefined {
  return socket._parent;
}

function plainHttpError(): VregError {
  return new VregError('INVALID', 'this port expects https but received plain http', {
    hint: 'write the URL with https://',
  });
}

/** Responds to plain HTTP on the TCP connection, because the TLS handshake has failed. */
function respondInPlainHttp(plain: Socket, socket: TLSSocket, refused: Refused): void {
  plain.on('error', () => socket.destroy());
  plain.end(rawAnswer(refused));
  const cut = setTimeout(() => socket.destroy(), PLAIN_HTTP_LINGER);
  plain.once('close', () => clearTimeout(cut));
}
