import assert from 'node:assert/strict';
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { VregError } from '../../src/protocol/errors.ts';
import { serveApp } from '../helpers/app.ts';
import { type Result, type VregOptions, vreg } from '../helpers/cli.ts';
import { run, tempDir } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { MemoryStore } from '../helpers/memory-store.ts';
import { startPlainServer } from '../helpers/original-server.ts';
import { json, stub } from '../helpers/stub.ts';
import { unless } from '../helpers/tools.ts';
import { aVm } from '../helpers/vm.ts';

interface Finding {
  check: string;
  result: 'ok' | 'warn' | 'fail' | 'skip';
  detail: string;
  fix?: string;
}

const CHECKS = ['config', 'dns', 'tls', 'reach', 'ready', 'token', 'clock', 'version', 'lease', 'fleet', 'clones'];

async function doctor(options: VregOptions): Promise<{ result: Result; found: Map<string, Finding> }> {
  const result = await vreg(['doctor', '--json'], { now: Date.now, ...options });
  const findings = JSON.parse(result.stdout) as Finding[];
  assert.deepEqual(
    findings.map(({ check }) => check),
    CHECKS,
  );
  for (const { check, result, fix } of findings) {
    if (result === 'fail' || result === 'warn') assert.ok(fix, `${check} has no fix`);
  }
  return { result, found: new Map(findings.map((finding) => [finding.check, finding])) };
}

/** Asserts that the check failed and that all later checks were skipped. */
function assertFails(found: Map<string, Finding>, check: string, detail: RegExp, fix: RegExp): void {
  const { result, detail: actualDetail, fix: actualFix } = found.get(check)!;
  assert.deepEqual([result, check], ['fail', check]);
  assert.match(actualDetail, detail);
  assert.match(actualFix!, fix);
  for (const later of CHECKS.slice(CHECKS.indexOf(check) + 1)) assert.equal(found.get(later)!.result, 'skip');
}

/** A stub of a vreg daemon that sends the given headers. */
function daemonWithHeaders(t: TestContext, headers: () => Record<string, string>): Promise<string> {
  return stub(t, (_request, response) => {
    json(response, 200, { status: 'ok', uptime: 61, vms: [], conflicts: [], count: 0 }, headers());
  });
}

test('all checks pass with a vreg daemon of the same version', async (t) => {
  const { url } = await serveApp(t);
  const { result, found } = await doctor({ url });
  assert.equal(result.code, 0);
  assert.equal(result.stderr, '');
  const results = CHECKS.map((check) => found.get(check)!.result);
  assert.deepEqual(results, ['ok', 'skip', 'skip', 'ok', 'ok', 'ok', 'ok', 'ok', 'ok', 'ok', 'ok']);
  assert.equal(found.get('config')!.detail, `registry ${url} (from VERS_INFRA_URL)`);
});

test('the table has a fix or a dash in each row', async (t) => {
  const { url } = await serveApp(t);
  const { stdout } = await vreg(['doctor'], { url, now: Date.now });
  const [titles, ...rows] = stdout.trimEnd().split('\n');
  assert.equal(titles, 'CHECK\tRESULT\tDETAIL\tFIX');
  assert.ok(rows.every((row) => row.split('\t').length === 4));
});

test('an unreachable registry exits with 8', async () => {
  const { result, found } = await doctor({});
  assertFails(found, 'reach', /^cannot reach the registry .*ECONNREFUSED/, /vreg daemon/);
  assert.equal(result.code, 8);
  assert.match(result.stderr, /"code":"UNREACHABLE","exit":8,"message":"the check \\"reach\\" failed"/);
});

