/** `vreg ui`: where the link goes, what it permits, and the errors. The browser is a stand-in that records what it opens. */
import assert from 'node:assert/strict';
import { chmodSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { MagicLink, SessionStatus } from '../../src/protocol/api.ts';
import { SCOPES } from '../../src/protocol/token.ts';
import { serveApp } from '../helpers/app.ts';
import { makeAuthority } from '../helpers/certificates.ts';
import { vreg } from '../helpers/cli.ts';
import { cleanEnv, run, startDaemon, tempDir, VREG } from '../helpers/daemon.ts';
import { call, errorOf } from '../helpers/http.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { startVreg } from '../helpers/running.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';

const ROOT = 's3cret-of-the-test';
const ENV = { VERS_AUTH_TOKEN: ROOT };
/** The name of the program that opens a URL on this system. */
const OPENER = process.platform === 'darwin' ? 'open' : 'xdg-open';

interface Desktop {
  env: NodeJS.ProcessEnv;
  home: string;
  /** The URL that the browser has been asked to open. */
  opened(): string;
}

/** @param exitCode of the program that opens a browser */
function aDesktop(t: TestContext, exitCode = 0): Desktop {
  const home = tempDir(t);
  const program = join(home, OPENER);
  writeFileSync(program, `#!/bin/sh\nprintf %s "$1" > '${home}/opened'\nexit ${exitCode}\n`);
  chmodSync(program, 0o755);
  const env = { ...ENV, PATH: `${home}:/usr/bin:/bin`, DISPLAY: ':0', XDG_STATE_HOME: join(home, 'state') };
  return { env, home, opened: () => readFileSync(join(home, 'opened'), 'utf8') };
}

const aLink = (url: string) => new RegExp(`^${url}/ui/login\\?token=vreg_[\\w-]{43}\\n$`);

test('in a pipe, stdout is the link, also on a desktop, and the warning is on stderr', async (t) => {
  const { url } = await serveApp(t, { token: ROOT });
  const desktop = aDesktop(t);
  for (const flags of [[], ['--print']]) {
    const { code, stdout, stderr } = await vreg(['ui', ...flags], { url, ...desktop });
    assert.equal(code, 0);
    assert.match(stdout, aLink(url));
    assert.match(stderr, /the link works on the machine of the registry only; start the daemon with --public-url URL/);
  }
  assert.throws(desktop.opened);
});

test('on the terminal of a desktop, the browser opens a file of mode 0600 that leads to the link', async (t) => {
  const { url } = await serveApp(t, { token: ROOT });
  for (const [flags, tty] of [
    [[], true],
    [['--open'], false],
  ] as const) {
    const desktop = aDesktop(t);
    const { code, stdout, stderr } = await vreg(['ui', ...flags], { url, tty, ...desktop });
    assert.deepEqual([code, stdout], [0, '']);
    assert.match(stderr, /opened the fleet page in the browser\n$/);
    // Every user of the machine can read the arguments of a program.
    assert.doesNotMatch(desktop.opened(), /vreg_/);
    const path = fileURLToPath(desktop.opened());
    assert.match(readFileSync(path, 'utf8'), new RegExp(`content="0;url=${url}/ui/login\\?token=vreg_[\\w-]{43}"`));
    assert.equal(statSync(path).mode & 0o777, 0o600);
  }
});

test('on a terminal without a desktop, or with --print, the link is printed', async (t) => {
  const { url } = await serveApp(t, { token: ROOT });
  const { home, env, opened } = aDesktop(t);
  const { DISPLAY: _display, ...bare } = env;
  assert.match((await vreg(['ui', '--print'], { url, tty: true, home, env })).stdout, aLink(url));
  if (process.platform !== 'darwin')
    assert.match((await vreg(['ui'], { url, tty: true, home, env: bare })).stdout, aLink(url));
  assert.throws(opened);
});

test('when no browser can be started, the link is printed', async (t) => {
  const { url } = await serveApp(t, { token: ROOT });
  const failing = aDesktop(t, 3);
  const missing = { ...aDesktop(t) };
  missing.env = { ...missing.env, PATH: '/nonexistent' };
  for (const desktop of [failing, missing]) {
    const { code, stdout, stderr } = await vreg(['ui', '--open'], { url, ...desktop });
    assert.equal(code, 0);
    assert.match(stdout, aLink(url));
    assert.match(stderr, /cannot start a browser; open the link yourself\n$/);
  }
});

test('the JSON has the link, its expiry and the warning', async (t) => {
  const { url, clock } = await serveApp(t, { token: ROOT });
  const { stdout } = await vreg(['ui', '-o', 'json'], { url, env: ENV });
  const link = JSON.parse(stdout) as MagicLink;
  assert.deepEqual(Object.keys(link), ['url', 'expiresAt', 'warning']);
  assert.match(`${link.url}\n`, aLink(url));
  assert.equal(Date.parse(link.expiresAt) - clock.now(), 300_000);
});

test('--open and --print exclude each other', async () => {
  const { code, stderr } = await vreg(['ui', '--open', '--print']);
  assert.equal(code, 5);
  assert.match(stderr, /^vreg: --open cannot be combined with --print\nhint: omit one of them\n/);
});

test('a registry on loopback without tokens needs no log-in, so the link is the page itself', async (t) => {
  const { url } = await serveApp(t);
  const { code, stdout } = await vreg(['ui'], { url });
  assert.deepEqual([code, stdout], [0, `${url}/ui/\n`]);
});

/** Presses the button of a link. */
async function logIn(url: string, link: string) {
  const answer = await call(url, 'POST', '/ui/login', { body: { token: new URL(link).searchParams.get('token') } });
  return { ...answer, cookie: answer.headers.get('set-cookie')?.split(';')[0] ?? '' };
}

test('the session has the scope of the token; a token that cannot read gets no link', async (t) => {
  const { url } = await serveApp(t, { token: ROOT });
  for (const scope of SCOPES) {
    const headers = { authorization: `Bearer ${ROOT}` };
    const vm = scope === 'heartbeat' ? { vm: 'a' } : {};
    const made = await call(url, 'POST', '/registry/tokens', { headers, body: { name: scope, scope, ...vm } });
    const { token } = made.body as { token: string };
    const { code, stdout, stderr } = await vreg(['ui'], { url, env: { VERS_AUTH_TOKEN: token } });
    if (scope === 'enrol') {
      assert.deepEqual([code, stdout], [2, '']);
      assert.match(stderr, /has the scope enrol; this requires read\nhint: an enrol token can only register a new VM/);
      continue;
    }
    const { cookie } = await logIn(url, stdout.trim());
    const { body } = await call(url, 'GET', '/ui/session', { headers: { cookie } });
    assert.equal((body as SessionStatus & { scope: string }).scope, scope);
  }
});

test('a link works once and for five minutes, and the refusal names the command for another one', async (t) => {
  const { url, clock } = await serveApp(t, { token: ROOT });
  const link = async () => (await vreg(['ui'], { url, env: ENV })).stdout.trim();
  const [spent, late] = [await link(), await link()];
  assert.equal((await logIn(url, spent)).status, 200);
  clock.pass(300_001);
  for (const each of [spent, late]) {
    const refused = await logIn(url, each);
    assert.equal(refused.status, 401);
    assert.match(errorOf(refused), /this link was used, has expired, or is from before a restart/);
    assert.match((refused.body as { hint: string }).hint, /vreg ui/);
  }
});

test('without a registry, or with a wrong token, ui exits with 8 or 2', async (t) => {
  const away = await vreg(['ui'], { env: ENV });
  assert.deepEqual([away.code, away.stdout], [8, '']);
  assert.match(away.stderr, /^vreg: cannot reach the registry at .*ECONNREFUSED/);
  const { url } = await serveApp(t, { token: ROOT });
  const wrong = await vreg(['ui'], { url, env: { VERS_AUTH_TOKEN: 'test-token' } });
  assert.deepEqual([wrong.code, wrong.stdout], [2, '']);
});

test('the original registry has no fleet page of this kind, and the error says so', async (t) => {
  const { url } = await startPlainServer(t);
  const { code, stdout, stderr } = await vreg(['ui'], { url });
  assert.deepEqual([code, stdout], [1, '']);
  assert.match(stderr, /the fleet page/);
});

test(
  'over TLS, the link is https, and warns of the certificate unless there is a public URL',
  unless('openssl'),
  async (t) => {
    const authority = makeAuthority(t);
    const { cert, key } = authority.issue('server');
    const tls = ['--tls-cert', cert, '--tls-key', key];
    const env = { ...ENV, VREG_CA_FILE: authority.ca };
    const own = await startDaemon(t, { args: tls, env: ENV });
    const { stdout } = await own.vreg(['ui'], { env });
    assert.match(stdout, aLink(own.url));
    assert.match(own.url, /^https:/);
    const untrusted = await own.vreg(['ui'], { env: ENV });
    assert.deepEqual([untrusted.code, untrusted.stdout], [8, '']);
    assert.match(untrusted.stderr, /certificate.*\nhint: .*VREG_CA_FILE|--ca-file/s);
    const known = await startDaemon(t, { args: [...tls, '--public-url', 'https://fleet.example/vreg'], env: ENV });
    const link = await known.vreg(['ui'], { env });
    assert.match(link.stdout, aLink('https://fleet.example/vreg'));
    assert.equal(link.stderr, '');
  },
);

test('a registry on a unix socket only has no page for browsers, unless it has a public URL', async (t) => {
  const home = tempDir(t);
  const socket = join(home, 'vreg.sock');
  const ui = (at: string) =>
    run(VREG[0], [...VREG.slice(1), 'ui'], { env: cleanEnv(home, { ...ENV, VREG_URL: `unix:${at}` }) });
  const daemon = startVreg(t, ['daemon', '--socket', socket, '--data-dir', join(home, 'data')], { env: ENV });
  await until('the daemon to listen', () => daemon.stderr().includes('listening on'));
  const { code, stderr } = await ui(socket);
  assert.equal(code, 5);
  assert.match(stderr, /browsers cannot reach a registry that listens on a unix socket only\nhint: .*--public-url/);
  const other = join(home, 'other.sock');
  await serveApp(t, { token: ROOT, socket: other, publicUrl: 'https://fleet.example' });
  assert.match((await ui(other)).stdout, aLink('https://fleet.example'));
});
