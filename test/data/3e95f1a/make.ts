/**
 * Made the data beside it with vreg as it was at commit 3e95f1a. Later code must read that data, so run this again only to
 * see how the data was made: `npx tsx make.ts CHECKOUT`, where CHECKOUT is a built checkout of that commit.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request as ask, createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';

const [checkout] = process.argv.slice(2);
if (checkout === undefined) throw new Error('usage: make.ts CHECKOUT');
const BIN = join(checkout, 'bin/vreg.js');
const HERE = import.meta.dirname;
const DATA = join(HERE, 'data-dir');
const home = mkdtempSync(join(tmpdir(), 'vreg-make-'));
/** Ends the processes that run when this script fails. */
const children = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL');
  rmSync(home, { recursive: true, force: true });
});

type Body = Record<string, unknown>;
type Env = Record<string, string | undefined>;
interface Answer {
  status: number;
  headers: Headers;
  body: Body;
}

/** A request whose status the old daemon gave, and which later daemons must give. */
interface Replayed {
  about: string;
  /** Name of a token. */
  as: string;
  method: string;
  path: string;
  body?: Body;
  status: number;
}

/** Name and secret of each token that was made. */
const secrets: Record<string, string> = {};
/** VERS_AUTH_TOKEN of the daemon while it has no tokens. It is not in the data. */
const ROOT = 'root-of-the-fixture';

function environment(more: Env = {}): Env {
  return { PATH: process.env.PATH, HOME: home, XDG_CONFIG_HOME: join(home, 'config'), LANG: 'C.UTF-8', ...more };
}

/** Moves the wall clock of a process, so that no time in the data depends on the day on which it was made. */
function clockAt(time: string): Env {
  const shift = `const real = Date.now; const by = ${Date.parse(time)} - real(); Date.now = () => real() + by;`;
  return { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(shift)}` };
}

function start(args: readonly string[], env: Env) {
  const child = spawn(process.execPath, [BIN, ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  const stdout = text(child.stdout);
  const stderr = text(child.stderr);
  children.add(child);
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  void ended.then(() => children.delete(child));
  return { child, stdout, stderr, ended };
}

/** Runs a command line and returns its stdout. @throws Error when it does not end with the code */
async function vreg(args: readonly string[], env: Env = {}, code = 0): Promise<string> {
  const { stdout, stderr, ended } = start(args, environment(env));
  const ran = await ended;
  if (ran !== code) throw new Error(`vreg ${args.join(' ')} ended with ${ran}: ${await stderr}`);
  return stdout;
}

async function startDaemon(dataDir: string, time: string) {
  const args = ['daemon', '--port', '0', '--data-dir', dataDir, '--log-format', 'json'];
  const { child, ended } = start(args, environment({ ...clockAt(time), VERS_AUTH_TOKEN: ROOT }));
  const url = await new Promise<string>((resolve, reject) => {
    let said = '';
    child.stderr.on('data', (chunk) => {
      said += chunk;
      const [, found] = /listening on (http:\/\/[\w.:]+\d)/.exec(said) ?? [];
      if (found) resolve(found);
    });
    void ended.then((code) => reject(new Error(`the daemon ended with ${code}: ${said}`)));
  });
  const call = async (as: string, method: string, path: string, body?: Body): Promise<Answer> => {
    const headers = {
      authorization: `Bearer ${as === 'root' ? ROOT : secrets[as]}`,
      ...(body ? { 'content-type': 'application/json' } : {}),
    };
    const answer = await fetch(url + path, { method, headers, body: body ? JSON.stringify(body) : null });
    return { status: answer.status, headers: answer.headers, body: (await answer.json()) as Body };
  };
  const must = async (status: number, ...what: Parameters<typeof call>): Promise<Body> => {
    const answer = await call(...what);
    if (answer.status === status) return answer.body;
    throw new Error(`${what[1]} ${what[2]} was answered with ${answer.status}: ${JSON.stringify(answer.body)}`);
  };
  const createToken = async (as: string, name: string, more: Body): Promise<void> => {
    secrets[name] = (await must(201, as, 'POST', '/registry/tokens', { name, ...more })).token as string;
  };
  const stop = async () => {
    child.kill('SIGTERM');
    if ((await ended) !== 0) throw new Error('the daemon did not stop cleanly');
  };
  return { url, call, must, createToken, stop };
}
type Daemon = Awaited<ReturnType<typeof startDaemon>>;

async function until(what: string, look: () => Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 15_000; !(await look()); ) {
    if (Date.now() > deadline) throw new Error(`waited for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 25));
  }
}

