/** The requests of an agent with an identity, and their order. */
import assert from 'node:assert/strict';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { assertMayReplace, createCloneHandler } from '../../../daemon/agent/clone.ts';
import { Identity, type IdentityState, readIdentityStates } from '../../../daemon/agent/identity.ts';
import { RegistrySession } from '../../../daemon/agent/registry-session.ts';
import { logMask } from '../../../daemon/process/log.ts';
import { type ErrorCode, VregError } from '../../../src/protocol/errors.ts';
import { aLife, FakeRegistry, INTERVAL, LEASE, live } from '../../helpers/agent/agent-life.ts';
import { tempDir } from '../../helpers/daemon.ts';
import { aVm } from '../../helpers/vm.ts';

const CONFLICT = new VregError('IDENTITY_CONFLICT', 'another lives');

function provenLife(t: TestContext, registry = new FakeRegistry()) {
  const identity = Identity.open(tempDir(t), 'vm-1');
  return { identity, life: aLife({ identity }, registry) };
}

/** An agent after a restart: the registry knows its VM, and it has an identity token. */
async function knownLife(t: TestContext) {
  const { identity, life } = provenLife(t);
  await live(life, 1);
  life.registry.asked.length = 0;
  life.slept.length = 0;
  return { identity, life };
}

test('an agent without a token registers and then proves itself', async (t) => {
  const { life } = provenLife(t);
  await live(life, 3);
  assert.deepEqual(life.registry.asked, ['register', 'heartbeat', 'heartbeat', 'heartbeat']);
  const [first, second, third] = life.registry.beats;
  assert.deepEqual([first?.spend, second?.spend, third?.spend], [undefined, first?.next, second?.next]);
  assert.equal(first?.address, life.options.vm.address);
});

test('an agent with a token proves itself before it changes anything', async (t) => {
  const { life } = await knownLife(t);
  life.registry.entry = aVm({ address: 'old.test' });
  await live(life, 1);
  assert.deepEqual(life.registry.asked, ['heartbeat', 'get', 'update']);
  life.registry.asked.length = 0;
  life.registry.fail('IDENTITY_CONFLICT');
  await assert.rejects(live(life, 3), { code: 'IDENTITY_CONFLICT' });
  assert.deepEqual(life.registry.asked, ['heartbeat'], 'a clone changes nothing');
});

test('metadata of the environment are added to the entry, and replace none of its other metadata', async (t) => {
  const { life } = await knownLife(t);
  const { registry } = life;
  const liveOnce = async () => {
    registry.asked.length = 0;
    life.slept.length = 0;
    await live(life, 1);
  };
  life.options.addedMetadata = { commitId: 'c1' };
  life.options.vm = aVm();
  registry.entry = aVm({ metadata: { task: 'x', commitId: 'c0' } });
  await liveOnce();
  assert.deepEqual(life.registry.entry?.metadata, { task: 'x', commitId: 'c1' });
  await liveOnce();
  assert.deepEqual(registry.asked, ['heartbeat', 'get'], 'an entry with these metadata is up to date');
  registry.entry = undefined;
  life.options.vm = aVm({ metadata: { zone: 'a' } });
  await liveOnce();
  assert.deepEqual(life.registry.entry?.metadata, { commitId: 'c1', zone: 'a' });
});

test('an agent whose entry is up to date changes nothing', async (t) => {
  const { life } = await knownLife(t);
  await live(life, 1);
  assert.deepEqual(life.registry.asked, ['heartbeat', 'get']);
});

test('an agent continues its chain of tokens if the registry has lost its VM', async (t) => {
  const { life } = await knownLife(t);
  await live(life, 2, (sleep) => {
    if (sleep === 1) life.registry.entry = undefined;
  });
  assert.deepEqual(life.registry.asked, ['heartbeat', 'get', 'heartbeat', 'register', 'heartbeat']);
  const [, , before, again] = life.registry.beats;
  assert.deepEqual([again?.spend, again?.next], [before?.spend, before?.next]);
});

