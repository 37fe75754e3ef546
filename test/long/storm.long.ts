/**
 * A storm: the whole fleet registers again, because the registry was started without its state or has just been
 * restarted. Set VREG_STORM_AGENTS to change the number of agents.
 */
import assert from 'node:assert/strict';
import { Agent, request } from 'node:http';
import test, { type TestContext } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { startDaemon } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { aVm } from '../helpers/vm.ts';

const AGENTS = Number(process.env.VREG_STORM_AGENTS ?? 20_000);
const CONNECTIONS = 1000;
/** Registrations per second: 100,000 agents return within a minute. */
const RATE = 100_000 / 60;
/** Each of so many agents loses the first response and sends its registration a second time. */
const REPEATING = 20;
/** Milliseconds between two reads of an infra VM. */
const READ_INTERVAL = 50;
/** Seconds within which all agents must be in. 100,000 agents return within the first minute. */
const ALL_IN = 120;
/** Milliseconds for two storms, and the starts of the registry. */
const PATIENCE = (2 * ALL_IN + 60) * 1000;

interface Answer {
  status: number;
  retryAfter: number | undefined;
}

function send(url: string, agent: Agent, vm: object): Promise<Answer> {
  const body = JSON.stringify(vm);
  const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
  return new Promise((resolve, reject) => {
    const sent = request(`${url}/registry/vms`, { method: 'POST', agent, headers }, (response) => {
      const { 'retry-after': after } = response.headers;
      response.resume().once('error', reject);
      response.once('end', () =>
        resolve({ status: response.statusCode!, retryAfter: after === undefined ? undefined : Number(after) }),
      );
    });
    sent.once('error', reject).end(body);
  });
}

/** Registers all agents over a fixed number of connections. @returns the number of answers by status */
async function storm(t: TestContext, url: string): Promise<Record<number, number>> {
  const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });
  t.after(() => agent.destroy());
  const answers: Record<number, number> = {};
  const start = performance.now();
  let next = 0;
  const register = async (vm: object) => {
    for (;;) {
      const { status, retryAfter } = await send(url, agent, vm);
      answers[status] = (answers[status] ?? 0) + 1;
      if (status === 201 || status === 409) return;
      assert.equal(status, 503);
      assert.ok(retryAfter !== undefined && retryAfter > 0, 'a 503 without Retry-After');
      await setTimeout(retryAfter * 1000);
    }
  };
  const work = async () => {
    for (let n = next++; n < AGENTS; n = next++) {
      await setTimeout(Math.max(0, start + (n / RATE) * 1000 - performance.now()));
      const vm = aVm({ id: `vm-${n}`, role: n === 0 ? 'infra' : 'worker', metadata: { boot: n } });
      await register(vm);
      if (n % REPEATING === 0) await register(vm);
    }
  };
  await Promise.all(Array.from({ length: CONNECTIONS }, work));
  return answers;
}

/** Reads the infra VM at short intervals until `work` is done. @returns the durations in milliseconds, shortest first */
async function readDuring(url: string, work: Promise<unknown>): Promise<number[]> {
  let isDone = false;
  const done = () => {
    isDone = true;
  };
  work.then(done, done);
  const durations: number[] = [];
  while (!isDone) {
    const start = performance.now();
    assert.equal((await call(url, 'GET', '/registry/discover/infra')).status, 200);
    durations.push(performance.now() - start);
    await setTimeout(READ_INTERVAL);
  }
  return durations.sort((a, b) => a - b);
}

test(`${AGENTS} agents that register over ${CONNECTIONS} connections are all in, and again after a restart`, {
  timeout: PATIENCE,
}, async (t) => {
  const args = ['--max-vms', String(AGENTS)];
  const first = await startDaemon(t, { args });
  const report = async (name: string, url: string) => {
    const start = performance.now();
    const work = storm(t, url);
    const durations = await readDuring(url, work);
    const p99 = durations[Math.floor(durations.length * 0.99)]!;
    const seconds = (performance.now() - start) / 1000;
    const answers = await work;
    t.diagnostic(`${name}: ${seconds.toFixed(1)} s, ${JSON.stringify(answers)}, discover p99 ${p99.toFixed(0)} ms`);
    assert.ok(seconds <= ALL_IN, `${name}, the fleet was complete after ${seconds.toFixed(1)} s`);
    return answers;
  };
  const repeated = Math.ceil(AGENTS / REPEATING);
  const empty = await report('without state', first.url);
  assert.deepEqual([empty[201], empty[409]], [AGENTS, repeated]);
  await first.end();
  const second = await startDaemon(t, { args, home: first.home });
  const restarted = await report('after a restart', second.url);
  assert.equal(restarted[409], AGENTS + repeated);
  const { body } = await call(second.url, 'GET', '/registry/discover/worker');
  assert.equal((body as { count: number }).count, AGENTS - 1);
});