const vmPath = (id: string) => `/registry/vms/${encodeURIComponent(id)}`;
const aVm = (id: string, more: Body = {}): Body => ({
  id,
  name: id,
  role: 'worker',
  address: `${id}.vm.vers.sh`,
  registeredBy: 'orchestrator',
  ...more,
});
/** Token of an agent's beat. */
const proof = (number: number, digit: string) => `${number}.${digit.repeat(32)}`;

async function makeTokens({ createToken, must }: Daemon): Promise<void> {
  await createToken('admin', 'reader', { scope: 'read' });
  await createToken('admin', 'reader-of-workers', { scope: 'read', role: 'worker' });
  await createToken('admin', 'beats', { scope: 'heartbeat' });
  await createToken('admin', 'registrar', { scope: 'register' });
  await createToken('admin', 'writer', { scope: 'write' });
  await createToken('admin', 'writer-of-one', { scope: 'write', vm: 'worker-1' });
  await createToken('admin', 'writer-of-golden', { scope: 'write', role: 'golden' });
  await createToken('admin', 'image', { scope: 'enrol', role: 'worker' });
  await createToken('admin', 'image-of-any', { scope: 'enrol' });
  await createToken('admin', 'leaked', { scope: 'write' });
  await must(200, 'leaked', 'GET', '/registry/whoami');
  await must(200, 'admin', 'DELETE', '/registry/tokens/leaked');
}

async function makeFleet({ must }: Daemon): Promise<void> {
  const vms: Body[] = [
    aVm('infra-1', {
      role: 'infra',
      registeredBy: 'self',
      services: ['board', 'feed'].map((name) => ({ name, port: 3000, healthPath: '/health' })),
    }),
    aVm('lt-1', {
      role: 'lieutenant',
      services: [{ name: 'pi-rpc', port: 3001, protocol: 'grpc', tags: ['a', { b: null }] }],
      metadata: { task: 'process invoices', größe: 'XL' },
    }),
    aVm('golden-1', { role: 'golden', status: 'stopped', services: [] }),
    aVm('worker-1', { parentId: 'golden-1', metadata: { zone: 'a' } }),
    aVm('worker-2', { parentVmId: 'golden-1' }),
    aVm('worker-3'),
    aVm('custom-1', { role: 'custom', metadata: { note: 'x'.repeat(5000) } }),
    aVm('väter/小-🚀', { name: 'Ünïcode 名前 🚀', address: '[2001:db8::1]:3000', parentId: 'worker-1' }),
    // Input rules may become stricter; an entry that is there stays as it is.
    aVm('-dash', { name: '<b>$(id)</b>', address: 'any text at all: ü', parentId: 'nobody' }),
    aVm('gone-1', { status: 'paused' }),
    aVm('again-1'),
  ];
  for (const vm of vms) await must(201, 'registrar', 'POST', '/registry/vms', vm);
  const patch = (as: string, id: string, body: Body) => must(200, as, 'PATCH', vmPath(id), body);
  await patch('writer-of-one', 'worker-1', { status: 'paused', metadata: { zone: 'b', reason: 'saving resources' } });
  await patch('writer', 'worker-2', { status: 'stopped' });
  await must(200, 'writer', 'PUT', vmPath('worker-3'), aVm('worker-3', { name: 'drei', address: '10.0.0.3:8080' }));
  await patch('writer', 'custom-1', {
    metadata: { nested: { list: [1, 2.5, -0.1, true, null, 'ü', {}], empty: {} }, 'key with spaces': '', big: 2 ** 53 },
  });
  await patch('writer', 'gone-1', { name: 'to be removed', services: [{ name: 'api', port: 80 }] });
  await must(200, 'writer', 'DELETE', vmPath('gone-1'));
  await must(200, 'writer', 'DELETE', vmPath('again-1'));
  await must(201, 'writer', 'POST', '/registry/vms', aVm('again-1', { name: 'registered again' }));
  await must(200, 'beats', 'POST', `${vmPath('infra-1')}/heartbeat`);
  await must(200, 'beats', 'POST', '/registry/heartbeats', { ids: ['lt-1', 'worker-3', 'nobody'] });
}

async function enrolVms({ must }: Daemon): Promise<void> {
  const enrol = async (as: string, vm: Body) => {
    secrets[`${as}/${vm.id}`] = (await must(201, as, 'POST', '/registry/vms', vm)).token as string;
  };
  await enrol('image', aVm('edge-1'));
  await enrol('image', aVm('edge-2'));
  await enrol('image', aVm('edge-3'));
  await enrol('image-of-any', aVm('edge-4', { role: 'custom' }));
  await must(200, 'image/edge-1', 'PATCH', vmPath('edge-1'), { metadata: { by: 'itself' } });
  await must(200, 'admin', 'DELETE', `/registry/tokens/${encodeURIComponent('image/edge-3')}`);
}

