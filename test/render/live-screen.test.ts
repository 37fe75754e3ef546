import assert from 'node:assert/strict';
import test from 'node:test';
import { stripVTControlCharacters } from 'node:util';
import stringWidth from 'string-width';
import type { Sort, VmWithLiveness } from '../../src/protocol/api.ts';
import type { Role, Vm } from '../../src/protocol/vm.ts';
import {
  drawScreen,
  onKey,
  planScreen,
  type ScreenContent,
  type ScreenPosition,
  sortVms,
} from '../../src/render/live-screen.ts';
import { testIo } from '../helpers/io.ts';
import { aVm } from '../helpers/vm.ts';

const NOW = Date.parse('2026-01-01T00:03:00.000Z');
const START: ScreenPosition = { sort: 'registered', reversed: false, offset: 0 };

function entry(more: Partial<VmWithLiveness> = {}): VmWithLiveness {
  const at = '2026-01-01T00:00:00.000Z';
  return { ...aVm(more as Partial<Vm>), registeredAt: at, lastSeen: at, stale: false, ...more };
}

const many = (length: number, more: Partial<VmWithLiveness> = {}) =>
  Array.from({ length }, (_, n) => entry({ id: `vm-${n}`, ...more }));

function contentOf(vms: readonly VmWithLiveness[], more: Partial<ScreenContent> = {}): ScreenContent {
  const url = 'http://127.0.0.1:3000';
  return { url, outage: undefined, warming: undefined, heartbeatsPerSecond: 0, vms, wide: false, now: NOW, ...more };
}

async function draw(content: ScreenContent, position = START, width = 80, height = 24) {
  const io = testIo({ tty: true, env: { NO_COLOR: '1' } });
  return drawScreen(content, position, { width, height }, io);
}

test('the screen shows the connection, totals per role and state, the VMs, and the keys', async () => {
  const vms = [
    entry({ id: 'a' }),
    entry({ id: 'b', stale: true }),
    entry({ id: 'c', suspect: true }),
    entry({ id: 'd', status: 'paused' }),
    entry({ id: 'e', role: 'infra', status: 'stopped' }),
    entry({ id: 'f', role: 'infra' }),
  ];
  const { lines, page } = await draw(contentOf(vms, { heartbeatsPerSecond: 3.14 }));
  assert.equal(lines.length, 24);
  assert.equal(lines[0], 'connected   6 VMs   3.1 heartbeats/s   http://127.0.0.1:3000');
  assert.deepEqual(
    lines.slice(2, 6).map((line) => line.split(/ +/)),
    [
      ['ROLE', 'LIVE', 'SUSPECT', 'STALE', 'PAUSED', 'STOPPED'],
      ['infra', '1', '0', '0', '0', '1'],
      ['worker', '1', '1', '1', '1', '0'],
      ['all', '2', '1', '1', '1', '1'],
    ],
  );
  assert.match(lines[7]!, /^ID +NAME +ROLE +STATUS +LIVE +ADDRESS +LAST SEEN$/);
  assert.match(lines[8]!, /^a +one +worker +running +live .* 3m ago$/);
  assert.equal(lines.at(-1), 'q quit   sort: i id  n name  r role  s seen  [t registered]');
  assert.equal(page, 15);
});

for (const [name, more, status] of [
  ['an outage', { outage: 'cannot reach \u001b[2Jit' }, 'disconnected, retrying: cannot reach \ufffd[2Jit'],
  ['a warming registry', { warming: 12 }, /^connected {3}0 VMs .* {3}may include dead VMs for 12 s {3}http/],
  ['a busy fleet', { heartbeatsPerSecond: 166.6 }, /^connected .* {3}167 heartbeats\/s/],
] as const) {
  test(`the first line shows ${name}`, async () => {
    const { lines } = await draw(contentOf([], more));
    if (typeof status === 'string') assert.equal(lines[0], status);
    else assert.match(lines[0]!, status);
    assert.ok(lines.includes('no VMs'));
  });
}

const HOSTILE = entry({
  id: `\u001b[31m${'x'.repeat(100)}`,
  name: '\u202e\u0007漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字',
  role: '\u001b]0;x\u0007' as Role,
  status: '\r\n' as Vm['status'],
  address: '\u009b2J',
  lastSeen: '\u001b[5m',
});

