/** Child processes of `exec`, `watch` and `render`: which signals they receive, and that none of them is left behind. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { forwardedSignals } from '../../src/run/signals.ts';
import { serveApp } from '../helpers/app.ts';
import { seed } from '../helpers/cli.ts';
import { endAfter, tempDir, VREG } from '../helpers/daemon.ts';
import { type RunOptions, startVreg } from '../helpers/running.ts';
import { startInTerminal, vregInTerminal } from '../helpers/terminal.ts';
import { PYTHON, unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const CTRL_C = '\u0003';
const CTRL_Z = '\u001a';

async function registry(t: TestContext): Promise<RunOptions & { url: string; home: string }> {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'i', role: 'infra', address: '10.0.0.1' })]);
  const home = tempDir(t);
  // A process that a failing test leaves behind would keep its output open, and with it this test file.
  endAfter(t, async () => killAll(join(home, 'pids')));
  writeFileSync(join(home, 'template'), '{{#vms}}{{id}} {{/vms}}');
  return { url, home, cwd: home };
}

function isRunning(pid: number): boolean {
  try {
    // A zombie has exited.
    return !/^State:\tZ/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
}

/** The pids in the complete lines of the file. */
function pidsOf(file: string): number[] {
  return existsSync(file) ? readFileSync(file, 'utf8').split('\n').slice(0, -1).map(Number) : [];
}

function killAll(file: string): void {
  // The shell first, because it would start another process.
  for (const pid of pidsOf(file).filter(isRunning).reverse()) process.kill(pid, 'SIGKILL');
}

/** Waits until a script has written this many pids to the file. */
function pidsIn(file: string, count: number): Promise<number[]> {
  return until(`${count} pids in ${file}`, () => {
    const pids = pidsOf(file);
    return pids.length >= count ? pids : undefined;
  });
}

async function allExit(pids: readonly number[]): Promise<void> {
  await until(`the processes ${pids.join(', ')} to exit`, () => pids.every((pid) => !isRunning(pid)));
}

/** A script with a child that ignores SIGINT, as every background process of a shell script does. */
const FAMILY = 'sleep 300 & echo $! >>pids; echo $$ >>pids; wait; sleep 300';

/** A script that kills vreg as early as possible. */
const KILLER = 'echo $$ >>pids; kill -KILL $PPID; exec sleep 300';

/** Commands that run {@link FAMILY}. */
const RUNNERS: readonly [name: string, args: readonly string[]][] = [
  ['watch', ['watch', '--since', 'start', '--', 'sh', '-c', FAMILY]],
  ['render', ['render', `template:out:${FAMILY}`]],
  ['render --watch', ['render', `template:out:${FAMILY}`, '--watch']],
];

for (const [name, args] of RUNNERS) {
  for (const [signal, code] of [
    ['SIGTERM', 143],
    ['SIGINT', 130],
    ['SIGKILL', null],
  ] as const) {
    test(`${signal} to vreg ${name} ends its command and the children of the command`, async (t) => {
      const options = await registry(t);
      const running = startVreg(t, args, options);
      const pids = await pidsIn(join(options.home, 'pids'), 2);
      running.child.kill(signal);
      await allExit(pids);
      assert.equal((await running.ended).code, code);
    });
  }

  test(`a command of vreg ${name} that kills vreg at once is ended`, async (t) => {
    const options = await registry(t);
    const killing = args.map((arg) => arg.replace(FAMILY, () => KILLER));
    const running = startVreg(t, killing, options);
    await allExit(await pidsIn(join(options.home, 'pids'), 1));
    assert.equal((await running.ended).signal, 'SIGKILL');
  });

  test(
    `Ctrl-C at vreg ${name} on a terminal ends its command and the children of the command`,
    unless('python3'),
    async (t) => {
      const options = await registry(t);
      const terminal = await vregInTerminal(t, args, options);
      const pids = await pidsIn(join(options.home, 'pids'), 2);
      terminal.type(CTRL_C);
      assert.equal(await terminal.ended, 130);
      await allExit(pids);
    },
  );

  test(
    `closing the terminal of vreg ${name} ends its command and the children of the command`,
    unless('python3'),
    async (t) => {
      const options = await registry(t);
      const terminal = await vregInTerminal(t, args, options);
      const pids = await pidsIn(join(options.home, 'pids'), 2);
      terminal.hangUp();
      assert.equal(await terminal.ended, 129);
      await allExit(pids);
    },
  );
}

test('a second signal ends vreg at once, and a command that ignores signals is killed', async (t) => {
  const options = await registry(t);
  const script = `trap '' TERM INT; ${FAMILY}`;
  const running = startVreg(t, ['watch', '--since', 'start', '--', 'sh', '-c', script], options);
  const pids = await pidsIn(join(options.home, 'pids'), 2);
  running.child.kill('SIGTERM');
  assert.equal((await running.end('SIGTERM')).code, 143);
  await allExit(pids);
});

test('a background process that a command of watch leaves behind on purpose keeps running', async (t) => {
  const options = await registry(t);
  const script = 'sleep 300 >/dev/null 2>&1 & echo $! >>pids';
  const running = startVreg(t, ['watch', '--since', 'start', '--', 'sh', '-c', script], options);
  // The command runs for the reset and then for the VM, so the first run has ended.
  const [pid] = await pidsIn(join(options.home, 'pids'), 2);
  await running.end();
  assert.ok(isRunning(pid!));
});