/** Two incarnations of a VM in each way in which a registry can meet them, and what later ones must answer to them. */
async function makeConflicts({ must }: Daemon): Promise<void> {
  const beat = (status: number, id: string, body: Body) =>
    must(status, 'beats', 'POST', `${vmPath(id)}/heartbeat`, body);
  const live = async (id: string, beats: number) => {
    await must(201, 'registrar', 'POST', '/registry/vms', aVm(id, { address: '10.1.0.1' }));
    const self = { incarnation: `${id}-first`, address: '10.1.0.1' };
    await beat(200, id, { ...self, next: proof(1, 'a') });
    for (let n = 1; n < beats; n++) await beat(200, id, { ...self, spend: proof(n, 'a'), next: proof(n + 1, 'a') });
    return self;
  };
  await live('cloned', 2);
  const clone = { incarnation: 'the-clone', address: '10.1.0.2', spend: proof(1, 'a'), next: proof(2, 'b') };
  await beat(409, 'cloned', clone);
  await beat(409, 'cloned', clone);
  const rewound = await live('rewound', 3);
  await beat(409, 'rewound', { ...rewound, spend: proof(1, 'a'), next: proof(2, 'b') });
  const returned = await live('rewound-after-stop', 5);
  await must(200, 'writer', 'PATCH', vmPath('rewound-after-stop'), { status: 'stopped' });
  await beat(200, 'rewound-after-stop', { ...returned, spend: proof(2, 'a'), next: proof(3, 'b') });
  await live('replaced', 5);
  for (const [incarnation, digit] of [
    ['replaced-second', 'b'],
    ['replaced-third', 'c'],
  ] as const) {
    const self = { incarnation, address: `10.1.0.${digit.charCodeAt(0)}` };
    await beat(200, 'replaced', { ...self, next: proof(1, digit), replace: true });
    await beat(200, 'replaced', { ...self, spend: proof(1, digit), next: proof(2, digit) });
  }
  const { address } = await live('lost-its-state', 7);
  await beat(200, 'lost-its-state', { incarnation: 'lost-second', address, next: proof(1, 'b') });
  await live('paused-after-beat', 2);
  await must(200, 'writer', 'PATCH', vmPath('paused-after-beat'), { status: 'paused' });
  await live('moving', 2);
}

