/** Signals and the end of the input at prompts and while stdin is read, on a real terminal and in pipes. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, openSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import test, { type TestContext } from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed } from '../helpers/cli.ts';
import { cleanEnv, ENTRY, endAfter, PROGRAM, run, tempDir, VREG } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { vregInTerminal } from '../helpers/terminal.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const CTRL_C = '\u0003';
const CTRL_D = '\u0004';
const needs = unless('python3');

async function registry(t: TestContext): Promise<{ url: string; home: string; isUnchanged: () => Promise<void> }> {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' })]);
  const home = tempDir(t);
  writeFileSync(join(home, 'fleet.json'), JSON.stringify([aVm({ id: 'b' })]));
  const isUnchanged = async () => {
    const { body } = await call(url, 'GET', '/registry/vms');
    assert.deepEqual(
      (body as { vms: { id: string }[] }).vms.map(({ id }) => id),
      ['a'],
    );
  };
  return { url, home, isUnchanged };
}

const PROMPTS: readonly string[] = ['rm a', 'import -f fleet.json', 'token revoke x', 'daemon restore backup.db'];

const ENDS: readonly [name: string, end: string | NodeJS.Signals, code: number, output: RegExp][] = [
  ['Ctrl-C', CTRL_C, 130, /\[y\/N\] (\^C)?\r\n$/],
  ['Ctrl-D', CTRL_D, 7, /\[y\/N\] \S*\r\nvreg: aborted: nothing was changed\r\nhint: answer y, or pass --yes\r\n$/],
  ['y with Ctrl-D instead of Enter', `y${CTRL_D}${CTRL_D}`, 7, /vreg: aborted: nothing was changed/],
  ['SIGTERM', 'SIGTERM', 143, /\[y\/N\] \r\n$/],
  ['SIGHUP', 'SIGHUP', 129, /\[y\/N\] \r\n$/],
];

for (const command of PROMPTS) {
  for (const [name, end, code, output] of ENDS) {
    test(`${name} at the prompt of vreg ${command} exits with ${code} and changes nothing`, needs, async (t) => {
      const { url, home, isUnchanged } = await registry(t);
      const terminal = await vregInTerminal(t, command.split(' '), { url, home, cwd: home });
      await terminal.shows('[y/N] ');
      if (end.startsWith('SIG')) process.kill(terminal.pid, end as NodeJS.Signals);
      else terminal.type(end);
      assert.equal(await terminal.ended, code, terminal.text());
      assert.match(terminal.text(), output);
      await isUnchanged();
    });
  }
}

test('y and Enter at a prompt continue', needs, async (t) => {
  const { url, home } = await registry(t);
  const terminal = await vregInTerminal(t, ['rm', 'a', '-q'], { url, home });
  await terminal.shows('[y/N] ');
  terminal.type('y\r');
  assert.equal(await terminal.ended, 0, terminal.text());
  assert.equal((await call(url, 'GET', '/registry/vms/a')).status, 404);
});

test('closing the terminal ends a prompt and changes nothing', needs, async (t) => {
  const { url, home, isUnchanged } = await registry(t);
  const terminal = await vregInTerminal(t, ['rm', 'a'], { url, home });
  await terminal.shows('[y/N] ');
  terminal.hangUp();
  assert.equal(await terminal.ended, 129);
  await isUnchanged();
});

test(
  'a prompt after stdin was read to its end is declined instead of ending the program silently',
  needs,
  async (t) => {
    const { url, home, isUnchanged } = await registry(t);
    const terminal = await vregInTerminal(t, ['import', '-f', '-'], { url, home });
    await terminal.shows('end with Ctrl-D');
    terminal.type(`${JSON.stringify(aVm({ id: 'b' }))}\r${CTRL_D}`);
    await terminal.shows('[y/N] ');
    assert.equal(await terminal.ended, 7, terminal.text());
    await isUnchanged();
  },
);

const READERS: readonly string[] = ['register -f -', 'import -f - --yes', 'api POST /registry/vms -f -'];

for (const command of READERS) {
  for (const [name, end, code] of ENDS.filter(([, typed]) => !typed.startsWith('y'))) {
    test(`${name} while vreg ${command} reads from the terminal exits with ${code}`, needs, async (t) => {
      const { url, home, isUnchanged } = await registry(t);
      const terminal = await vregInTerminal(t, command.split(' '), { url, home });
      await terminal.shows('end with Ctrl-D');
      if (end.startsWith('SIG')) process.kill(terminal.pid, end as NodeJS.Signals);
      else terminal.type(end);
      assert.equal(await terminal.ended, code, terminal.text());
      assert.doesNotMatch(terminal.text(), /bug in vreg|\n +at /);
      await isUnchanged();
    });
  }
}

/** Commands that read from a pipe which its writer keeps open. Their stdin is the pipe, too. */
const PIPED: readonly string[] = [
  ...READERS,
  'register -f pipe',
  'register -f /dev/stdin',
  'api POST /registry/vms -f pipe',
  'render pipe:out',
];

