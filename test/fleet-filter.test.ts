/** The filter language of the fleet page, and the `vreg` command that it offers for each filter. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import test from 'node:test';
import { FilterError, parseFleetFilter } from '../src/page/fleet-filter.ts';
import type { VmWithLiveness } from '../src/protocol/api.ts';
import { livenessOf } from '../src/protocol/liveness.ts';
import type { Vm } from '../src/protocol/vm.ts';
import { serveApp } from './helpers/app.ts';
import { seed, vreg } from './helpers/cli.ts';
import { call } from './helpers/http.ts';
import { unless } from './helpers/tools.ts';
import { aVm } from './helpers/vm.ts';

const NOW = Date.parse('2026-01-01T12:00:00Z');

const FLEET = [
  aVm({ id: 'i1', name: 'Main Infra', role: 'infra', services: [{ name: 'api', port: 80 }], address: '10.0.0.1' }),
  aVm({ id: 'w1', name: 'blue worker', parentId: 'i1', metadata: { task: 'x', n: 1, draft: true } }),
  aVm({ id: 'w2', name: 'red "worker"', status: 'paused', metadata: { task: 'y', role: 'extra' } }),
  aVm({ id: 'w3', name: 'old', parentId: 'i1', registeredBy: 'boot', metadata: { deep: { a: [1] } } }),
  aVm({ id: 'g1', name: 'image', role: 'golden', status: 'stopped', metadata: { task: "it's", formula: '=y' } }),
];

/** Ids that a filter matches, of which w3 is stale and was last seen an hour ago. */
function matched(text: string): string[] {
  const filter = parseFleetFilter(text);
  const rows = FLEET.map((vm) => {
    const isOld = vm.id === 'w3';
    const seen = NOW - (isOld ? 3_600_000 : 10_000);
    const registeredAt = new Date(NOW - (isOld ? 86_400_000 : 60_000)).toISOString();
    const entry: Vm = { ...vm, registeredAt, lastSeen: new Date(seen).toISOString() };
    return { vm: entry, state: livenessOf({ ...entry, stale: isOld } as VmWithLiveness), seen };
  });
  return rows.filter((row) => filter.matches(row, NOW)).map(({ vm }) => vm.id);
}

const CASES: readonly [filter: string, ids: string][] = [
  ['', 'i1 w1 w2 w3 g1'],
  ['role:worker', 'w1 w2 w3'],
  ['role:infra,golden', 'i1 g1'],
  ['-role:worker', 'i1 g1'],
  ['live:stale', 'w3'],
  ['live:live', 'i1 w1'],
  ['-live:live,paused', 'w3 g1'],
  ['status:running', 'i1 w1 w3'],
  ['role:worker live:stale -task:x seen>5m', 'w3'],
  ['seen<1m', 'i1 w1 w2 g1'],
  ['registered>1h', 'w3'],
  ['task:x', 'w1'],
  ['-task:x', 'i1 w2 w3 g1'],
  ['task:*', 'w1 w2 g1'],
  ['-task:*', 'i1 w3'],
  ["task:it's", 'g1'],
  ['formula:=y', 'g1'],
  ['-formula:=y', 'i1 w1 w2 w3'],
  ['n:1', 'w1'],
  ['draft:true', 'w1'],
  ['deep:{"a":[1]}', ''],
  ['meta.role:extra', 'w2'],
  ['name:WORKER', 'w1 w2'],
  ['name:"blue worker"', 'w1'],
  ['by:boot', 'w3'],
  ['address:10.0', 'i1'],
  ['parent:i1', 'w1 w3'],
  ['service:api', 'i1'],
  ['worker', 'w1 w2'],
  ['-worker -10.0', 'w3 g1'],
  ['__proto__:x', ''],
  ['constructor:*', ''],
];

for (const [filter, ids] of CASES)
  test(`the filter "${filter}" matches ${ids || 'no VM'}`, () => assert.equal(matched(filter).join(' '), ids));

for (const [filter, at, length, message] of [
  ['role:wroker', 5, 6, /role: "wroker" is not one of infra, lieutenant/],
  ['role:worker,nix', 12, 3, /role: "nix"/],
  ['live:dead', 5, 4, /live: "dead" is not one of live, suspect/],
  ['-role:"wroker"', 7, 6, /role: "wroker" is not one of/],
  ['role:"worker",wr"ok"er', 14, 8, /role: "wroker" is not one of/],
  ['seen>"5x"', 6, 2, /seen: "5x" is not a duration/],
  ['a seen>5x', 7, 2, /seen: "5x" is not a duration such as 90s/],
  ['seen:5m', 0, 7, /seen needs > or <, for example seen>5m/],
  ['role>5m', 0, 7, /role cannot be compared with >: only seen and registered can/],
  ['task:', 0, 5, /task: has no value, for example task:value/],
  ['x -task:""', 2, 8, /task: has no value/],
  ['name:"blue', 5, 5, /a quote is not closed/],
  ['meta.:x', 0, 7, /meta\. has no key/],
] as const) {
  test(`the error of the filter "${filter}" is at character ${at + 1}`, () => {
    assert.throws(
      () => parseFleetFilter(filter),
      (error: FilterError) => {
        assert.ok(error instanceof FilterError);
        assert.match(error.message, message);
        assert.deepEqual([error.at, error.length], [at, length]);
        return true;
      },
    );
  });
}

