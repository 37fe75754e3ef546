/** The benchmark itself, with as few requests as possible. Its figures are not asserted. */
import assert from 'node:assert/strict';
import test from 'node:test';
import { bench, ROWS } from '../bench/bench.ts';
import type { Failure } from '../bench/table.ts';
import { startPlainServer } from '../helpers/original-server.ts';

const FEW = ['--turns', '1', '--requests', '50'];

async function run(...argv: string[]): Promise<{ code: number; lines: string[] }> {
  const lines: string[] = [];
  const code = await bench(argv, (line) => lines.push(line));
  return { code, lines };
}

interface Report {
  rows: Record<string, unknown>[];
  failures: Failure[];
}

test('the benchmark reports the ratios of a row to its floor for each size of the fleet, and to a peer', async (t) => {
  const peer = await startPlainServer(t);
  const { code, lines } = await run('--json', '--only', 'get', '--vms', '10,20', '--peer', peer.url, ...FEW);
  const { rows, failures } = JSON.parse(lines.join('\n')) as Report;
  assert.deepEqual([code, failures], [0, []]);
  assert.deepEqual(
    rows.map(({ name, vms, unit, over }) => ({ name, vms, unit, over })),
    [10, 20].map((vms) => ({ name: 'get', vms, unit: '1/s', over: 'node:http' })),
  );
  for (const row of rows) {
    for (const figure of ['vreg', 'floor', 'ratio', 'peer'] as const) assert.ok(Number(row[figure]) > 0, figure);
    const cpu = row.cpu as Record<string, number>;
    for (const figure of ['vreg', 'floor', 'ratio']) assert.ok(cpu[figure]! > 0, `CPU: ${figure}`);
  }
  assert.equal(peer.vms.size, 0, 'the peer is left empty');
});

test('the table has a line for each row', async () => {
  const { code, lines } = await run('--only', 'cli-version', ...FEW);
  assert.equal(code, 0);
  assert.match(lines.at(-1)!, /^cli-version +ms +[\d.]+ +[\d.]+ +[\d.]+ .* ≤ 1\.4 {2}node -e 0$/);
});

for (const [argv, message] of [
  [['--only', 'gett'], /^unknown row "gett"; the groups and their rows are\n {2}routes: heartbeat get /],
  [['--vms', '10,many'], /^--vms: "many" is not a positive number$/],
  [['--turns', '0'], /^--turns: "0" is not a positive number$/],
  [['--peer', 'somewhere'], /^--peer: "somewhere" is not an http\(s\) URL$/],
  [['--peer', 'http://127.0.0.1:1'], /^--peer: cannot read http:\/\/127\.0\.0\.1:1\/registry\/vms /],
  [['--fast'], /^Unknown option '--fast'/],
] as const)
  test(`${argv.join(' ')} is bad usage`, () =>
    assert.rejects(run(...argv), { name: 'UsageError', message, exitCode: 5 }));

test('a peer with VMs is refused', async (t) => {
  const peer = await startPlainServer(t);
  peer.vms.set('vm-1', { id: 'vm-1', role: 'worker', status: 'running', lastSeen: '2026-01-01T00:00:00.000Z' });
  await assert.rejects(run('--peer', peer.url), { exitCode: 5, message: /has 1 VMs, but must be empty/ });
});

test('the help names all flags, and each row has a name of its own', async () => {
  const { code, lines } = await run('--help');
  assert.equal(code, 0);
  for (const flag of ['--only', '--vms', '--peer', '--turns', '--requests', '--json'])
    assert.ok(lines.join('\n').includes(flag));
  assert.equal(new Set(ROWS.map(({ name }) => name)).size, ROWS.length);
});