/** An agent that has adopted a position, and a registry that answers each further heartbeat as given. */
async function adoptedLife(t: TestContext) {
  let now = Date.parse('2026-01-01T00:00:00.000Z');
  const life = aLife({ identity: Identity.open(tempDir(t), 'vm-1', { now: () => now }) });
  const { registry } = life;
  registry.server.position = A;
  registry.answerOf = (beat) => (beat?.position === registry.server.position ? { history: 'same' } : {});
  await live(life, 2);
  now += LEASE;
  registry.asked.length = 0;
  life.slept.length = 0;
  life.options.announce = false;
  return life;
}

const [A, B] = [`9-${'a'.repeat(16)}`, `4-${'b'.repeat(16)}`];

test('an agent whose position is of another history reports once within an interval, and leaves a paused VM paused', async (t) => {
  const life = await adoptedLife(t);
  const { registry } = life;
  registry.server.position = B;
  registry.answerOf = (beat) => ({ history: beat?.position === B ? 'same' : 'other' });
  registry.entry = aVm({ address: 'old.test', status: 'paused', services: [] });
  await live(life, 4);
  assert.deepEqual(registry.asked, ['heartbeat', 'get', 'update', 'heartbeat', 'heartbeat']);
  assert.deepEqual([registry.entry?.address, registry.entry?.status], [life.options.vm.address, 'paused']);
  assert.deepEqual(registry.entry?.services, life.options.vm.services);
  assert.ok(life.slept[0]! + life.slept[1]! <= INTERVAL, 'the report does not delay the next heartbeat');
  assert.ok(life.slept[0]! > 0 && life.slept[1]! > 0, 'the report is at another time than the heartbeats');
  assert.deepEqual(
    registry.beats.slice(-3).map((beat) => [beat?.position, beat?.leftPosition]),
    [
      [A, undefined],
      [B, A],
      [B, A],
    ],
  );
  assert.equal(life.warnings.length, 1);
  assert.match(life.warnings[0]!, /restored from a backup, rewound or replaced; reporting this VM again/);
});

test('reports of a fleet are spread over the interval', async (t) => {
  const delays: number[] = [];
  for (let n = 0; n < 40; n++) {
    const life = await adoptedLife(t);
    life.options.vm = aVm({ id: `vm-${n}` });
    await live(life, 3, (sleep) => {
      if (sleep === 1) life.registry.answerOf = () => ({ history: 'other' });
    });
    delays.push(life.slept[1]!);
  }
  for (const quarter of [0, 1, 2, 3]) {
    const count = delays.filter((ms) => Math.floor((4 * ms) / INTERVAL) === quarter).length;
    assert.ok(count >= 3, `${count} reports in quarter ${quarter}`);
  }
});

test('an agent adopts a position only when its report is acknowledged, and a failed report does not stop heartbeats', async (t) => {
  const life = await adoptedLife(t);
  const { registry } = life;
  registry.server.position = B;
  registry.answerOf = (beat) => ({ history: beat?.position === B ? 'same' : 'other' });
  registry.entry = aVm({ address: 'old.test' });
  let failures = 0;
  const update = registry.update.bind(registry);
  registry.update = async (id, changes) => {
    if (failures++ < 2) throw new VregError('STORE_FULL', 'the disk is full');
    return update(id, changes);
  };
  await live(life, 8);
  const sent = registry.beats.slice(-5).map((beat) => beat?.position);
  assert.deepEqual(sent, [A, A, A, B, B]);
  assert.equal(registry.entry?.address, life.options.vm.address);
  assert.deepEqual(
    life.warnings.filter((message) => message.includes('could not refresh')),
    ['could not refresh the registry entry of this VM: the disk is full'],
  );
});

