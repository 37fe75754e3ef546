/** Runs Debian's Prometheus against a registry, for tests of the metrics. */
import { spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { type Daemon, endAfter, type Ran, run, tempDir } from './daemon.ts';
import { until } from './until.ts';

const ROOT = join(import.meta.dirname, '../..');
export const ALERTS = join(ROOT, 'daemon/observability/alerts.yml');
export const DASHBOARD = join(ROOT, 'daemon/observability/dashboard.json');
export const ALERT_TESTS = join(ROOT, 'test/external/observability/alerts.test.yml');

/** One time series of the answer to a query. */
export interface Series {
  metric: Record<string, string>;
  value: number;
}

export interface Prometheus {
  /** Evaluates a query now. */
  query(expression: string): Promise<Series[]>;
  /** The state of each alert that is pending or firing. */
  alerts(): Promise<Record<string, string>>;
  /** Resolves when the registry was scraped without an error this many times. */
  scraped(times: number): Promise<void>;
}

/** Runs promtool. */
export function promtool(args: readonly string[], input = ''): Promise<Ran> {
  return run('promtool', args, { env: { PATH: process.env.PATH }, input });
}

/** Starts Prometheus with the alerts of the repository. It scrapes the daemon every second, and ends with the test. */
export async function startPrometheus(t: TestContext, { url, token }: Daemon): Promise<Prometheus> {
  const dir = tempDir(t);
  const config = {
    global: { scrape_interval: '1s', evaluation_interval: '1s' },
    rule_files: [ALERTS],
    scrape_configs: [
      {
        job_name: 'vreg',
        static_configs: [{ targets: [new URL(url).host] }],
        ...(token === undefined ? {} : { authorization: { credentials: token } }),
      },
    ],
  };
  const file = join(dir, 'prometheus.yml');
  // JSON is YAML.
  writeFileSync(file, JSON.stringify(config));
  const base = `http://127.0.0.1:${await freePort()}`;
  const args = [
    `--config.file=${file}`,
    `--storage.tsdb.path=${join(dir, 'data')}`,
    '--storage.tsdb.retention.size=64MB',
    `--web.listen-address=${new URL(base).host}`,
  ];
  const child = spawn('prometheus', args, {
    env: { PATH: process.env.PATH, GOMEMLIMIT: '256MiB', GOMAXPROCS: '1' },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk));
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  endAfter(t, () => {
    child.kill('SIGKILL');
    return ended;
  });
  const ask = async <T>(path: string): Promise<T> => {
    const answer = await fetch(base + path);
    const { status, data, error } = (await answer.json()) as { status: string; data: T; error?: string };
    if (status !== 'success') throw new Error(`${path}: ${error}`);
    return data;
  };
  await until('Prometheus to be ready', async () => {
    if (child.exitCode !== null) throw new Error(`prometheus ended: ${stderr}`);
    return (await fetch(`${base}/-/ready`).catch(() => undefined))?.ok;
  });
  const query = async (expression: string) => {
    type Answer = { result: { metric: Record<string, string>; value: [number, string] }[] };
    const { result } = await ask<Answer>(`/api/v1/query?query=${encodeURIComponent(expression)}`);
    return result.map(({ metric, value: [, value] }) => ({ metric, value: Number(value) }));
  };
  return {
    query,
    alerts: async () => {
      const { alerts } = await ask<{ alerts: { labels: { alertname: string }; state: string }[] }>('/api/v1/alerts');
      return Object.fromEntries(alerts.map(({ labels, state }) => [labels.alertname, state]));
    },
    scraped: async (times) => {
      await until(`${times} scrapes`, async () => {
        const [series] = await query('sum_over_time(up{job="vreg"}[1h])');
        return series !== undefined && series.value >= times;
      });
    },
  };
}

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}
