/** README.md is true: what it shows is run as it stands, and its tables are those of the sources. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { join, relative } from 'node:path';
import test, { type TestContext } from 'node:test';
import { ROUTES } from '../daemon/http/routes.ts';
import { whyUnreadable } from '../daemon/systemd/install.ts';
import { loadAllCommands } from '../src/commands.ts';
import { manPages } from '../src/help/man.ts';
import { CHANGE_TYPES, LIVENESS_TYPES } from '../src/protocol/events.ts';
import type { Vm } from '../src/protocol/vm.ts';
import { VERSION } from '../src/version.ts';
import { BIN, cleanEnv, type Daemon, run, startDaemon, tempDir } from './helpers/daemon.ts';
import {
  blocks,
  exitTable,
  headings,
  headOf,
  placesOf,
  README,
  ROOT,
  readReadme,
  section,
  settingsTable,
  steps,
  table,
} from './helpers/readme.ts';
import { unless } from './helpers/tools.ts';
import { until } from './helpers/until.ts';

/** `UPDATE_README=1` writes the outputs of the examples into the README instead of comparing them. */
const UPDATE = process.env.UPDATE_README === '1';

/** Variables by which npm finds packages. Not its others: they would make it work on this folder instead of the clone. */
const OF_NPM =
  /^(npm_config_(cache|registry|userconfig|globalconfig|cafile|noproxy|proxy)|(https?_|no_)proxy|node_extra_ca_certs)$/i;

const readme = readReadme();
const commands = await loadAllCommands();
const places = placesOf(commands);
/** Sections with a curl recipe and the command that replaces it under each heading, in the order in which they run. */
const RECIPES = ['## The API with curl', '## What vreg daemon adds to the API'];

for (const place of places) {
  const heading = `### ${place.path.join(' ')}`;
  test(`README has a section ${heading} with the usage and exit codes of the source`, () => {
    const body = section(readme, heading);
    const head = headOf(place);
    assert.ok(body.startsWith(head), `paste this under "${heading}":\n${head}`);
    assert.ok(body.length > head.length + 40, `say what ${place.path.join(' ')} does and prints`);
    assert.ok(blocks(body, 'console').length > 0, `show ${place.path.join(' ')} at work`);
  });
}

test('README describes no command that is not there', () => {
  const known = places.map(({ path }) => path.join(' '));
  for (const heading of headings(section(readme, '## Commands'), 3)) assert.ok(known.includes(heading), heading);
});

test('README has the configuration table of the source', () => {
  assert.equal(table(section(readme, '## Configuration')), settingsTable(), `paste this:\n${settingsTable()}`);
});

test('README has the exit code table of the source', () => {
  assert.equal(table(section(readme, '## Exit codes')), exitTable(), `paste this:\n${exitTable()}`);
});

test('README names every route of the source', () => {
  const text = RECIPES.map((heading) => section(readme, heading)).join('');
  for (const { method, path } of ROUTES) {
    const shown = path.replaceAll(/:\w+/g, '[^/\\s`"?]+');
    const named = new RegExp(`(?:^|/|\\b)${shown.slice(1)}["\`?\\s]`, 'm');
    assert.match(text, named, `${method} ${path}`);
    if (method !== 'GET') assert.match(text, new RegExp(`\\b${method}\\b[^\\n]*${shown}`), `${method} ${path}`);
  }
});

test('README names every event of the source', () => {
  const rows = table(section(readme, '### Hear of changes as they happen')).split('\n').slice(2);
  const named = rows.flatMap((row) => [...row.split('|')[1]!.matchAll(/`(\w+)`/g)].map(([, type]) => type));
  const known = [...CHANGE_TYPES, ...LIVENESS_TYPES, 'heartbeat', 'reset', 'synced', 'lagged'];
  assert.deepEqual(named.sort(), [...known].sort());
});

test('a test runs every block of shell in README but the one that runs the tests', () => {
  const run = ['## Quick start', ...RECIPES, '## Scripts', '## Several registries', '## systemd', '## Development'];
  const known = run.flatMap((heading) => blocks(section(readme, heading), 'sh'));
  assert.deepEqual(blocks(readme, 'sh'), known);
});