test('an agent whose position is unknown, or that has none yet, compares its entry once and logs nothing', async (t) => {
  const life = await adoptedLife(t);
  const { registry } = life;
  registry.server.position = B;
  registry.answerOf = (beat) => ({ history: beat?.position === B ? 'same' : 'unknown' });
  registry.entry = aVm({ ...life.options.vm, address: 'old.test' });
  life.infos.length = 0;
  await live(life, 4);
  assert.deepEqual(registry.asked, ['heartbeat', 'get', 'update', 'heartbeat', 'heartbeat']);
  assert.deepEqual([life.infos, life.warnings], [[], []]);
  let state: IdentityState = { vm: 'vm-1', token: `3.${'a'.repeat(32)}`, registry: { id: 'r', revision: 7 } as object };
  const store = {
    read: () => state,
    write: (next: IdentityState) => {
      state = next;
    },
  };
  const old = aLife({ identity: Identity.open(store, 'vm-1'), announce: false });
  old.registry.entry = old.options.vm;
  old.registry.server.position = A;
  old.registry.answerOf = (beat) => (beat?.position === undefined ? {} : { history: 'same' });
  await live(old, 4);
  assert.deepEqual(old.registry.asked, ['heartbeat', 'get', 'heartbeat', 'heartbeat']);
  assert.deepEqual([old.infos, old.warnings], [[], []]);
});

test('a report restores the parent of the VM', async (t) => {
  const life = await adoptedLife(t);
  const { registry } = life;
  life.options.vm = aVm({ id: 'vm-1', parentId: 'golden' });
  registry.server.position = B;
  registry.answerOf = (beat) => ({ history: beat?.position === B ? 'same' : 'other' });
  await live(life, 3);
  assert.deepEqual(registry.asked.at(2), 'put');
  assert.equal(registry.entry?.parentId, 'golden');
});

test('if a proxy removes the position from responses, the agent reports at most once per lease', async (t) => {
  const life = await adoptedLife(t);
  const { registry } = life;
  registry.server.position = undefined;
  registry.answerOf = () => ({ history: 'other' });
  await live(life, 9);
  assert.equal(registry.asked.filter((what) => what === 'get').length, 1);
  assert.equal(registry.asked.filter((what) => what === 'heartbeat').length, 8);
});

test('the health of services is reported with each heartbeat', async (t) => {
  const { life } = provenLife(t);
  life.options.health = () => ({ api: 'failing' });
  await live(life, 2);
  assert.deepEqual(
    life.registry.beats.map((beat) => beat?.health),
    [{ api: 'failing' }, { api: 'failing' }],
  );
});

test('an agent with a full disk repeats its last proof, warns once, and continues its chain of tokens later', async () => {
  let isFull = false;
  let state: IdentityState = { vm: 'vm-1' };
  const store = {
    read: () => state,
    write: (next: IdentityState) => {
      if (isFull) throw new VregError('STORE_UNUSABLE', 'no room');
      state = next;
    },
  };
  const life = aLife({ identity: Identity.open(store, 'vm-1') });
  await live(life, 6, (sleep) => {
    isFull = sleep === 2 || sleep === 3;
  });
  const [, accepted, ...later] = life.registry.beats;
  assert.deepEqual(
    later.slice(0, 2).map((beat) => [beat?.spend, beat?.next]),
    Array(2).fill([accepted?.spend, accepted?.next]),
  );
  assert.equal(later[2]?.spend, accepted?.next);
  assert.equal(later[3]?.spend, later[2]?.next);
  assert.equal(life.warnings.length, 1);
  assert.match(
    life.warnings[0]!,
    /no room; sending heartbeats without a new proof of identity until the state file can be written/,
  );
});

test('the original registry gets plain heartbeats', async (t) => {
  const { life } = provenLife(t);
  life.registry.isVreg = async () => false;
  await live(life, 2);
  assert.deepEqual(life.registry.beats, [undefined, undefined]);
});

test('an agent that knew the registry as vreg keeps its proof and warns once when answers carry no version', async (t) => {
  const { life } = provenLife(t);
  const { registry } = life;
  registry.server.position = A;
  await live(life, 5, (sleep) => {
    // A proxy that removes the headers of vreg.
    if (sleep === 2) registry.server.position = undefined;
    if (sleep === 2) registry.isVreg = async () => false;
  });
  assert.equal(registry.beats.length, 5);
  assert.ok(registry.beats.every((proof) => proof?.next !== undefined));
  assert.equal(life.warnings.length, 1);
  assert.match(life.warnings[0]!, /no longer identifies itself as vreg.*vreg doctor/);
});

