import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, renameSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { find, inHome, type Process, processes, restart, startAgent } from '../helpers/agent/agent.ts';
import { startDaemon, tempDir } from '../helpers/daemon.ts';
import { serveLive } from '../helpers/live-registry.ts';
import { until } from '../helpers/until.ts';

test('an invalid setting of a detached agent is reported as in the foreground', async (t) => {
  const ran = await inHome(t, tempDir(t), ['daemon', 'agent', '--detach', '--interval', 'soon']);
  assert.equal(ran.code, 5);
  assert.match(ran.stderr, /^vreg: invalid interval "soon".*\nhint: /);
});

test('a data dir that cannot be created is reported with a hint', async (t) => {
  const home = tempDir(t);
  writeFileSync(join(home, 'file'), '');
  for (const args of [['agent'], ['agent', '--detach'], ['serve', '--detach']]) {
    const ran = await inHome(t, home, ['daemon', ...args, '--data-dir', join(home, 'file/dir')]);
    assert.equal(ran.code, 1);
    assert.match(
      ran.stderr,
      /^vreg: cannot use the data dir .*file\/dir \(ENOTDIR, from flag --data-dir\)\nhint: use a folder/,
    );
  }
});

test('a detached agent is found by status and ended by stop', async (t) => {
  const daemon = await serveLive(t);
  const home = tempDir(t);
  const env = { VERS_INFRA_URL: daemon.url };
  const started = await inHome(t, home, ['daemon', 'agent', '--detach', '-o', 'json'], env);
  assert.equal(started.code, 0, started.stderr);
  const log = join(home, 'state/vreg/agent.log');
  assert.equal(started.stderr, `vreg: running in the background; log: ${log}\n`);
  assert.equal((await find(daemon))?.status, 'running');
  assert.match(readFileSync(log, 'utf8'), /registered this VM/);

  const [{ kind, pid, urls, vm } = {}] = processes(await inHome(t, home, ['daemon', 'status', '-o', 'json']));
  assert.deepEqual(
    { kind, pid, urls, vm },
    { kind: 'agent', pid: processes(started)[0]?.pid, urls: [daemon.url], vm: 'vm-1' },
  );

  const stopped = await inHome(t, home, ['daemon', 'stop', 'agent', '-q']);
  assert.deepEqual(stopped, { code: 0, signal: null, stdout: `${pid}\n`, stderr: '' });
  assert.equal((await find(daemon))?.status, 'stopped');
  assert.equal((await inHome(t, home, ['daemon', 'status'])).code, 3);
});

test('an agent that is detached while the registry is unreachable warns and registers later', async (t) => {
  const daemon = await startDaemon(t);
  await daemon.end();
  const started = await inHome(t, tempDir(t), ['daemon', 'agent', '--detach', '-o', 'json', '--interval', '100ms'], {
    VERS_INFRA_URL: daemon.url,
  });
  assert.equal(started.code, 0);
  assert.match(started.stderr, /^vreg: cannot reach the registry .*; retrying until it works\n/);
  const late = await restart(t, daemon);
  await until('the registration', () => find(late));
});

test('a detached registry refuses a second one and is ended by stop', async (t) => {
  const home = tempDir(t);
  const args = ['daemon', '--port', '0', '--detach', '-o', 'json'];
  const started = await inHome(t, home, args);
  assert.equal(started.code, 0, started.stderr);
  const { pid, urls, kind } = processes(started)[0]!;
  assert.equal(kind, 'serve');
  const health = await inHome(t, home, ['health', '--url', urls[0]!]);
  assert.equal(health.stdout, 'ok\n');

  const second = await inHome(t, home, args);
  assert.equal(second.code, 4);
  const { error } = JSON.parse(second.stderr) as { error: { code: string; message: string; hint: string } };
  assert.equal(error.code, 'ALREADY_RUNNING');
  assert.match(error.message, new RegExp(`pid ${pid}, serving ${urls[0]}`));
  assert.match(error.hint, /vreg daemon stop/);

  assert.equal((await inHome(t, home, ['daemon', 'stop', 'serve'])).code, 0);
  assert.equal((await inHome(t, home, ['health', '--url', urls[0]!])).code, 8);
  assert.equal((await inHome(t, home, ['daemon', 'stop'])).code, 3);
});

test('stop without an argument lets the agent sign off before the registry ends', async (t) => {
  const home = tempDir(t);
  const [{ urls }] = processes(await inHome(t, home, ['daemon', '--port', '0', '--detach', '-o', 'json'])) as [Process];
  const env = { VERS_INFRA_URL: urls[0] };
  const agent = await inHome(t, home, ['daemon', 'agent', '--detach', '-o', 'json'], env);
  assert.equal(agent.code, 0, agent.stderr);
  const stopped = processes(await inHome(t, home, ['daemon', 'stop', '-o', 'json']));
  assert.deepEqual(stopped.map(({ kind }) => kind).sort(), ['agent', 'serve']);
  const next = await startDaemon(t, { home, args: ['--data-dir', join(home, 'state/vreg')] });
  assert.equal((await find(next))?.status, 'stopped');
});