test('the package installs the manual page of each command', async () => {
  const { default: manifest } = await import('../package.json', { with: { type: 'json' } });
  const pages = manPages(commands, VERSION).map(({ file }) => `dist/man/${file}`);
  assert.deepEqual(manifest.man, pages.sort());
});

test('the quick start of README runs as it is written, from a fresh clone', unless('bash', 'npm'), async (t) => {
  const home = tempDir(t);
  const clone = join(home, 'clone');
  const left = ['.git', 'node_modules', 'dist'];
  cpSync(ROOT, clone, { recursive: true, filter: (from) => !left.includes(relative(ROOT, from)) });
  const [start, use] = blocks(section(readme, '## Quick start'), 'sh');
  const port = await freePort();
  const env = {
    ...cleanEnv(home),
    // npm is the user's own: the same way out, and the cache instead of another download.
    ...Object.fromEntries(Object.entries(process.env).filter(([name]) => OF_NPM.test(name))),
    HOME: process.env.HOME,
    npm_config_prefer_offline: 'true',
    npm_config_update_notifier: 'false',
    VREG_PORT: String(port),
    VERS_INFRA_URL: `http://127.0.0.1:${port}`,
  };
  const daemon = startShell(t, start!, { env, cwd: clone });
  await until(
    'the registry to listen',
    () => {
      assert.equal(daemon.child.exitCode, null, daemon.said());
      return daemon.said().includes('listening on');
    },
    180_000,
  );
  const used = await run('bash', ['-euo', 'pipefail', '-c', use!], { env, cwd: clone });
  assert.equal(used.code, 0, used.stderr);
  assert.match(used.stdout, /^infra-1\.vm\.vers\.sh$/m);
  assert.match(used.stdout, /"count":1/);
});

test(
  'each curl recipe of README runs as it is written, and the vreg command beside it does the same',
  unless('bash', 'curl', 'jq', 'hostname'),
  async (t) => {
    const home = tempDir(t);
    const curl = await startDaemon(t);
    const vreg = await startDaemon(t);
    const board = createHttpServer((_request, response) => response.end('{"tasks":[]}'));
    const boardPort = await listen(t, board);
    // The addresses of the recipes lead to this machine.
    const here = [`localhost:3000:127.0.0.1:${new URL(curl.url).port}`, `:3000:127.0.0.1:${boardPort}`];
    writeFileSync(join(home, '.curlrc'), here.map((line) => `connect-to = "${line}"\n`).join(''));
    for (const daemon of [curl, vreg]) await daemon.vreg(['register', 'worker-1', '--name', 'one']);

    for (const heading of RECIPES.flatMap((part) => headings(section(readme, part), 3))) {
      await t.test(heading, async (t) => {
        const pair = blocks(section(readme, `### ${heading}`), 'sh');
        assert.equal(pair.length, 2, 'a curl recipe and the vreg command');
        for (const [index, daemon] of [curl, vreg].entries()) {
          const env = { ...shellEnv(home), VERS_INFRA_URL: daemon.url, MY_VM_ID: 'abc-123-def' };
          const code = pair[index]!;
          const cwd = join(home, String(index));
          mkdirSync(cwd, { recursive: true });
          if (/while true|--every/.test(code)) await seesBeats(t, daemon, code, env);
          else if (/registry\/events|vreg watch/.test(code)) await seesEvents(t, daemon, code, env);
          else {
            const ran = await run('bash', ['-euo', 'pipefail', '-c', code], { env, cwd });
            assert.equal(ran.code, 0, `${code}\n${ran.stdout}${ran.stderr}`);
            assert.doesNotMatch(ran.stdout, /"error"/);
          }
        }
        assert.deepEqual(await fleet(vreg), await fleet(curl));
      });
    }
  },
);