/** The answers to these are taken from the old daemon, on a copy of the data. */
function requestsToReplay(): Omit<Replayed, 'status'>[] {
  const beat = (about: string, id: string, body: Body) => {
    return { about, as: 'beats', method: 'POST', path: `${vmPath(id)}/heartbeat`, body };
  };
  const whoami = Object.keys(secrets).map((as) => {
    return { about: `the token ${as}`, as, method: 'GET', path: '/registry/whoami' };
  });
  const patch = (about: string, as: string, id: string) => {
    return { about, as, method: 'PATCH', path: vmPath(id), body: { name: 'renamed' } };
  };
  return [
    ...whoami,
    { about: 'a read token asks', as: 'reader', method: 'GET', path: '/registry/vms' },
    { about: 'a read token writes', as: 'reader', method: 'DELETE', path: vmPath('worker-3') },
    {
      about: 'a read token of a role looks at another role',
      as: 'reader-of-workers',
      method: 'GET',
      path: vmPath('lt-1'),
    },
    { about: 'a heartbeat token sends one', as: 'beats', method: 'POST', path: `${vmPath('lt-1')}/heartbeat` },
    patch('a heartbeat token changes a VM', 'beats', 'lt-1'),
    patch('a register token changes a VM', 'registrar', 'lt-1'),
    patch('a write token changes a VM', 'writer', 'lt-1'),
    { about: 'a write token lists tokens', as: 'writer', method: 'GET', path: '/registry/tokens' },
    patch('a write token of one VM changes it', 'writer-of-one', 'worker-1'),
    patch('a write token of one VM changes another', 'writer-of-one', 'worker-3'),
    patch('a write token of a role changes a VM of it', 'writer-of-golden', 'golden-1'),
    patch('a write token of a role changes a VM of another', 'writer-of-golden', 'lt-1'),
    patch('the token of an enrolled VM changes it', 'image/edge-1', 'edge-1'),
    patch('the token of an enrolled VM changes another', 'image/edge-1', 'edge-2'),
    { about: 'an enrol token asks', as: 'image', method: 'GET', path: '/registry/vms' },
    { about: 'an enrol token lets a VM in', as: 'image', method: 'POST', path: '/registry/vms', body: aVm('edge-5') },
    {
      about: 'an enrol token of a role lets a VM of another in',
      as: 'image',
      method: 'POST',
      path: '/registry/vms',
      body: aVm('edge-6', { role: 'infra' }),
    },
    beat('a clone comes back', 'cloned', {
      incarnation: 'the-clone',
      address: '10.1.0.2',
      spend: proof(1, 'a'),
      next: proof(2, 'b'),
    }),
    beat('the VM of which a clone is known goes on', 'cloned', {
      incarnation: 'cloned-first',
      address: '10.1.0.1',
      spend: proof(2, 'a'),
      next: proof(3, 'a'),
    }),
    beat('the self from before the rewind comes back', 'rewound-after-stop', {
      incarnation: 'rewound-after-stop-first',
      address: '10.1.0.1',
      spend: proof(5, 'a'),
      next: proof(6, 'a'),
    }),
    beat('one that was replaced first goes on', 'replaced', {
      incarnation: 'replaced-first',
      address: '10.1.0.1',
      spend: proof(5, 'a'),
      next: proof(6, 'a'),
    }),
    beat('one that was replaced first repeats its last beat', 'replaced', {
      incarnation: 'replaced-first',
      address: '10.1.0.1',
      spend: proof(4, 'a'),
      next: proof(5, 'a'),
    }),
    beat('one that was replaced second repeats its last beat', 'replaced', {
      incarnation: 'replaced-second',
      address: '10.1.0.98',
      spend: proof(1, 'b'),
      next: proof(2, 'b'),
    }),
    beat('the one that replaced repeats its last beat', 'replaced', {
      incarnation: 'replaced-third',
      address: '10.1.0.99',
      spend: proof(1, 'c'),
      next: proof(2, 'c'),
    }),
    beat('the state that was lost comes back', 'lost-its-state', {
      incarnation: 'lost-its-state-first',
      address: '10.1.0.1',
      spend: proof(7, 'a'),
      next: proof(8, 'a'),
    }),
    beat('another takes over from one that was paused', 'paused-after-beat', {
      incarnation: 'paused-second',
      address: '10.1.0.2',
      spend: proof(1, 'a'),
      next: proof(2, 'b'),
    }),
    beat('a new process at another address follows one that was heard just now', 'moving', {
      incarnation: 'moving-second',
      address: '10.1.0.2',
      spend: proof(2, 'a'),
      next: proof(3, 'a'),
    }),
  ];
}

/** The real agent, for as long as it takes to send some heartbeats. */
async function runAgent({ url, call }: Daemon, vm: string, stateDir: string, args: readonly string[]): Promise<void> {
  const words = ['daemon', 'agent', '--interval', '100ms', '--on-exit', 'keep', '--data-dir', stateDir, ...args];
  const env = environment({ VERS_INFRA_URL: url, VERS_VM_ID: 'agent-1', VERS_AUTH_TOKEN: secrets.image });
  const lastSeen = async () => (await call('admin', 'GET', vmPath(vm))).body.lastSeen;
  let seen = await lastSeen();
  const { child, ended, stderr } = start(words, env);
  // The registry that it met is saved with the heartbeat after that.
  for (let beats = 0; beats < 5; beats++) {
    await until(`a heartbeat of ${vm}`, async () => ![undefined, seen].includes((await lastSeen()) as string));
    seen = await lastSeen();
  }
  child.kill('SIGTERM');
  if ((await ended) !== 0) throw new Error(`the agent ended badly: ${await stderr}`);
}

async function makeAgentStates(daemon: Daemon): Promise<void> {
  const [agent, clone, timer] = ['agent-state', 'clone-state', 'timer-state'].map((name) => join(HERE, name));
  const words = [
    '--name',
    'Agent Nº 1',
    '--service',
    'api:8080/health',
    '--meta',
    'zone="ü"',
    '--registered-by',
    'image',
  ];
  await runAgent(daemon, 'agent-1', agent!, [...words, '--address', '10.2.0.1']);
  cpSync(agent!, clone!, { recursive: true });
  await runAgent(daemon, 'agent-1', agent!, [...words, '--address', '10.2.0.1']);
  const rebirth = ['--on-clone', 'rebirth', '--id-command', 'echo agent-1-b'];
  await runAgent(daemon, 'agent-1-b', clone!, [...words, '--address', '10.2.0.2', ...rebirth]);
  const bearerIn = (dir: string) => readFileSync(join(dir, 'token'), 'utf8').trim();
  secrets['image/agent-1'] = bearerIn(agent!);
  secrets['image/agent-1-b'] = bearerIn(clone!);
  // The answer to the last beat of this one is lost.
  const env = { VERS_AUTH_TOKEN: secrets.writer };
  const beat = ['heartbeat', 'timer-1', '--register-if-missing', '--name', 'timer', '--address', '10.2.0.3'];
  const once = [...beat, '--registered-by', 'timer', '--state-dir', timer!];
  for (let n = 0; n < 2; n++) await vreg(once, { ...env, VERS_INFRA_URL: daemon.url });
  const proxy = await startLossyProxy(daemon.url);
  await vreg(once, { ...env, VERS_INFRA_URL: proxy.url }, 8);
  proxy.close();
}

