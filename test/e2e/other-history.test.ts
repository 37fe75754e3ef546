/** Registries that were restored or copied: real daemons, real agents, and a TCP switch in front of two registries. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { cpSync } from 'node:fs';
import { createServer as createHttpServer, request } from 'node:http';
import { connect, createServer, type Socket } from 'node:net';
import test, { describe, type TestContext } from 'node:test';
import type { OtherRegistry } from '../../src/protocol/heartbeat.ts';
import {
  backUp,
  find,
  heardTwice,
  type Process,
  processes,
  type RunningAgent,
  restart,
  startAgent,
} from '../helpers/agent/agent.ts';
import { cleanEnv, type Daemon, runInProcess, startDaemon, tempDir } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { until } from '../helpers/until.ts';

function reportsOf(agent: RunningAgent): number {
  return agent.said().split('restored from a backup, rewound or replaced').length - 1;
}

async function changesOf(daemon: Daemon): Promise<string[]> {
  const { body } = await call(daemon.url, 'GET', '/registry/vms/vm-1/history?limit=100');
  return (body as { history: { type: string }[] }).history.map(({ type }) => type);
}

/** A TCP proxy whose target the test changes. A change ends all connections, as a failover of a load balancer does. */
async function startSwitch(t: TestContext) {
  let port = 0;
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect(port, '127.0.0.1');
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.on('error', () => {});
      socket.on('close', () => {
        sockets.delete(socket);
        client.destroy();
        upstream.destroy();
      });
    }
    client.pipe(upstream).pipe(client);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const drop = () => {
    for (const socket of sockets) socket.destroy();
  };
  t.after(() => {
    drop();
    server.close();
  });
  return {
    url: `http://127.0.0.1:${(server.address() as { port: number }).port}`,
    turnTo(daemon: Daemon) {
      port = Number(new URL(daemon.url).port);
      drop();
    },
  };
}

