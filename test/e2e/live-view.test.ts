/** The full screen of `ls --watch` on a real terminal. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { readlinkSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { seed } from '../helpers/cli.ts';
import { tempDir, VREG } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { startInTerminal, type Terminal, vregInTerminal } from '../helpers/terminal.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const needs = unless('python3', 'stty');
const ENTER = '\u001b[?1049h\u001b[?25l\u001b[?7l';
const LEAVE = '\u001b[?7h\u001b[?25h\u001b[?1049l';
const SUSPEND = '\u001a';

/** The settings of a terminal, as stty prints them. */
function settingsOf({ pid }: Terminal): string {
  return execFileSync('stty', ['-F', deviceOf(pid), '-a'], { encoding: 'utf8' });
}

function deviceOf(pid: number): string {
  return readlinkSync(`/proc/${pid}/fd/0`);
}

/** Asserts that the output ends with the sequence that restores the terminal, after `more`. */
function assertRestored(terminal: Terminal, more = ''): void {
  const text = terminal.text();
  assert.equal(text.split(ENTER).length, text.split(LEAVE).length);
  assert.ok(text.endsWith(LEAVE + more), JSON.stringify(text.slice(-200)));
}

for (const [how, code, end] of [
  ['q', 0, ({ type }: Terminal) => type('q')],
  ['Ctrl-C', 130, ({ type }: Terminal) => type('\u0003')],
  ['SIGINT', 130, ({ pid }: Terminal) => process.kill(pid, 'SIGINT')],
  ['SIGTERM', 143, ({ pid }: Terminal) => process.kill(pid, 'SIGTERM')],
  ['SIGHUP', 129, ({ pid }: Terminal) => process.kill(pid, 'SIGHUP')],
] as const) {
  test(`ls --watch restores the terminal after ${how}, and exits with ${code}`, needs, async (t) => {
    const { url } = await serveApp(t);
    await seed(url, [aVm({ id: 'a' })]);
    const terminal = await vregInTerminal(t, ['ls', '-w'], { url });
    await terminal.shows('q quit');
    assert.ok(terminal.text().startsWith(ENTER));
    assert.match(settingsOf(terminal), / -icanon .* -echo /s);
    end(terminal);
    assert.equal(await terminal.ended, code);
    assertRestored(terminal);
  });
}

for (const signal of ['SIGQUIT', 'SIGABRT', 'SIGUSR2', 'SIGALRM', 'SIGXCPU', 'SIGVTALRM', 'SIGPWR'] as const) {
  test(`ls --watch restores the terminal after ${signal}, which ends it`, needs, async (t) => {
    const { url } = await serveApp(t);
    const terminal = await vregInTerminal(t, ['ls', '-w'], { url });
    await terminal.shows('q quit');
    process.kill(terminal.pid, signal);
    assert.equal(await terminal.ended, 128 + constants.signals[signal]);
    assertRestored(terminal);
  });
}

test('ls --watch restores the terminal after an error, which it prints below the former content', needs, async (t) => {
  const { url } = await serveApp(t, { token: 'a-secret-token' });
  const headers = { authorization: 'Bearer a-secret-token' };
  const { body } = await call(url, 'POST', '/registry/tokens', { body: { name: 'r', scope: 'read' }, headers });
  const env = { VERS_AUTH_TOKEN: (body as { token: string }).token };
  const terminal = await vregInTerminal(t, ['ls', '-w'], { url, env });
  await terminal.shows('q quit');
  await call(url, 'DELETE', '/registry/tokens/r', { headers });
  assert.equal(await terminal.ended, 2);
  const text = terminal.text();
  assert.ok(text.lastIndexOf(LEAVE) < text.indexOf('vreg: Unauthorized'), JSON.stringify(text.slice(-300)));
  assert.equal(text.split(ENTER).length, text.split(LEAVE).length);
});

test('ls --watch restores the terminal after an uncaught exception', needs, async (t) => {
  const { url } = await serveApp(t);
  const thrower = join(tempDir(t), 'thrower.cjs');
  writeFileSync(thrower, `process.on('SIGUSR2', () => { throw new Error('boom'); });`);
  // A single executable ignores --import.
  const env = { NODE_OPTIONS: `--require=${thrower}` };
  const terminal = await vregInTerminal(t, ['ls', '-w'], { url, env });
  await terminal.shows('q quit');
  process.kill(terminal.pid, 'SIGUSR2');
  assert.notEqual(await terminal.ended, 0);
  const text = terminal.text();
  assert.ok(text.includes(LEAVE) && text.lastIndexOf(LEAVE) < text.indexOf('boom'), JSON.stringify(text.slice(-300)));
});

test('ls --watch ends when its terminal is closed', needs, async (t) => {
  const { url } = await serveApp(t);
  const terminal = await vregInTerminal(t, ['ls', '-w'], { url });
  await terminal.shows('q quit');
  terminal.hangUp();
  assert.equal(await terminal.ended, 129);
});

test('ls --watch redraws when the terminal is resized', needs, async (t) => {
  const { url } = await serveApp(t);
  await seed(
    url,
    Array.from({ length: 30 }, (_, n) => aVm({ id: `vm-${n}` })),
  );
  const terminal = await vregInTerminal(t, ['ls', '-w'], { url });
  await terminal.shows(/1-17 of 30/);
  execFileSync('stty', ['-F', deviceOf(terminal.pid), 'rows', '12', 'cols', '60']);
  await terminal.shows(/1-8 of 30/);
  terminal.type('\u001b[B');
  await terminal.shows(/2-9 of 30/);
  terminal.type('\u001b[6~');
  await terminal.shows(/10-17 of 30/);
  terminal.type('q');
  assert.equal(await terminal.ended, 0);
});

test('Ctrl-Z suspends ls --watch with a restored terminal, and fg continues it', needs, async (t) => {
  const { url } = await serveApp(t);
  await seed(url, [aVm({ id: 'a' })]);
  const shell = await startInTerminal(t, ['bash', '--norc', '--noprofile', '-i'], { url });
  shell.type(`${VREG.join(' ')} ls -w\r`);
  await shell.shows('q quit');
  shell.type(SUSPEND);
  await shell.shows('Stopped');
  // While bash reads a command, it turns off line mode itself.
  shell.type('stty -a\r');
  await shell.shows(/Stopped.* icanon /s);
  const before = shell.text().length;
  shell.type('fg\r');
  await until('the screen', () => shell.text().slice(before).includes('q quit'));
  assert.equal(shell.text().slice(before).split(ENTER).length, 2);
  assert.match(settingsOf(shell), / -icanon /);
  await seed(url, [aVm({ id: 'b' })]);
  await until('the event', () => shell.text().slice(before).includes('2 VMs'));
  shell.type('q');
  await until('the end of the screen', () => shell.text().slice(before).includes(LEAVE));
  shell.type('echo "code=$?"; exit\r');
  await shell.shows('code=0');
  assert.equal(await shell.ended, 0);
});

test('notes for stderr wait until the screen is closed', needs, async (t) => {
  // Without an event stream, the list is requested every two seconds, and -v logs each request.
  const { url, requests } = await startPlainServer(t);
  const terminal = await vregInTerminal(t, ['ls', '-w', '-v'], { url });
  await terminal.shows('q quit');
  const { length } = requests;
  await until('another list', () => requests.length > length);
  terminal.type('q');
  assert.equal(await terminal.ended, 0);
  const [, screen, after] = terminal.text().replace(LEAVE, ENTER).split(ENTER);
  assert.doesNotMatch(screen!, /GET/);
  assert.match(after!, /^vreg: GET http.* 200 /);
});