/** Passes everything on but the answers to heartbeats. */
async function startLossyProxy(target: string) {
  const server = createServer((incoming, outgoing) => {
    const { method, headers, url } = incoming;
    const passed = ask(target + url, { method, headers }, (answer) => {
      if (url!.endsWith('/heartbeat')) {
        answer.resume().once('end', () => incoming.socket.destroy());
        return;
      }
      outgoing.writeHead(answer.statusCode!, answer.headers);
      answer.pipe(outgoing);
    });
    incoming.pipe(passed);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  return { url: `http://127.0.0.1:${port}`, close: () => server.close() };
}

async function makeConfig(): Promise<Body> {
  const files = ['--ca-file', '/etc/vreg/ca.pem', '--token-file', '/etc/vreg/token'];
  await vreg(['context', 'add', 'prod', '--url', 'https://infra.example.com:3000', ...files]);
  await vreg(['context', 'add', 'dev', '--url', 'http://127.0.0.1:3000', '--use']);
  const settings = { timeout: '7s', 'stale-after': '2m', role: 'lieutenant', 'registered-by': 'größe' };
  for (const [key, value] of Object.entries(settings)) await vreg(['config', 'set', key, value]);
  cpSync(join(home, 'config/vreg'), join(HERE, 'config'), { recursive: true });
  return { contexts: JSON.parse(await vreg(['context', 'ls', '-o', 'json'])), settings };
}

async function capture({ call }: Daemon): Promise<Body> {
  const get = async (path: string) => (await call('admin', 'GET', path)).body;
  const { headers } = await call('admin', 'GET', '/health');
  const history: Body = {};
  for (const id of ['worker-1', 'gone-1', 'custom-1', 'again-1', 'edge-1'])
    history[id] = (await get(`${vmPath(id)}/history`)).history;
  return {
    registryId: headers.get('x-vreg-registry-id'),
    revision: Number(headers.get('x-vreg-revision')),
    vms: (await get('/registry/vms')).vms,
    tokens: (await get('/registry/tokens')).tokens,
    conflicts: (await get('/registry/conflicts')).conflicts,
    history,
  };
}

async function replay(): Promise<Replayed[]> {
  const copy = join(home, 'copy');
  cpSync(DATA, copy, { recursive: true });
  const daemon = await startDaemon(copy, '2026-01-02T00:00:00Z');
  const replayed: Replayed[] = [];
  for (const request of requestsToReplay()) {
    const { as, method, path, body } = request;
    replayed.push({ ...request, status: (await daemon.call(as, method, path, body)).status });
  }
  await daemon.stop();
  return replayed;
}

for (const name of readdirSync(HERE))
  if (name !== 'make.ts') rmSync(join(HERE, name), { recursive: true, force: true });
mkdirSync(DATA, { mode: 0o700 });

let daemon = await startDaemon(DATA, '2001-01-01T00:00:00Z');
await daemon.createToken('root', 'expired', { scope: 'write', expiresIn: 60 });
await daemon.stop();
// Ten years are the longest that a token can be given.
daemon = await startDaemon(DATA, '2089-12-01T00:00:00Z');
await daemon.createToken('root', 'until-2099', { scope: 'read', expiresIn: 3650 * 86_400 });
await daemon.stop();
daemon = await startDaemon(DATA, '2026-01-01T00:00:00Z');
await daemon.createToken('root', 'admin', { scope: 'admin' });
await makeTokens(daemon);
await makeFleet(daemon);
await enrolVms(daemon);
await makeConflicts(daemon);
await makeAgentStates(daemon);
const found = await capture(daemon);
await vreg(['backup', join(HERE, 'backup.db')], { VERS_INFRA_URL: daemon.url, VERS_AUTH_TOKEN: secrets.admin });
await daemon.stop();
const config = await makeConfig();
const expected = { ...found, secrets, requests: await replay(), config };
writeFileSync(join(HERE, 'expected.json'), `${JSON.stringify(expected, null, 2)}\n`);
