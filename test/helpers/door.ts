/**
 * A TCP proxy in front of a real registry that a test can close, freeze or cut. Several doors of one registry look to a client
 * like several replicas.
 */
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import type { TestContext } from 'node:test';

export interface Door {
  /** The same after {@link close} and {@link open}. */
  url: string;
  /** Number of connections so far. */
  readonly visits: number;
  /** Refuses new connections, and resets those that exist. */
  close(): Promise<void>;
  /** Accepts connections again, also after {@link freeze}. */
  open(): Promise<void>;
  /** Forwards nothing more, in either direction, and still accepts connections, as a process after SIGSTOP. */
  freeze(): void;
  /** As {@link freeze}, as soon as a client sends something that contains this text. */
  freezeAt(text: string): void;
  /** Resets the connections that exist, and still accepts new ones. */
  cut(): void;
}

/** Opens a door to the registry at `url`; it is closed when the test ends. */
export async function openDoor(t: TestContext, url: string): Promise<Door> {
  const { hostname, port } = new URL(url);
  const sockets = new Set<Socket>();
  let isFrozen = false;
  let freezesAt: string | undefined;
  let visits = 0;
  const keep = (socket: Socket) => {
    sockets.add(socket);
    socket.on('error', () => {}).on('close', () => sockets.delete(socket));
  };
  const enter = (visitor: Socket) => {
    visits++;
    keep(visitor);
    if (isFrozen) return;
    const registry = connect(Number(port), hostname);
    keep(registry);
    visitor.on('data', (chunk) => {
      isFrozen ||= freezesAt !== undefined && chunk.includes(freezesAt);
    });
    for (const [from, to] of [
      [visitor, registry],
      [registry, visitor],
    ] as const) {
      from.on('data', (chunk) => void (isFrozen || to.write(chunk))).on('close', () => void (isFrozen || to.destroy()));
    }
  };
  const listen = async (at: number): Promise<Server> => {
    const server = createServer(enter).listen(at, '127.0.0.1');
    await once(server, 'listening');
    return server;
  };
  let server = await listen(0);
  const { port: own } = server.address() as AddressInfo;
  const cut = () => {
    for (const socket of sockets) {
      // A reset fails if the other end has closed the connection meanwhile, and leaves the socket open.
      if (socket.readableEnded || socket.writableEnded || socket.connecting) socket.destroy();
      else socket.resetAndDestroy();
    }
  };
  const close = async () => {
    if (!server.listening) return;
    const closed = once(server, 'close');
    server.close();
    cut();
    await closed;
  };
  t.after(close);
  return {
    url: `http://127.0.0.1:${own}`,
    get visits() {
      return visits;
    },
    close,
    async open() {
      // A client gets no response to a request from before.
      if (isFrozen) cut();
      isFrozen = false;
      if (!server.listening) server = await listen(own);
    },
    freeze() {
      isFrozen = true;
    },
    freezeAt(text) {
      freezesAt = text;
    },
    cut,
  };
}
