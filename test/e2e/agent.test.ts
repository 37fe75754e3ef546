import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer } from 'node:net';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import type { Vm } from '../../src/protocol/vm.ts';
import { BIN, cleanEnv, type Daemon, type Ran, run, startDaemon, tempDir } from '../helpers/daemon.ts';
import { until } from '../helpers/until.ts';

/** Milliseconds in which an agent must have gone after SIGTERM. */
const GONE_WITHIN = 5000;

interface RunningAgent {
  child: ChildProcess;
  said(): string;
  /** Sends the signal and waits for the end. */
  end(signal?: NodeJS.Signals): Promise<{ code: number | null; signal: NodeJS.Signals | null; ms: number }>;
}

/** Starts a `vreg` that goes on in the foreground, in a home of its own, for the VM `vm-1`; it is killed when the test ends. */
function startLong(
  t: TestContext,
  url: string,
  args: readonly string[],
  { home = tempDir(t), env = {} }: { home?: string; env?: NodeJS.ProcessEnv } = {},
): RunningAgent {
  const child = spawn(process.execPath, [BIN, ...args], {
    env: cleanEnv(home, { VERS_INFRA_URL: url, VERS_VM_ID: 'vm-1', VERS_AGENT_NAME: 'one', ...env }),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      said += chunk;
    });
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.once('close', (code, signal) => resolve({ code, signal }));
  });
  const end = async (signal: NodeJS.Signals = 'SIGTERM') => {
    const started = performance.now();
    child.kill(signal);
    return { ...(await ended), ms: performance.now() - started };
  };
  t.after(() => end('SIGKILL'));
  return { child, said: () => said, end };
}

function startAgent(
  t: TestContext,
  url: string,
  args: readonly string[] = [],
  more: { home?: string; env?: NodeJS.ProcessEnv } = {},
): RunningAgent {
  return startLong(t, url, ['daemon', 'agent', '--interval', '100ms', '--log-format', 'json', ...args], more);
}

async function find({ vreg }: Daemon, id = 'vm-1'): Promise<Vm | undefined> {
  const { code, stdout } = await vreg(['get', id, '-o', 'json']);
  return code === 0 ? (JSON.parse(stdout) as Vm) : undefined;
}

/** The entry, when it was heard of after that moment of it. */
async function heardAfter(daemon: Daemon, lastSeen: string, id = 'vm-1'): Promise<Vm> {
  return until(`a sign of life of ${id}`, async () => {
    const vm = await find(daemon, id);
    return vm && vm.lastSeen > lastSeen ? vm : undefined;
  });
}

/** The daemon's successor on the same port and, unless it is another, in the same home. */
function again(t: TestContext, daemon: Daemon): Promise<Daemon> {
  return startDaemon(t, { home: daemon.home, args: ['--port', new URL(daemon.url).port] });
}

/** Runs `vreg` in a home, and kills when the test ends what it leaves in the background. */
async function inHome(
  t: TestContext,
  home: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<Ran> {
  const ran = await run(process.execPath, [BIN, ...args], { env: cleanEnv(home, { VERS_VM_ID: 'vm-1', ...env }) });
  if (args.includes('--detach') && ran.code === 0) {
    const { pid } = processes(ran)[0]!;
    t.after(() => {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It has ended.
      }
    });
  }
  return ran;
}

interface Process {
  kind: string;
  pid: number;
  urls: string[];
  vm?: string;
}

function processes({ stdout }: Ran): Process[] {
  return JSON.parse(stdout) as Process[];
}

test('an agent registers its VM and beats', async (t) => {
  const daemon = await startDaemon(t);
  startAgent(t, daemon.url, ['--role', 'lieutenant', '--service', 'api:3001/health', '--meta', 'task=billing']);
  const first = await until('the registration', () => find(daemon));
  assert.deepEqual(
    { ...first, registeredAt: '', lastSeen: '' },
    {
      id: 'vm-1',
      name: 'one',
      role: 'lieutenant',
      status: 'running',
      address: 'vm-1.vm.vers.sh',
      services: [{ name: 'api', port: 3001, healthPath: '/health' }],
      metadata: { task: 'billing' },
      registeredBy: 'one',
      registeredAt: '',
      lastSeen: '',
    },
  );
  const later = await heardAfter(daemon, first.lastSeen);
  assert.equal(later.registeredAt, first.registeredAt);
});

