/** Several programs on one VM that use the state of its identity at the same time: each token in it can be spent once. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { find, heardTwice, inHome, processes, startAgent } from '../helpers/agent/agent.ts';
import { endAfter, tempDir } from '../helpers/daemon.ts';
import { serveLive } from '../helpers/live-registry.ts';
import { runVreg } from '../helpers/running.ts';

/** Programs at the same time. */
const COUNT = 6;

test('heartbeats of several programs at the same time each spend a token, and none looks like a clone', async (t) => {
  const daemon = await serveLive(t);
  const [home, state] = [tempDir(t), tempDir(t)];
  const beat = () =>
    runVreg(['heartbeat', 'vm-1', '--state-dir', state, '--register-if-missing'], { url: daemon.url, home });
  assert.equal((await beat()).code, 0);
  const ran = await Promise.all(Array.from({ length: COUNT }, beat));
  assert.deepEqual(
    ran.map(({ code, stderr }) => [code, stderr]),
    ran.map(() => [0, '']),
  );
  assert.equal((await daemon.command(['conflicts', '-q'])).stdout, '');
  assert.deepEqual(
    readdirSync(state).filter((name) => !/^identity-\w+\.json$/.test(name)),
    [],
  );
});

test('a heartbeat beside an agent leaves the tokens to the agent', async (t) => {
  const daemon = await serveLive(t);
  const state = tempDir(t);
  const agent = startAgent(t, daemon.url, ['--data-dir', state]);
  await heardTwice(daemon);
  const { code, stderr } = await runVreg(['heartbeat', 'vm-1', '--state-dir', state], { url: daemon.url });
  assert.deepEqual([code, stderr], [0, '']);
  await heardTwice(daemon);
  assert.doesNotMatch(agent.said(), /"level":"(warn|error)"/);
  assert.equal((await daemon.command(['conflicts', '-q'])).stdout, '');
});

test('start hooks at the same time start exactly one agent', async (t) => {
  const daemon = await serveLive(t);
  const home = tempDir(t);
  endAfter(t, () => inHome(t, home, ['daemon', 'stop', 'agent']));
  const options = { url: daemon.url, home, env: { VERS_VM_ID: 'vm-1', VERS_AGENT_NAME: 'one' } };
  const ran = await Promise.all(
    Array.from({ length: COUNT }, () => runVreg(['hook', 'start', '--timeout', '60s'], options)),
  );
  for (const { code, stdout } of ran) {
    assert.equal(code, 0);
    assert.match(stdout, /^This VM is "vm-1" .*; its agent sends heartbeats\.\n/);
  }
  const agents = processes(await inHome(t, home, ['daemon', 'status', '-o', 'json']));
  assert.equal(agents.length, 1);
  assert.equal((await find(daemon))?.status, 'running');
  assert.equal((await daemon.command(['conflicts', '-q'])).stdout, '');
  assert.deepEqual(
    readdirSync(join(home, 'state/vreg')).filter((name) => name.includes('lock')),
    [],
  );
});
