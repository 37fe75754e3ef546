import assert from 'node:assert/strict';
import test from 'node:test';
import { Agent } from '../../../daemon/agent/agent.ts';
import { Identity } from '../../../daemon/agent/identity.ts';
import { VregError } from '../../../src/protocol/errors.ts';
import { aLife, INTERVAL, LEASE, live } from '../../helpers/agent/agent-life.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { aVm } from '../../helpers/vm.ts';

test('an agent registers its VM first and then sends heartbeats', async () => {
  const life = aLife();
  await live(life, 3);
  assert.deepEqual(life.registry.asked, ['register', 'heartbeat', 'heartbeat']);
  assert.deepEqual(life.registry.entry, life.options.vm);
  assert.deepEqual(life.warnings, []);
});

test('an agent reports once that it is ready', async () => {
  const life = aLife();
  await live(life, 4);
  assert.deepEqual(life.ready, [undefined]);
});

test('an agent whose VM is already registered updates the entry and sends heartbeats', async () => {
  const life = aLife();
  life.registry.entry = aVm({ name: 'old', status: 'stopped', address: 'old.test' });
  await live(life, 2);
  assert.deepEqual(life.registry.asked, ['register', 'get', 'update', 'heartbeat']);
  assert.deepEqual(life.registry.entry, life.options.vm);
});

test('an agent warns if the entry keeps another role', async () => {
  const life = aLife();
  life.registry.entry = aVm({ role: 'infra' });
  await live(life, 1);
  assert.equal(life.registry.entry.role, 'infra');
  assert.deepEqual(life.warnings, ['keeping the registered role infra: a role cannot change after registration']);
});

test('delays between heartbeats differ and are at most a tenth shorter than the interval', async () => {
  const life = aLife();
  await live(life, 50);
  const [first, ...others] = life.slept;
  assert.ok(first! <= INTERVAL, 'the first delay spreads VMs that were started together');
  for (const delay of others) assert.ok(delay <= INTERVAL && delay >= INTERVAL * 0.9, String(delay));
  assert.ok(new Set(life.slept).size > 40);
});

test('the second heartbeats of a fleet that starts at the same time are spread over an entire interval', async () => {
  const firsts: number[] = [];
  for (let n = 0; n < 600; n++) {
    const life = aLife({ vm: aVm({ id: `vm-${n}` }) });
    await live(life, 1);
    firsts.push(life.slept[0]!);
  }
  const counts = perTenth(firsts);
  assert.ok(Math.min(...counts) > 30 && Math.max(...counts) < 90, counts.join(' '));
});

/** Counts delays by tenths of the interval. */
function perTenth(delays: readonly number[]): number[] {
  const counts = new Array<number>(10).fill(0);
  for (const delay of delays) counts[Math.min(9, Math.floor((10 * delay) / INTERVAL))]!++;
  return counts;
}

test('agents whose requests waited for a paused registry keep the order of their heartbeats', async () => {
  const at = { ms: 0 };
  const life = aLife({ ticks: () => at.ms });
  const heartbeat = life.registry.heartbeat.bind(life.registry);
  let waits = 0;
  life.registry.heartbeat = (id, beat) => {
    at.ms += waits;
    return heartbeat(id, beat);
  };
  await live(life, 4, (sleep) => {
    waits = [0, 0, 40_000, 90_000][sleep] ?? 0;
  });
  assert.ok(life.slept[2]! >= 0.9 * INTERVAL - 40_000 && life.slept[2]! <= INTERVAL - 40_000, String(life.slept[2]));
  assert.ok(life.slept[3]! > 0 && life.slept[3]! <= 0.1 * INTERVAL, `it is due already: ${life.slept[3]}`);
});

test('retries of requests that failed together are spread over the time for which they waited', async () => {
  const delays: number[] = [];
  for (let n = 0; n < 600; n++) {
    const at = { ms: 0 };
    const life = aLife({ vm: aVm({ id: `vm-${n}` }), ticks: () => at.ms });
    const heartbeat = life.registry.heartbeat.bind(life.registry);
    life.registry.heartbeat = (id, beat) => {
      at.ms += (n * INTERVAL) / 600;
      return heartbeat(id, beat);
    };
    await live(life, 2, (sleep) => {
      if (sleep === 1) life.registry.fail('UNREACHABLE');
    });
    delays.push(life.slept[1]!);
  }
  const counts = perTenth(delays);
  assert.ok(Math.max(...counts) < 120, counts.join(' '));
});

