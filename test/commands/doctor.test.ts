import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { serveApp } from '../helpers/app.ts';
import { type Told, type VregOptions, vreg } from '../helpers/cli.ts';
import { run, tempDir } from '../helpers/daemon.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { json, stub } from '../helpers/stub.ts';
import { unless } from '../helpers/tools.ts';

interface Finding {
  check: string;
  result: 'ok' | 'warn' | 'fail' | 'skip';
  detail: string;
  fix?: string;
}

const CHECKS = ['config', 'dns', 'tls', 'reach', 'token', 'clock', 'version', 'lease', 'clones'];

async function doctor(options: VregOptions): Promise<{ told: Told; found: Map<string, Finding> }> {
  const told = await vreg(['doctor', '--json'], { now: Date.now, ...options });
  const findings = JSON.parse(told.stdout) as Finding[];
  assert.deepEqual(
    findings.map(({ check }) => check),
    CHECKS,
  );
  for (const { check, result, fix } of findings) {
    if (result === 'fail' || result === 'warn') assert.ok(fix, `${check} has no fix`);
  }
  return { told, found: new Map(findings.map((finding) => [finding.check, finding])) };
}

/** All checks before this one are well, and none after it is looked at. */
function assertFails(found: Map<string, Finding>, check: string, detail: RegExp, fix: RegExp): void {
  const { result, detail: said, fix: mend } = found.get(check)!;
  assert.deepEqual([result, check], ['fail', check]);
  assert.match(said, detail);
  assert.match(mend!, fix);
  for (const later of CHECKS.slice(CHECKS.indexOf(check) + 1)) assert.equal(found.get(later)!.result, 'skip');
}

/** A vreg daemon that says of itself what a test wants. */
function daemonThatSays(t: TestContext, headers: () => Record<string, string>): Promise<string> {
  return stub(t, (_request, response) => {
    json(response, 200, { status: 'ok', uptime: 61, vms: [], conflicts: [], count: 0 }, headers());
  });
}

test('all is well with a vreg daemon of this version', async (t) => {
  const { url } = await serveApp(t);
  const { told, found } = await doctor({ url });
  assert.equal(told.code, 0);
  assert.equal(told.stderr, '');
  const results = CHECKS.map((check) => found.get(check)!.result);
  assert.deepEqual(results, ['ok', 'skip', 'skip', 'ok', 'ok', 'ok', 'ok', 'ok', 'ok']);
  assert.equal(found.get('config')!.detail, `registry ${url} (from VERS_INFRA_URL)`);
});

test('people see a table, with a fix or a dash in each row', async (t) => {
  const { url } = await serveApp(t);
  const { stdout } = await vreg(['doctor'], { url, now: Date.now });
  const [titles, ...rows] = stdout.trimEnd().split('\n');
  assert.equal(titles, 'CHECK\tRESULT\tDETAIL\tFIX');
  assert.ok(rows.every((row) => row.split('\t').length === 4));
});

test('nobody listens: exit 8', async () => {
  const { told, found } = await doctor({});
  assertFails(found, 'reach', /^cannot reach the registry .*ECONNREFUSED/, /vreg daemon/);
  assert.equal(told.code, 8);
  assert.match(told.stderr, /"code":"UNREACHABLE","exit":8,"message":"the check \\"reach\\" failed"/);
});

