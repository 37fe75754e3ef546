/**
 * The suites of the rules of the registry and of the wire, on a store in etcd. They run on the embedded store, or in memory, with
 * `npm test`; VREG_TEST_STORE makes their helpers open a registry of its own for each test on one server here.
 * `VREG_SUITES=FILE,FILE` runs other suites.
 */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import test from 'node:test';
import { startCluster, unlessEtcd } from '../helpers/etcd.ts';

/** All others are about sockets, HTTP, files, processes or one of the two stores (test/README.md). */
const SUITES = [
  'test/daemon/registry/registry.test.ts',
  'test/daemon/registry/lineage.test.ts',
  'test/daemon/http/each-route.test.ts',
  'test/daemon/http/headers.test.ts',
  'test/daemon/http/min-position.test.ts',
  'test/daemon/http/model.test.ts',
  'test/daemon/http/restrictions.test.ts',
  'test/daemon/http/revocation.test.ts',
  'test/daemon/http/scopes.test.ts',
  'test/daemon/http/unknown-parameters.test.ts',
  'test/daemon/http/warming.test.ts',
  'test/daemon/http/handlers/conflicts.test.ts',
  'test/daemon/http/handlers/discover.test.ts',
  'test/daemon/http/handlers/events.test.ts',
  'test/daemon/http/handlers/history.test.ts',
  'test/daemon/http/handlers/lineage.test.ts',
  'test/daemon/http/handlers/list-pages.test.ts',
  'test/daemon/http/handlers/sessions.test.ts',
  'test/daemon/http/handlers/vms.test.ts',
  'test/daemon/http/response/list-tags.test.ts',
  'test/e2e/wire.test.ts',
  'test/e2e/wire-reads.test.ts',
];

/** Lines to show of each test that failed. */
const SHOWN = 40;

test('the suites of the registry and of the wire pass on etcd', { ...unlessEtcd(), timeout: 900_000 }, async (t) => {
  const { endpoints } = await startCluster(t, { members: 1 });
  const suites = process.env.VREG_SUITES?.split(',') ?? SUITES;
  const { NODE_TEST_CONTEXT: _context, ...env } = process.env;
  // A process for each suite, and a limit for each test, so that a suite that does not end is named.
  const options = ['--import', 'tsx', '--test', '--test-reporter=tap', '--test-concurrency=4', '--test-timeout=400000'];
  const child = spawn(process.execPath, [...options, ...suites], {
    cwd: join(import.meta.dirname, '../..'),
    env: { ...env, VREG_TEST_STORE: endpoints[0] },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  t.after(() => child.kill());
  const [stdout, stderr, code] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    new Promise((resolve) => child.once('close', resolve)),
  ]);
  const [, passed = '0'] = /^(?:#|ℹ) pass (\d+)$/m.exec(stdout) ?? [];
  t.diagnostic(`${passed} tests passed on etcd`);
  const lines = stdout.split('\n');
  const failures = lines.flatMap((line, at) => (/^\s*(?:not ok|✖) /.test(line) ? lines.slice(at, at + SHOWN) : []));
  assert.equal(code, 0, `${failures.join('\n')}\n${stderr}`);
  assert.ok(Number(passed) >= suites.length, `${passed} tests`);
});