test('a host name that does not resolve exits with 8', async () => {
  const { result, found } = await doctor({ url: 'http://no-such-host.invalid:3000' });
  assertFails(found, 'dns', /^cannot resolve no-such-host\.invalid \(/, /check the host name in the URL/);
  assert.equal(result.code, 8);
});

test('a missing or wrong token exits with 2', async (t) => {
  const { url } = await startPlainServer(t, { token: 'secret' });
  for (const env of [{}, { VERS_AUTH_TOKEN: 'wrong' }]) {
    const { result, found } = await doctor({ url, env });
    assertFails(found, 'token', /Unauthorized/, /VERS_AUTH_TOKEN, or --token-file/);
    assert.equal(result.code, 2);
  }
  const { found } = await doctor({ url, env: { VERS_AUTH_TOKEN: 'secret' } });
  assert.deepEqual([found.get('token')!.result, found.get('token')!.detail], ['ok', 'accepted (from VERS_AUTH_TOKEN)']);
});

test('a token file that others can read exits with 5 before any request', async (t) => {
  const { url, requests } = await startPlainServer(t);
  const file = join(tempDir(t), 'token');
  writeFileSync(file, 'secret');
  chmodSync(file, 0o644);
  const { result, found } = await doctor({ url, env: { VREG_TOKEN_FILE: file } });
  assertFails(found, 'config', /can be read by other users/, /^chmod 600 /);
  assert.equal(result.code, 5);
  assert.deepEqual(requests, []);
});

const CONFIGS: readonly [name: string, config: string, detail: RegExp, fix: RegExp][] = [
  ['is not JSON', '{"url": ', /is not a JSON object/, /vreg config edit/],
  ['has an invalid URL', '{"url": "nope"}', /invalid url "nope"/, /^use http/],
  ['has an invalid timeout', '{"timeout": "soon"}', /invalid timeout "soon"/, /90s/],
  ['has an invalid output', '{"output": "xml"}', /invalid output "xml"/, /^one of: table/],
  [
    'uses an unknown context',
    '{"context": "prod"}',
    /unknown context "prod" \(in .*config\.json, line 1, column 13\)/,
    /vreg context ls/,
  ],
];

for (const [name, config, detail, fix] of CONFIGS) {
  test(`a config file that ${name} exits with 5`, async (t) => {
    const home = tempDir(t);
    mkdirSync(join(home, '.config/vreg'), { recursive: true });
    writeFileSync(join(home, '.config/vreg/config.json'), config);
    const { result, found } = await doctor({ home, env: { VERS_INFRA_URL: '' } });
    assertFails(found, 'config', detail, fix);
    assert.equal(result.code, 5);
  });
}

for (const [skew, detail] of [
  [60_000, '1m behind the registry'],
  [-3_600_000, '1h ahead of the registry'],
] as const) {
  test(`a clock skew of ${skew / 1000} s is a warning`, async (t) => {
    const now = Date.parse('2026-01-01T12:00:00Z');
    const url = await daemonWithHeaders(t, () => ({
      'x-vreg-version': '0.0.0',
      date: new Date(now + skew).toUTCString(),
    }));
    const { result, found } = await doctor({ url, now: () => now });
    assert.equal(result.code, 0);
    assert.deepEqual([found.get('clock')!.result, found.get('clock')!.detail], ['warn', detail]);
    assert.match(found.get('clock')!.fix!, /NTP/);
  });
}

test('a different version and a missing version are warnings', async (t) => {
  const other = await daemonWithHeaders(t, () => ({ 'x-vreg-version': '9.9.9' }));
  const { result, found } = await doctor({ url: other });
  assert.equal(result.code, 0);
  assert.deepEqual(
    [found.get('version')!.result, found.get('version')!.detail],
    ['warn', 'vreg has version 0.0.0, the registry has 9.9.9'],
  );
  const plain = await startPlainServer(t);
  const original = await doctor({ url: plain.url });
  assert.equal(original.result.code, 0);
  assert.equal(original.found.get('version')!.detail, 'the registry is not a vreg daemon');
  assert.match(original.found.get('version')!.fix!, /run vreg daemon there/);
  assert.equal(original.found.get('clones')!.result, 'skip');
});

test('a proxy that removes the headers of vreg is a warning', async (t) => {
  const { url } = await serveApp(t);
  const proxy = await stub(t, async (request, response) => {
    const answer = await fetch(url + request.url!, { method: request.method! });
    response.writeHead(answer.status, { 'content-type': answer.headers.get('content-type')! }).end(await answer.text());
  });
  const { result, found } = await doctor({ url: proxy });
  assert.equal(result.code, 0);
  const { result: outcome, detail, fix } = found.get('version')!;
  assert.deepEqual(
    [outcome, detail],
    ['warn', 'the registry is a vreg daemon, but a proxy removes its X-Vreg-Version header'],
  );
  assert.match(fix!, /let the proxy pass all X-Vreg-\* headers/);
});

test('a registry that was restored or copied is a warning', async (t) => {
  const { url } = await serveApp(t);
  await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'w' }) });
  await call(url, 'POST', '/registry/vms/w/heartbeat', { body: { position: `1-${'f'.repeat(16)}` } });
  const { result, found } = await doctor({ url });
  assert.equal(result.code, 0);
  const { result: outcome, detail, fix } = found.get('ready')!;
  assert.deepEqual(
    [outcome, detail],
    ['warn', 'the agent of 1 VM has seen another history: this registry was restored or copied'],
  );
  assert.match(fix!, /restart the daemon.*otherwise stop the copy/);
});