test('a name without an address: exit 8', async () => {
  const { told, found } = await doctor({ url: 'http://no-such-host.invalid:3000' });
  assertFails(found, 'dns', /^cannot resolve no-such-host\.invalid \(/, /check the host name in the URL/);
  assert.equal(told.code, 8);
});

test('no token where one is needed, or another: exit 2', async (t) => {
  const { url } = await startPlainServer(t, { token: 'secret' });
  for (const env of [{}, { VERS_AUTH_TOKEN: 'wrong' }]) {
    const { told, found } = await doctor({ url, env });
    assertFails(found, 'token', /Unauthorized/, /VERS_AUTH_TOKEN, or --token-file/);
    assert.equal(told.code, 2);
  }
  const { found } = await doctor({ url, env: { VERS_AUTH_TOKEN: 'secret' } });
  assert.deepEqual([found.get('token')!.result, found.get('token')!.detail], ['ok', 'accepted (from VERS_AUTH_TOKEN)']);
});

test('a token file that others can read: exit 5, before anything is sent', async (t) => {
  const { url, requests } = await startPlainServer(t);
  const file = join(tempDir(t), 'token');
  writeFileSync(file, 'secret');
  chmodSync(file, 0o644);
  const { told, found } = await doctor({ url, env: { VREG_TOKEN_FILE: file } });
  assertFails(found, 'config', /can be read by others/, /^chmod 600 /);
  assert.equal(told.code, 5);
  assert.deepEqual(requests, []);
});

const CONFIGS: readonly [name: string, config: string, detail: RegExp, fix: RegExp][] = [
  ['is broken', '{"url": ', /is not a JSON object/, /vreg config edit/],
  ['has a bad URL', '{"url": "nope"}', /invalid url "nope"/, /^use http/],
  ['has a bad timeout', '{"timeout": "soon"}', /invalid timeout "soon"/, /90s/],
  ['has a bad output', '{"output": "xml"}', /invalid output "xml"/, /^one of: table/],
  ['uses a context that is not there', '{"context": "prod"}', /unknown context "prod"/, /vreg context ls/],
];

for (const [name, config, detail, fix] of CONFIGS) {
  test(`a config file that ${name}: exit 5`, async (t) => {
    const home = tempDir(t);
    mkdirSync(join(home, '.config/vreg'), { recursive: true });
    writeFileSync(join(home, '.config/vreg/config.json'), config);
    const { told, found } = await doctor({ home, env: { VERS_INFRA_URL: '' } });
    assertFails(found, 'config', detail, fix);
    assert.equal(told.code, 5);
  });
}

for (const [skew, detail] of [
  [60_000, '1m behind the registry'],
  [-3_600_000, '1h ahead of the registry'],
] as const) {
  test(`a clock that differs by ${skew / 1000} s is a warning`, async (t) => {
    const now = Date.parse('2026-01-01T12:00:00Z');
    const url = await daemonThatSays(t, () => ({
      'x-vreg-version': '0.0.0',
      date: new Date(now + skew).toUTCString(),
    }));
    const { told, found } = await doctor({ url, now: () => now });
    assert.equal(told.code, 0);
    assert.deepEqual([found.get('clock')!.result, found.get('clock')!.detail], ['warn', detail]);
    assert.match(found.get('clock')!.fix!, /NTP/);
  });
}

test('another version is a warning, and so is no version at all', async (t) => {
  const other = await daemonThatSays(t, () => ({ 'x-vreg-version': '9.9.9' }));
  const { told, found } = await doctor({ url: other });
  assert.equal(told.code, 0);
  assert.deepEqual(
    [found.get('version')!.result, found.get('version')!.detail],
    ['warn', 'vreg has version 0.0.0, the registry 9.9.9'],
  );
  const plain = await startPlainServer(t);
  const original = await doctor({ url: plain.url });
  assert.equal(original.told.code, 0);
  assert.equal(original.found.get('version')!.detail, 'the registry is not a vreg daemon');
  assert.match(original.found.get('version')!.fix!, /run vreg daemon there/);
  assert.equal(original.found.get('clones')!.result, 'skip');
});

test('a lease that is too short for the interval is a warning', async (t) => {
  const url = await daemonThatSays(t, () => ({ 'x-vreg-version': '0.0.0', 'x-vreg-lease-ms': '90000' }));
  const { told, found } = await doctor({ url });
  assert.equal(told.code, 0);
  assert.deepEqual(
    [found.get('lease')!.result, found.get('lease')!.detail],
    ['warn', 'the lease is 1m30s, the heartbeat interval 1m'],
  );
  const quick = await doctor({ url, env: { VREG_INTERVAL: '10s' } });
  assert.equal(quick.found.get('lease')!.result, 'ok');
});

test('something else than a registry is told as that', async (t) => {
  const url = await stub(t, (_request, response) => void response.end('<html>hello</html>'));
  const { told, found } = await doctor({ url });
  assertFails(found, 'reach', /but not with a registry's JSON/, /is this the registry's URL/);
  assert.equal(told.code, 1);
});

test('https to a server of http says so', async (t) => {
  const { url } = await startPlainServer(t);
  const { told, found } = await doctor({ url: url.replace('http:', 'https:') });
  assertFails(found, 'tls', /cannot reach/, /http:\/\//);
  assert.equal(told.code, 8);
});

test('a certificate that nobody vouches for is a failure, until --ca-file names it', unless('openssl'), async (t) => {
  const dir = tempDir(t);
  const words = 'req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost';
  const made = await run('openssl', [...words.split(' '), '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'], {
    env: { PATH: process.env.PATH },
    cwd: dir,
  });
  assert.equal(made.code, 0, made.stderr);
  const [key, cert] = ['key.pem', 'cert.pem'].map((name) => readFileSync(join(dir, name)));
  const server = createServer({ key: key!, cert: cert! }, (_request, response) => {
    json(response, 200, { status: 'ok', uptime: 1, vms: [], conflicts: [], count: 0 });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const url = `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const { told, found } = await doctor({ url });
  assertFails(found, 'tls', /DEPTH_ZERO_SELF_SIGNED_CERT/, /--ca-file/);
  assert.equal(told.code, 8);
  const trusting = await doctor({ url, env: { VREG_CA_FILE: join(dir, 'cert.pem') } });
  assert.equal(trusting.told.code, 0);
  assert.equal(trusting.found.get('tls')!.detail, 'the certificate is trusted');
});

test('doctor says whose token it is where that may not do everything, and what an enrol token is good for', async (t) => {
  const { url } = await serveApp(t, { token: 's3cret' });
  const say = (argv: readonly string[], token: string) =>
    vreg(argv, { url, env: { VREG_TOKEN: token }, now: Date.now });
  const make = async (name: string, scope: string) =>
    (await say(['token', 'create', name, '--scope', scope], 's3cret')).stdout.trim();
  const reader = await say(['doctor'], await make('dash', 'read'));
  assert.match(reader.stdout, /^token\tok\taccepted \(from VREG_TOKEN\): "dash" with the scope read\t-$/m);
  const image = await say(['doctor'], await make('image', 'enrol'));
  assert.equal(image.code, 0);
  assert.match(image.stdout, /^token\twarn\t.*"image" with the scope enrol\tthis token can only register a VM/m);
  assert.match(image.stdout, /^clones\tskip\t/m);
});
