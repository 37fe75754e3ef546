/** A load that costs its own process as little as possible, so that the server is measured and not the client. */
import { once } from 'node:events';
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { connect, type OnReadOpts, type Socket } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { connect as connectTls } from 'node:tls';

export interface Target {
  url: string;
  token?: string | undefined;
  /** Certificate of the authority to trust. */
  ca?: Buffer | undefined;
}

/** Milliseconds after which the load gives up on an answer. */
const PATIENCE = 60_000;
/** Bytes per read. A connection reuses its buffer, so that large answers leave no garbage. */
const READ_SIZE = 65_536;
/** Characters of an unexpected answer in the error. */
const EXCERPT = 300;

/** The bytes of a request. */
export function requestOf(method: string, path: string, { token }: Pick<Target, 'token'>, body?: string): Buffer {
  const headers = [
    'Host: localhost',
    ...(token === undefined ? [] : [`Authorization: Bearer ${token}`]),
    ...(body === undefined ? [] : ['Content-Type: application/json', `Content-Length: ${Buffer.byteLength(body)}`]),
  ];
  return Buffer.from(`${method} ${path} HTTP/1.1\r\n${headers.join('\r\n')}\r\n\r\n${body ?? ''}`);
}

/** Asks once. @returns the body of the response */
export function readBody({ url, token, ca }: Target, method: string, path: string): Promise<Buffer> {
  const request = url.startsWith('https:') ? httpsRequest : httpRequest;
  const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  return new Promise((resolve, reject) => {
    request(url + path, { method, headers, agent: false, ...(ca ? { ca } : {}) }, (response) => {
      if (response.statusCode === 200) buffer(response).then(resolve, reject);
      else reject(new Error(`${method} ${path} was answered with ${response.statusCode}`));
    })
      .on('error', reject)
      .end();
  });
}

export interface Turn {
  /** The bytes of the next request, now or when it is due; undefined when no more are to be sent. */
  next(): Buffer | undefined | Promise<Buffer | undefined>;
}

/** Connections to a server, with at most one request in progress on each. */
export class Load {
  readonly #connections: readonly Connection[];

  private constructor(connections: readonly Connection[]) {
    this.#connections = connections;
  }

  static async open(target: Target, connections: number): Promise<Load> {
    return new Load(await Promise.all(Array.from({ length: connections }, () => Connection.open(target))));
  }

  /**
   * Sends requests on all connections until there is no next one, and waits for all answers.
   * @returns number of answers and seconds until the last one
   * @throws Error if an answer is no success or does not arrive, or if a connection is closed
   */
  async run(turn: Turn): Promise<{ count: number; seconds: number }> {
    const started = performance.now();
    const counts = await Promise.all(this.#connections.map((connection) => connection.run(turn)));
    const count = counts.reduce((sum, each) => sum + each, 0);
    return { count, seconds: (performance.now() - started) / 1000 };
  }

  close(): void {
    for (const connection of this.#connections) connection.close();
  }
}

class Connection {
  readonly #socket: Socket;
  #onBytes: (bytes: Buffer) => void = () => {};
  #onFailure: (error: Error) => void = () => {};

  private constructor(open: (onread: OnReadOpts) => Socket) {
    const buffer = Buffer.alloc(READ_SIZE);
    const callback = (bytes: number) => {
      this.#onBytes(buffer.subarray(0, bytes));
      return true;
    };
    this.#socket = open({ buffer, callback })
      .on('error', (error) => this.#onFailure(error))
      .on('close', () => this.#onFailure(new Error('the server closed a connection')));
  }

  static async open({ url, ca }: Target): Promise<Connection> {
    const { protocol, hostname, port } = new URL(url);
    const isTls = protocol === 'https:';
    const options = { host: hostname, port: Number(port || (isTls ? 443 : 80)), noDelay: true };
    const connection = new Connection((onread) =>
      isTls ? connectTls({ ...options, ...(ca ? { ca } : {}), ...{ onread } }) : connect({ ...options, onread }),
    );
    await once(connection.#socket, isTls ? 'secureConnect' : 'connect');
    return connection;
  }

  /** @returns number of answers */
  run({ next }: Turn): Promise<number> {
    const reader = new AnswerReader();
    let count = 0;
    return new Promise((resolve, reject) => {
      const patience = setTimeout(() => this.#onFailure(new Error(`no answer in ${PATIENCE / 1000} s`)), PATIENCE);
      const end = () => {
        clearTimeout(patience);
        this.#onFailure = () => {};
      };
      const write = (request: Buffer | undefined) => {
        patience.refresh();
        if (request) {
          this.#socket.write(request);
          return;
        }
        end();
        resolve(count);
      };
      const send = () => {
        const request = next();
        if (request instanceof Promise) request.then(write, reject);
        else write(request);
      };
      this.#onFailure = (error) => {
        end();
        reject(error);
      };
      this.#onBytes = (bytes) => {
        try {
          if (!reader.read(bytes)) return;
          if (!reader.head.startsWith(SUCCESS))
            throw new Error(`unexpected answer: ${bytes.toString('latin1', 0, EXCERPT)}`);
        } catch (error) {
          this.#onFailure(error as Error);
          return;
        }
        count++;
        send();
      };
      send();
    });
  }

  close(): void {
    this.#onFailure = () => {};
    this.#socket.destroy();
  }
}

/** A status line with 2xx. */
const SUCCESS = 'HTTP/1.1 2';
const END_OF_HEAD = '\r\n\r\n';
/** End of a chunked body. JSON contains no line break, so the body contains these bytes nowhere else. */
const LAST_CHUNK = '\r\n0\r\n\r\n';

/** Finds the end of each answer, without a copy of its body. */
class AnswerReader {
  /** Status line and headers of the last answer. */
  head = '';
  #isInBody = false;
  /** Bytes of the body that are missing; undefined for a chunked body. */
  #missing: number | undefined;
  /** The last bytes of a chunked body. */
  #tail = '';

  /** @returns true at the end of an answer @throws Error if the head does not arrive in one piece, as small heads do */
  read(bytes: Buffer): boolean {
    const body = this.#isInBody ? bytes : bytes.subarray(this.#readHead(bytes));
    if (this.#missing !== undefined) this.#missing -= body.length;
    else
      this.#tail = (this.#tail + body.toString('latin1', Math.max(0, body.length - LAST_CHUNK.length))).slice(
        -LAST_CHUNK.length,
      );
    const isComplete = this.#missing === undefined ? this.#tail === LAST_CHUNK : this.#missing === 0;
    this.#isInBody = !isComplete;
    return isComplete;
  }

  /** @returns offset of the body */
  #readHead(bytes: Buffer): number {
    const end = bytes.indexOf(END_OF_HEAD);
    if (end < 0) throw new Error(`not the head of an answer: ${bytes.toString('latin1', 0, EXCERPT)}`);
    this.head = bytes.toString('latin1', 0, end);
    const length = /content-length: *(\d+)/i.exec(this.head)?.[1];
    this.#missing = length === undefined ? undefined : Number(length);
    this.#tail = '';
    return end + END_OF_HEAD.length;
  }
}