/** Prints the name of each signal that it receives, and ends after SIGTERM. Node and shells cannot handle all of them. */
const REPORTER = `
import os, signal, sys
def report(number, frame):
    os.write(1, b'%d\\n' % number)
    if number == signal.SIGTERM: os._exit(9)
for number in range(1, 32):
    if number not in (signal.SIGKILL, signal.SIGSTOP): signal.signal(number, report)
os.write(1, b'on\\n')
while True: signal.pause()
`;

test('exec forwards every signal that it can handle', unless('python3'), async (t) => {
  const options = await registry(t);
  const running = startVreg(t, ['exec', 'infra', '--', PYTHON, '-c', REPORTER], options);
  await until('the command', () => running.stdout() === 'on\n');
  const sent = forwardedSignals().filter((signal) => !['SIGTERM', 'SIGTSTP', 'SIGCONT'].includes(signal));
  for (const name of ['SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2', 'SIGALRM', 'SIGWINCH'])
    assert.ok(sent.includes(name as NodeJS.Signals), name);
  for (const signal of sent) {
    running.child.kill(signal);
    await until(signal, () => running.stdout().endsWith(`\n${constants.signals[signal]}\n`));
  }
  assert.deepEqual(await running.end('SIGTERM'), { code: 9, signal: null });
});

test('SIGTSTP stops exec and its command, and SIGCONT continues both', unless('python3'), async (t) => {
  const options = await registry(t);
  const running = startVreg(t, ['exec', 'infra', '--', 'sh', '-c', 'echo $$ >pids; exec sleep 300'], options);
  const [pid] = await pidsIn(join(options.home, 'pids'), 1);
  const stateOf = (process: number) => /^State:\t(\w)/m.exec(readFileSync(`/proc/${process}/status`, 'utf8'))?.[1];
  running.child.kill('SIGTSTP');
  await until('both to stop', () => stateOf(pid!) === 'T' && stateOf(running.child.pid!) === 'T');
  running.child.kill('SIGCONT');
  await until('both to continue', () => stateOf(pid!) === 'S' && stateOf(running.child.pid!) === 'S');
  assert.equal((await running.end('SIGTERM')).code, 143);
  await allExit([pid!]);
});

for (const [signal, code] of [
  ['SIGTERM', 143],
  ['SIGINT', 130],
  ['SIGQUIT', 131],
  ['SIGKILL', null],
] as const) {
  test(`${signal} to vreg exec leaves neither the command nor its children behind`, async (t) => {
    const options = await registry(t);
    const running = startVreg(t, ['exec', 'infra', '--', 'sh', '-c', FAMILY], options);
    const pids = await pidsIn(join(options.home, 'pids'), 2);
    running.child.kill(signal);
    await allExit(pids);
    assert.equal((await running.ended).code, code);
  });
}

test('a command of vreg exec that kills vreg at once is ended', async (t) => {
  const options = await registry(t);
  const running = startVreg(t, ['exec', 'infra', '--', 'sh', '-c', KILLER], options);
  await allExit(await pidsIn(join(options.home, 'pids'), 1));
  assert.equal((await running.ended).signal, 'SIGKILL');
});

test('SIGKILL to vreg exec on a terminal ends the command', unless('python3'), async (t) => {
  const options = await registry(t);
  const terminal = await vregInTerminal(
    t,
    ['exec', 'infra', '--', 'sh', '-c', 'echo $$ >pids; exec sleep 300'],
    options,
  );
  const pids = await pidsIn(join(options.home, 'pids'), 1);
  process.kill(terminal.pid, 'SIGKILL');
  assert.equal(await terminal.ended, 137);
  await allExit(pids);
});

test('on a terminal, the command of exec reads from it and receives Ctrl-C once', unless('python3'), async (t) => {
  const options = await registry(t);
  const script =
    'n=0; trap "n=\\$((n+1))" INT; read -r line </dev/tty; echo "read $line"; while [ $n = 0 ]; do sleep 0.1; done; sleep 0.5; echo "got $n"; exit 7';
  const terminal = await vregInTerminal(t, ['exec', 'infra', '--', 'sh', '-c', script], options);
  terminal.type('hello\r');
  await terminal.shows('read hello');
  terminal.type(CTRL_C);
  assert.equal(await terminal.ended, 7, terminal.text());
  await terminal.shows('got 1');
});

test('a shell can stop and continue exec and its command', unless('python3', 'bash'), async (t) => {
  const options = await registry(t);
  const shell = await startInTerminal(t, ['bash', '--norc', '--noprofile', '-i'], {
    ...options,
    env: {},
  });
  await shell.shows(/[#$] $/);
  shell.type(`${VREG.join(' ')} exec infra -- sh -c 'echo begun; read -r line; echo "read $line"'\r`);
  await shell.shows(/[\r\n]begun/);
  shell.type(CTRL_Z);
  await shell.shows('Stopped');
  shell.type('fg\r');
  await shell.shows(/# fg\r\n.*exec infra/s);
  shell.type('typed\r');
  await shell.shows(/[\r\n]read typed/);
  shell.type('exit 3\r');
  assert.equal(await shell.ended, 3);
});