test("a request's timeout is at most the heartbeat interval, also when the lease becomes shorter", async () => {
  const life = aLife();
  const limits: number[] = [];
  await live(life, 3, (sleep) => {
    limits.push(life.registry.maxTimeout);
    if (sleep === 1) life.registry.server.lease = 3000;
  });
  assert.deepEqual(limits, [INTERVAL, 1000, 1000]);
});

test('an agent honours Retry-After up to one lease', async () => {
  const life = aLife();
  await live(life, 4, (sleep) => {
    if (sleep === 1) life.registry.fail('BUSY', 1, 120);
    if (sleep === 3) life.registry.fail('TOO_MANY_REQUESTS', 1, 86_400);
  });
  assert.ok(life.slept[1]! >= 120_000 && life.slept[1]! <= 132_000, String(life.slept[1]));
  assert.ok(life.slept[3]! >= LEASE && life.slept[3]! <= 1.1 * LEASE, String(life.slept[3]));
});

test('two VMs do not send their heartbeats in step', async () => {
  const [one, two] = [aLife(), aLife({ vm: aVm({ id: 'vm-2' }) })];
  await Promise.all([live(one, 10), live(two, 10)]);
  assert.equal(one.slept.filter((delay, index) => delay === two.slept[index]).length, 0);
});

test('an agent with a longer interval sends three heartbeats per lease and logs that once', async () => {
  const life = aLife({ interval: LEASE });
  life.registry.server.lease = 90_000;
  await live(life, 20);
  for (const delay of life.slept.slice(1)) assert.ok(delay <= 30_000 && delay >= 27_000, String(delay));
  const logged = life.infos.filter((info) => info.includes('lease'));
  assert.deepEqual(logged, ["the registry's lease is 90 s: sending a heartbeat every 30 s"]);
});

test('an agent adapts to a lease that becomes shorter', async () => {
  const life = aLife();
  await live(life, 3, (sleep) => {
    if (sleep === 2) life.registry.server.lease = 30_000;
  });
  const [, before, after] = life.slept;
  assert.ok(before! > 50_000);
  assert.ok(after! <= 10_000);
});

test('an agent registers its VM again, with services and metadata, if the registry has lost the entry', async () => {
  const life = aLife();
  await live(life, 3, (sleep) => {
    if (sleep === 2) life.registry.entry = undefined;
  });
  assert.deepEqual(life.registry.asked, ['register', 'heartbeat', 'heartbeat', 'register']);
  assert.deepEqual(life.registry.entry, life.options.vm);
  assert.deepEqual(life.registry.entry?.metadata, { task: 'billing' });
});

test('an agent retries with delays that double up to the interval, and recovers by itself', async () => {
  const life = aLife();
  life.registry.fail('UNREACHABLE', 12);
  await live(life, 13);
  const delays = life.slept.slice(0, 12);
  for (const [failure, delay] of delays.entries()) {
    const ceiling = Math.min(1000 * 2 ** failure, INTERVAL);
    assert.ok(delay <= ceiling && delay >= ceiling / 2, `delay ${failure}: ${delay}`);
  }
  assert.equal(life.registry.asked.length, 13);
  assert.deepEqual(life.registry.entry, life.options.vm);
  assert.equal(life.warnings.length, 1);
  assert.ok(life.infos.includes('the registry is reachable again'));
});

test('an agent never waits longer than a third of the lease, so that its VM is live when the registry returns', async () => {
  const life = aLife();
  life.registry.server.lease = 9000;
  await live(life, 30, (sleep) => {
    if (sleep === 1) life.registry.fail('UNREACHABLE', 20);
  });
  for (const delay of life.slept) assert.ok(delay <= 3000, String(delay));
});

test('the delays start small again with the next outage', async () => {
  const life = aLife();
  await live(life, 12, (sleep) => {
    if (sleep === 1 || sleep === 8) life.registry.fail('BUSY', 5);
  });
  // The registry answers after the sixth sleep; the ninth sleep is the first of the second outage.
  assert.ok(life.slept[6]! > 50_000);
  assert.ok(life.slept[8]! <= 1000);
  assert.equal(life.warnings.length, 2);
});

