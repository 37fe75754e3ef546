import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import test, { type TestContext } from 'node:test';
import { closeIdle } from '../../../../daemon/http/server/keep-alive.ts';
import { serveApp } from '../../../helpers/app.ts';
import { Connection } from '../../../helpers/connection.ts';

const GET = 'GET /health HTTP/1.1\r\nHost: a\r\n\r\n';
/** Far less than the time limits of the server. */
const TIMEOUT = 500;

/** An app that closes idle connections after {@link TIMEOUT}, and a function that opens a connection to it. */
async function setUp(t: TestContext) {
  const { at, server } = await serveApp(t);
  const sockets = new Set<Socket>();
  server.on('connection', (socket: Socket) => sockets.add(socket));
  closeIdle(server, sockets, TIMEOUT);
  return { open: () => Connection.open(t, at) };
}

async function answered(connection: Connection): Promise<Connection> {
  connection.send(GET);
  assert.equal((await connection.response()).status, 200);
  return connection;
}

test('a connection is closed when it is idle for too long after a response', async (t) => {
  const { open } = await setUp(t);
  assert.equal((await (await answered(open())).closed).length, 0);
});

test('a connection that waits for a response, or has had no request yet, is not idle', async (t) => {
  const { open } = await setUp(t);
  const [waiting, unused] = [await answered(open()), open()];
  waiting.send('GET /registry/discover/infra?wait=10s HTTP/1.1\r\nHost: a\r\n\r\n');
  await once(unused.socket, 'connect');
  await (await answered(open())).closed;
  assert.deepEqual([waiting.socket.readyState, unused.socket.readyState], ['open', 'open']);
});

test('a connection that is used again and again is not closed', async (t) => {
  const { open } = await setUp(t);
  const [busy, idle] = [await answered(open()), await answered(open())];
  let isClosed = false;
  void idle.closed.then(() => (isClosed = true));
  while (!isClosed) await answered(busy);
  await answered(busy);
});
