/**
 * TLS of the TCP address: the certificate that the daemon shows, and that its clients must show where a CA for them is
 * given. Both can be replaced while connections are open: those go on, new ones get what is new.
 */
import { X509Certificate } from 'node:crypto';
import type { RequestListener, ServerOptions } from 'node:http';
import { createServer, type Server } from 'node:https';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { createSecureContext, type SecureContextOptions, TLSSocket } from 'node:tls';
import { VregError } from '../../../src/protocol/errors.ts';
import { MAX_TIMEOUT } from '../../clock.ts';
import { IdleSockets } from './idle-sockets.ts';
import { type Refused, rawAnswer } from './raw-answer.ts';

interface Pem {
  path: string;
  text: string;
}

/** A certificate with its chain, its key, and whom clients must have theirs from. */
export interface TlsFiles {
  cert: Pem;
  key: Pem;
  /** Without it, clients need no certificate. */
  clientCa?: Pem | undefined;
}

export interface TlsLog {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
}

/** The certificates in a PEM file (RFC 7468). */
const BLOCKS = /-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g;
/** Milliseconds before its end at which a certificate is worth a warning: a week to renew it. */
const SOON = 7 * 86_400_000;
/** Milliseconds that a client who spoke plain HTTP may take to read why that is wrong. */
const LINGER = 1000;
/** What OpenSSL says of plain HTTP: the first where it knows the method. */
const PLAIN_HTTP: readonly (string | undefined)[] = ['ERR_SSL_HTTP_REQUEST', 'ERR_SSL_WRONG_VERSION_NUMBER'];

export class Tls {
  #files: TlsFiles;
  readonly #log: TlsLog;
  readonly #servers: Server[] = [];
  #leaf: X509Certificate;

  /** @throws VregError USAGE when OpenSSL cannot use the files */
  constructor(files: TlsFiles, log: TlsLog) {
    this.#log = log;
    this.#files = files;
    this.#leaf = this.#check(files);
  }

  /** True of a name that the certificate is for: whoever asks for it has seen that this is its registry. */
  covers(name: string): boolean {
    return this.#leaf.checkHost(name) !== undefined;
  }

  /**
   * From now on these are shown, and asked for, in new connections.
   * @throws VregError USAGE when they cannot be used, or would open or close the door to clients without a certificate;
   *   the old stay in force then
   */
  replace(files: TlsFiles | undefined): void {
    if (!files || (files.clientCa === undefined) !== (this.#files.clientCa === undefined)) {
      const what = files ? 'the CA for clients' : 'the certificate';
      throw new VregError('USAGE', `${what} cannot be added or taken away while the registry runs`, {
        field: files ? 'tls-client-ca' : 'tls-cert',
        hint: 'restart it',
      });
    }
    this.#leaf = this.#check(files);
    this.#files = files;
    for (const server of this.#servers) server.setSecureContext(contextOf(files));
  }

  /** As `http.createServer`; a handshake has as long as a whole request. */
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
    this.#watchHandshakes(server);
    // Before a request that came with the handshake is read.
    server.prependListener('secureConnection', endWithCertificate);
    this.#servers.push(server);
    return server;
  }

  /** Node's server knows nothing of a connection before its handshake is done: not how to close it, nor what to say to it. */
  #watchHandshakes(server: Server): void {
    const pending = new Map<string, Socket>();
    const addresses = new WeakMap<Duplex, string>();
    server.on('connection', (socket: Socket) => {
      const name = nameOf(socket);
      pending.set(name, socket);
      if (socket.remoteAddress !== undefined) addresses.set(socket, socket.remoteAddress);
      socket.once('close', () => pending.delete(name));
    });
    server.on('secureConnection', (socket) => pending.delete(nameOf(socket)));
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
    // Node's own would hand it to who answers broken requests, of which there is none yet.
    server.removeAllListeners('tlsClientError');
    server.on('tlsClientError', (error: NodeJS.ErrnoException, socket) => {
      const plain = PLAIN_HTTP.includes(error.code) ? pending.get(nameOf(socket)) : undefined;
      const from = addresses.get(belowOf(socket) ?? socket) ?? socket.remoteAddress;
      if (plain) {
        const refused: Refused = { error: speaksHttps(), from };
        server.emit('refused', refused);
        answerInPlainHttp(plain, socket, refused);
      } else socket.destroy();
      const reason = String(socket.authorizationError ?? error.code);
      // Who must show a certificate and cannot is a stranger; all else is a slip, or a scan of ports.
      const isStranger = reason !== error.code || error.code === 'ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE';
      this.#log[isStranger ? 'info' : 'debug']({ from, reason }, 'refused a connection: its handshake failed');
    });
  }