test('a disk that cannot be written is a warning, and one that cannot be read fails the check ready', async (t) => {
  const store = new MemoryStore();
  const { url } = await serveApp(t, { store });
  store.failure = new VregError('STORE_FULL', 'the disk of the registry is full: nothing was changed');
  assert.equal((await call(url, 'POST', '/registry/vms', { body: aVm() })).status, 507);
  const degraded = await doctor({ url });
  assert.equal(degraded.result.code, 0);
  const { result, detail, fix } = degraded.found.get('ready')!;
  assert.deepEqual(
    [result, detail],
    ['warn', 'the last write failed: the disk of the registry is full: nothing was changed'],
  );
  assert.match(fix!, /free up space/);
  assert.match(fix!, /etcdctl endpoint health/);
  store.readFailure = new VregError('STORE_FAILED', 'the registry could not read from its disk: EIO');
  const { url: broken } = await serveApp(t, { store });
  const unready = await doctor({ url: broken });
  assertFails(unready.found, 'ready', /^the registry is not ready: store .* could not read .*EIO$/, /daemon's log/);
  assert.equal(unready.result.code, 8);
});

test('a registry that is loading its store is reachable and not ready, with any token', async (t) => {
  const url = await stub(t, (request, response) => {
    if (request.url!.startsWith('/readyz')) response.writeHead(503, { 'content-type': 'text/plain' }).end('loading');
    else json(response, 503, { error: 'the registry is loading its store', code: 'BUSY', retryAfter: 1 });
  });
  const { result, found } = await doctor({ url, env: { VERS_AUTH_TOKEN: 's3cret' } });
  assert.deepEqual(
    [found.get('reach')!.result, found.get('reach')!.detail],
    ['ok', 'the registry responds, but is not ready'],
  );
  assertFails(found, 'ready', /is not ready: loading$/, /^retry in a few seconds/);
  assert.equal(result.code, 8);
});

test('a registry that stops responding during the checks gets no hint to retry', async (t) => {
  const url = await stub(t, (request, response) => {
    if (request.url === '/readyz') request.socket.resetAndDestroy();
    else json(response, 200, { status: 'ok', uptime: 61 });
  });
  const { result, found } = await doctor({ url });
  assertFails(found, 'ready', /^cannot reach the registry .*ECONNRESET/, /^start it there: vreg daemon/);
  assert.equal(result.code, 8);
});

test('a registry that does not respond in time may be frozen or behind a firewall', async (t) => {
  const url = await stub(t, () => {});
  const { result, found } = await doctor({ url, env: { VREG_TIMEOUT: '200ms' } });
  assertFails(found, 'reach', /no response within 0\.2 s/, /firewalls.*vreg daemon status/);
  assert.equal(result.code, 8);
});

test('a wrong token fails the check of the token, and not that of a registry that is ready', async (t) => {
  const { url } = await serveApp(t, { token: 's3cret' });
  const { result, found } = await doctor({ url, env: { VERS_AUTH_TOKEN: 'wrong' } });
  assert.equal(found.get('ready')!.detail, 'the registry is ready');
  assertFails(found, 'token', /token/, /^use the token with which/);
  assert.equal(result.code, 2);
});

test('a proxy that answers for a registry that is down fails the check reach', async (t) => {
  const url = await stub(t, (_request, response) => void response.writeHead(503).end('<html>no backend</html>'));
  const { result, found } = await doctor({ url });
  assertFails(found, 'reach', /503|busy|unavailable/i, /./);
  assert.equal(result.code, 8);
});

test('a lease that is too short for the heartbeat interval is a warning', async (t) => {
  const url = await daemonWithHeaders(t, () => ({ 'x-vreg-version': '0.0.0', 'x-vreg-lease-ms': '90000' }));
  const { result, found } = await doctor({ url });
  assert.equal(result.code, 0);
  assert.deepEqual(
    [found.get('lease')!.result, found.get('lease')!.detail],
    ['warn', 'the lease is 1m30s, the heartbeat interval 1m'],
  );
  const quick = await doctor({ url, env: { VREG_INTERVAL: '10s' } });
  assert.equal(quick.found.get('lease')!.result, 'ok');
});

test('a server that is not a registry fails the check reach', async (t) => {
  const url = await stub(t, (_request, response) => void response.end('<html>hello</html>'));
  const { result, found } = await doctor({ url });
  assertFails(found, 'reach', /but the response is not JSON from a registry/, /is this the registry's URL/);
  assert.equal(result.code, 1);
});

test('https to an http server fails the check tls', async (t) => {
  const { url } = await startPlainServer(t);
  const { result, found } = await doctor({ url: url.replace('http:', 'https:') });
  assertFails(found, 'tls', /cannot reach/, /http:\/\//);
  assert.equal(result.code, 8);
});

test('an untrusted certificate fails the check tls, unless --ca-file trusts it', unless('openssl'), async (t) => {
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
  const { result, found } = await doctor({ url });
  assertFails(found, 'tls', /DEPTH_ZERO_SELF_SIGNED_CERT/, /--ca-file/);
  assert.equal(result.code, 8);
  const trusting = await doctor({ url, env: { VREG_CA_FILE: join(dir, 'cert.pem') } });
  assert.equal(trusting.result.code, 0);
  assert.equal(trusting.found.get('tls')!.detail, 'the certificate is trusted');
});

test('doctor names a restricted token and warns about an enrol token', async (t) => {
  const { url } = await serveApp(t, { token: 's3cret' });
  const runAs = (argv: readonly string[], token: string) =>
    vreg(argv, { url, env: { VREG_TOKEN: token }, now: Date.now });
  const make = async (name: string, scope: string) =>
    (await runAs(['token', 'create', name, '--scope', scope], 's3cret')).stdout.trim();
  const reader = await runAs(['doctor'], await make('dash', 'read'));
  assert.match(reader.stdout, /^token\tok\taccepted \(from VREG_TOKEN\): "dash" with the scope read\t-$/m);
  const image = await runAs(['doctor'], await make('image', 'enrol'));
  assert.equal(image.code, 0);
  assert.match(image.stdout, /^token\twarn\t.*"image" with the scope enrol\tthis token can only register VMs/m);
  assert.match(image.stdout, /^clones\tskip\t/m);
});

test('the check of the fleet warns about suspect VMs and about a registry that is warming up', async (t) => {
  const at = new Date().toISOString();
  const entry = (id: string, more: object) => ({
    ...aVm({ id }),
    registeredAt: at,
    lastSeen: at,
    stale: false,
    ...more,
  });
  const vms = [entry('a', {}), entry('b', { suspect: true }), entry('c', { status: 'paused' })];
  const serve = (list: unknown[], headers: Record<string, string>) =>
    stub(t, (_request, response) => {
      const body = { status: 'ok', uptime: 61, vms: list, conflicts: [], count: list.length };
      json(response, 200, body, { 'x-vreg-version': '0.0.0', ...headers });
    });
  const suspect = await doctor({ url: await serve(vms, { 'x-vreg-warming': '120; suspect=1' }) });
  assert.equal(suspect.result.code, 0);
  const { result, detail } = suspect.found.get('fleet')!;
  assert.equal(result, 'warn');
  assert.match(detail, /^3 registered: 1 live, 1 suspect, 1 paused; the suspect VMs fell silent together/);
  const warming = await doctor({ url: await serve(vms.slice(0, 1), { 'x-vreg-warming': '120' }) });
  assert.match(
    warming.found.get('fleet')!.detail,
    /^1 registered: 1 live; the registry has just started or was paused/,
  );
  assert.match(warming.found.get('fleet')!.fix!, /^wait 2m, or use --strict/);
  const fine = await doctor({ url: await serve(vms.slice(0, 1), {}) });
  assert.deepEqual([fine.found.get('fleet')!.result, fine.found.get('fleet')!.detail], ['ok', '1 registered: 1 live']);
});

test('on a terminal the checks are a list with indented fixes that fits', async () => {
  for (const width of [40, 60, 80, 200]) {
    const { stdout } = await vreg(['doctor'], { tty: true, width, env: { NO_COLOR: '1' } });
    const lines = stdout.trimEnd().split('\n');
    assert.ok(
      lines.every((line) => line.length <= width),
      stdout,
    );
    assert.match(lines[0]!, /^ok {4}config {3,4}registry/);
    assert.match(stdout, /\nfail {2}reach +cannot reach/);
    const from = lines.findIndex((line) => line.startsWith('fail'));
    const fix = lines.slice(from).find((line) => line.includes('fix: '))!;
    assert.match(fix, /^ {15,}fix: start/);
    assert.ok(!stdout.includes('CHECK'));
  }
});
