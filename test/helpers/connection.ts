/** One connection of a raw HTTP/1.1 client: it sends bytes exactly as given and reads the responses one by one. */
import { connect, type NetConnectOpts, type Socket } from 'node:net';
import type { TestContext } from 'node:test';

export interface RawResponse {
  version: string;
  status: number;
  /** By lower-case name; a repeated header is joined with a comma. */
  headers: Record<string, string>;
  text: string;
}

/** Milliseconds to wait for a response; only a failing test uses them up. */
const PATIENCE = 15_000;

export class Connection {
  readonly socket: Socket;
  /** Resolves when the connection has closed, with everything that was received and not yet read. */
  readonly closed: Promise<Buffer>;
  readonly #unread: Buffer[] = [];
  #length = 0;
  #isClosed = false;
  #wake = () => {};

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#unread.push(chunk);
      this.#length += chunk.length;
      this.#wake();
    });
    socket.on('error', () => {});
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        this.#isClosed = true;
        this.#wake();
        resolve(Buffer.concat(this.#unread));
      });
    });
  }

  /** Connects; the connection is destroyed when the test ends. */
  static open(t: Pick<TestContext, 'after'>, to: NetConnectOpts): Connection {
    const connection = new Connection(connect(to));
    t.after(() => connection.socket.destroy());
    return connection;
  }

  /** Sends each part with a write of its own. */
  send(...parts: readonly (string | Buffer)[]): this {
    for (const part of parts) this.socket.write(part as Buffer);
    return this;
  }

  /**
   * Reads the next response, interim ones included (RFC 9112, section 6.3).
   * @param method of the request: the response to a HEAD has no body whatever its headers announce
   * @throws if the connection closes before the response is complete
   */
  async response(method = 'GET'): Promise<RawResponse> {
    const head = parseHead(await this.#until('\r\n\r\n'));
    const { status, headers } = head;
    if (method === 'HEAD' || status < 200 || status === 204 || status === 304) return { ...head, text: '' };
    if (/chunked/i.test(headers['transfer-encoding'] ?? '')) return { ...head, text: await this.#chunks() };
    const length = headers['content-length'];
    if (length !== undefined) return { ...head, text: (await this.#exactly(Number(length))).toString() };
    await this.closed;
    return { ...head, text: (await this.#exactly(this.#length)).toString() };
  }

  /** Reads the status line and the headers of a response whose body has no end, or is read later. */
  async responseHead(): Promise<Omit<RawResponse, 'text'>> {
    const { text, ...head } = await this.response('HEAD');
    return head;
  }

  /** Waits until the bytes that were received and not yet read match a pattern. @throws if the connection closes first */
  async received(pattern: RegExp): Promise<string> {
    const deadline = Date.now() + PATIENCE;
    for (;;) {
      const text = Buffer.concat(this.#unread).toString('latin1');
      if (pattern.test(text)) return text;
      if (this.#isClosed || Date.now() > deadline)
        throw new Error(`${pattern} was not received: ${text.slice(0, 500)}`);
      await this.#news(deadline);
    }
  }

  /** Reads as many responses as there are methods, in order. */
  async responses(methods: readonly string[]): Promise<RawResponse[]> {
    const read: RawResponse[] = [];
    for (const method of methods) read.push(await this.response(method));
    return read;
  }

  /** Reads responses until the server closes the connection. @throws on bytes that belong to no response */
  async remaining(method = 'GET'): Promise<RawResponse[]> {
    await this.closed;
    const read: RawResponse[] = [];
    while (this.#length > 0) read.push(await this.response(method));
    return read;
  }

  /** Ends the connection with a TCP reset. */
  reset(): void {
    // If the server has ended the connection meanwhile, a reset fails and leaves the socket open.
    if (this.socket.writableEnded) this.socket.destroy();
    else this.socket.resetAndDestroy();
  }

  async #chunks(): Promise<string> {
    const parts: Buffer[] = [];
    for (;;) {
      const line = await this.#until('\r\n');
      if (!/^[0-9a-f]+$/i.test(line)) throw new Error(`not a chunk size: ${JSON.stringify(line)}`);
      const size = Number.parseInt(line, 16);
      parts.push(await this.#exactly(size));
      const end = (await this.#exactly(2)).toString();
      if (end !== '\r\n') throw new Error(`no CRLF after a chunk: ${JSON.stringify(end)}`);
      if (size === 0) return Buffer.concat(parts).toString();
    }
  }

  /** Reads up to a marker, which is consumed and not returned. */
  async #until(marker: string): Promise<string> {
    const deadline = Date.now() + PATIENCE;
    for (let count = 1; ; count++) {
      while (this.#unread.length < count) await this.#more(deadline);
      const bytes = count === 1 ? this.#unread[0]! : Buffer.concat(this.#unread.slice(0, count));
      const at = bytes.indexOf(marker);
      if (at < 0) continue;
      await this.#exactly(at + marker.length);
      return bytes.subarray(0, at).toString('latin1');
    }
  }

  async #exactly(length: number): Promise<Buffer> {
    const deadline = Date.now() + PATIENCE;
    while (this.#length < length) await this.#more(deadline);
    const parts: Buffer[] = [];
    for (let missing = length; missing > 0; ) {
      const [first] = this.#unread as [Buffer];
      const part = first.subarray(0, missing);
      parts.push(part);
      missing -= part.length;
      if (part.length === first.length) this.#unread.shift();
      else this.#unread[0] = first.subarray(part.length);
    }
    this.#length -= length;
    return parts.length === 1 ? parts[0]! : Buffer.concat(parts);
  }

  /** Waits for more bytes. @throws if none can come, or none come in time */
  async #more(deadline: number): Promise<void> {
    const received = () => JSON.stringify(Buffer.concat(this.#unread).subarray(0, 500).toString('latin1'));
    if (this.#isClosed) throw new Error(`the connection closed before a complete response: ${received()}`);
    if (Date.now() > deadline) throw new Error(`no complete response within ${PATIENCE} ms: ${received()}`);
    await this.#news(deadline);
  }

  async #news(deadline: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, Math.max(1, deadline - Date.now()));
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

/** Sends bytes on a connection of their own and reads the responses until the server closes it. */
export async function askRaw(
  t: Pick<TestContext, 'after'>,
  to: NetConnectOpts,
  bytes: string | Buffer,
  method = 'GET',
): Promise<RawResponse[]> {
  return Connection.open(t, to).send(bytes).remaining(method);
}

function parseHead(head: string): Omit<RawResponse, 'text'> {
  const [first = '', ...lines] = head.split('\r\n');
  const [, version = '', status = ''] = /^HTTP\/(\d\.\d) (\d{3}) /.exec(first) ?? [];
  if (status === '') throw new Error(`not a status line: ${JSON.stringify(first)}`);
  const headers: Record<string, string> = {};
  for (const line of lines) {
    const [, name = '', value = ''] = /^([^:]+):\s*(.*)$/.exec(line) ?? [];
    const key = name.toLowerCase();
    headers[key] = headers[key] === undefined ? value : `${headers[key]}, ${value}`;
  }
  return { version, status: Number(status), headers };
}
