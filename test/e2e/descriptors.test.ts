/** Without free file descriptors the daemon closes new connections and keeps serving the open ones. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { Agent, type IncomingMessage, request } from 'node:http';
import { connect, type Socket } from 'node:net';
import { json } from 'node:stream/consumers';
import test from 'node:test';
import { startDaemon } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

/** Connections to open. */
const CONNECTIONS = 300;
/** Free file descriptors. */
const FREE = 20;

test(
  'without free file descriptors the daemon closes new connections, continues to serve the open ones, and recovers',
  unless('prlimit'),
  async (t) => {
    const daemon = await startDaemon(t, { args: ['--log-level', 'info'] });
    const { hostname: host, port } = new URL(daemon.url);
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    t.after(() => agent.destroy());
    const ask = async (method: string, path: string, body?: object) => {
      const asked = request(daemon.url + path, { method, agent }).end(body && JSON.stringify(body));
      const [answer] = (await once(asked, 'response')) as [IncomingMessage];
      return { status: answer.statusCode, body: (await json(answer)) as { code?: string }, headers: answer.headers };
    };
    assert.equal((await ask('POST', '/registry/vms', aVm({ id: 'before' }))).status, 201);

    const open = () => readdirSync(`/proc/${daemon.child.pid}/fd`).length;
    const limit = open() + FREE;
    const limited = spawnSync('prlimit', ['--pid', String(daemon.child.pid), `--nofile=${limit}:${limit}`]);
    assert.equal(limited.status, 0, String(limited.stderr));
    const sockets: Socket[] = [];
    t.after(() => {
      for (const socket of sockets) socket.destroy();
    });
    let closed = 0;
    for (let n = 0; n < CONNECTIONS; n++) {
      const socket = connect({ host, port: Number(port) });
      socket.on('error', () => {});
      socket.once('close', () => closed++);
      sockets.push(socket);
    }
    await until('the connections beyond the limit to be closed', () => closed > CONNECTIONS - 2 * FREE);

    // Open connections are served, and their changes are stored.
    assert.equal((await ask('GET', '/registry/vms/before')).status, 200);
    assert.equal((await ask('POST', '/registry/vms', aVm({ id: 'during' }))).status, 201);
    assert.equal((await ask('POST', '/registry/vms/before/heartbeat')).status, 200);
    // A backup needs files and a process, so it is refused with the reason.
    const copy = await ask('GET', '/registry/backup');
    assert.deepEqual(
      [copy.status, copy.body.code, copy.headers['retry-after']],
      [503, 'STORE_FAILED', '5'],
      JSON.stringify(copy.body),
    );

    for (const socket of sockets) socket.destroy();
    await until('a new connection to be served', async () => {
      try {
        return (await call(daemon.url, 'GET', '/health')).status === 200;
      } catch {
        return false;
      }
    });
    assert.equal((await call(daemon.url, 'POST', '/registry/vms', { body: aVm({ id: 'after' }) })).status, 201);
    const backup = await fetch(`${daemon.url}/registry/backup`);
    assert.equal(backup.status, 200);
    await backup.arrayBuffer();
    agent.destroy();
    assert.deepEqual(await daemon.end('SIGTERM'), { code: 0, signal: null });
    const lines = daemon
      .said()
      .split('\n')
      .filter((line) => line !== '');
    assert.ok(lines.length < 30, `the log has ${lines.length} lines`);
    const again = await startDaemon(t, { home: daemon.home });
    for (const id of ['before', 'during', 'after'])
      assert.equal((await call(again.url, 'GET', `/registry/vms/${id}`)).status, 200);
  },
);