  /** @returns the certificate that is shown */
  #check(files: TlsFiles): X509Certificate {
    try {
      createSecureContext(contextOf(files));
    } catch (cause) {
      throw new VregError(
        'USAGE',
        `the certificate ${files.cert.path} with the key ${files.key.path} cannot be used for TLS: ${(cause as Error).message}`,
        { field: 'tls-cert', hint: `see what is in it: openssl x509 -noout -text -in ${files.cert.path}` },
      );
    }
    for (const { path, text } of [files.cert, ...(files.clientCa ? [files.clientCa] : [])])
      for (const block of text.match(BLOCKS)!) this.#tellOfDates(new X509Certificate(block), path);
    return new X509Certificate(files.cert.text);
  }

  #tellOfDates({ validFrom, validTo, subject }: X509Certificate, path: string): void {
    const now = Date.now();
    const [begin, end] = [new Date(validFrom), new Date(validTo)];
    const fields = { path, subject: subject?.replaceAll('\n', ', ') };
    if (now > end.getTime()) this.#log.warn(fields, `a certificate in ${path} has expired, at ${end.toISOString()}`);
    else if (now < begin.getTime())
      this.#log.warn(
        fields,
        `a certificate in ${path} is not valid before ${begin.toISOString()}: is the clock right?`,
      );
    else if (end.getTime() - now < SOON)
      this.#log.warn(fields, `a certificate in ${path} expires soon, at ${end.toISOString()}`);
  }
}

/** Node looks at the end of a client's certificate in a full handshake only: not in a resumed one, and not later. */
function endWithCertificate(socket: TLSSocket): void {
  const { valid_to: end } = socket.getPeerCertificate();
  // A client that shows none has no end.
  if (!end) return;
  const left = Date.parse(end) - Date.now();
  if (left <= 0) socket.destroy();
  if (left <= 0 || left > MAX_TIMEOUT) return;
  const expiry = setTimeout(() => socket.destroy(), left).unref();
  socket.once('close', () => clearTimeout(expiry));
}

/** Names of clients by their connection: reading a certificate takes longer than a read of the registry. */
const names = new WeakMap<Duplex, { name: string | undefined }>();

/**
 * The name that a client's certificate gives it: the subject's common name, else the first DNS name; undefined for a client
 * without a certificate that a CA of `--tls-client-ca` has signed, and for one with several common names, which is nobody.
 */
export function certificateName(socket: Duplex): string | undefined {
  if (!(socket instanceof TLSSocket) || !socket.authorized) return undefined;
  let known = names.get(socket);
  if (!known) {
    // A connection that is gone has none.
    const { subject, subjectaltname } = socket.getPeerCertificate() ?? {};
    // Types of Node say text; there is an array where a name is given more than once.
    const commonName = subject?.CN as string | string[] | undefined;
    const name = typeof commonName === 'object' ? undefined : commonName || firstDnsName(subjectaltname);
    known = { name };
    names.set(socket, known);
  }
  return known.name;
}

/** Of `DNS:a, IP Address:127.0.0.1`; what is quoted has a comma or a quote in it, and is no DNS name. */
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
    // What a command line of Node could lower.
    minVersion: 'TLSv1.2',
  };
}

/** One connection of a listener has it at a time. */
function nameOf({ remoteAddress, remotePort }: Socket): string {
  return `${remoteAddress} ${remotePort}`;
}

/** The connection below TLS, by Node's own name for it: only the log would miss it. */
function belowOf(socket: TLSSocket & { _parent?: Duplex }): Duplex | undefined {
  return socket._parent;
}

function speaksHttps(): VregError {
  return new VregError('INVALID', 'this port speaks https, and got plain http', {
    hint: 'write the URL with https://',
  });
}

/** Answers plain HTTP in plain HTTP, past the TLS layer, whose handshake has failed. */
function answerInPlainHttp(plain: Socket, socket: TLSSocket, refused: Refused): void {
  plain.on('error', () => socket.destroy());
  plain.end(rawAnswer(refused));
  const cut = setTimeout(() => socket.destroy(), LINGER);
  plain.once('close', () => clearTimeout(cut));
}
