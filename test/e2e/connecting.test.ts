/** Commands and agents end in time while they connect to a server that does not answer. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import test, { type TestContext } from 'node:test';
import { startAgent } from '../helpers/agent/agent.ts';
import { fullBacklog } from '../helpers/full-backlog.ts';
import { runVreg, startVreg } from '../helpers/running.ts';
import { until } from '../helpers/until.ts';

interface Unreached {
  url: string;
  /** True if a program is connecting to it. */
  isAwaited(): boolean;
}

const SERVERS: Readonly<Record<string, (t: TestContext) => Promise<Unreached>>> = {
  'drops connection attempts': async (t) => {
    const address = await fullBacklog(t);
    const port = Number(address.split(':')[1]).toString(16).toUpperCase().padStart(4, '0');
    // The remote port, and the state SYN_SENT (proc_pid_net(5)).
    const attempt = new RegExp(`:${port} 02 `);
    return { url: `http://${address}`, isAwaited: () => attempt.test(readFileSync('/proc/net/tcp', 'utf8')) };
  },
  'never starts TLS': async (t) => {
    const sockets: Socket[] = [];
    const server = createServer((socket) => void sockets.push(socket.on('error', () => {})));
    server.listen({ host: '127.0.0.1', port: 0 });
    await once(server, 'listening');
    t.after(() => {
      for (const socket of sockets) socket.destroy();
      server.close();
    });
    const { port } = server.address() as AddressInfo;
    return { url: `https://127.0.0.1:${port}`, isAwaited: () => sockets.length > 0 };
  },
};

/** Milliseconds in which a command must exit; far below the 2 minutes after which Linux gives up connecting. */
const EXITS_WITHIN = 30_000;

for (const [what, start] of Object.entries(SERVERS)) {
  test(`commands exit after their timeout if the server ${what}`, { timeout: EXITS_WITHIN }, async (t) => {
    const { url } = await start(t);
    // A write and a read with one transport, and a read with the other.
    for (const command of [['register', 'a', '--role', 'worker'], ['tree'], ['ls']]) {
      const { code, stderr } = await runVreg([...command, '--timeout', '200ms'], { url });
      assert.equal(code, 8, stderr);
      assert.match(stderr, /^vreg: cannot reach the registry .*no response within 0\.2 s/);
    }
  });

  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const) {
    test(`${signal} ends a command at once if the server ${what}`, { timeout: EXITS_WITHIN }, async (t) => {
      const { url, isAwaited } = await start(t);
      const command = startVreg(t, ['tree', '--timeout', '1h'], { url });
      await until('the connection attempt', isAwaited);
      assert.deepEqual(await command.end(signal), { code, signal: null });
    });
  }

  test(`SIGTERM ends an agent at once if the server ${what}`, { timeout: EXITS_WITHIN }, async (t) => {
    const { url, isAwaited } = await start(t);
    const agent = startAgent(t, url, ['--timeout', '1h']);
    await until('the connection attempt', isAwaited);
    assert.deepEqual((await agent.end()).code, 0);
  });
}
