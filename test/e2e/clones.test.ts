/** Clones of a VM, and a restored registry: the real agent, and the real daemon if it ends and starts again. */
import assert from 'node:assert/strict';
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import type { Conflict } from '../../src/protocol/heartbeat.ts';
import { copyState, find, heardAfter, heardTwice, inHome, restart, startAgent } from '../helpers/agent/agent.ts';
import { type Daemon, run, startDaemon, tempDir } from '../helpers/daemon.ts';
import { freeze } from '../helpers/freeze.ts';
import { type LiveRegistry, serveLive } from '../helpers/live-registry.ts';
import { until } from '../helpers/until.ts';

async function conflictsOf({ command }: Pick<Daemon, 'command'>): Promise<Conflict[]> {
  return JSON.parse((await command(['conflicts', '-o', 'json'])).stdout) as Conflict[];
}

/** Two agents of one VM with the same state: the second one is a copy at another address. */
async function cloneOf(t: TestContext, daemon: LiveRegistry, ...more: string[]) {
  const [one, two] = [tempDir(t), tempDir(t)];
  const original = startAgent(t, daemon.url, ['--address', '10.0.0.1', '--data-dir', one]);
  await heardTwice(daemon);
  copyState(one, two);
  await heardTwice(daemon);
  const clone = startAgent(t, daemon.url, ['--address', '10.0.0.2', '--data-dir', two, ...more]);
  return { original, clone, state: two };
}

test('if a copied state is started twice, one agent exits with 9 and the address stays', async (t) => {
  const daemon = await serveLive(t);
  const { original, clone } = await cloneOf(t, daemon);
  assert.equal(await clone.exited(), 9);
  assert.match(clone.said(), /is alive as another incarnation/);
  assert.match(clone.said(), /hint: show both: vreg conflicts/);
  assert.equal(original.child.exitCode, null);
  assert.equal((await find(daemon))?.address, '10.0.0.1');
  const [conflict, ...others] = await conflictsOf(daemon);
  assert.deepEqual(others, []);
  assert.deepEqual([conflict?.holder.address, conflict?.other.address], ['10.0.0.1', '10.0.0.2']);
});