test('an agent outlives a registry that is killed with -9 and started again', async (t) => {
  const daemon = await startDaemon(t);
  const agent = startAgent(t, daemon.url);
  await until('the registration', () => find(daemon));
  await daemon.end('SIGKILL');
  await until('the agent to notice', () => agent.said().includes('cannot reach the registry'));
  const successor = await again(t, daemon);
  const { lastSeen } = await until('the entry in the successor', () => find(successor));
  await heardAfter(successor, lastSeen);
  await until('the agent to say so', () => agent.said().includes('the registry answers again'));
  assert.equal(agent.child.exitCode, null);
});

test('an entry that somebody removes comes back with all that the agent was told', async (t) => {
  const daemon = await startDaemon(t);
  startAgent(t, daemon.url, ['--service', 'api:3001', '--meta', 'task=billing']);
  const first = await until('the registration', () => find(daemon));
  await daemon.vreg(['rm', 'vm-1', '--yes']);
  const second = await until('the entry', async () => {
    const vm = await find(daemon);
    return vm && vm.registeredAt > first.registeredAt ? vm : undefined;
  });
  assert.deepEqual(second.services, [{ name: 'api', port: 3001 }]);
  assert.deepEqual(second.metadata, { task: 'billing' });
});

test('an agent registers its VM again with a registry that has lost its data', async (t) => {
  const daemon = await startDaemon(t);
  const agent = startAgent(t, daemon.url);
  await until('the registration', () => find(daemon));
  await daemon.end();
  rmSync(daemon.dataDir, { recursive: true });
  const empty = await again(t, daemon);
  await until('the registration', () => find(empty));
  assert.match(agent.said(), /the registry does not know this VM; registering it/);
});

test('an agent that starts before its registry registers when the registry is there', async (t) => {
  const daemon = await startDaemon(t);
  await daemon.end();
  const agent = startAgent(t, daemon.url);
  await until('the agent to notice', () => agent.said().includes('cannot reach the registry'));
  const late = await again(t, daemon);
  assert.equal((await until('the registration', () => find(late))).status, 'running');
});

test('SIGTERM declares the VM stopped and ends the agent with exit code 0', async (t) => {
  const daemon = await startDaemon(t);
  const agent = startAgent(t, daemon.url);
  await until('the registration', () => find(daemon));
  const { code, ms } = await agent.end();
  assert.equal(code, 0);
  assert.ok(ms < GONE_WITHIN, `${ms} ms`);
  assert.equal((await find(daemon))?.status, 'stopped');
});

test('an agent that is started again makes its stopped VM running', async (t) => {
  const daemon = await startDaemon(t);
  await daemon.vreg(['register', 'vm-1', '--status', 'stopped']);
  startAgent(t, daemon.url);
  await until('the VM to run', async () => (await find(daemon))?.status === 'running');
});

test('SIGTERM ends the agent in time while the registry is away', async (t) => {
  const daemon = await startDaemon(t);
  const agent = startAgent(t, daemon.url);
  await until('the registration', () => find(daemon));
  await daemon.end('SIGKILL');
  const { code, ms } = await agent.end();
  assert.equal(code, 0);
  assert.ok(ms < GONE_WITHIN, `${ms} ms`);
  assert.match(agent.said(), /could not tell the registry that this VM stops/);
});

test('SIGTERM ends the agent in time when the registry accepts and never answers', async (t) => {
  const mute = createServer().listen(0, '127.0.0.1');
  t.after(() => mute.close());
  await new Promise((resolve) => mute.once('listening', resolve));
  const asked = new Promise((resolve) => mute.once('connection', resolve));
  const agent = startAgent(t, `http://127.0.0.1:${(mute.address() as AddressInfo).port}`);
  await asked;
  const { code, ms } = await agent.end();
  assert.equal(code, 0);
  assert.ok(ms < GONE_WITHIN, `${ms} ms`);
});

