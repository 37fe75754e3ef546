/**
 * The stdio transport of the Model Context Protocol: one JSON-RPC message per line. Unlike that of the SDK, it answers lines that it
 * cannot accept, so that their sender learns why, and continues after a line that is too long.
 */
import type { Readable, Writable } from 'node:stream';
import {
  type JSONRPCMessage,
  ProtocolError,
  ProtocolErrorCode,
  parseJSONRPCMessage,
  type Transport,
} from '@modelcontextprotocol/server';

/** Maximum number of bytes of a message, as in the SDK: ten times as much as the registry accepts in a request. */
const MAX_LINE = 10 * 1024 * 1024;

export class LineTransport implements Transport {
  onclose?: () => void;
  onerror?: (error: Error) => void;
  onmessage?: (message: JSONRPCMessage) => void;
  /** Resolves when the connection has ended. */
  readonly closed: Promise<void>;
  readonly #stdin: Readable;
  readonly #stdout: Writable;
  readonly #check: (message: JSONRPCMessage) => JSONRPCMessage;
  #chunks: Buffer[] = [];
  /** Bytes of the current line so far, including those of a long line that are no longer in memory. */
  #length = 0;
  #isClosed = false;
  #resolveClosed: () => void = () => {};

  /** @param check returns the message to handle, or throws a ProtocolError with which the request is answered */
  constructor(stdin: Readable, stdout: Writable, check: (message: JSONRPCMessage) => JSONRPCMessage) {
    this.#stdin = stdin;
    this.#stdout = stdout;
    this.#check = check;
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
  }

  async start(): Promise<void> {
    this.#stdin.on('data', (chunk: Buffer) => this.#read(chunk));
    this.#stdin.on('error', (error) => this.onerror?.(error));
    for (const end of ['end', 'close'] as const) this.#stdin.on(end, () => void this.close());
    // The client has closed its end, so nobody reads further answers. This listener remains, because a write may fail later.
    this.#stdout.on('error', () => void this.close());
  }

  /** Resolves when the message has been written, or when nobody reads it any more. */
  async send(message: JSONRPCMessage): Promise<void> {
    if (this.#isClosed) return;
    if (this.#write(message)) return;
    await Promise.race([new Promise((resolve) => this.#stdout.once('drain', resolve)), this.closed]);
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#chunks = [];
    this.#stdin.removeAllListeners('data');
    this.#stdin.pause();
    this.onclose?.();
    this.#resolveClosed();
  }

  #write(message: object): boolean {
    return this.#stdout.write(`${JSON.stringify(message)}\n`);
  }

  #read(chunk: Buffer): void {
    for (let start = 0; !this.#isClosed; ) {
      const end = chunk.indexOf('\n', start);
      this.#collect(chunk.subarray(start, end < 0 ? undefined : end));
      if (end < 0) return;
      this.#endLine();
      start = end + 1;
    }
  }

  #collect(part: Buffer): void {
    this.#length += part.length;
    if (this.#length <= MAX_LINE) this.#chunks.push(part);
    else this.#chunks = [];
  }

  #endLine(): void {
    const isTooLong = this.#length > MAX_LINE;
    const line = Buffer.concat(this.#chunks).toString('utf8').trim();
    this.#chunks = [];
    this.#length = 0;
    if (isTooLong) this.#refuse(null, ProtocolErrorCode.InvalidRequest, `the message exceeds ${MAX_LINE} bytes`);
    else if (line !== '') this.#handle(line);
  }

  #handle(line: string): void {
    let given: unknown;
    try {
      given = JSON.parse(line);
    } catch {
      this.#refuse(null, ProtocolErrorCode.ParseError, 'the line is not JSON');
      return;
    }
    if (Array.isArray(given)) this.#refuseBatch(given);
    else this.#handleMessage(given);
  }

  #handleMessage(given: unknown): void {
    let message: JSONRPCMessage;
    try {
      message = this.#check(parseJSONRPCMessage(given));
    } catch (error) {
      const [code, reason] =
        error instanceof ProtocolError
          ? [error.code, error.message]
          : [ProtocolErrorCode.InvalidRequest, 'the line is not a JSON-RPC 2.0 message'];
      this.#refuse(idOf(given), code, reason);
      return;
    }
    this.onmessage?.(message);
  }

  /** Versions since 2025-06-18 have no batches. Answers each request of the batch, because its sender waits for the answer. */
  #refuseBatch(batch: readonly unknown[]): void {
    const ids = batch.map(idOf).filter((id) => id !== null);
    const message = 'batches are not supported: write each message on a line of its own';
    for (const id of ids.length > 0 ? ids : [null]) this.#refuse(id, ProtocolErrorCode.InvalidRequest, message);
  }

  #refuse(id: string | number | null, code: number, message: string): void {
    this.#write({ jsonrpc: '2.0', id, error: { code, message } });
  }
}

/** The id of a request; null, as JSON-RPC 2.0 demands, if there is none. */
function idOf(message: unknown): string | number | null {
  const { id } = (message ?? {}) as { id?: unknown };
  return typeof id === 'string' || typeof id === 'number' ? id : null;
}
