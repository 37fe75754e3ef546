/** A load that costs its own process as little as may be, so that the server is what is measured. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';

export interface Load {
  port: number;
  connections: number;
  /** Requests in all. */
  count: number;
  /** The bytes of the nth request. */
  request(n: number): string | Buffer;
  /** How each answer must begin. */
  expect: string;
}

/**
 * Sends the requests, one under way a connection.
 * @returns requests a second
 * @throws Error when an answer begins otherwise, or a connection ends
 */
export async function measure({ port, connections, count, request, expect }: Load): Promise<number> {
  const sockets = await Promise.all(Array.from({ length: connections }, () => opened(port)));
  let next = 0;
  const started = performance.now();
  await Promise.all(
    sockets.map(
      (socket) =>
        new Promise<void>((resolve, reject) => {
          const send = () => (next < count ? socket.write(request(next++)) : resolve());
          socket.on('error', reject).on('close', () => reject(new Error('the server closed a connection')));
          onAnswer(socket, (head) => {
            if (head.startsWith(expect)) send();
            else reject(new Error(`answered with ${head.split('\r\n', 1)[0]}`));
          });
          send();
        }),
    ),
  );
  const seconds = (performance.now() - started) / 1000;
  for (const socket of sockets) socket.removeAllListeners('close').destroy();
  return count / seconds;
}

async function opened(port: number): Promise<Socket> {
  const socket = connect({ host: '127.0.0.1', port, noDelay: true });
  await once(socket, 'connect');
  return socket;
}

/** Small answers come in one piece; the rest of a larger one is counted by its Content-Length. */
function onAnswer(socket: Socket, tell: (head: string) => void): void {
  let head = '';
  let missing = 0;
  socket.on('data', (chunk: Buffer) => {
    if (missing > 0) {
      missing -= chunk.length;
    } else {
      head += chunk.toString('latin1');
      const end = head.indexOf('\r\n\r\n');
      if (end < 0) return;
      const length = Number(/content-length: *(\d+)/i.exec(head)?.[1]);
      missing = end + 4 + length - head.length;
    }
    if (missing === 0) {
      tell(head);
      head = '';
    }
  });
}