test('the state of an agent says that the registry rejected its proof, until it accepts one', async (t) => {
  const dir = tempDir(t);
  const life = aLife({ identity: Identity.open(dir, 'vm-1') });
  const isRefused = () => readIdentityStates(dir, 'vm-1').at(-1)!.isRefused;
  await live(life, 1);
  assert.equal(isRefused(), undefined);
  life.registry.fail('IDENTITY_CONFLICT');
  await assert.rejects(live(life, 2), { code: 'IDENTITY_CONFLICT' });
  assert.equal(isRefused(), true);
  await live(aLife({ identity: Identity.open(dir, 'vm-1') }, life.registry), 1);
  assert.equal(isRefused(), undefined);
});

function cloneOptions(t: TestContext, more: Partial<Parameters<typeof createCloneHandler>[0]> = {}) {
  const warnings: string[] = [];
  const identity = Identity.open(tempDir(t), 'vm-1');
  const options = {
    policy: 'rebirth' as const,
    hooks: [],
    identity,
    vm: aVm({ id: 'vm-1' }),
    vmOf: (id: string) => aVm({ id }),
    onRebirth: () => {},
    log: { info: () => {}, warn: (_fields: object, message: string) => void warnings.push(message) },
    ...more,
  };
  return { options, warnings, identity };
}

test('a clone takes a new id with the old one as parent, and a failing hook is only logged', async (t) => {
  const { options, warnings } = cloneOptions(t, { hooks: ['exit 3', 'test "$VREG_OLD_ID" = vm-1'] });
  const { vm, identity } = await createCloneHandler(options)(CONFLICT);
  assert.match(vm!.id, /^vm-[0-9a-f]{16}$/);
  assert.deepEqual([vm!.parentId, identity!.id], ['vm-1', vm!.id]);
  assert.equal(warnings.filter((warning) => warning.includes('--rebirth-hook failed')).length, 1);
});

test('the error of a failed command quotes only its last line, without secrets', async (t) => {
  logMask.add('chosen-secret');
  const command = 'set -x; : chosen-secret; set +x; echo "Bearer chosen-secret is wrong" >&2; kill $$';
  const quoted = / exited with SIGTERM: Bearer \*\*\* is wrong$/;
  const { options, warnings } = cloneOptions(t, { hooks: [command] });
  await createCloneHandler(options)(CONFLICT);
  assert.match(warnings[1]!, quoted);
  await assert.rejects(createCloneHandler({ ...options, idCommand: command })(CONFLICT), { message: quoted });
});

for (const [idCommand, why] of [
  ['exit 1', /its --id-command exited with 1$/],
  ['true', /printed nothing/],
  ['echo vm-1', /printed the old id/],
  ['echo a; echo b', /more than one line/],
] as const) {
  test(`an unusable --id-command ends the agent of a clone: ${idCommand}`, async (t) => {
    const { options } = cloneOptions(t, { idCommand });
    await assert.rejects(createCloneHandler(options)(CONFLICT), { code: 'IDENTITY_CONFLICT', message: why });
  });
}

test('a clone with --on-clone replace takes the identity over with its next heartbeat, once', async (t) => {
  const { options, identity } = cloneOptions(t, { policy: 'replace' });
  const resolve = createCloneHandler(options);
  await resolve(CONFLICT);
  assert.equal(identity.nextProof().replace, true);
  identity.confirmProof();
  assert.equal(identity.nextProof().replace, undefined);
  await assert.rejects(resolve(CONFLICT), { code: 'IDENTITY_CONFLICT' });
});

test('an enrolled VM uses its own token, also after a restart', async (t) => {
  const dir = tempDir(t);
  const registry = new FakeRegistry();
  registry.gives = 'its-own';
  await live(aLife({ identity: Identity.open(dir, 'vm-1') }, registry), 2);
  assert.equal(registry.token, 'its-own');
  registry.token = undefined;
  await live(aLife({ identity: Identity.open(dir, 'vm-1') }, registry), 1);
  assert.equal(registry.token, 'its-own');
  assert.deepEqual(registry.asked.filter((what) => what === 'register').length, 1);
});

