/**
 * Data that earlier code wrote: `test/data/COMMIT` holds what vreg of that commit left on the disk, and `expected.json` what
 * it answered about it. A rename in the code must not rename a stored key or a wire key.
 */
import assert from 'node:assert/strict';
import { chmodSync, cpSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { startAgent } from './helpers/agent/agent.ts';
import { cleanEnv, type Daemon, ENTRY, PROGRAM, run, startDaemon, tempDir } from './helpers/daemon.ts';
import { AS_VREG_CLIENT, call } from './helpers/http.ts';
import { until } from './helpers/until.ts';

type Body = Record<string, unknown>;
interface Expected {
  registryId: string;
  revision: number;
  vms: Body[];
  tokens: (Body & { name: string })[];
  conflicts: Body[];
  history: Record<string, Body[]>;
  /** Secrets of all tokens, including the revoked ones. */
  secrets: Record<string, string>;
  requests: { about: string; as: string; method: string; path: string; body?: Body; status: number }[];
  config: { contexts: Body[]; settings: Record<string, string> };
}

const DATA = join(import.meta.dirname, 'data/3e95f1a');
const EXPECTED = withNewKeys(JSON.parse(readFileSync(join(DATA, 'expected.json'), 'utf8')) as Expected);

/** The wire key `bornOf` is `enrolledBy` today; the stored data still has the old one. */
function withNewKeys({ tokens, ...expected }: Expected): Expected {
  const renamed = ({ bornOf, ...token }: Expected['tokens'][number]) =>
    bornOf === undefined ? token : { ...token, enrolledBy: bornOf };
  return { ...expected, tokens: tokens.map(renamed) };
}

/** Copies a file or a folder of the data, and sets the modes that vreg gave it: git does not keep them. */
function copyOf(name: string, to: string): string {
  cpSync(join(DATA, name), to, { recursive: true });
  const isFolder = statSync(to).isDirectory();
  chmodSync(to, isFolder ? 0o700 : 0o600);
  if (isFolder) for (const file of readdirSync(to)) chmodSync(join(to, file), 0o600);
  return to;
}

/** The current daemon on a copy of the old data dir. */
async function upgraded(t: TestContext, args: readonly string[] = []): Promise<Daemon> {
  const home = tempDir(t);
  copyOf('data-dir', join(home, 'data'));
  return startDaemon(t, { home, args });
}

function ask({ url }: Daemon, as: string, method: string, path: string, body?: unknown) {
  const headers = { authorization: `Bearer ${EXPECTED.secrets[as]}` };
  return call(url, method, path, { headers, ...(body === undefined ? {} : { body }) });
}

async function read(daemon: Daemon, path: string): Promise<Body> {
  const { status, body } = await ask(daemon, 'admin', 'GET', path);
  assert.equal(status, 200, path);
  return body as Body;
}

/** Asserts that everything expected is there; later code may answer more than that. */
function assertHas(actual: unknown, expected: unknown, where: string): void {
  if (typeof expected !== 'object' || expected === null) {
    assert.deepEqual(actual, expected, where);
    return;
  }
  assert.ok(typeof actual === 'object' && actual !== null, `${where} is there`);
  if (Array.isArray(expected)) assert.equal((actual as unknown[]).length, expected.length, `${where}: how many`);
  for (const [key, value] of Object.entries(expected)) assertHas((actual as Body)[key], value, `${where}.${key}`);
}

/** The token that asks is used just now. */
function withoutUse({ lastUsedAt: _at, lastUsedFrom: _from, ...token }: Body): Body {
  return token;
}

async function assertAllFound(daemon: Daemon): Promise<void> {
  assert.deepEqual((await read(daemon, '/registry/vms')).vms, EXPECTED.vms);
  const { tokens } = (await read(daemon, '/registry/tokens')) as Pick<Expected, 'tokens'>;
  const unlessAdmin = (token: Body) => (token.name === 'admin' ? withoutUse(token) : token);
  assertHas(tokens.map(unlessAdmin), EXPECTED.tokens.map(unlessAdmin), 'tokens');
  assertHas((await read(daemon, '/registry/conflicts')).conflicts, EXPECTED.conflicts, 'conflicts');
  for (const [id, history] of Object.entries(EXPECTED.history))
    assertHas((await read(daemon, `/registry/vms/${encodeURIComponent(id)}/history`)).history, history, id);
}

/** Waits for so many heartbeats of a VM, by whatever clock. */
async function heartbeats(daemon: Daemon, id: string, count = 3): Promise<void> {
  const lastSeen = async () => (await read(daemon, `/registry/vms/${id}`)).lastSeen;
  for (let n = 0, seen = await lastSeen(); n < count; n++)
    seen = await until(`a heartbeat of ${id}`, async () => {
      const now = await lastSeen();
      return now === seen ? undefined : now;
    });
}

/** An agent with a copy of an old state. The token that it is started with was revoked: only its own token is accepted. */
function oldAgent(t: TestContext, daemon: Daemon, state: string, address: string, more: readonly string[] = []) {
  const env = { VERS_VM_ID: 'agent-1', VERS_AUTH_TOKEN: EXPECTED.secrets.leaked };
  const vm = ['--name', 'Agent Nº 1', '--service', 'api:8080/health', '--meta', 'zone="ü"', '--address', address];
  const dir = copyOf(state, join(tempDir(t), 'state'));
  const agent = startAgent(t, daemon.url, ['--on-exit', 'keep', '--data-dir', dir, ...vm, ...more], { env });
  return { ...agent, dir };
}

async function assertConflictsUnchanged(daemon: Daemon): Promise<void> {
  assertHas((await read(daemon, '/registry/conflicts')).conflicts, EXPECTED.conflicts, 'conflicts');
}

test('the registry, its entries, tokens, conflicts and histories are found as the old daemon left them, after one start and after two', async (t) => {
  const first = await upgraded(t);
  const headersOf = async (daemon: Daemon) => {
    const headers = { ...AS_VREG_CLIENT, authorization: `Bearer ${EXPECTED.secrets.admin}` };
    return (await call(daemon.url, 'GET', '/registry/whoami', { headers })).headers;
  };
  const headers = await headersOf(first);
  assert.equal(headers.get('x-vreg-registry-id'), EXPECTED.registryId);
  const position = headers.get('x-vreg-position')!;
  assert.equal(position.split('-')[0], String(EXPECTED.revision));
  await assertAllFound(first);
  await first.end();
  const second = await startDaemon(t, { home: first.home });
  await assertAllFound(second);
  assert.equal((await headersOf(second)).get('x-vreg-position'), position, 'starts and heartbeats do not change it');
});

test('the command line lists the old entries, tokens, conflicts and histories', async (t) => {
  const daemon = await upgraded(t);
  const list = async (...words: string[]) => {
    const env = { VERS_AUTH_TOKEN: EXPECTED.secrets.admin };
    const { code, stdout, stderr } = await daemon.vreg([...words, '-o', 'json'], { env });
    assert.equal(code, 0, stderr);
    return JSON.parse(stdout) as Body[];
  };
  assertHas(await list('ls'), EXPECTED.vms, 'vreg ls');
  assertHas((await list('token', 'ls')).map(withoutUse), EXPECTED.tokens.map(withoutUse), 'vreg token ls');
  assertHas(await list('conflicts'), EXPECTED.conflicts, 'vreg conflicts');
  assertHas(await list('history', 'gone-1'), EXPECTED.history['gone-1'], 'vreg history');
});

test('an old entry that breaks the rules for ids and addresses stays readable, and scripts do not get it', async (t) => {
  const daemon = await upgraded(t);
  const env = { VERS_AUTH_TOKEN: EXPECTED.secrets.admin };
  const dash = EXPECTED.vms.find(({ id }) => id === '-dash')!;
  assert.deepEqual(await read(daemon, '/registry/vms/-dash'), dash);
  const found = (await read(daemon, `/registry/discover/${dash.role}`)).vms as Body[];
  assert.equal(
    found.some(({ id }) => id === '-dash'),
    false,
  );
  const { stdout, stderr } = await daemon.vreg(['ls', '-q'], { env });
  assert.doesNotMatch(stdout, /^-/m);
  assert.match(stderr, /"-dash" is not safe to use in scripts: a command would take it for a flag; it is omitted/);
  assert.deepEqual((await daemon.vreg(['rm', '--yes', '--', '-dash'], { env })).code, 0);
});

test('each old token and each old proof of identity gets the status that it got before', async (t) => {
  const daemon = await upgraded(t);
  for (const { about, as, method, path, body, status } of EXPECTED.requests) {
    // An undecided identity was 503 and is 409 with Retry-After.
    const expected = status === 503 ? 409 : status;
    assert.equal((await ask(daemon, as, method, path, body)).status, expected, about);
  }
});

test('each valid old token keeps its name, scope, restriction and expiry', async (t) => {
  const daemon = await upgraded(t);
  for (const { name, scope, vm, role, expiresAt } of EXPECTED.tokens) {
    if (name === 'expired') continue;
    const { body } = await ask(daemon, name, 'GET', '/registry/whoami');
    const limits = Object.entries({ name, scope, vm, role, expiresAt }).filter(([, value]) => value !== undefined);
    assertHas(body, Object.fromEntries(limits), name);
  }
});

test('a clone that was refused before and comes back is the same conflict', async (t) => {
  const daemon = await upgraded(t);
  const again = EXPECTED.requests.find(({ about }) => about === 'a clone comes back')!;
  assert.equal((await ask(daemon, again.as, again.method, again.path, again.body)).status, 409);
  const { conflicts } = await read(daemon, '/registry/conflicts');
  const known = EXPECTED.conflicts.find(({ id }) => id === 'cloned')!;
  const found = (conflicts as Body[]).filter(({ id }) => id === 'cloned');
  assertHas(found, [{ firstAt: known.firstAt, count: (known.count as number) + 1, state: 'open' }], 'cloned');
});

test('the tokens of VMs that enrolled with an old token are revoked with it', async (t) => {
  const daemon = await upgraded(t);
  const names = EXPECTED.tokens.filter(({ enrolledBy }) => enrolledBy === 'image').map(({ name }) => name);
  assert.deepEqual(names, ['image/edge-1', 'image/edge-2', 'image/agent-1', 'image/agent-1-b']);
  const env = { VERS_AUTH_TOKEN: EXPECTED.secrets.admin };
  const { stdout } = await daemon.vreg(['token', 'revoke', '--enrolled-by', 'image', '--yes', '-q'], { env });
  assert.deepEqual(stdout.trim().split('\n').sort(), [...names].sort());
  for (const name of names) assert.equal((await ask(daemon, name, 'GET', '/registry/whoami')).status, 401, name);
  assert.equal((await ask(daemon, 'image-of-any/edge-4', 'GET', '/registry/whoami')).status, 200);
});

test('an old registry whose tokens are all revoked still requires one', async (t) => {
  const daemon = await upgraded(t);
  const others = EXPECTED.tokens.map(({ name }) => name).filter((name) => name !== 'admin');
  for (const name of [...others, 'admin'])
    assert.equal((await ask(daemon, 'admin', 'DELETE', `/registry/tokens/${encodeURIComponent(name)}`)).status, 200);
  await daemon.end();
  const { url } = await startDaemon(t, { home: daemon.home });
  assert.equal((await call(url, 'GET', '/registry/vms')).status, 401);
});

test('an agent continues from its old state with its own token, and a second copy of that state is a clone', async (t) => {
  const daemon = await upgraded(t);
  const agent = oldAgent(t, daemon, 'agent-state', '10.2.0.1');
  await heartbeats(daemon, 'agent-1');
  await assertConflictsUnchanged(daemon);
  const clone = oldAgent(t, daemon, 'agent-state', '10.2.0.2');
  assert.equal(await clone.exited(), 9, clone.said());
  assert.equal((await agent.end()).code, 0, agent.said());
  const entry = EXPECTED.vms.find(({ id }) => id === 'agent-1')!;
  const { lastSeen: _seen, ...found } = await read(daemon, '/registry/vms/agent-1');
  assertHas({ ...found, lastSeen: entry.lastSeen }, entry, 'agent-1');
  const numberIn = (dir: string) => {
    const [file] = readdirSync(dir).filter((name) => name.startsWith('identity-'));
    return Number.parseInt((JSON.parse(readFileSync(join(dir, file!), 'utf8')) as { token: string }).token, 10);
  };
  assert.ok(numberIn(agent.dir) > numberIn(join(DATA, 'agent-state')), 'its chain of proofs goes on');
});

test('a clone that took a new id before the upgrade keeps it', async (t) => {
  const daemon = await upgraded(t);
  const agent = oldAgent(t, daemon, 'clone-state', '10.2.0.2');
  await heartbeats(daemon, 'agent-1-b');
  assert.equal((await agent.end()).code, 0, agent.said());
  await assertConflictsUnchanged(daemon);
  assert.equal((await read(daemon, '/registry/vms')).count, EXPECTED.vms.length);
});

test('a heartbeat whose response was lost before the upgrade is sent again unchanged', async (t) => {
  const daemon = await upgraded(t);
  const state = copyOf('timer-state', join(tempDir(t), 'state'));
  const env = { VERS_AUTH_TOKEN: EXPECTED.secrets.writer };
  const words = ['heartbeat', 'timer-1', '--address', '10.2.0.3', '--state-dir', state];
  for (let n = 0; n < 2; n++) {
    const { code, stderr } = await daemon.vreg(words, { env });
    assert.equal(code, 0, stderr);
  }
  await assertConflictsUnchanged(daemon);
});

test('an old config file is read with its contexts and settings', async (t) => {
  const home = tempDir(t);
  const env = cleanEnv(home);
  copyOf('config', join(home, 'config/vreg'));
  const { stdout, code, stderr } = await run(PROGRAM, [...ENTRY, 'context', 'ls', '-o', 'json'], { env });
  assert.equal(code, 0, stderr);
  assertHas(JSON.parse(stdout), EXPECTED.config.contexts, 'contexts');
  for (const [key, value] of Object.entries(EXPECTED.config.settings))
    assert.equal((await run(PROGRAM, [...ENTRY, 'config', 'get', key], { env })).stdout, `${value}\n`, key);
});

test('an old backup is restored in the place of a registry that has changed since', async (t) => {
  const daemon = await upgraded(t);
  assert.equal((await ask(daemon, 'writer', 'DELETE', '/registry/vms/worker-3')).status, 200);
  await daemon.end();
  const backup = copyOf('backup.db', join(tempDir(t), 'backup.db'));
  const words = ['daemon', 'restore', backup, '--data-dir', daemon.dataDir, '--yes'];
  const { code, stderr } = await run(PROGRAM, [...ENTRY, ...words], { env: cleanEnv(daemon.home) });
  assert.equal(code, 0, stderr);
  await assertAllFound(await startDaemon(t, { home: daemon.home }));
});
