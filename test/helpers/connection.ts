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
  #bytes: Buffer = Buffer.alloc(0);
  #isClosed = false;
  #wake = () => {};

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk]);
      this.#wake();
    });
    socket.on('error', () => {});
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        this.#isClosed = true;
        this.#wake();
        resolve(this.#bytes);
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
   * Reads the next response, interim ones included.
   * @param method of the request: the response to a HEAD has no body whatever its headers announce
   * @throws if the connection closes before the response is complete
   */
  async response(method = 'GET'): Promise<RawResponse> {
    const deadline = Date.now() + PATIENCE;
    for (;;) {
      const parsed = parseResponse(this.#bytes, method, this.#isClosed);
      if (parsed) {
        this.#bytes = this.#bytes.subarray(parsed.length);
        return parsed.response;
      }
      const received = () => JSON.stringify(this.#bytes.subarray(0, 500).toString('latin1'));
      if (this.#isClosed) throw new Error(`the connection closed before a complete response: ${received()}`);
      if (Date.now() > deadline) throw new Error(`no complete response within ${PATIENCE} ms: ${received()}`);
      await this.#news(deadline);
    }
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
      const text = this.#bytes.toString('latin1');
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
    while (this.#bytes.length > 0) read.push(await this.response(method));
    return read;
  }

  /** Ends the connection with a TCP reset. */
  reset(): void {
    this.socket.resetAndDestroy();
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

/** Parses the first response (RFC 9112, section 6.3). @returns undefined while it is incomplete */
function parseResponse(
  bytes: Buffer,
  method: string,
  isClosed: boolean,
): { response: RawResponse; length: number } | undefined {
  const end = bytes.indexOf('\r\n\r\n');
  if (end < 0) return undefined;
  const [first = '', ...lines] = bytes.subarray(0, end).toString('latin1').split('\r\n');
  const [, version = '', status = ''] = /^HTTP\/(\d\.\d) (\d{3}) /.exec(first) ?? [];
  if (status === '') throw new Error(`not a status line: ${JSON.stringify(first)}`);
  const headers: Record<string, string> = {};
  for (const line of lines) {
    const [, name = '', value = ''] = /^([^:]+):\s*(.*)$/.exec(line) ?? [];
    const key = name.toLowerCase();
    headers[key] = headers[key] === undefined ? value : `${headers[key]}, ${value}`;
  }
  const start = end + 4;
  const whole = (text: string, length: number) => ({
    response: { version, status: Number(status), headers, text },
    length,
  });
  if (method === 'HEAD' || Number(status) < 200 || status === '204' || status === '304') return whole('', start);
  if (/chunked/i.test(headers['transfer-encoding'] ?? '')) {
    const body = parseChunks(bytes, start);
    return body && whole(body.text, body.end);
  }
  const length = headers['content-length'];
  if (length === undefined) return isClosed ? whole(bytes.subarray(start).toString(), bytes.length) : undefined;
  if (bytes.length < start + Number(length)) return undefined;
  return whole(bytes.subarray(start, start + Number(length)).toString(), start + Number(length));
}

function parseChunks(bytes: Buffer, start: number): { text: string; end: number } | undefined {
  const parts: Buffer[] = [];
  for (let at = start; ; ) {
    const line = bytes.indexOf('\r\n', at);
    if (line < 0) return undefined;
    const size = Number.parseInt(bytes.subarray(at, line).toString('latin1'), 16);
    if (Number.isNaN(size)) throw new Error(`not a chunk size: ${JSON.stringify(bytes.subarray(at, line).toString())}`);
    const next = line + 2 + size + 2;
    if (bytes.length < next) return undefined;
    if (size === 0) return { text: Buffer.concat(parts).toString(), end: next };
    parts.push(bytes.subarray(line + 2, line + 2 + size));
    at = next;
  }
}