test('pid files of killed processes are ignored and replaced', async (t) => {
  const home = tempDir(t);
  const serve = ['daemon', '--port', '0', '--detach', '-o', 'json'];
  const [daemon] = processes(await inHome(t, home, serve)) as [Process];
  const env = { VERS_INFRA_URL: daemon.urls[0] };
  const agent = ['daemon', 'agent', '--detach', '-o', 'json'];
  const [first] = processes(await inHome(t, home, agent, env)) as [Process];
  for (const { pid } of [daemon, first]) process.kill(pid, 'SIGKILL');
  await until('both to exit', async () => (await inHome(t, home, ['daemon', 'status'])).code === 3);
  assert.equal((await inHome(t, home, ['daemon', 'stop'])).code, 3);

  const [second] = processes(await inHome(t, home, serve)) as [Process];
  const started = await inHome(t, home, agent, { VERS_INFRA_URL: second.urls[0] });
  assert.equal(started.code, 0, started.stderr);
  const status = await inHome(t, home, ['daemon', 'status', '-q']);
  assert.equal(status.stdout, `${second.pid}\n${processes(started)[0]?.pid}\n`);
});

test('two agents of two VMs share a data dir; a second one of the same VM is refused', async (t) => {
  const daemon = await serveLive(t);
  const home = tempDir(t);
  const env = { VERS_INFRA_URL: daemon.url };
  const agent = ['daemon', 'agent', '--detach', '-o', 'json'];
  const [first] = processes(await inHome(t, home, agent, env)) as [Process];
  const [other] = processes(await inHome(t, home, [...agent, '--id', 'vm/2', '--address', 'vm-2.test'], env)) as [
    Process,
  ];

  const refused = await inHome(t, home, ['daemon', 'agent'], env);
  assert.equal(refused.code, 4);
  assert.match(
    refused.stderr,
    new RegExp(
      `^vreg: an agent for VM "vm-1" is already running \\(pid ${first.pid}\\)\nhint: stop it: kill ${first.pid};`,
    ),
  );

  const status = processes(await inHome(t, home, ['daemon', 'status', '-o', 'json']));
  assert.deepEqual(status.map(({ pid, vm }) => `${vm} ${pid}`).sort(), [`vm-1 ${first.pid}`, `vm/2 ${other.pid}`]);
  assert.equal((await inHome(t, home, ['daemon', 'stop', 'agent'])).code, 0);
  for (const id of ['vm-1', 'vm/2']) assert.equal((await find(daemon, id))?.status, 'stopped');
});

test('SIGUSR1 starts no debugger in the daemon or the agent', async (t) => {
  const daemon = await startDaemon(t);
  const agent = startAgent(t, daemon.url);
  await until('the VM', () => find(daemon));
  for (const [{ child }, name] of [
    [daemon, 'the daemon'],
    [agent, 'the agent'],
  ] as const)
    assert.ok(child.kill('SIGUSR1'), name);
  // The signal has been handled by the time of the answer.
  assert.equal((await find(daemon))?.status, 'running');
  assert.deepEqual([(await agent.end()).code, (await daemon.end()).code], [0, 0]);
  for (const { said } of [agent, daemon]) assert.doesNotMatch(said(), /debugger|inspector/i);
});

for (const [kind, args, file] of [
  ['serve', ['--port', '0'], 'daemon.log'],
  ['agent', ['agent'], 'agent.log'],
] as const) {
  test(`the log of a detached ${kind} can be renamed: after SIGHUP, its lines go to a new file`, async (t) => {
    const { url } = await serveLive(t);
    const home = tempDir(t);
    const env = { VERS_INFRA_URL: url };
    const [{ pid }] = processes(await inHome(t, home, ['daemon', ...args, '--detach', '-o', 'json'], env)) as [Process];
    const log = join(home, 'state/vreg', file);
    assert.equal((await inHome(t, home, ['daemon', 'logs'])).stdout, `${log}\n`);
    for (const generation of [1, 2]) {
      const reloads = () => (existsSync(log) ? readFileSync(log, 'utf8').split('reloaded the log file').length - 1 : 0);
      renameSync(log, `${log}.${generation}`);
      process.kill(pid, 'SIGHUP');
      await until('the new file', () => reloads() === 1);
      // Before the signal, the agent may still have written to the old file.
      const old = readFileSync(`${log}.${generation}`, 'utf8');
      process.kill(pid, 'SIGHUP');
      await until('more lines', () => reloads() === 2);
      assert.equal(readFileSync(`${log}.${generation}`, 'utf8'), old);
      assert.equal(statSync(log).mode & 0o777, 0o600);
    }
    assert.equal((await inHome(t, home, ['daemon', 'logs'])).stdout, `${log}\n`);
    assert.equal((await inHome(t, home, ['daemon', 'stop'])).code, 0);
    assert.equal((await inHome(t, home, ['daemon', 'logs'])).stdout, `${log}\n`);
  });
}

test('vreg daemon logs prints the journalctl command of an installed unit, and exits with 3 without a log', async (t) => {
  const home = tempDir(t);
  assert.equal((await inHome(t, home, ['daemon', 'logs'])).code, 3);
  const units = join(home, 'config/systemd/user');
  mkdirSync(units, { recursive: true });
  writeFileSync(join(units, 'vreg-agent.service'), '');
  const ran = await inHome(t, home, ['daemon', 'logs', '-o', 'json']);
  assert.deepEqual(JSON.parse(ran.stdout), [{ kind: 'agent', log: 'journalctl --user -u vreg-agent.service' }]);
  const daemon = await startDaemon(t);
  const piped = await daemon.command(['daemon', 'logs', '--data-dir', daemon.dataDir]);
  assert.deepEqual([piped.code, piped.stdout], [3, '']);
  assert.match(piped.stderr, /^vreg: the log of the vreg daemon \(pid \d+\) is not in a file\nhint: /);
});