/** Starts an HTTP proxy that forwards each request to one of the daemons, in an irregular but fixed sequence. */
async function startBalancer(t: TestContext, daemons: readonly Daemon[]): Promise<string> {
  let count = 0;
  const server = createHttpServer((incoming, response) => {
    const share = createHash('sha256').update(String(count++)).digest()[0]!;
    const { url } = daemons[share % daemons.length]!;
    const { method, headers } = incoming;
    const outgoing = request(new URL(incoming.url!, url), { method: method!, headers }, (upstream) => {
      response.writeHead(upstream.statusCode!, upstream.headers);
      upstream.pipe(response);
    });
    outgoing.on('error', () => response.destroy());
    incoming.pipe(outgoing);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as { port: number }).port}`;
}

// Concurrently, because their agents wait for registries that load their store, and for a second attempt.
describe('after a restore, or between two copies', { concurrency: true }, () => {
  for (const [when, changesAfter] of [
    ['before new changes', 0],
    ['after new changes', 3],
  ] as const) {
    test(`agents report once after the restore of an earlier and a much earlier backup, ${when}, and not after one of the same`, async (t) => {
      let daemon = await startDaemon(t);
      const agent = startAgent(t, daemon.url, ['--address', '10.0.0.1', '--service', 'api:3001', '--meta', 'task=x']);
      await heardTwice(daemon);
      const backups: (() => void)[] = [];
      for (const number of [1, 2, 3]) {
        await daemon.command(['update', 'vm-1', '--address', `10.0.9.${number}`, '--meta', `task=${number}`]);
        for (let n = 0; n < 5; n++) await daemon.command(['register', `o${number}-${n}`, '--address', '10.0.0.9']);
        // The agent must see the last position, so that each backup but the last is behind it.
        await heardTwice(daemon);
        await daemon.end();
        backups.push(backUp(t, daemon));
        daemon = await restart(t, daemon);
      }
      await daemon.end();
      for (const [number, reports] of [
        [3, 0],
        [2, 1],
        [1, 2],
      ] as const) {
        backups[number - 1]!();
        daemon = await restart(t, daemon);
        for (let n = 0; n < changesAfter; n++) await daemon.command(['register', `n${n}`, '--address', '10.0.0.8']);
        await heardTwice(daemon);
        if (reports > 0) {
          const vm = await until('the report', async () => {
            const entry = await find(daemon);
            return entry?.address === '10.0.0.1' ? entry : undefined;
          });
          assert.deepEqual([vm.metadata, vm.services?.map(({ name }) => name)], [{ task: 'x' }, ['api']]);
          await until('the log line of the daemon', () => daemon.said().includes('rollback_detected'));
          assert.match(daemon.said(), /"rollback_detected":true,"vms":1,/);
          const metrics = await (await fetch(`${daemon.url}/metrics`)).text();
          assert.match(metrics, /^vreg_rollback_vms 1$/m);
        } else {
          assert.equal((await find(daemon))?.address, '10.0.9.3', 'the same history disturbs nobody');
        }
        const changes = await changesOf(daemon);
        await heardTwice(daemon);
        assert.deepEqual(await changesOf(daemon), changes, 'it reports once');
        assert.equal(reportsOf(agent), reports);
        assert.equal(daemon.said().split('rollback_detected:').length - 1, reports > 0 ? 1 : 0);
        assert.equal((await daemon.command(['conflicts', '-o', 'json'])).stdout, '[]\n');
        await daemon.end();
      }
      assert.equal(agent.child.exitCode, null);
      assert.doesNotMatch(agent.said(), /two registries answer/);
    });
  }

  test('a VM that enrols with two copies of a registry behind one URL keeps a token of each and stays live in both', async (t) => {
    const options = { env: { VERS_AUTH_TOKEN: 's3cret' } };
    const first = await startDaemon(t, options);
    const image = (
      await first.command(['token', 'create', 'image', '--scope', 'enrol', '--role', 'worker'])
    ).stdout.trim();
    await first.end();
    const second = tempDir(t);
    cpSync(first.home, second, { recursive: true });
    const copies = [
      await startDaemon(t, { ...options, home: first.home }),
      await startDaemon(t, { ...options, home: second }),
    ];
    const url = await startBalancer(t, copies);
    const agent = startAgent(t, url, ['--address', '10.0.0.1'], { env: { VERS_AUTH_TOKEN: image } });
    const heardBy = async ({ url: base }: Daemon, since = '') =>
      until(
        'a sign of life',
        async () => {
          const { body } = await call(base, 'GET', '/registry/vms/vm-1', {
            headers: { authorization: 'Bearer s3cret' },
          });
          const { lastSeen = '' } = body as { lastSeen?: string };
          return lastSeen > since ? lastSeen : undefined;
        },
        // The agent waits up to 10 s after it has reached the wrong registry several times.
        60_000,
      );
    const heardOften = async (copy: Daemon) => {
      for (let times = 0, since = ''; times < 10; times++) since = await heardBy(copy, since);
    };
    await Promise.all(copies.map(heardOften));
    assert.equal(agent.child.exitCode, null);
    for (const copy of copies) {
      const { stdout } = await copy.command(['history', 'vm-1', '-o', 'json']);
      const types = (JSON.parse(stdout) as { type: string }[]).map(({ type }) => type);
      assert.equal(types.filter((type) => type === 'registered').length, 1, 'it was registered once');
      assert.equal((await copy.command(['token', 'ls', '--enrolled-by', 'image', '-q'])).stdout, 'image/vm-1\n');
    }
  });
});

test('two daemons on copies of one data dir behind one URL are found and shown, and the agent stays', async (t) => {
  const lease = ['--stale-after', '2s'];
  let one = await startDaemon(t, { args: lease });
  const front = await startSwitch(t);
  front.turnTo(one);
  const home = tempDir(t);
  const agent = startAgent(t, front.url, ['--address', '10.0.0.1', '--data-dir', home], { home });
  await heardTwice(one);
  await one.end();
  const second = tempDir(t);
  cpSync(one.home, second, { recursive: true });
  one = await restart(t, one, { args: lease });
  const two = await startDaemon(t, { home: second, args: lease });
  for (const daemon of [one, two])
    await daemon.command(['register', `only-${daemon.url.slice(-4)}`, '--address', 'x.test']);
  const status = async () =>
    processes(
      await runInProcess(['daemon', 'status', '--data-dir', home, '-o', 'json'], { env: cleanEnv(home) }),
    ) as (Process & { warning?: string })[];
  // The agent may have met a daemon that was loading its store.
  await heardTwice(one);
  assert.equal((await status())[0]?.warning, undefined);
  const before = await changesOf(two);
  for (const daemon of [one, two, one, two, one, two, one]) {
    front.turnTo(daemon);
    await heardTwice(daemon);
  }
  await until('the warning', () => /two registries are responding in turn/.test(agent.said()));
  const claims = async ({ command }: Daemon) =>
    (JSON.parse((await command(['conflicts', '-o', 'json'])).stdout) as (OtherRegistry & { state: string })[])[0];
  for (const daemon of [two, one]) {
    front.turnTo(daemon);
    const claim = await until('the claim', () => claims(daemon));
    assert.deepEqual([claim.state, claim.vms], ['other-registry', 1]);
    assert.match(`${claim.position} ${claim.otherPosition}`, /^\d+-[0-9a-f]{16} \d+-[0-9a-f]{16}$/);
    assert.notEqual(claim.position, claim.otherPosition);
    assert.match((await daemon.command(['status'])).stdout, /^warning: another registry answers at this URL/m);
    const { code, stdout } = await daemon.command(['doctor']);
    assert.deepEqual([code, /^clones\twarn\tanother registry answers at this URL/m.test(stdout)], [0, true]);
    assert.match((await daemon.command(['conflicts'])).stdout, /^-\tother-registry\t1\t\d+-[0-9a-f]{16}\t\d+-/m);
    assert.equal((await daemon.command(['conflicts', '-q'])).stdout, '');
  }
  assert.match((await status())[0]?.warning ?? '', /two registries are responding in turn/);
  assert.equal(agent.said().split('two registries are responding in turn').length - 1, 1, 'it is logged once');
  assert.equal(agent.child.exitCode, null);
  assert.equal((await find(one))?.status, 'running');
  assert.deepEqual(await changesOf(two), before, 'reports of an unchanged entry change nothing');
  await heardTwice(one);
  await one.command(['conflicts', '--clear']);
  await heardTwice(one);
  assert.equal(await claims(one), undefined, 'a registry that answers alone is not claimed again');
});

test('forged positions of one client change nothing for others, nor readiness', async (t) => {
  const daemon = await startDaemon(t);
  const agent = startAgent(t, daemon.url, ['--address', '10.0.0.1']);
  await heardTwice(daemon);
  await daemon.command(['register', 'liar', '--address', '10.0.0.6']);
  const get = async (path: string) => {
    const { status, headers, body } = await call(daemon.url, 'GET', path);
    return [status, headers.get('x-vreg-position'), (body as { vms?: { id: string }[] }).vms?.map(({ id }) => id)];
  };
  const before = [await get('/registry/vms'), await get('/registry/discover/worker')];
  const position = before[0]![1] as string;
  const foreign = `${Number.parseInt(position, 10)}-${'0'.repeat(16)}`;
  for (const [sent, left] of [
    [foreign, position],
    [position, foreign],
    [`999999999999999-${'f'.repeat(16)}`, position],
    ['nonsense', 'nonsense'],
  ] as const)
    for (let n = 0; n < 50; n++) {
      const body = { position: sent, leftPosition: left, alternates: true };
      assert.equal((await call(daemon.url, 'POST', '/registry/vms/liar/heartbeat', { body })).status, 200);
    }
  assert.deepEqual([await get('/registry/vms'), await get('/registry/discover/worker')], before);
  assert.equal((await fetch(`${daemon.url}/health`)).status, 200);
  await heardTwice(daemon);
  assert.equal(reportsOf(agent), 0);
  assert.ok(daemon.said().split('another registry answers').length - 1 <= 1);
});