test('a VM whose own token is refused enrols again, or keeps its token if that is refused, too', async (t) => {
  const { identity, life } = provenLife(t);
  const { registry } = life;
  const once = () => live({ ...life, slept: [] }, 1);
  registry.gives = 'first';
  await once();
  registry.fail('UNAUTHORIZED');
  registry.fail('FORBIDDEN', 1, undefined, 'scope');
  await once();
  assert.deepEqual([registry.token, identity.bearer], ['first', 'first'], 'the registry still knows the VM');
  assert.match(life.warnings.join(), /refuses this VM's own token.*VM already registered/s);
  registry.entry = undefined;
  registry.gives = 'second';
  registry.fail('UNAUTHORIZED');
  registry.fail('FORBIDDEN', 1, undefined, 'scope');
  await once();
  assert.deepEqual([registry.token, identity.bearer], ['second', 'second']);
});

test('an enrolled VM whose invalid token is throttled enrols again, too', async (t) => {
  const { life, identity } = provenLife(t);
  const { registry } = life;
  registry.gives = 'first';
  await live(life, 1);
  registry.entry = undefined;
  registry.gives = 'second';
  registry.fail('TOO_MANY_REQUESTS', 1, 30, 'authorization');
  registry.fail('FORBIDDEN', 1, undefined, 'scope');
  await live({ ...life, slept: [] }, 1);
  assert.deepEqual([registry.token, identity.bearer], ['second', 'second']);
});

test('an enrolled VM retains the token that was replaced, because two registries may respond in turn', async (t) => {
  const dir = tempDir(t);
  const identity = Identity.open(dir, 'vm-1');
  const { registry, ...life } = aLife({ identity });
  const tokens: string[] = [];
  life.options.onToken = (token) => void tokens.push(token);
  for (const gives of ['of-one', 'of-two']) {
    registry.gives = gives;
    registry.entry = undefined;
    registry.fail('UNAUTHORIZED', gives === 'of-one' ? 0 : 1);
    registry.fail('FORBIDDEN', 1, undefined, 'scope');
    await live({ ...life, registry, slept: [] }, 1);
  }
  registry.asked.length = 0;
  registry.fail('UNAUTHORIZED');
  await live({ ...life, registry, slept: [] }, 1);
  assert.deepEqual([registry.token, identity.bearer, identity.otherBearer], ['of-one', 'of-one', 'of-two']);
  assert.deepEqual(tokens, ['of-one', 'of-two', 'of-one'], 'scripts use the token that was accepted last');
  const { bearer, otherBearer } = Identity.open(dir, 'vm-1');
  assert.deepEqual([bearer, otherBearer], ['of-one', 'of-two']);
  assert.ok(!registry.asked.includes('register'));
});

test('an enrolled VM is not rejected for its own heartbeats, whatever its address', async (t) => {
  const { life, identity } = provenLife(t);
  const { registry } = life;
  registry.gives = 'its-own';
  await live(life, 1);
  const session = new RegistrySession({ ...life.options, identity });
  const refused = (code: ErrorCode, retryAfter?: number) => {
    registry.fail('UNAUTHORIZED');
    registry.fail('FORBIDDEN', 1, undefined, 'scope');
    registry.fail(code, 1, retryAfter);
    return session.heartbeat();
  };
  await assert.rejects(refused('CONFLICT', 4), { code: 'IDENTITY_CONFLICT', retryAfter: 4 });
  await session.heartbeat();
  await assert.rejects(refused('IDENTITY_CONFLICT'), { code: 'UNAUTHORIZED' });
  await assert.rejects(refused('IDENTITY_CONFLICT'), { code: 'IDENTITY_CONFLICT' }, 'nothing was accepted in between');
});

test('a lost response before the disk of the VM is full does not make the VM another incarnation', async () => {
  let isFull = false;
  let state: IdentityState = { vm: 'vm-1' };
  const store = {
    read: () => state,
    write: (next: IdentityState) => {
      if (isFull) throw new VregError('STORE_UNUSABLE', 'cannot write the state (ENOSPC)');
      state = next;
    },
  };
  const life = aLife({ identity: Identity.open(store, 'vm-1') });
  const { registry } = life;
  await live(life, 4, (sleep) => {
    if (sleep === 2) registry.fail('UNREACHABLE');
    if (sleep === 3) isFull = true;
  });
  const [accepted, lost, repeated] = registry.beats.slice(-3);
  assert.deepEqual([lost?.spend, repeated?.spend], [accepted?.next, accepted?.next]);
  assert.equal(repeated?.next, lost?.next);
});

test('an enrolled VM that may not enrol again yet is a conflict that is undecided', async (t) => {
  const { life, identity } = provenLife(t);
  const { registry } = life;
  registry.gives = 'its-own';
  await live(life, 1);
  const session = new RegistrySession({ ...life.options, identity });
  registry.fail('UNAUTHORIZED');
  registry.fail('FORBIDDEN', 1, undefined, 'scope');
  registry.fail('CONFLICT', 1, 4);
  await assert.rejects(session.heartbeat(), { code: 'IDENTITY_CONFLICT', retryAfter: 4 });
});

for (const [self, isRefused] of [
  [{ scope: 'heartbeat' }, true],
  [{ scope: 'register' }, true],
  [{ scope: 'write', vm: 'vm-2' }, true],
  [{ scope: 'write', vm: 'vm-1' }, false],
  [{ scope: 'admin' }, false],
  [{ scope: 'enrol' }, false],
] as const) {
  test(`--on-clone replace with ${JSON.stringify(self)} is ${isRefused ? 'refused' : 'accepted'}`, async () => {
    const client = { useToken: () => {}, whoami: async () => ({ name: 'a', ...self }) };
    const checked = assertMayReplace(client, { id: 'vm-1', bearer: undefined });
    if (isRefused) await assert.rejects(checked, { code: 'USAGE', exit: 5, field: 'on-clone' });
    else await checked;
  });
}

test('--on-clone replace is accepted if the registry does not know the scope, and checked again after an outage', async () => {
  const client = (code: ErrorCode) => ({
    useToken: () => {},
    whoami: () => Promise.reject(new VregError(code, 'no')),
  });
  await assertMayReplace(client('UNSUPPORTED'), { id: 'vm-1', bearer: undefined });
  await assert.rejects(assertMayReplace(client('UNREACHABLE'), { id: 'vm-1', bearer: undefined }), {
    code: 'UNREACHABLE',
  });
});

test('a clone does not use the token of the original VM under its new id', async (t) => {
  const { identity, life } = provenLife(t);
  life.registry.gives = 'of-the-first';
  await live(life, 1);
  const reborn = identity.rebirth('vm-2');
  assert.equal(reborn.bearer, undefined);
});

test('an invalid bearer token in the state is ignored', (t) => {
  const dir = tempDir(t);
  const warnings: string[] = [];
  Identity.open(dir, 'vm-1').nextProof();
  const [file] = readdirSync(dir);
  writeFileSync(join(dir, file!), JSON.stringify({ vm: 'vm-1', bearer: 7 }));
  assert.equal(Identity.open(dir, 'vm-1', { onWarning: (message) => void warnings.push(message) }).bearer, undefined);
  assert.equal(warnings.length, 1);
});

test("the agent's own change moves its position, so that a restore of the state before it is noticed", async (t) => {
  const life = await adoptedLife(t);
  const { registry } = life;
  life.options.announce = true;
  registry.entry = aVm({ address: 'old.test' });
  const after = `10-${'c'.repeat(16)}`;
  const update = registry.update.bind(registry);
  registry.update = async (id, changes) => {
    registry.server.position = after;
    return update(id, changes);
  };
  await live(life, 2);
  assert.equal(registry.beats.at(-1)?.position, after);
});
