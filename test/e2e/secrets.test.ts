/** Searches logs, command lines, responses, errors and files for secrets that do not belong there. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { find, startAgent } from '../helpers/agent/agent.ts';
import { startDaemon, tempDir } from '../helpers/daemon.ts';
import { until } from '../helpers/until.ts';

const ROOT = 'canary-of-the-root-0123456789';
const GUESS = 'canary-of-a-guess-0123456789';

function filesBelow(dir: string): string[] {
  const found = readdirSync(dir, { recursive: true, withFileTypes: true }).filter((file) => file.isFile());
  return found.map((file) => join(file.parentPath, file.name));
}

/** The command lines of all processes, which every user can read with `ps`. */
function commandLines(): string {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids
    .map((pid) => {
      try {
        return readFileSync(`/proc/${pid}/cmdline`, 'utf8');
      } catch {
        return '';
      }
    })
    .join('\n');
}

test('no token appears in a log, a command line, a response, an error or a file that others can read', async (t) => {
  const daemon = await startDaemon(t, { env: { VERS_AUTH_TOKEN: ROOT }, args: ['--log-level', 'debug'] });
  const said: string[] = [];
  const say = async (argv: readonly string[], env: NodeJS.ProcessEnv = {}) => {
    const { stdout, stderr } = await daemon.vreg(argv, { env });
    said.push(stdout, stderr);
    return stdout;
  };
  // Its output is the only place where the token may appear.
  const image = (await daemon.vreg(['token', 'create', 'image', '--scope', 'enrol', '--json'])).stdout;
  const { token: enrol } = JSON.parse(image) as { token: string };
  const home = tempDir(t);
  const agent = startAgent(t, daemon.url, ['--log-level', 'debug'], { home, env: { VERS_AUTH_TOKEN: enrol } });
  await until('the enrolment', () => find(daemon));
  const own = (await until('the token of the VM', () => readOr(join(home, 'state/vreg/token')))).trim();

  await say(['ls', '-v']);
  await say(['ls', '-v', '--json'], { VERS_AUTH_TOKEN: GUESS });
  await say(['doctor']);
  await say(['doctor'], { VERS_AUTH_TOKEN: GUESS });
  await say(['config', 'list', '--show-origin']);
  await say(['token', 'ls', '-o', 'yaml']);
  await say(['whoami', '-o', 'json'], { VERS_AUTH_TOKEN: own });
  await say(['history', 'vm-1', '--json']);
  await say(['export']);
  await say(['rm', 'nobody', '--yes'], { VERS_AUTH_TOKEN: own });
  await say(['api', '/registry/vms']);
  await say(['ls'], { VERS_AUTH_TOKEN: `${GUESS} two words` });
  await say(['ls'], { VREG_URL: `http://user:${GUESS}@127.0.0.1:1` });
  for (const query of ['token', 'access_token', 'api_key'])
    await fetch(`${daemon.url}/registry/vms?${query}=${GUESS}`, { headers: { authorization: `Bearer ${GUESS}` } });
  await fetch(`${daemon.url}/registry/vms`, { method: 'DELETE', headers: { authorization: `Basic ${GUESS}` } });
  for (const path of ['/registry/vms', '/registry/tokens', '/metrics', '/registry/vms/vm-1/history']) {
    const answer = await fetch(daemon.url + path, { headers: { authorization: `Bearer ${ROOT}` } });
    said.push(await answer.text());
  }
  await until('the log of the last one', () => /"url":"\/registry\/vms\/vm-1\/history"/.test(daemon.said()));

  const secrets = { ROOT, GUESS, enrol, own };
  const places = {
    'what vreg says': said.join('\n'),
    ps: commandLines(),
    'the log': daemon.said(),
    'the agent': agent.said(),
  };
  for (const [place, text] of Object.entries(places)) {
    assert.ok(text.length > 100, place);
    for (const [name, secret] of Object.entries(secrets)) assert.ok(!text.includes(secret), `${name} is in ${place}`);
  }
  for (const path of filesBelow(daemon.home)) {
    const bytes = readFileSync(path, 'latin1');
    for (const [name, secret] of Object.entries(secrets)) assert.ok(!bytes.includes(secret), `${name} is in ${path}`);
  }
  for (const path of filesBelow(home)) {
    const bytes = readFileSync(path, 'latin1');
    assert.ok(!bytes.includes(enrol), `the image's token is in ${path}`);
    if (bytes.includes(own)) assert.equal(statSync(path).mode & 0o077, 0, path);
  }
});

test('the search above finds a planted secret', async (t) => {
  const dir = tempDir(t);
  writeFileSync(join(dir, 'file'), `x${ROOT}`);
  assert.ok(filesBelow(dir).some((path) => readFileSync(path, 'latin1').includes(ROOT)));
  assert.ok(commandLines().includes(process.execPath));
});

function readOr(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}
