/** The examples of the READMEs run verbatim: quick start, recipes, scripts and console sessions. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { dirname, join, relative } from 'node:path';
import test, { type TestContext } from 'node:test';
import { whyUnreadable } from '../../daemon/systemd/install.ts';
import { READMES } from '../../src/help/docs.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import { VERSION } from '../../src/version.ts';
import { BIN, cleanEnv, type Daemon, endAfter, run, startDaemon, tempDir } from '../helpers/daemon.ts';
import { blocks, ROOT, readReadme, recipes, section, steps } from '../helpers/readme.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';

/** `UPDATE_README=1` writes outputs that have changed into the READMEs instead of comparing them. */
const UPDATE = process.env.UPDATE_README === '1';

/** Variables that tell npm where to find packages. npm's other variables would make it work on this folder. */
const OF_NPM =
  /^(npm_config_(cache|registry|userconfig|globalconfig|cafile|noproxy|proxy)|(https?_|no_)proxy|node_extra_ca_certs)$/i;

const readme = readReadme();
const ofCommands = readReadme('src/commands/README.md');
const ofDaemon = readReadme('daemon/README.md');

test('the quick start runs verbatim in a fresh clone', unless('bash', 'npm'), async (t) => {
  const home = tempDir(t);
  const clone = join(home, 'clone');
  const omitted = ['.git', 'node_modules', 'dist'];
  cpSync(ROOT, clone, { recursive: true, filter: (from) => !omitted.includes(relative(ROOT, from)) });
  const [start, use, leave] = blocks(section(readme, '## Quick start'), 'sh');
  const port = await freePort();
  const env = {
    ...cleanEnv(home),
    // npm uses the proxy and the cache of the user.
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
      assert.equal(daemon.child.exitCode, null, daemon.output());
      return daemon.output().includes('listening on');
    },
    180_000,
  );
  endAfter(t, async () => {
    if (existsSync(clone)) await run('npx', ['vreg', 'daemon', 'stop', 'agent'], { env, cwd: clone });
  });
  const used = await run('bash', ['-euo', 'pipefail', '-c', use!], { env, cwd: clone });
  assert.equal(used.code, 0, used.stderr);
  assert.match(used.stdout, /^infra-1\.vm\.vers\.sh$/m);
  assert.match(used.stdout, /"count":1/);
  const left = await run('bash', ['-euo', 'pipefail', '-c', leave!], { env, cwd: clone });
  assert.equal(left.code, 0, left.stderr);
  assert.match(left.stdout, /^infra\t0\t0\t0\t0\t1$/m);
});