test('a filter has at most 32 terms', () => {
  parseFleetFilter('a '.repeat(32));
  assert.throws(() => parseFleetFilter('a '.repeat(33)), { message: /too many terms \(limit 32\)/, at: 64 });
});

test('only filters of times change with the clock', () => {
  assert.equal(parseFleetFilter('seen>5m').usesTime, true);
  assert.equal(parseFleetFilter('-registered>5m').usesTime, true);
  assert.equal(parseFleetFilter('role:worker task:x').usesTime, false);
});

test('filters that flags of vreg ls can express become flags, and others become conditions of jq', () => {
  const command = (text: string) => parseFleetFilter(text).command;
  assert.equal(command(''), 'vreg ls');
  assert.equal(command('role:worker live:stale -task:x env:*'), "vreg ls --role worker --stale -l 'task!=x' -l env");
  assert.equal(command('status:paused,stopped'), 'vreg ls --status paused,stopped');
  assert.equal(command('live:live'), `vreg ls -o json | jq 'map(select(.live == "live"))'`);
  assert.equal(command('seen>5m role:worker'), "vreg ls --role worker -o json | jq 'map(select(.ageSeconds > 300))'");
});

test('jq ignores case and escapes texts like the page, also outside ASCII', unless('jq'), () => {
  const names = ['Ärger', 'ärger', 'İstanbul', 'ΣΑΣ', 'σας', 'ß', 'ss', '\u212a', 'ü(', 'ü.', 'üx', '😀 A', '日本'];
  const time = new Date(NOW).toISOString();
  const rows = names.map((name): Vm => ({ ...aVm({ id: name, name }), registeredAt: time, lastSeen: time }));
  for (const text of ['Ä', 'ÄRGER', 'i', 'İ', 'ς', 'Σας', 'SS', 'ß', 'k', 'ü(', 'Ü.', '"😀 a"', '日', 'r']) {
    const { matches, command } = parseFleetFilter(`name:${text}`);
    const wanted = rows.filter((vm) => matches({ vm, state: 'live', seen: NOW }, NOW));
    const script = `vreg() { cat; }; ${command}`;
    const output = execFileSync('sh', ['-c', script], { input: JSON.stringify(rows), encoding: 'utf8' });
    assert.deepEqual(
      (JSON.parse(output) as { id: string }[]).map(({ id }) => id),
      wanted.map(({ id }) => id),
      text,
    );
  }
  const { matches } = parseFleetFilter('name:ÄR');
  assert.ok(matches({ vm: rows[1]!, state: 'live', seen: NOW }, NOW));
});

test('a command compares ages by the clock of the registry', unless('jq'), () => {
  const vm = {
    ...FLEET[0]!,
    registeredAt: '2001-01-01T00:00:00.500Z',
    lastSeen: '2001-01-01T00:01:00.500Z',
    ageSeconds: 30,
  };
  const count = (text: string) => {
    const script = `vreg() { cat; }; ${parseFleetFilter(text).command}`;
    return JSON.parse(execFileSync('sh', ['-c', script], { input: JSON.stringify([vm]), encoding: 'utf8' })).length;
  };
  assert.deepEqual(['registered<2m', 'registered>1m', 'registered>2m'].map(count), [1, 1, 0]);
});

test('the command of each filter prints the VMs that the filter matches', unless('jq'), async (t) => {
  const { url, registry, clock } = await serveApp(t);
  await seed(
    url,
    FLEET.filter(({ id }) => id === 'w3'),
  );
  clock.pass(3_600_000);
  await seed(
    url,
    FLEET.filter(({ id }) => id !== 'w3'),
  );
  registry.sweep();
  const { vms } = (await call(url, 'GET', '/registry/vms?include=liveness')).body as { vms: VmWithLiveness[] };
  const now = clock.now();
  const filters = CASES.map(([filter]) => filter).filter((filter) => !/seen|registered/.test(filter));
  // The shell prints the arguments of both programs, so that vreg can run in this process.
  const printer = `vreg() { printf 'vreg %s\\n' "$@"; }; jq() { cat; printf 'jq %s\\n' "$1"; }\n`;
  const script = filters.map((filter) => `${parseFleetFilter(filter).command}; echo`).join('\n');
  const parts = execFileSync('sh', { input: printer + script, encoding: 'utf8' })
    .split('\n\n')
    .slice(0, -1);
  const printed = [];
  for (const part of parts) {
    const of = (program: string) => [...part.matchAll(new RegExp(`^${program} (.*)$`, 'gm'))].map(([, word]) => word!);
    const [filter] = of('jq');
    const { code, stdout, stderr } = await vreg([...of('vreg'), ...(filter ? [] : ['-o', 'json'])], { url });
    assert.deepEqual([code, stderr], [0, ''], part);
    const found = filter ? execFileSync('jq', [filter], { input: stdout, encoding: 'utf8' }) : stdout;
    printed.push(
      (JSON.parse(found) as VmWithLiveness[])
        .map(({ id }) => id)
        .sort()
        .join(' '),
    );
  }
  const expected = filters.map((filter) => {
    const { matches } = parseFleetFilter(filter);
    const found = vms.filter((vm) => matches({ vm, state: livenessOf(vm), seen: Date.parse(vm.lastSeen) }, now));
    return found
      .map(({ id }) => id)
      .sort()
      .join(' ');
  });
  assert.deepEqual(printed, expected);
});
