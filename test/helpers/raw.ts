/** Sends HTTP as raw bytes, for requests that no HTTP client would send. */
import { connect, type NetConnectOpts, type Socket } from 'node:net';

export interface RawAnswer {
  status: number;
  headers: Record<string, string>;
  text: string;
}

/** Sends bytes and reads until the server closes the connection. @param end closes our half after the last byte */
export async function exchange(
  to: NetConnectOpts,
  bytes: string | Buffer | readonly (string | Buffer)[],
  { end = false } = {},
): Promise<RawAnswer[]> {
  const socket = connect(to);
  for (const chunk of Array.isArray(bytes) ? bytes : [bytes]) socket.write(chunk as Buffer);
  if (end) socket.end();
  return readAnswers(socket);
}

/** Reads responses until the server closes the connection. After a reset it returns those received so far. */
export async function readAnswers(socket: Socket): Promise<RawAnswer[]> {
  const chunks: Buffer[] = [];
  await new Promise<void>((resolve) => {
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    socket.on('error', () => resolve());
    socket.on('close', () => resolve());
  });
  return parseAnswers(Buffer.concat(chunks));
}

/** Splits bytes into responses by their Content-Length. */
export function parseAnswers(bytes: Buffer): RawAnswer[] {
  const answers: RawAnswer[] = [];
  let rest = bytes;
  for (;;) {
    const end = rest.indexOf('\r\n\r\n');
    if (end < 0) return answers;
    const [first = '', ...lines] = rest.subarray(0, end).toString('latin1').split('\r\n');
    const status = Number(/^HTTP\/1\.[01] (\d{3})/.exec(first)?.[1]);
    const headers: Record<string, string> = {};
    for (const line of lines) {
      const [, name = '', value = ''] = /^([^:]+):\s*(.*)$/.exec(line) ?? [];
      headers[name.toLowerCase()] = value;
    }
    const length = status < 200 ? 0 : Number(headers['content-length'] ?? 0);
    answers.push({ status, headers, text: rest.subarray(end + 4, end + 4 + length).toString() });
    rest = rest.subarray(end + 4 + length);
  }
}