test('--on-exit deregister removes the entry', async (t) => {
  const daemon = await startDaemon(t);
  const agent = startAgent(t, daemon.url, ['--on-exit', 'deregister']);
  await until('the registration', () => find(daemon));
  assert.equal((await agent.end()).code, 0);
  assert.equal(await find(daemon), undefined);
});

test('--on-exit keep leaves the entry as it is', async (t) => {
  const daemon = await startDaemon(t);
  const agent = startAgent(t, daemon.url, [], { env: { VREG_ON_EXIT: 'keep' } });
  await until('the registration', () => find(daemon));
  assert.equal((await agent.end()).code, 0);
  assert.equal((await find(daemon))?.status, 'running');
});

test('an agent with a bad token ends with exit code 2 and says what to do', async (t) => {
  const daemon = await startDaemon(t, { env: { VERS_AUTH_TOKEN: 'right' } });
  const home = tempDir(t);
  const env = { VERS_INFRA_URL: daemon.url, VERS_AUTH_TOKEN: 'wrong' };
  const expected = {
    code: 2,
    signal: null,
    stdout: '',
    stderr: 'vreg: Unauthorized — invalid token\nhint: the token must be the one that the daemon was started with\n',
  };
  assert.deepEqual(await inHome(t, home, ['daemon', 'agent'], env), expected);
  assert.deepEqual(await inHome(t, home, ['daemon', 'agent', '--detach'], env), expected);
  assert.equal((await inHome(t, home, ['daemon', 'status'], env)).code, 3);
});

test('a bad setting of an agent in the background is told as in the foreground', async (t) => {
  const ran = await inHome(t, tempDir(t), ['daemon', 'agent', '--detach', '--interval', 'soon']);
  assert.equal(ran.code, 5);
  assert.match(ran.stderr, /^vreg: interval.*: "soon" is not a duration\nhint: /);
});

test('a data dir that cannot be made is told, with what to do', async (t) => {
  const home = tempDir(t);
  writeFileSync(join(home, 'file'), '');
  for (const args of [['agent'], ['agent', '--detach'], ['serve', '--detach']]) {
    const ran = await inHome(t, home, ['daemon', ...args, '--data-dir', join(home, 'file/dir')]);
    assert.equal(ran.code, 1);
    assert.match(ran.stderr, /^vreg: cannot use the data dir .*file\/dir \(ENOTDIR\)\nhint: make it a folder/);
  }
});