for (const shell of ['sh', 'bash', 'zsh']) {
  test(`the script of README runs as it is written, under ${shell}`, unless(shell), async (t) => {
    const [script] = blocks(section(readme, '## Scripts'), 'sh');
    const daemon = await startDaemon(t);
    const home = tempDir(t);
    const runs = () =>
      run(shell, ['-c', script!], { env: { ...shellEnv(home), VERS_INFRA_URL: daemon.url }, cwd: home });
    for (const id of ['worker-1', 'worker-2']) await daemon.vreg(['register', id, '--name', id]);
    const without = await runs();
    assert.deepEqual([without.code, without.stdout], [3, ''], without.stderr);
    await daemon.vreg(['register', 'infra-1', '--name', 'infra', '--role', 'infra']);
    const { code, stdout, stderr } = await runs();
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^board at http:\/\/infra-1\.vm\.vers\.sh:3000, first of the workers is worker-1$/m);
    assert.match(stdout, /^work goes to worker-[12]\.vm\.vers\.sh$/m);
    assert.match(stdout, /^no live golden VM$/m);
  });
}

test('the contexts of README work as they are written', unless('bash'), async (t) => {
  const [code] = blocks(section(readme, '## Several registries'), 'sh');
  const daemon = await startDaemon(t);
  const home = tempDir(t);
  const here = code!.replaceAll('http://127.0.0.1:3000', daemon.url);
  const ran = await run('bash', ['-euo', 'pipefail', '-c', here], { env: shellEnv(home), cwd: home });
  assert.equal(ran.code, 0, ran.stderr);
  assert.match(ran.stdout, /^dev$/m);
  assert.ok(ran.stdout.includes(`registry ${daemon.url}: ok`));
  assert.match(ran.stdout, /^https:\/\/registry\.example\.com$/m);
});

test('the set-up of README for systemd works as it is written, in an image', unless('bash', 'systemctl'), async (t) => {
  const home = tempDir(t);
  const image = join(home, 'image');
  mkdirSync(join(image, 'etc'), { recursive: true });
  const closed = whyUnreadable(process.execPath) ?? whyUnreadable(BIN);
  for (const code of blocks(section(readme, '## systemd'), 'sh')) {
    const here = code
      .replaceAll('/etc/', `${image}/etc/`)
      .replaceAll(' --now', '')
      .replaceAll(' install ', ` install --root ${image} `);
    const ran = await run('bash', ['-euo', 'pipefail', '-c', here], {
      env: shellEnv(home),
      cwd: home,
    });
    // A clone in a home folder is one that no hardened unit can see.
    if (closed) assert.ok(ran.stderr.includes(closed));
    else assert.equal(ran.code, 0, ran.stderr);
  }
  if (closed) return;
  const enabled = readdirSync(join(image, 'etc/systemd/system/multi-user.target.wants'));
  assert.deepEqual(enabled.sort(), ['vreg-agent.service', 'vreg-serve.service']);
});

const noTerminal = process.platform === 'linux' ? unless('bash', 'script') : { skip: 'needs script(1) of util-linux' };

test('the examples of README print what it says', noTerminal, async (t) => {
  let stop = async () => {};
  // Before the folder goes, which says what is to be stopped.
  t.after(() => stop());
  const home = tempDir(t);
  const port = UPDATE ? 3000 : await freePort();
  // Where a fleet moves to, in the examples.
  const port2 = UPDATE ? 3100 : await freePort();
  const env = { ...shellEnv(home), VREG_PORT: String(port), VERS_INFRA_URL: `http://127.0.0.1:${port}` };
  stop = async () => {
    for (const dir of ['.local/state/vreg', 'guarded', 'new'])
      await run('vreg', ['daemon', 'stop', '--data-dir', join(home, dir)], { env, cwd: home });
  };
  const [template] = blocks(section(readme, '### vreg render'), 'mustache');
  writeFileSync(join(home, 'board.mustache'), template!);
  const [original] = blocks(section(readme, '### vreg import'), 'json');
  mkdirSync(join(home, 'data'));
  writeFileSync(join(home, 'data/registry.json'), original!);
  let updated = readme;
  for (const block of blocks(readme, 'console')) {
    let real = '';
    for (const { command, output } of steps(block)) {
      const printed = (
        await inTerminal(command.replaceAll(':3100', `:${port2}`).replaceAll('port 3100', `port ${port2}`), env, home)
      )
        .replace(new RegExp(`\\b${port}\\b`, 'g'), '3000')
        .replace(new RegExp(`\\b${port2}\\b`, 'g'), '3100')
        .replaceAll(home, '/home/you');
      real += `$ ${command}\n${printed}`;
      if (!UPDATE) assert.equal(settled(printed), settled(output), `$ ${command}`);
    }
    updated = updated.replace(block, () => real);
  }
  if (UPDATE) writeFileSync(README, updated);
});