for (const [width, height] of [
  [80, 24],
  [80, 12],
  [60, 10],
  [40, 8],
  [20, 5],
  [10, 4],
  [10, 3],
  [10, 2],
  [5, 1],
  [1, 1],
  [200, 60],
] as const) {
  test(`on ${width} x ${height} no line is longer than the screen, and hostile text cannot control the terminal`, async () => {
    for (const vms of [[], [HOSTILE], [...many(50), HOSTILE], many(3, { role: 'infra' })]) {
      for (const wide of [false, true]) {
        const { lines } = await draw(contentOf([...vms, ...many(2)].toReversed(), { wide }), START, width, height);
        assert.equal(lines.length, height);
        for (const line of lines) {
          assert.ok(stringWidth(line) <= width, JSON.stringify(line));
          assert.doesNotMatch(line, /[\u0000-\u001f\u007f-\u009f\u202a-\u202e]/);
        }
      }
    }
  });
}

test('colour does not change the width of a line', async () => {
  const io = testIo({ tty: true });
  const { lines } = await drawScreen(contentOf(many(5)), START, { width: 40, height: 24 }, io);
  assert.ok(lines.some((line) => line.includes('\u001b[')));
  for (const line of lines) assert.ok(stripVTControlCharacters(line).length <= 40, JSON.stringify(line));
});

for (const [height, roles, plan] of [
  [24, 5, { totals: 'table', page: 12 }],
  [24, 1, { totals: 'table', page: 17 }],
  [14, 5, { totals: 'line', page: 10 }],
  [7, 5, { totals: 'line', page: 3 }],
  [6, 5, { totals: 'none', page: 3 }],
  [24, 0, { totals: 'none', page: 21 }],
  [2, 1, { totals: 'none', page: 0 }],
] as const) {
  test(`a screen of ${height} lines and ${roles} roles has ${plan.page} VMs, and the totals as ${plan.totals}`, () => {
    assert.deepEqual(planScreen(height, roles), plan);
  });
}

test('on a low screen the totals are one line', async () => {
  const { lines } = await draw(contentOf([...many(3), entry({ id: 'i', role: 'infra', stale: true })]), START, 80, 10);
  assert.equal(lines[1], 'infra: 1 stale   worker: 3 live');
});

test('a fleet that exceeds the screen scrolls, and stops at its end', async () => {
  const content = contentOf(many(100));
  const first = await draw(content);
  assert.match(first.lines.at(-1)!, /^q quit {3}1-17 of 100 {3}sort: /);
  const last = await draw(content, { ...START, offset: Number.MAX_SAFE_INTEGER });
  assert.equal(last.offset, 83);
  assert.ok(last.lines.some((line) => line.startsWith('vm-99 ')));
  assert.match(last.lines.at(-1)!, / 84-100 of 100 /);
});

for (const [key, offset] of [
  ['down', 6],
  ['j', 6],
  ['up', 4],
  ['k', 4],
  ['pagedown', 15],
  ['space', 15],
  ['pageup', 0],
  ['home', 0],
  ['g', 0],
  ['end', Number.MAX_SAFE_INTEGER],
  ['shift-g', Number.MAX_SAFE_INTEGER],
  ['x', 5],
  ['toString', 5],
] as const) {
  test(`the key ${key} scrolls from 5 to ${offset} on a page of 10`, () => {
    assert.deepEqual(onKey({ ...START, offset: 5 }, key, 10), { ...START, offset });
  });
}

for (const [key, sort] of Object.entries({ i: 'id', n: 'name', r: 'role', s: 'seen', t: 'registered' } as const)) {
  test(`the key ${key} sorts by ${sort}, and reverses that order when it is pressed again`, () => {
    const from: ScreenPosition = { sort: sort === 'id' ? 'name' : 'id', reversed: true, offset: 5 };
    const once = onKey(from, key, 10) as ScreenPosition;
    assert.deepEqual(once, { sort, reversed: false, offset: 0 });
    const twice = onKey(once, key, 10) as ScreenPosition;
    assert.deepEqual(twice, { sort, reversed: true, offset: 0 });
    assert.deepEqual(onKey(twice, key, 10), once);
  });
}

test('q quits and Ctrl-C interrupts', () => {
  assert.equal(onKey(START, 'q', 10), 'quit');
  assert.equal(onKey(START, 'ctrl-c', 10), 'interrupt');
});

test('each order can be reversed', () => {
  const vms = [
    entry({ id: 'b', name: 'x', role: 'worker', lastSeen: '2026-01-02T00:00:00.000Z' }),
    entry({ id: 'a', name: 'y', role: 'infra' }),
  ];
  const ids = (sort: Sort, reversed: boolean) =>
    sortVms(vms, { sort, reversed })
      .map(({ id }) => id)
      .join('');
  for (const [sort, order] of [
    ['registered', 'ba'],
    ['id', 'ab'],
    ['name', 'ba'],
    ['role', 'ab'],
    ['seen', 'ba'],
  ] as const) {
    assert.equal(ids(sort, false), order);
    assert.equal(ids(sort, true), [...order].reverse().join(''));
  }
});