/** Writes spaces until the pipe is full. @returns false if it was full already */
function fill(writer: number): boolean {
  for (let written = 0; ; written++) {
    try {
      writeSync(writer, ' '.repeat(4096));
    } catch {
      return written > 0;
    }
  }
}

/** Starts a command, and waits until it reads from the pipe `pipe` in its working directory, which stays open. */
async function startReader(t: TestContext, command: string) {
  const { url, home, isUnchanged } = await registry(t);
  const path = join(home, 'pipe');
  spawnSync('mkfifo', ['-m', '600', path]);
  const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  const writer = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
  t.after(() => {
    closeSync(reader);
    closeSync(writer);
  });
  fill(writer);
  const child = spawn(PROGRAM, [...ENTRY, ...command.split(' ')], {
    env: cleanEnv(home, { VERS_INFRA_URL: url }),
    cwd: home,
    stdio: [reader, 'ignore', 'pipe'],
  });
  endAfter(t, async () => child.kill('SIGKILL'));
  const [ended, stderr] = [once(child, 'exit'), text(child.stderr!)];
  await until('vreg to read from the pipe', () => fill(writer));
  return { child, ended, stderr, isUnchanged };
}

for (const command of PIPED) {
  for (const [signal, code] of [
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const) {
    test(`${signal} while vreg ${command} waits for more of a pipe exits with ${code}`, unless('mkfifo'), async (t) => {
      const { child, ended, stderr, isUnchanged } = await startReader(t, command);
      child.kill(signal);
      assert.deepEqual([await ended, await stderr], [[code, null], '']);
      await isUnchanged();
    });
  }
}

for (const command of ['ls --token-file pipe', 'register --id-file pipe']) {
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    test(`${signal} while vreg ${command} waits for more of the pipe ends it at once`, unless('mkfifo'), async (t) => {
      const { child, ended, stderr, isUnchanged } = await startReader(t, command);
      child.kill(signal);
      assert.deepEqual([await ended, await stderr], [[null, signal], '']);
      await isUnchanged();
    });
  }
}

test(
  'a named pipe is read when its writer comes, and an empty one from the shell at once',
  unless('bash'),
  async (t) => {
    const { url, home } = await registry(t);
    const env = cleanEnv(home, { VERS_INFRA_URL: url });
    const bash = (script: string) =>
      run('bash', ['-c', `vreg() { ${VREG.map((word) => `"${word}"`).join(' ')} "$@"; }; ${script}`], {
        env,
        cwd: home,
      });
    const entry = JSON.stringify(aVm({ id: 'b' }));
    const late = await bash(`mkfifo p; vreg register -q -f p & sleep 1; echo '${entry}' > p; wait $!`);
    assert.deepEqual([late.code, late.stdout], [0, 'b\n'], late.stderr);
    assert.equal((await bash(`vreg register -f <(true)`)).code, 5);
    const replaced = await bash(`vreg register -q --if-exists update -f <(echo '${entry}')`);
    assert.deepEqual([replaced.code, replaced.stdout], [0, 'b\n'], replaced.stderr);
  },
);