test('an agent goes on in the background, is found there, and stops when it is told to', async (t) => {
  const daemon = await startDaemon(t);
  const home = tempDir(t);
  const env = { VERS_INFRA_URL: daemon.url };
  const started = await inHome(t, home, ['daemon', 'agent', '--detach', '-o', 'json'], env);
  assert.equal(started.code, 0, started.stderr);
  const log = join(home, 'state/vreg/agent.log');
  assert.equal(started.stderr, `vreg: it goes on in the background; its log is ${log}\n`);
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

test('an agent that goes into the background while the registry is away says so, and registers later', async (t) => {
  const daemon = await startDaemon(t);
  await daemon.end();
  const started = await inHome(t, tempDir(t), ['daemon', 'agent', '--detach', '-o', 'json', '--interval', '100ms'], {
    VERS_INFRA_URL: daemon.url,
  });
  assert.equal(started.code, 0);
  assert.match(started.stderr, /^vreg: cannot reach the registry .*; it is tried again until it works\n/);
  const late = await again(t, daemon);
  await until('the registration', () => find(late));
});

test('a registry goes on in the background, refuses a second one, and stops when it is told to', async (t) => {
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

test('stop without a word lets the agent speak before the registry goes', async (t) => {
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

test('what killed processes leave behind is not taken for them, and is in nobody’s way', async (t) => {
  const home = tempDir(t);
  const serve = ['daemon', '--port', '0', '--detach', '-o', 'json'];
  const [daemon] = processes(await inHome(t, home, serve)) as [Process];
  const env = { VERS_INFRA_URL: daemon.urls[0] };
  const agent = ['daemon', 'agent', '--detach', '-o', 'json'];
  const [first] = processes(await inHome(t, home, agent, env)) as [Process];
  for (const { pid } of [daemon, first]) process.kill(pid, 'SIGKILL');
  await until('both to be gone', async () => (await inHome(t, home, ['daemon', 'status'])).code === 3);
  assert.equal((await inHome(t, home, ['daemon', 'stop'])).code, 3);

  const [second] = processes(await inHome(t, home, serve)) as [Process];
  const started = await inHome(t, home, agent, { VERS_INFRA_URL: second.urls[0] });
  assert.equal(started.code, 0, started.stderr);
  const status = await inHome(t, home, ['daemon', 'status', '-q']);
  assert.equal(status.stdout, `${second.pid}\n${processes(started)[0]?.pid}\n`);
});

test('two agents of two VMs share a data dir; a second one of the same VM is refused', async (t) => {
  const daemon = await startDaemon(t);
  const home = tempDir(t);
  const env = { VERS_INFRA_URL: daemon.url };
  const agent = ['daemon', 'agent', '--detach', '-o', 'json'];
  const [first] = processes(await inHome(t, home, agent, env)) as [Process];
  const [other] = processes(await inHome(t, home, [...agent, '--id', 'vm/2'], env)) as [Process];

  const refused = await inHome(t, home, ['daemon', 'agent'], env);
  assert.equal(refused.code, 4);
  assert.match(
    refused.stderr,
    new RegExp(`^vreg: an agent for VM "vm-1" runs already: pid ${first.pid}\nhint: stop it`),
  );

  const status = processes(await inHome(t, home, ['daemon', 'status', '-o', 'json']));
  assert.deepEqual(status.map(({ pid, vm }) => `${vm} ${pid}`).sort(), [`vm-1 ${first.pid}`, `vm/2 ${other.pid}`]);
  assert.equal((await inHome(t, home, ['daemon', 'stop', 'agent'])).code, 0);
  for (const id of ['vm-1', 'vm/2']) assert.equal((await find(daemon, id))?.status, 'stopped');
});

test('vreg heartbeat --every registers a missing VM, goes on beating, and leaves the entry as it is', async (t) => {
  const daemon = await startDaemon(t);
  const beats = startLong(t, daemon.url, ['heartbeat', '--every', '100ms', '--register-if-missing', '-q']);
  const { lastSeen } = await until('the registration', () => find(daemon));
  await heardAfter(daemon, lastSeen);
  await until('beats to be printed', () => beats.said().includes('vm-1\nvm-1\n'));
  const { code } = await beats.end();
  assert.equal(code, 143);
  assert.equal((await find(daemon))?.status, 'running');
});

test('vreg heartbeat --every outlasts a registry that is away', async (t) => {
  const daemon = await startDaemon(t);
  await daemon.vreg(['register', 'vm-1']);
  const beats = startLong(t, daemon.url, ['heartbeat', '--every', '100ms', '-q']);
  await until('a beat', () => beats.said().includes('vm-1\n'));
  await daemon.end('SIGKILL');
  await until('it to notice', () => beats.said().includes('cannot reach the registry'));
  const next = await again(t, daemon);
  const { lastSeen } = await until('the entry', () => find(next));
  await heardAfter(next, lastSeen);
});

test('vreg heartbeat --every ends with exit code 3 when the VM is not registered', async (t) => {
  const daemon = await startDaemon(t);
  const ran = await daemon.vreg(['heartbeat', 'nobody', '--every', '100ms']);
  assert.deepEqual(ran, {
    code: 3,
    signal: null,
    stdout: '',
    stderr: 'vreg: nobody: VM not found\nhint: see what is registered: vreg ls\n',
  });
});

test('vreg heartbeat --every goes on for the others when one VM is not registered', async (t) => {
  const daemon = await startDaemon(t);
  await daemon.vreg(['register', 'vm-1']);
  const beats = startLong(t, daemon.url, ['heartbeat', 'nobody', 'vm-1', '--every', '100ms', '-q']);
  await until('the refusal', () => beats.said().includes('no more beats for nobody: VM not found'));
  const { lastSeen } = (await find(daemon))!;
  await heardAfter(daemon, lastSeen);
  await daemon.vreg(['rm', 'vm-1', '--yes']);
  await until('the end', () => beats.child.exitCode !== null);
  assert.equal(beats.child.exitCode, 3);
  assert.match(beats.said(), /2 of 2 failed/);
});
