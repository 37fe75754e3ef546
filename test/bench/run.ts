/**
 * `npm run bench`: what vreg costs over the floor of the platform. Each pair is measured in turns within one run, since
 * only ratios within a run mean something. It asserts nothing.
 */
import { fork, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, fdatasyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BIN, cleanEnv } from '../helpers/daemon.ts';
import { aVm } from '../helpers/vm.ts';
import { measure } from './load.ts';

/** Pairs of start-ups. */
const STARTS = 25;
/** Turns of each load, and requests in each: half a second of a fast server. */
const TURNS = 7;
const REQUESTS = 8000;
const CONNECTIONS = 32;
/** Registrations in one turn, by writers: about half a second each on a disk that syncs in a millisecond. */
const WRITES = { 1: 300, 16: 1500, 256: 4000 };
const WRITE_TURNS = 3;

/** The hot routes, and the VMs that the second finds. */
const ROUTES = { '/registry/vms/vm-0/heartbeat': 'POST', '/registry/discover/worker': 'GET' };
const VMS = 10;
const CREATED = 'HTTP/1.1 201';

const home = mkdtempSync(join(tmpdir(), 'vreg-bench-'));
const env = cleanEnv(home);
const daemon = spawn(
  process.execPath,
  [BIN, 'daemon', '--port', '0', '--data-dir', join(home, 'data'), '--log-format', 'json', '--log-level', 'info'],
  { env, stdio: ['ignore', 'ignore', 'pipe'] },
);
try {
  const url = await listeningUrl();
  const port = Number(new URL(url).port);
  await fill(port);
  const bodies = Object.fromEntries(
    await Promise.all(Object.entries(ROUTES).map(async ([path, method]) => [path, await bodyOf(url, method, path)])),
  );
  const raw = fork(join(import.meta.dirname, 'raw-server.ts'));
  raw.send(bodies);
  const [rawPort] = (await once(raw, 'message')) as [number];

  row('node', process.version, '', '');
  row('', 'vreg', 'floor', 'ratio');
  startUp(url);
  for (const [path, method] of Object.entries(ROUTES)) await requests(method, path, port, rawPort);
  raw.kill();
  for (const [writers, count] of Object.entries(WRITES)) await registrations(Number(writers), count, port);
} finally {
  daemon.kill('SIGKILL');
  await once(daemon, 'exit');
  rmSync(home, { recursive: true, force: true });
}

function listeningUrl(): Promise<string> {
  let said = '';
  return new Promise((resolve, reject) => {
    daemon.stderr.setEncoding('utf8').on('data', (chunk: string) => {
      said += chunk;
      const [, url] = /listening on (http:\/\/[\w.:]+\d)/.exec(said) ?? [];
      if (url) resolve(url);
    });
    daemon.once('exit', () => reject(new Error(`the daemon ended: ${said}`)));
  });
}

/** The daemon's response body, which the bare server sends, too. */
async function bodyOf(url: string, method: string, path: string): Promise<string> {
  return (await fetch(url + path, { method })).text();
}

function post(id: string, role: 'worker' | 'custom'): string {
  const services = [{ name: 'pi-rpc', port: 3001, healthPath: '/health' }];
  const body = JSON.stringify(aVm({ id, role, services, metadata: { task: 'bench', attempt: 1 } }));
  return `POST /registry/vms HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
}

async function fill(port: number): Promise<void> {
  await measure({ port, connections: 1, count: VMS, request: (n) => post(`vm-${n}`, 'worker'), expect: CREATED });
}

/** From a shell's exec to its exit, as a script sees it. */
function startUp(url: string): void {
  const times = { vreg: [] as number[], bare: [] as number[] };
  const timed = (args: readonly string[]) => {
    const started = performance.now();
    const { status } = spawnSync(process.execPath, args, { env: { ...env, VERS_INFRA_URL: url } });
    if (status !== 0) throw new Error(`node ${args.join(' ')} ended with ${status}`);
    return performance.now() - started;
  };
  for (let pair = 0; pair < STARTS; pair++) {
    times.vreg.push(timed([BIN, 'addr', 'worker']));
    times.bare.push(timed(['-e', '0']));
  }
  compare('vreg addr worker, ms, over node -e 0', median(times.vreg), median(times.bare));
}

async function requests(method: string, path: string, port: number, rawPort: number): Promise<void> {
  const bytes = Buffer.from(`${method} ${path} HTTP/1.1\r\nHost: a\r\n\r\n`);
  const load = { connections: CONNECTIONS, count: REQUESTS, request: () => bytes, expect: 'HTTP/1.1 200' };
  // The first turn of each warms the compiler up.
  const rates = { vreg: [] as number[], raw: [] as number[] };
  for (let turn = 0; turn <= TURNS; turn++) {
    rates.vreg.push(await measure({ ...load, port }));
    rates.raw.push(await measure({ ...load, port: rawPort }));
  }
  compare(`${method} ${path}, 1/s, over node:http`, median(rates.vreg.slice(1)), median(rates.raw.slice(1)));
}

/** The floor is one process that appends each entry to a file and waits for the disk: what a commit costs alone. */
async function registrations(writers: number, count: number, port: number): Promise<void> {
  const rates = { vreg: [] as number[], append: [] as number[] };
  for (let turn = 0; turn < WRITE_TURNS; turn++) {
    const request = (n: number) => post(`w${writers}-${turn}-${n}`, 'custom');
    rates.vreg.push(await measure({ port, connections: writers, count, request, expect: CREATED }));
    rates.append.push(appends(WRITES[1]));
  }
  const what = `registrations, ${writers} writer${writers === 1 ? '' : 's'}, 1/s, over append + fdatasync`;
  compare(what, median(rates.vreg), median(rates.append));
}

function appends(count: number): number {
  const file = openSync(join(home, 'append'), 'a');
  const entry = Buffer.from(`${JSON.stringify(aVm({ metadata: { task: 'bench', attempt: 1 } }))}\n`);
  const started = performance.now();
  for (let n = 0; n < count; n++) {
    writeSync(file, entry);
    fdatasyncSync(file);
  }
  const seconds = (performance.now() - started) / 1000;
  closeSync(file);
  return count / seconds;
}

function median(numbers: readonly number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)]!;
}

function compare(what: string, vreg: number, floor: number): void {
  row(what, vreg.toFixed(vreg < 1000 ? 1 : 0), floor.toFixed(floor < 1000 ? 1 : 0), (vreg / floor).toFixed(2));
}

function row(what: string, ...cells: readonly string[]): void {
  process.stdout.write(`${what.padEnd(66)}${cells.map((cell) => cell.padStart(10)).join('')}\n`);
}
