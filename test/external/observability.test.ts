/** The metrics, the alerts and the dashboard, with Debian's Prometheus and its checker. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import test from 'node:test';
import { parse } from 'yaml';
import { Exposition } from '../../daemon/observability/exposition.ts';
import { startDaemon } from '../helpers/daemon.ts';
import { call } from '../helpers/http.ts';
import { ALERT_TESTS, ALERTS, DASHBOARD, promtool, startPrometheus } from '../helpers/prometheus.ts';
import { unless } from '../helpers/tools.ts';
import { until } from '../helpers/until.ts';
import { aVm } from '../helpers/vm.ts';

const TOKEN = 's3cret';
const AUTHORIZED = { authorization: `Bearer ${TOKEN}` };
const NEEDS = unless('prometheus', 'promtool');

interface Panel {
  title: string;
  targets: { expr: string }[];
}

/** Starts a registry that has VMs, heartbeats, changes and a refusal. */
async function startBusyDaemon(t: Parameters<typeof startDaemon>[0]) {
  const daemon = await startDaemon(t, { env: { VERS_AUTH_TOKEN: TOKEN } });
  const ask = (method: string, path: string, body?: unknown) =>
    call(daemon.url, method, path, { headers: AUTHORIZED, ...(body === undefined ? {} : { body }) });
  await ask('POST', '/registry/vms', aVm({ id: 'w-1' }));
  await ask('POST', '/registry/vms', aVm({ id: 'w-2', status: 'paused' }));
  await ask('POST', '/registry/vms/w-1/heartbeat');
  assert.equal((await ask('GET', '/registry/vms/nobody')).status, 404);
  return { daemon, ask };
}

test('promtool accepts the alerts, and their unit tests pass', NEEDS, async () => {
  const checked = await promtool(['check', 'rules', ALERTS]);
  assert.equal(checked.code, 0, checked.stderr);
  assert.match(checked.stdout, /4 rules found/);
  const tested = await promtool(['test', 'rules', ALERT_TESTS]);
  assert.equal(tested.code, 0, tested.stdout + tested.stderr);
});

test('a unit test fires each alert, and each alert names a command for the next step', () => {
  const { groups } = parse(readFileSync(ALERTS, 'utf8')) as {
    groups: { rules: { alert: string; annotations: { description: string } }[] }[];
  };
  const { tests } = parse(readFileSync(ALERT_TESTS, 'utf8')) as {
    tests: { alert_rule_test: { alertname: string; exp_alerts: unknown[] }[] }[];
  };
  const cases = tests.flatMap(({ alert_rule_test }) => alert_rule_test);
  const fired = new Set(cases.filter(({ exp_alerts }) => exp_alerts.length > 0).map(({ alertname }) => alertname));
  const commands = readdirSync(new URL('../../src/commands', import.meta.url));
  for (const { alert, annotations } of groups.flatMap(({ rules }) => rules)) {
    assert.ok(fired.has(alert), alert);
    const named = [...annotations.description.matchAll(/\bvreg ([a-z]+)/g)].map(([, command]) => command!);
    assert.notDeepEqual(named, [], alert);
    for (const command of named) assert.ok(commands.includes(`${command}.ts`), `${alert}: vreg ${command}`);
  }
});

test('promtool accepts labels with quotes, backslashes and line ends', NEEDS, async () => {
  const all = new Exposition(undefined);
  const hostile = ['"', '\\', '\n', '"} 1\nevil{a="b', 'ü', '\u2028'];
  all.gauge(
    'vreg_hostile',
    'Help with a \\ and a\nline end.',
    hostile.map((role) => ({ labels: { role }, value: 1 })),
  );
  const text = await all.text();
  assert.equal(text.split('\n').filter((line) => line.startsWith('vreg_hostile{')).length, hostile.length);
  assert.doesNotMatch(text, /^evil/m);
  const { code, stdout, stderr } = await promtool(['check', 'metrics'], text);
  assert.deepEqual([code, stdout, stderr], [0, '', '']);
});

test('promtool finds no fault in the metrics of a registry', NEEDS, async (t) => {
  const { daemon } = await startBusyDaemon(t);
  const text = await (await fetch(`${daemon.url}/metrics`, { headers: AUTHORIZED })).text();
  const { code, stdout, stderr } = await promtool(['check', 'metrics'], text);
  assert.deepEqual([code, stdout, stderr], [0, '', '']);
});

test(
  'each query of the dashboard has an answer after Prometheus has scraped a registry, and no alert is pending',
  NEEDS,
  async (t) => {
    const { daemon, ask } = await startBusyDaemon(t);
    const prometheus = await startPrometheus(t, daemon);
    await prometheus.scraped(1);
    await ask('POST', '/registry/vms/w-1/heartbeat');
    await ask('PATCH', '/registry/vms/w-1', { name: 'renamed' });
    await ask('GET', '/registry/vms/nobody');
    await prometheus.scraped(3);
    const { panels } = JSON.parse(readFileSync(DASHBOARD, 'utf8')) as { panels: Panel[] };
    const queries = panels.flatMap(({ title, targets }) => targets.map(({ expr }) => ({ title, expr })));
    assert.ok(queries.length > 20);
    for (const { title, expr } of queries) {
      const expression = expr
        .replaceAll('$job', 'vreg')
        .replaceAll('$instance', '.+')
        .replaceAll('$__rate_interval', '1m');
      assert.notDeepEqual(await prometheus.query(expression), [], `${title}: ${expression}`);
    }
    const numberOf = async (expression: string) => (await prometheus.query(expression))[0]?.value;
    assert.equal(await numberOf('sum(vreg_vms{status="running",liveness="live"})'), 1);
    assert.equal(await numberOf('vreg_http_requests_total{route="/registry/vms/:id/heartbeat",status="200"}'), 2);
    assert.equal(await numberOf('vreg_refusals_total{code="NOT_FOUND"}'), 2);
    assert.equal(await numberOf('vreg_store_commit_duration_seconds_count'), 3);
    assert.ok((await numberOf('vreg_store_size_bytes'))! > 0);
    assert.deepEqual(await prometheus.alerts(), {});
  },
);

test('Prometheus notices within seconds that the registry has ended', NEEDS, async (t) => {
  const { daemon } = await startBusyDaemon(t);
  const prometheus = await startPrometheus(t, daemon);
  await prometheus.scraped(1);
  await daemon.end();
  await until('the alert', async () => (await prometheus.alerts()).VregDown === 'pending');
});
