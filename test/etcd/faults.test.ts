/**
 * One fault at a time in three members of etcd and three replicas of the real program, while clients that know the URLs of all
 * replicas write, ask for an address, watch and send heartbeats. No acknowledged write may be lost or made twice.
 */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import test, { type TestContext } from 'node:test';
import { POSITION_HEADER } from '../../src/protocol/api.ts';
import { differences, namesAt, Writer, wrongHistories } from '../helpers/acknowledged.ts';
import { cleanEnv, type Daemon, ENTRY, endAfter, PROGRAM, run, startDaemon, tempDir } from '../helpers/daemon.ts';
import { startCluster, unlessEtcd } from '../helpers/etcd.ts';
import { freeze } from '../helpers/freeze.ts';
import { until } from '../helpers/until.ts';

/** Acknowledgements of each writer after which a fault counts as survived. */
const PROGRESS = 12;
/** Milliseconds to wait for them: elections and new sessions on a machine that runs other tests. */
const PATIENCE = 90_000;
const WRITERS = 4;

/** Starts a command that runs until the test ends, and collects its output. */
function follow(t: TestContext, home: string, args: readonly string[], env: NodeJS.ProcessEnv) {
  const child: ChildProcess = spawn(PROGRAM, [...ENTRY, ...args], {
    env: cleanEnv(home, env),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  endAfter(t, () => {
    child.kill('SIGKILL');
    return ended;
  });
  const output = { stdout: '', stderr: '' };
  child.stdout!.setEncoding('utf8').on('data', (text: string) => {
    output.stdout += text;
  });
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    output.stderr += text;
  });
  return output;
}

/** Asks for the address of the infra VM until it is stopped, as a script does. */
class Asker {
  answered = 0;
  /** The longest time until an answer since {@link restart}, in milliseconds. */
  longest = 0;
  readonly failures: string[] = [];
  #isStopped = false;
  readonly #done: Promise<void>;

  constructor(home: string, urls: string) {
    this.#done = this.#run(cleanEnv(home, { VERS_INFRA_URL: urls }));
  }

  restart(): void {
    this.longest = 0;
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    await this.#done;
  }

  async #run(env: NodeJS.ProcessEnv): Promise<void> {
    while (!this.#isStopped) {
      const started = performance.now();
      const { code, stdout, stderr } = await run(PROGRAM, [...ENTRY, 'addr', 'infra'], { env });
      this.longest = Math.max(this.longest, performance.now() - started);
      if (code === 0 && stdout === '10.0.0.1\n') this.answered++;
      else this.failures.push(`${code} ${stdout}${stderr}`);
    }
  }
}

async function positionAt({ url }: Daemon): Promise<string | null> {
  const response = await fetch(`${url}/registry/vms?limit=1`);
  await response.arrayBuffer();
  return response.headers.get(POSITION_HEADER);
}