test('a clone takes a new id as a child of the original VM, and keeps it after a restart', async (t) => {
  const daemon = await serveLive(t);
  const [said, token] = [join(tempDir(t), 'hook'), join(tempDir(t), 'token')];
  writeFileSync(token, 'chosen-secret\n', { mode: 0o600 });
  const rebirth = ['--on-clone', 'rebirth', '--id-command', 'echo "$VREG_OLD_ID-b"'];
  const hook = ['--rebirth-hook', `echo "$VREG_OLD_ID $VREG_ID" >'${said}'`];
  const failing = ['--token-file', token, '--rebirth-hook', `cat '${token}' >&2; exit 1`];
  const { clone, state } = await cloneOf(t, daemon, ...rebirth, ...failing, ...hook);
  const entry = await until('the entry of the clone', () => find(daemon, 'vm-1-b'));
  assert.deepEqual([entry.parentId, entry.address], ['vm-1', '10.0.0.2']);
  assert.equal(readFileSync(said, 'utf8'), 'vm-1 vm-1-b\n');
  await until('the warning', () => /--rebirth-hook failed: it exited with 1: \*\*\*"/.test(clone.said()));
  assert.doesNotMatch(clone.said(), /chosen-secret/);
  assert.equal((await daemon.command(['tree', 'vm-1', '-q'])).stdout, 'vm-1\nvm-1-b\n');
  await until('the conflict to name the new id', async () => (await conflictsOf(daemon))[0]?.rebornAs === 'vm-1-b');
  await clone.end('SIGKILL');
  const { lastSeen } = (await find(daemon, 'vm-1-b'))!;
  startAgent(t, daemon.url, ['--address', '10.0.0.2', '--data-dir', state]);
  await heardAfter(daemon, lastSeen, 'vm-1-b');
  assert.equal((await find(daemon))?.address, '10.0.0.1');
});

test('a clone with --on-clone replace takes the VM over, and the other agent exits with 9', async (t) => {
  const daemon = await serveLive(t);
  const { original } = await cloneOf(t, daemon, '--on-clone', 'replace');
  assert.equal(await original.exited(), 9);
  await until('the address of the other', async () => (await find(daemon))?.address === '10.0.0.2');
});

test('a timer with a copied state exits with 9, and plain heartbeats work beside an agent', async (t) => {
  const daemon = await serveLive(t);
  const home = tempDir(t);
  const [a, b] = [join(home, 'a'), join(home, 'b')];
  const beat = (dir: string, ...more: string[]) => daemon.command(['heartbeat', 'vm-1', '--state-dir', dir, ...more]);
  assert.equal((await beat(a, '--register-if-missing')).code, 0);
  copyState(a, b);
  assert.equal((await beat(a)).code, 0);
  assert.equal((await beat(b)).code, 9);
  assert.equal((await beat(a)).code, 0);
  assert.equal((await conflictsOf(daemon)).length, 1);
  assert.equal((await fetch(`${daemon.url}/registry/vms/vm-1/heartbeat`, { method: 'POST' })).status, 200);
  assert.equal((await beat(a)).code, 0);
  assert.equal((await daemon.command(['conflicts', '--clear'])).code, 0);
  assert.deepEqual(await conflictsOf(daemon), []);
});

test('a registry restored from an older copy logs that and is updated by its agents', async (t) => {
  const daemon = await startDaemon(t, { args: ['--log-format', 'json'] });
  const agent = startAgent(t, daemon.url, ['--address', '10.0.0.1']);
  await heardTwice(daemon);
  await daemon.end();
  const copy = tempDir(t);
  cpSync(daemon.dataDir, copy, { recursive: true });
  const second = await restart(t, daemon);
  for (const address of ['a.test', 'b.test', '10.0.0.1'])
    await second.command(['update', 'vm-1', '--address', address]);
  // The agent must know a position that the copy does not have.
  await heardTwice(second);
  await second.end();
  rmSync(daemon.dataDir, { recursive: true });
  cpSync(copy, daemon.dataDir, { recursive: true });
  const third = await restart(t, daemon);
  await until('the agent to notice', () => agent.said().includes('restored from a backup, rewound or replaced'));
  await until('the log line of the daemon', () => third.said().includes('rollback_detected'));
  assert.equal((await find(third))?.address, '10.0.0.1');
  assert.deepEqual(await conflictsOf(third), []);
});

test('SIGHUP reloads the settings of the agent, and invalid ones change nothing', async (t) => {
  const daemon = await serveLive(t);
  const home = tempDir(t);
  const config = join(home, 'config/vreg/config.json');
  mkdirSync(join(home, 'config/vreg'), { recursive: true });
  const agent = startAgent(t, daemon.url, [], { home });
  await until('the registration', () => find(daemon));
  writeFileSync(config, JSON.stringify({ address: 'new.test' }));
  agent.child.kill('SIGHUP');
  await until('the new address', async () => (await find(daemon))?.address === 'new.test');
  writeFileSync(config, '{');
  agent.child.kill('SIGHUP');
  await until('the log line of the agent', () => agent.said().includes('cannot reload the settings'));
  const { lastSeen } = (await find(daemon))!;
  await heardAfter(daemon, lastSeen);
  assert.equal(agent.child.exitCode, null);
});

test('an agent that was suspended sends a heartbeat as soon as it continues', async (t) => {
  const daemon = await serveLive(t);
  const agent = startAgent(t, daemon.url, ['--interval', '1h']);
  await until('the registration', () => find(daemon));
  freeze(agent.child);
  const before = Date.now();
  await until('5 s to pass', () => Date.now() - before > 5000);
  agent.child.kill('SIGCONT');
  await until('the agent to notice', () => agent.said().includes('time jumped'));
  await heardAfter(daemon, new Date(before + 4000).toISOString());
});

test('a script reads an address without Node, and vreg answers from it while the registry is unreachable', async (t) => {
  const daemon = await serveLive(t);
  const home = tempDir(t);
  const env = { XDG_RUNTIME_DIR: join(home, 'run'), VERS_INFRA_URL: daemon.url };
  const agent = startAgent(t, daemon.url, ['--role', 'infra', '--address', '10.0.0.7', '--service', 'api:3001'], {
    home,
    env,
  });
  const file = join(home, 'run/vreg/by-role/infra/addr');
  await until('the last file', () => existsSync(join(home, 'run/vreg/env')));
  const ask = (...argv: string[]) => inHome(t, home, argv, env);
  await daemon.close();
  const { stdout } = await run(
    '/bin/sh',
    ['-c', `read -r A <'${file}' && . '${home}/run/vreg/env' && echo "$A $VREG_INFRA_ID"`],
    { env: {} },
  );
  assert.equal(stdout, '10.0.0.7 vm-1\n');
  assert.equal((await ask('addr', 'infra')).code, 8);
  assert.deepEqual((await ask('addr', 'infra', '--max-stale', '1h')).stdout, '10.0.0.7\n');
  assert.match((await ask('url', 'infra', '--max-stale', '1h')).stdout, /^http:\/\/10\.0\.0\.7:3001\n$/);
  assert.equal((await ask('addr', 'worker', '--max-stale', '1h')).code, 8);
  writeFileSync(join(home, 'run/vreg/by-role/infra/at'), '1000000000\n');
  const old = await ask('addr', 'infra', '--max-stale', '1h');
  assert.deepEqual([old.code, old.stdout], [10, '']);
  assert.match(old.stderr, /cached answer is \d+d.* old/);
  assert.equal(agent.child.exitCode, null);
});

test('discover prefers VMs whose services pass the health checks of the agent', async (t) => {
  const daemon = await serveLive(t);
  const port = new URL(daemon.url).port;
  const checks = ['--check', '--check-interval', '100ms'];
  startAgent(t, daemon.url, ['--service', `web:${port}/health`, '--service', 'dead:1', ...checks]);
  await until('the report', async () =>
    /web:passing/.test((await daemon.command(['get', 'vm-1', '-o', 'tsv'])).stdout),
  );
  assert.match((await daemon.command(['ls', '-o', 'wide'])).stdout, /dead:failing/);
  assert.equal((await daemon.command(['discover', 'worker', '--service', 'web', '--passing', '-q'])).stdout, 'vm-1\n');
  assert.equal((await daemon.command(['discover', 'worker', '--service', 'dead', '--passing'])).code, 3);
});
