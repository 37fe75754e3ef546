/** SIGHUP: ignored under nohup, an end on a terminal, and a reload in the daemon and the agent, also while they start. */
import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed } from '../helpers/cli.ts';
import { killAfter, startDaemon, tempDir, VREG } from '../helpers/daemon.ts';
import { startVreg } from '../helpers/running.ts';
import { startInTerminal, vregInTerminal } from '../helpers/terminal.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

/** The bit of SIGHUP in the masks of /proc/PID/status (proc_pid_status(5)). */
const HANGUP_BIT = 1n;

/** Waits until a process has installed a handler for SIGHUP. */
function handlesHangup(pid: number): Promise<boolean> {
  return until(`process ${pid} to handle SIGHUP`, () => {
    const [, caught] = /^SigCgt:\t(\w+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8')) ?? [];
    return (BigInt(`0x${caught}`) & HANGUP_BIT) !== 0n;
  });
}

test('a watch without a terminal survives SIGHUP, as under nohup', async (t) => {
  const { url } = await serveApp(t);
  const running = startVreg(t, ['watch', '-o', 'ndjson', '--since', 'start'], { url });
  await handlesHangup(running.child.pid!);
  running.child.kill('SIGHUP');
  await seed(url, [aVm({ id: 'late' })]);
  await until('an event after the signal', () => running.stdout().includes('"late"'));
  assert.equal((await running.end('SIGTERM')).code, 143);
});

test('nohup vreg watch survives the end of its terminal', unless('python3', 'bash'), async (t) => {
  const { url } = await serveApp(t);
  const home = tempDir(t);
  const shell = await startInTerminal(t, ['bash', '--norc', '--noprofile', '-i'], { url, home, cwd: home });
  shell.type(`nohup ${VREG.join(' ')} watch -o ndjson --since start >out & echo "pid $!"\r`);
  // nohup may have written the beginning of its line before.
  await shell.shows(/pid \d+\r/);
  const pid = Number(/pid (\d+)\r/.exec(shell.text())![1]);
  killAfter(t, pid);
  // Until then it is still the shell, which handles SIGHUP too.
  await until('the shell to become vreg', () => readFileSync(`/proc/${pid}/cmdline`, 'utf8').includes('watch'));
  await handlesHangup(pid);
  shell.hangUp();
  await shell.ended;
  process.kill(pid, 'SIGHUP');
  await seed(url, [aVm({ id: 'late' })]);
  await until('an event after the end of the terminal', () =>
    readFileSync(join(home, 'out'), 'utf8').includes('"late"'),
  );
});

test('the command of nohup vreg exec survives SIGHUP', unless('bash', 'nohup'), async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'i', role: 'infra' })]);
  const running = startVreg(t, ['exec', 'infra', '--', 'sh', '-c', 'echo $$; exec sleep 300'], {
    url,
    env: { _: '/usr/bin/nohup' },
  });
  const child = Number(await until('the command', () => running.stdout().trim()));
  assert.match(readFileSync(`/proc/${child}/status`, 'utf8'), /^SigIgn:\t\w*[13579bdf]$/m);
});

for (const args of [['watch'], ['wait', 'worker'], ['ls', '-w']] as const) {
  test(`closing the terminal ends vreg ${args.join(' ')} with 129`, unless('python3'), async (t) => {
    const { url } = await serveApp(t);
    await seed(url, [aVm({ id: 'i', role: 'infra' })]);
    const terminal = await vregInTerminal(t, [...args, '-v'], { url });
    await terminal.shows('200');
    terminal.hangUp();
    assert.equal(await terminal.ended, 129);
  });
}

test('a SIGHUP while the daemon starts causes a reload when it has started', async (t) => {
  const home = tempDir(t);
  const tokenFile = join(home, 'token');
  writeFileSync(tokenFile, 'first-token\n', { mode: 0o600 });
  const daemon = await startDaemon(t, {
    home,
    env: { VREG_TOKEN_FILE: tokenFile },
    onSpawn: (child) => void handlesHangup(child.pid!).then(() => child.kill('SIGHUP')),
  });
  await until('the reload', () => daemon.said().includes('reloaded the token'));
  assert.ok(daemon.said().indexOf('listening on') < daemon.said().indexOf('reloaded the token'));
  assert.deepEqual(await daemon.end('SIGTERM'), { code: 0, signal: null });
});

test('a SIGHUP while the agent starts causes a reload when it has started', async (t) => {
  const { url } = await serveApp(t);
  const agent = startVreg(t, ['daemon', 'agent', '--id', 'vm-1', '--address', 'vm-1.test'], {
    url,
    home: tempDir(t),
  });
  await handlesHangup(agent.child.pid!);
  agent.child.kill('SIGHUP');
  await until('the reload', () => agent.stderr().includes('reloaded the settings'));
  assert.deepEqual(await agent.end('SIGTERM'), { code: 0, signal: null });
});