test(
  'each curl recipe of the READMEs runs verbatim, and the vreg command beside it does the same',
  unless('bash', 'curl', 'jq', 'hostname'),
  async (t) => {
    const home = tempDir(t);
    const curl = await startDaemon(t);
    const vreg = await startDaemon(t);
    const board = createHttpServer((_request, response) => response.end('{"tasks":[]}'));
    const boardPort = await listen(t, board);
    // The addresses in the recipes resolve to this machine.
    const here = [`localhost:3000:127.0.0.1:${new URL(curl.url).port}`, `:3000:127.0.0.1:${boardPort}`];
    writeFileSync(join(home, '.curlrc'), here.map((line) => `connect-to = "${line}"\n`).join(''));
    for (const daemon of [curl, vreg]) {
      await daemon.vreg(['register', 'worker-1', '--name', 'one']);
      await daemon.vreg(['register', 'infra-1', '--name', 'infra', '--role', 'infra', '--service', 'board:3000']);
    }

    for (const { heading, pair } of recipes()) {
      await t.test(heading, async (t) => {
        assert.equal(pair.length, 2, 'a curl recipe and the vreg command');
        for (const [index, daemon] of [curl, vreg].entries()) {
          const env = { ...shellEnv(home), VERS_INFRA_URL: daemon.url, MY_VM_ID: 'abc-123-def' };
          const code = pair[index]!;
          const cwd = join(home, String(index));
          mkdirSync(cwd, { recursive: true });
          if (/while true|--every/.test(code)) await seesHeartbeat(t, daemon, code, env);
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
  test(`the example of a script runs verbatim in ${shell}`, unless(shell), async (t) => {
    const [script] = blocks(section(ofCommands, '## Scripts'), 'sh');
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
    assert.match(stdout, /^board at http:\/\/infra-1\.vm\.vers\.sh:3000, first worker is worker-1$/m);
    assert.match(stdout, /^using worker-[12]\.vm\.vers\.sh$/m);
    assert.match(stdout, /^no live golden VM$/m);
  });
}

test('the examples for the operator and the script run verbatim', unless('bash', 'curl'), async (t) => {
  const home = tempDir(t);
  const daemon = await startDaemon(t);
  const board = createHttpServer((_request, response) => response.end('{"tasks":[]}'));
  writeFileSync(join(home, '.curlrc'), `connect-to = ":3000:127.0.0.1:${await listen(t, board)}"\n`);
  await daemon.vreg(['register', 'worker-1', '--name', 'one']);
  await daemon.vreg(['register', 'infra-1', '--name', 'infra', '--role', 'infra', '--service', 'board:3000']);
  const env = { ...shellEnv(home), VERS_INFRA_URL: daemon.url };
  const runs = (heading: string) =>
    run('bash', ['-euo', 'pipefail', '-c', blocks(section(readme, heading), 'sh')[0]!], { env, cwd: home });
  const operator = await runs('## The operator');
  assert.equal(operator.code, 0, operator.stderr);
  assert.match(operator.stdout, /status: running -> paused/);
  const script = await runs('## The script');
  assert.equal(script.code, 0, script.stderr);
  assert.match(script.stdout, /^infra is at infra-1\.vm\.vers\.sh\n\{"tasks":\[\]\}using worker-1 at worker-1\.vm/);
});

test('the example of contexts runs verbatim', unless('bash'), async (t) => {
  const [code] = blocks(section(ofCommands, '## Several registries'), 'sh');
  const daemon = await startDaemon(t);
  const home = tempDir(t);
  const here = code!.replaceAll('http://127.0.0.1:3000', daemon.url);
  const ran = await run('bash', ['-euo', 'pipefail', '-c', here], { env: shellEnv(home), cwd: home });
  assert.equal(ran.code, 0, ran.stderr);
  assert.match(ran.stdout, /^dev$/m);
  assert.ok(ran.stdout.includes(`registry ${daemon.url}: ok`));
  assert.match(ran.stdout, /^https:\/\/registry\.example\.com$/m);
});

test('the set-up for systemd runs verbatim in an image', unless('bash', 'systemctl'), async (t) => {
  const home = tempDir(t);
  const image = join(home, 'image');
  mkdirSync(join(image, 'etc'), { recursive: true });
  const closed = whyUnreadable(process.execPath) ?? whyUnreadable(BIN);
  const parts = [
    section(readme, '## The systemd unit'),
    section(ofDaemon, '## systemd'),
    section(ofDaemon, '## On Vers'),
  ];
  for (const code of parts.flatMap((part) => blocks(part, 'sh'))) {
    const here = code
      .replaceAll('/etc/', `${image}/etc/`)
      .replaceAll(' --now', '')
      .replaceAll(' install ', ` install --root ${image} `);
    const ran = await run('bash', ['-euo', 'pipefail', '-c', here], {
      env: shellEnv(home),
      cwd: home,
    });
    // Hardened units cannot see a clone in a home folder.
    if (closed) assert.ok(ran.stderr.includes(closed));
    else assert.equal(ran.code, 0, ran.stderr);
  }
  if (closed) return;
  const enabled = readdirSync(join(image, 'etc/systemd/system/multi-user.target.wants'));
  assert.deepEqual(enabled.sort(), ['vreg-agent.service', 'vreg-serve.service']);
});

const noTerminal = process.platform === 'linux' ? unless('bash', 'script') : { skip: 'needs script(1) of util-linux' };

for (const name of READMES.filter((name) => blocks(readReadme(name), 'console').length > 0)) {
  test(`the examples of ${name} print the output that it shows`, noTerminal, async (t) => {
    let stop = async () => {};
    // Runs before the folder is removed, which records the processes to stop.
    t.after(() => stop());
    const home = tempDir(t);
    // As many digits as in the examples, so that columns have the same width.
    const port = await freePort(4);
    // A second registry of the examples.
    const port2 = await freePort(4);
    const env = { ...shellEnv(home), VREG_PORT: String(port), VERS_INFRA_URL: `http://127.0.0.1:${port}` };
    stop = async () => {
      for (const dir of ['.local/state/vreg', 'guarded', 'new'])
        await run('vreg', ['daemon', 'stop', '--data-dir', join(home, dir)], { env, cwd: home });
    };
    const text = readReadme(name);
    for (const { name: file, code } of inputs(text)) {
      mkdirSync(dirname(join(home, file)), { recursive: true });
      writeFileSync(join(home, file), code);
    }
    let updated = text;
    for (const block of blocks(text, 'console')) {
      let real = '';
      for (const { command, output } of steps(block)) {
        const printed = (
          await inTerminal(command.replaceAll(':3100', `:${port2}`).replaceAll('port 3100', `port ${port2}`), env, home)
        )
          .replace(new RegExp(`\\b${port}\\b`, 'g'), '3000')
          .replace(new RegExp(`\\b${port2}\\b`, 'g'), '3100')
          .replaceAll(home, '/home/you');
        const same = settled(printed) === settled(output);
        real += `$ ${command}\n${same ? output : printed}`;
        if (!UPDATE) assert.equal(settled(printed), settled(output), `$ ${command}`);
      }
      updated = updated.replace(block, () => real);
    }
    if (UPDATE) writeFileSync(join(ROOT, name), updated);
  });
}

/** Files that the examples read. */
function inputs(text: string): { name: string; code: string }[] {
  if (text !== ofCommands) return [];
  const [template] = blocks(section(text, '### vreg render'), 'mustache');
  const [original] = blocks(section(text, '### vreg import'), 'json');
  return [
    { name: 'board.mustache', code: template! },
    { name: 'data/registry.json', code: original! },
  ];
}

/** The text with times, tokens, process ids and column widths replaced, which differ from run to run. */
function settled(text: string): string {
  return text
    .replaceAll(VERSION, 'VERSION')
    .replace(/vreg_[\w-]{43}/g, 'TOKEN')
    .replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, 'TIME')
    .replace(/\b\d+-[\da-f]{16}\b/g, 'POSITION')
    .replace(/\b[\da-f]{16}\b/g, 'INCARNATION')
    .replace(/just now|(\d+[smhd])+ ago/g, 'AGE')
    .replace(/up (\d+[smhd])+/g, 'up AGE')
    .replace(/(\d+(ms|[smhd]))+ of listening time ago/g, 'AGE')
    .replace(/"uptime": [\d.]+/g, '"uptime": N')
    .replace(/\bpid \d+/g, 'pid N')
    .replace(/^(serve|agent)\s+\d+/gm, '$1 N')
    .replace(/^\d+$/gm, 'N')
    .replace(/[ \t]+/g, ' ')
    .replace(/ $/gm, '');
}

/** Columns of the terminal: enough for every table of the examples, because the ages in them decide where it would be cut. */
const COLUMNS = 240;

/** Runs a command line in a terminal and returns what it displays. */
async function inTerminal(command: string, env: NodeJS.ProcessEnv, cwd: string): Promise<string> {
  const child = spawn('script', ['-qec', `stty cols ${COLUMNS}\n${command}`, '/dev/null'], {
    env,
    cwd,
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  // stdin stays open while the command runs: script(1) would type its end into the terminal.
  await new Promise((resolve) => child.once('close', resolve));
  return text.replaceAll('\r\n', '\n');
}

/** An environment in which `vreg` is this program and no setting exists. */
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
  /** Output on stdout and stderr so far. */
  output(): string;
}

/** Starts a script that does not end by itself. It is killed with its children when the test ends. */
function startShell(t: TestContext, code: string, { env, cwd }: { env: NodeJS.ProcessEnv; cwd: string }): Shell {
  const child = spawn('bash', ['-euo', 'pipefail', '-c', code], {
    env,
    cwd,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      output += chunk;
    });
  const closed = new Promise((resolve) => child.once('close', resolve));
  t.after(async () => {
    try {
      process.kill(-child.pid!, 'SIGKILL');
    } catch {
      // The process group has ended.
    }
    await closed;
  });
  return { child, output: () => output };
}

/** Starts an endless recipe and waits for a heartbeat from it. */
async function seesHeartbeat(t: TestContext, daemon: Daemon, code: string, env: NodeJS.ProcessEnv): Promise<void> {
  const lastSeen = async () => JSON.parse((await daemon.vreg(['get', 'abc-123-def', '-o', 'json'])).stdout).lastSeen;
  const before = await lastSeen();
  startShell(t, code, { env, cwd: env.HOME! });
  await until('a heartbeat', async () => (await lastSeen()) > before);
}

/** Starts a recipe that subscribes to events, and waits for the full state and for a change. */
async function seesEvents(t: TestContext, daemon: Daemon, code: string, env: NodeJS.ProcessEnv): Promise<void> {
  const { output } = startShell(t, code, { env, cwd: env.HOME! });
  await until('the full state', () => /registered.*worker-1/.test(output()));
  await daemon.vreg(['pause', 'worker-1']);
  await until('the change', () => /status.*worker-1/.test(output()));
}

/** All entries without their times and ages, which differ between two registries. */
async function fleet({ vreg }: Daemon): Promise<object[]> {
  const vms = JSON.parse((await vreg(['ls', '-o', 'json'])).stdout) as (Vm & { ageSeconds: number })[];
  return vms.map(({ registeredAt: _at, lastSeen: _seen, ageSeconds: _age, ...vm }) => vm);
}

/** A port on which no process listens at the moment. @param digits 4 or 5; the ports that the system picks have 5 */
async function freePort(digits = 5): Promise<number> {
  for (;;) {
    const server = createServer();
    const wanted = digits === 5 ? 0 : 2000 + Math.floor(Math.random() * 8000);
    const port = await new Promise<number | undefined>((resolve) => {
      server.once('error', () => resolve(undefined));
      server.listen(wanted, '127.0.0.1', () => resolve((server.address() as AddressInfo).port));
    });
    if (port === undefined) continue;
    await new Promise((resolve) => server.close(resolve));
    return port;
  }
}

async function listen(t: TestContext, server: Server): Promise<number> {
  await new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(undefined)));
  t.after(() => server.close());
  return (server.address() as AddressInfo).port;
}