test('an agent without a registry is ready and reports the problem', async () => {
  const life = aLife();
  life.registry.fail('UNREACHABLE', 2);
  await live(life, 4);
  assert.deepEqual(life.ready, ['the registry says UNREACHABLE']);
});

for (const code of ['UNAUTHORIZED', 'FORBIDDEN', 'INVALID', 'USAGE'] as const) {
  test(`an agent whose first request is refused with ${code} ends`, async () => {
    const life = aLife();
    life.registry.fail(code);
    await assert.rejects(live(life, 1), { name: 'VregError', code });
    assert.deepEqual(life.slept, []);
    assert.deepEqual(life.ready, []);
  });
}

test('an agent whose first answered request is refused after an outage also ends', async () => {
  const life = aLife();
  life.registry.fail('UNREACHABLE');
  life.registry.fail('UNAUTHORIZED');
  await assert.rejects(live(life, 5), { code: 'UNAUTHORIZED' });
});

for (const code of ['UNAUTHORIZED', 'INVALID', 'INTERNAL', 'STORE_FULL', 'TOO_MANY_REQUESTS'] as const) {
  test(`an agent retries after a later refusal with ${code}`, async () => {
    const life = aLife();
    await live(life, 4, (sleep) => {
      if (sleep === 1) life.registry.fail(code);
    });
    assert.deepEqual(life.registry.asked, ['register', 'heartbeat', 'heartbeat', 'heartbeat']);
    assert.deepEqual(life.warnings, [`the registry says ${code}; retrying until it works`]);
  });
}

test('an agent that is refused while that is undecided retries when the registry asks it to, and is no clone', async () => {
  const conflicts: string[] = [];
  const onClone = async ({ message }: Error) => {
    conflicts.push(message);
    return {};
  };
  const life = aLife({ onClone, onReady: (warning) => void life.ready.push(warning) });
  life.registry.fail('IDENTITY_CONFLICT', 8, 5);
  await live(life, 9);
  assert.deepEqual(conflicts, []);
  assert.ok(
    life.slept.slice(0, 8).every((ms) => ms >= 5000 && ms <= 10_000),
    String(life.slept),
  );
  assert.deepEqual(life.ready, ['the registry says IDENTITY_CONFLICT']);
  life.registry.fail('IDENTITY_CONFLICT');
  await live({ ...life, slept: [] }, 2);
  assert.equal(conflicts.length, 1);
});

test('an agent that is stopped while it is refused does not sign off the other incarnation', async () => {
  for (const onExit of ['stopped', 'deregister'] as const) {
    const life = aLife({ onExit });
    const agent = new Agent({ ...life.options, sleep: async () => controller.abort() });
    const controller = new AbortController();
    life.registry.fail('IDENTITY_CONFLICT', 1, 5);
    await agent.run(controller.signal);
    await agent.deregister();
    assert.deepEqual(life.registry.asked, ['register']);
    assert.equal(agent.isContested, true);
  }
});

test('an agent whose takeover is refused ends with the conflict', async () => {
  const onClone = async (error: VregError) => {
    throw new VregError('IDENTITY_CONFLICT', error.message);
  };
  const life = aLife({ onClone });
  await assert.rejects(
    live(life, 4, (sleep) => {
      if (sleep === 1) life.registry.fail('FORBIDDEN', 1, undefined, 'replace');
    }),
    { code: 'IDENTITY_CONFLICT' },
  );
});

test('an agent checks its token until the registry has accepted a request', async () => {
  let checks = 0;
  const life = aLife({ checkToken: async () => void checks++ });
  life.registry.fail('UNREACHABLE', 2);
  await live(life, 6);
  assert.equal(checks, 3);
});

test('an enrolled agent that starts retries while its tokens are unknown to a restored registry', async (t) => {
  const identity = Identity.open(tempDir(t), 'vm-1');
  identity.storeBearer('its-own');
  const life = aLife({ identity });
  life.registry.entry = aVm();
  life.registry.fail('UNAUTHORIZED', 4);
  await live(life, 4);
  assert.equal(life.registry.beats.length > 0, true);
});