/** What differs from run to run, by what it is. */
function settled(text: string): string {
  return text
    .replaceAll(VERSION, 'VERSION')
    .replace(/vreg_[\w-]{43}/g, 'TOKEN')
    .replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'TIME')
    .replace(/just now|(\d+[smhd])+ ago/g, 'AGE')
    .replace(/up (\d+[smhd])+/g, 'up AGE')
    .replace(/\d+ s of listening time/g, 'N s of listening time')
    .replace(/"uptime": [\d.]+/g, '"uptime": N')
    .replace(/\bpid \d+/g, 'pid N')
    .replace(/^(serve|agent)\s+\d+/gm, '$1 N')
    .replace(/^\d+$/gm, 'N')
    .replace(/[ \t]+/g, ' ')
    .replace(/ $/gm, '');
}

/** Runs a command line as in a terminal, and returns what appears there. */
async function inTerminal(command: string, env: NodeJS.ProcessEnv, cwd: string): Promise<string> {
  const child = spawn('script', ['-qec', command, '/dev/null'], { env, cwd, stdio: ['pipe', 'pipe', 'inherit'] });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  // stdin stays open as long as the command runs: its end would be typed into the terminal.
  await new Promise((resolve) => child.once('close', resolve));
  return text.replaceAll('\r\n', '\n');
}

/** A home in which `vreg` is this one, and nothing is set. */
function shellEnv(home: string): NodeJS.ProcessEnv {
  const bin = join(home, 'bin');
  mkdirSync(bin, { recursive: true });
  try {
    symlinkSync(BIN, join(bin, 'vreg'));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
  return {
    PATH: `${bin}:${process.env.PATH}`,
    HOME: home,
    SHELL: '/bin/bash',
    LANG: 'C.UTF-8',
    TERM: 'xterm',
    NO_COLOR: '1',
  };
}

interface Shell {
  child: ChildProcess;
  said(): string;
}

/** Runs a script that does not end by itself; it is killed, with all that it started, when the test ends. */
function startShell(t: TestContext, code: string, { env, cwd }: { env: NodeJS.ProcessEnv; cwd: string }): Shell {
  const child = spawn('bash', ['-euo', 'pipefail', '-c', code], {
    env,
    cwd,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      said += chunk;
    });
  const closed = new Promise((resolve) => child.once('close', resolve));
  t.after(async () => {
    try {
      process.kill(-child.pid!, 'SIGKILL');
    } catch {
      // All of it has ended.
    }
    await closed;
  });
  return { child, said: () => said };
}

/** Starts an endless recipe and waits for the sign of life that it sends. */
async function seesBeats(t: TestContext, daemon: Daemon, code: string, env: NodeJS.ProcessEnv): Promise<void> {
  const lastSeen = async () => JSON.parse((await daemon.vreg(['get', 'abc-123-def', '-o', 'json'])).stdout).lastSeen;
  const before = await lastSeen();
  startShell(t, code, { env, cwd: env.HOME! });
  await until('a beat', async () => (await lastSeen()) > before);
}

/** Starts a recipe that listens and waits until it tells of the full state, and then of a change. */
async function seesEvents(t: TestContext, daemon: Daemon, code: string, env: NodeJS.ProcessEnv): Promise<void> {
  const { said } = startShell(t, code, { env, cwd: env.HOME! });
  await until('the full state', () => /registered.*worker-1/.test(said()));
  await daemon.vreg(['pause', 'worker-1']);
  await until('the change', () => /status.*worker-1/.test(said()));
}

/** All entries, without their times, which are those of two registries. */
async function fleet({ vreg }: Daemon): Promise<Omit<Vm, 'registeredAt' | 'lastSeen'>[]> {
  const vms = JSON.parse((await vreg(['ls', '-o', 'json'])).stdout) as Vm[];
  return vms.map(({ registeredAt: _at, lastSeen: _seen, ...vm }) => vm);
}

/** A port that nobody listens on just now. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(undefined)));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}

async function listen(t: TestContext, server: Server): Promise<number> {
  await new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(undefined)));
  t.after(() => server.close());
  return (server.address() as AddressInfo).port;
}
