/** A server that does not answer connection attempts, as behind a firewall that drops packets. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import type { TestContext } from 'node:test';
import { endAfter } from './daemon.ts';

/** Listens, and then never runs its event loop again, so it accepts no connection. */
const LISTEN = `
const server = require('node:net').createServer().listen({ host: '127.0.0.1', port: 0, backlog: 1 }, () => {
  require('node:fs').writeSync(1, String(server.address().port));
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
});`;

/** Connections that Linux completes for a backlog of 1, before it drops further attempts (net.ipv4, sk_acceptq_is_full). */
const COMPLETED = 2;

/** @returns the `host:port` of a server whose backlog is full until the test ends */
export async function fullBacklog(t: TestContext): Promise<string> {
  const server = spawn(process.execPath, ['-e', LISTEN], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = once(server, 'exit');
  endAfter(t, async () => {
    server.kill('SIGKILL');
    await exited;
  });
  const [port] = await once(server.stdout, 'data');
  for (let connections = 0; connections < COMPLETED; connections++) {
    const socket = connect(Number(port), '127.0.0.1').on('error', () => {});
    t.after(() => socket.destroy());
    await once(socket, 'connect');
  }
  return `127.0.0.1:${port}`;
}