test('single faults of members and replicas', { ...unlessEtcd(), timeout: 600_000 }, async (t) => {
  const cluster = await startCluster(t);
  const args = ['--store', cluster.url, '--heartbeat-flush', '1s'];
  const start = () => startDaemon(t, { args });
  const replicas = await Promise.all([start(), start(), start()]);
  const [a, b, c] = replicas as [Daemon, Daemon, Daemon];
  const urls = replicas.map(({ url }) => url);
  const home = tempDir(t);
  const env = { VERS_INFRA_URL: urls.join(',') };
  assert.equal((await a.vreg(['register', 'infra-1', '--role', 'infra', '--address', '10.0.0.1'])).code, 0);
  const agent = follow(
    t,
    home,
    ['daemon', 'agent', '--id', 'agent-1', '--interval', '1s', '--data-dir', `${home}/agent`, '--log-format', 'json'],
    env,
  );
  const watcher = follow(t, home, ['watch', '-o', 'ndjson'], env);
  await until('the agent to be registered', async () => (await namesAt(b.url)).has('agent-1'), PATIENCE);
  // Each writer prefers another replica.
  const writers = Array.from(
    { length: WRITERS },
    (_, n) => new Writer(`w${n}`, [...urls.slice(n % 3), ...urls.slice(0, n % 3)]),
  );
  const asker = new Asker(home, urls.join(','));
  const each = (property: 'acknowledged' | 'unknown') => writers.map((writer) => writer[property]);
  const refusals = () => writers.map(({ refused }) => [...refused.values()].reduce((sum, count) => sum + count, 0));
  const progress = async (what: string): Promise<void> => {
    const before = each('acknowledged');
    const asked = asker.answered;
    await until(
      `acknowledged writes of every client: ${what}`,
      () => writers.every((writer, n) => writer.acknowledged >= before[n]! + PROGRESS),
      PATIENCE,
    );
    await until(`vreg addr to answer: ${what}`, () => asker.answered > asked, PATIENCE);
  };
  await progress('before any fault');

  /** Runs a fault until every client has made progress, repairs it, and waits for progress again. */
  const single = (name: string, fault: () => Promise<() => Promise<void> | void>) =>
    t.test(name, async (t) => {
      const unknown = each('unknown');
      const failures = asker.failures.length;
      asker.restart();
      for (const writer of writers) writer.restartGap();
      const repair = await fault();
      await progress('during the fault');
      const gaps = writers.map(({ longestGap }) => Math.round(longestGap));
      await repair();
      await progress('after the fault');
      const unknowns = each('unknown').reduce((sum, count, n) => sum + count - unknown[n]!, 0);
      t.diagnostic(`longest gaps between acknowledgements of each client: ${gaps.join(', ')} ms`);
      t.diagnostic(`longest vreg addr: ${Math.round(asker.longest)} ms; unknown outcomes: ${unknowns}`);
      assert.deepEqual(asker.failures.slice(failures), [], 'vreg addr answers during the fault');
    });

  await single('SIGKILL of the leader', async () => {
    const leader = await cluster.leader();
    await leader.kill();
    return () => leader.restart();
  });
  await single('SIGSTOP of the leader', async () => {
    const leader = await cluster.leader();
    leader.freeze();
    return () => leader.thaw();
  });
  await single('SIGKILL of a follower', async () => {
    const [follower] = await cluster.followers();
    await follower!.kill();
    return () => follower!.restart();
  });
  await single('SIGSTOP of a follower', async () => {
    const [follower] = await cluster.followers();
    follower!.freeze();
    return () => follower!.thaw();
  });
  await single('SIGSTOP of a replica', async () => {
    freeze(a.child);
    return () => void a.child.kill('SIGCONT');
  });

  for (const [name, stop, repair] of [
    ['SIGKILL', 'kill', 'restart'],
    ['SIGSTOP', 'freeze', 'thaw'],
  ] as const)
    await t.test(`${name} of the majority: writes are refused, and continue afterwards`, async (t) => {
      const failures = asker.failures.length;
      const stopped = [await cluster.leader(), (await cluster.followers())[0]!];
      const before = refusals();
      const unknown = each('unknown');
      for (const member of stopped) await member[stop]();
      await until(
        'a refused write of every client',
        () => refusals().every((count, n) => count + each('unknown')[n]! > before[n]! + unknown[n]!),
        PATIENCE,
      );
      const asked = asker.answered;
      await until('vreg addr to answer without a majority', () => asker.answered > asked, PATIENCE);
      for (const member of stopped) await member[repair]();
      for (const writer of writers) writer.restartGap();
      await progress('after the majority is back');
      const gaps = writers.map(({ longestGap }) => Math.round(longestGap));
      t.diagnostic(`from the repair to the next acknowledgement, or the longest gap: ${gaps.join(', ')} ms`);
      t.diagnostic(
        `unknown outcomes: ${each('unknown').reduce((sum, count) => sum + count, 0) - unknown.reduce((x, y) => x + y, 0)}`,
      );
      assert.deepEqual(asker.failures.slice(failures), [], 'reads come from memory');
    });

  await single('SIGKILL of a replica', async () => {
    await c.end('SIGKILL');
    return () => {};
  });

  await t.test('every acknowledged write is in every replica, once', async (t) => {
    await Promise.all([...writers, asker].map((client) => client.stop()));
    const impossible = writers.flatMap((writer) => writer.impossible);
    assert.deepEqual(impossible, [], 'no client gets a result that no fault explains');
    const newcomer = await start();
    const survivors = [a, b, newcomer];
    const position = await until(
      'equal positions',
      async () => {
        const positions = await Promise.all(survivors.map(positionAt));
        return new Set(positions).size === 1 && positions[0];
      },
      PATIENCE,
    );
    const lists = await Promise.all(survivors.map(({ url }) => namesAt(url)));
    for (const names of lists) {
      assert.deepEqual(differences(writers, names), []);
      assert.deepEqual([...names].sort(), [...lists[0]!].sort());
    }
    for (const { url } of [a, newcomer]) assert.deepEqual(await wrongHistories(writers, url), []);
    const total = each('acknowledged').reduce((sum, count) => sum + count, 0);
    t.diagnostic(`${total} writes acknowledged; the position is ${position}`);
  });

  await t.test('neither the agent nor the watcher has seen another history', async () => {
    const last = writers[1]!.vms.findLast(({ acknowledged }) => acknowledged.length > 0)!;
    await until('the last change in the watcher', () => watcher.stdout.includes(`"${last.id}"`), PATIENCE);
    const events = watcher.stdout
      .split('\n')
      .slice(0, -1)
      .map((line) => JSON.parse(line) as { type: string; vm?: { id: string } });
    assert.deepEqual(
      events.filter(({ type }) => type === 'reset'),
      [],
    );
    const registered = events.flatMap(({ type, vm }) => (type === 'registered' && vm ? [vm.id] : []));
    assert.ok(registered.includes(last.id), `${registered.length} events of registrations`);
    assert.equal(new Set(registered).size, registered.length, 'no event arrives twice');
    assert.doesNotMatch(agent.stderr, /history|another registry|other registry/);
    assert.equal((await b.vreg(['get', 'agent-1'])).code, 0);
    const [metric] = /^vreg_other_registry .*$/m.exec(await (await fetch(`${b.url}/metrics`)).text()) ?? [];
    assert.equal(metric, 'vreg_other_registry 0');
  });
});