for (const code of ['UNAUTHORIZED', 'FORBIDDEN', 'BAD_ANSWER'] as const) {
  test(`an agent that was accepted before and starts again retries after ${code}`, async (t) => {
    const identity = Identity.open(tempDir(t), 'vm-1');
    identity.nextProof();
    identity.confirmProof();
    const life = aLife({ identity });
    life.registry.entry = aVm();
    life.registry.fail(code, 2);
    await live(life, 4);
    assert.equal(life.registry.beats.length > 0, true);
  });
}

for (const code of ['METHOD_NOT_ALLOWED', 'INVALID'] as const) {
  for (const version of [undefined, '0.1.0'])
    test(`an agent that was accepted before and gets ${code} from ${version ? 'vreg' : 'a gateway'} ${version ? 'ends' : 'retries'}`, async (t) => {
      const identity = Identity.open(tempDir(t), 'vm-1');
      identity.storeBearer('its-own');
      const life = aLife({ identity });
      life.registry.entry = aVm();
      life.registry.server.version = version;
      life.registry.fail(code, 2);
      if (version !== undefined) return assert.rejects(live(life, 4), { code });
      await live(life, 4);
      assert.ok(life.registry.beats.length > 0);
    });
}

test('agents that are refused together retry at different times', async () => {
  const delays: number[] = [];
  for (let n = 0; n < 40; n++) {
    const life = aLife({ vm: aVm({ id: `vm-${n}` }) });
    life.registry.fail('IDENTITY_CONFLICT', 1, 5);
    await live(life, 1);
    delays.push(life.slept[0]!);
  }
  for (const quarter of [0, 1, 2, 3]) {
    const count = delays.filter((ms) => Math.floor((4 * (ms - 5000)) / 5000) === quarter).length;
    assert.ok(count >= 3, `${count} retries in quarter ${quarter}`);
  }
});

test('an agent does not retry after a bug', async () => {
  const life = aLife();
  life.registry.register = async () => {
    throw new TypeError('not a function');
  };
  await assert.rejects(live(life, 1), TypeError);
});

test('an agent that only sends heartbeats does not register', async () => {
  const life = aLife({ announce: false });
  life.registry.entry = aVm();
  await live(life, 2);
  assert.deepEqual(life.registry.asked, ['heartbeat', 'heartbeat']);
});

test('an agent that may not register ends if the registry does not know the VM', async () => {
  const life = aLife({ announce: false, registerIfMissing: false });
  await assert.rejects(live(life, 1), { code: 'NOT_FOUND' });
});

test('each accepted heartbeat is reported', async () => {
  const ids: string[] = [];
  const life = aLife({ onHeartbeat: ({ id }) => void ids.push(id) });
  await live(life, 3);
  assert.deepEqual(ids, ['vm-1', 'vm-1']);
});

test('an agent ignores the failure of a request that was in flight when it was stopped', async () => {
  const life = aLife();
  const controller = new AbortController();
  life.registry.register = async () => {
    controller.abort();
    throw new Error('ended by SIGTERM');
  };
  await new Agent(life.options).run(controller.signal);
  assert.deepEqual(life.warnings, []);
});

test('an agent that signs off declares its VM stopped', async () => {
  const life = aLife();
  life.registry.entry = aVm();
  await new Agent(life.options).deregister();
  assert.deepEqual(life.registry.asked, ['update']);
  assert.equal(life.registry.entry.status, 'stopped');
});

test('an agent that signs off with deregister removes its entry', async () => {
  const life = aLife({ onExit: 'deregister' });
  life.registry.entry = aVm();
  await new Agent(life.options).deregister();
  assert.equal(life.registry.entry, undefined);
});

test('an agent that signs off with keep sends nothing', async () => {
  const life = aLife({ onExit: 'keep' });
  life.registry.entry = aVm();
  await new Agent(life.options).deregister();
  assert.deepEqual(life.registry.asked, []);
  assert.deepEqual(life.registry.entry, aVm());
});

for (const onExit of ['stopped', 'deregister'] as const) {
  for (const code of ['UNREACHABLE', 'NOT_FOUND', 'UNAUTHORIZED'] as const) {
    test(`signing off with ${onExit} does not fail on ${code}`, async () => {
      const life = aLife({ onExit });
      life.registry.fail(code);
      await new Agent(life.options).deregister();
      assert.deepEqual(life.warnings, [
        `could not report to the registry that this VM is stopping: the registry says ${code}`,
      ]);
    });
  }
}
