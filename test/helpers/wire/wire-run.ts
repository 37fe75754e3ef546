/** Sends sequences of requests to the app and to the model, and compares the responses. */
import assert from 'node:assert/strict';
import { Agent, type IncomingMessage, request } from 'node:http';
import { buffer } from 'node:stream/consumers';
import type { TestContext } from 'node:test';
import fc from 'fast-check';
import { Registry } from '../../../daemon/registry/registry.ts';
import type { Imported, Why } from '../../../src/protocol/api.ts';
import { CHANGE_TYPES, type History } from '../../../src/protocol/events.ts';
import { formatPosition } from '../../../src/protocol/position.ts';
import { serveApp } from '../app.ts';
import { FakeClock } from '../clock.ts';
import { MemoryStore } from '../memory-store.ts';
import { type Asked, type Expected, type Fields, type ModelLimits, WireModel } from './wire-model.ts';
import { type Step, step } from './wire-requests.ts';

/** Small limits, so that the requests of a run reach them. */
const LIMITS: ModelLimits = { maxBody: 4096, maxEntry: 2048, maxVms: 3, maxTotal: 5000, lease: 1000 };

interface Answered {
  status: number;
  headers: IncomingMessage['headers'];
  /** Parsed if it is JSON. */
  body: unknown;
}

export interface RunOptions {
  steps: number;
  runs: number;
  seed: number;
  /** Plants a bug in the registry that the run must find. */
  plant?: (registry: Registry) => void;
  /** Called with each expected response. */
  seen?: (expected: Expected) => void;
}

/**
 * Runs many sequences.
 * @throws Error with the seed, the shortest sequence after which app and model differ, and the difference
 */
export async function checkWire({ steps, runs, seed, plant, seen }: RunOptions): Promise<void> {
  const { failed, counterexample, errorInstance } = await fc.check(
    fc.asyncProperty(fc.array(step, { maxLength: steps, size: 'max' }), async (sequence) => {
      await runSequence(sequence, plant, seen);
    }),
    { seed, numRuns: runs },
  );
  if (!failed) return;
  const lines = (counterexample?.[0] ?? []).map((each) =>
    each.do === 'ask' ? told(each.asked) : `${each.do} ${each.ms} ms`,
  );
  const { message, stack } = errorInstance as Error;
  const text = [`the wire and its model disagree, with seed ${seed}, after`, ...lines, message, stack].join('\n  ');
  throw new Error(text, { cause: errorInstance });
}

function told(asked: Asked): string {
  const { method, headers, body } = asked;
  return `${method} ${urlOf(asked)} ${JSON.stringify(headers)} ${body}`.slice(0, 500);
}

async function runSequence(
  sequence: readonly Step[],
  plant: RunOptions['plant'] = () => {},
  seen: RunOptions['seen'] = () => {},
): Promise<void> {
  const ends: (() => unknown)[] = [];
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  try {
    const clock = new FakeClock();
    const store = new MemoryStore();
    const options = { store, clock, staleAfter: LIMITS.lease, limits: LIMITS };
    const registry = new Registry(options, store.contents());
    plant(registry);
    const scope = { after: (end: () => unknown) => void ends.push(end) } as Pick<TestContext, 'after'>;
    const { at, logged } = await serveApp(scope, { registry, limits: { maxBody: LIMITS.maxBody } });
    const model = new WireModel(clock.wall, LIMITS);
    model.mayHaveWaited = (heardAt) => clock.mayHaveWaited(heardAt);
    const exchange = async (asked: Asked) => {
      const expected = model.answer(asked);
      compare(asked, await ask(agent, at, withEtags(asked, store)), expected, { revision: model.revision, store });
      seen(expected);
    };
    for (const each of sequence) {
      if (each.do === 'ask') await exchange(each.asked);
      else {
        if (each.do === 'pass') clock.pass(each.ms);
        else {
          // No sign of life has the time of the pause, because the real clock has a resolution below a microsecond.
          clock.heard += 1;
          clock.miss(each.ms);
        }
        model.wall = clock.wall;
        model.heard = clock.heard;
      }
    }
    for (const path of statePaths(model)) await exchange({ method: 'GET', path, query: [], headers: {}, body: NONE });
    compareEvents(registry, model);
    await registry.saveHeartbeats();
    const reopened = new Registry(options, store.contents());
    const texts = reopened.list({}).map(({ json }) => JSON.parse(json) as Fields);
    assert.deepEqual(
      texts,
      model.vms.toReversed().map((vm) => model.json(vm)),
      'after a restart',
    );
    assert.equal(reopened.revision, model.revision);
    const failures = logged.filter((line) => (JSON.parse(line) as { level: number }).level >= 40);
    assert.deepEqual(failures, [], 'the log');
  } finally {
    agent.destroy();
    for (const end of ends) await end();
  }
}

const NONE = Buffer.alloc(0);

/** @returns paths that read the whole state: the list, each VM with its history, and the live VMs of each role */
function statePaths({ vms }: WireModel): string[][] {
  const each = vms.map(({ vm }) => vm.id as string);
  return [
    ['registry', 'vms'],
    ...each.map((id) => ['registry', 'vms', id]),
    ...each.map((id) => ['registry', 'vms', id, 'history']),
    ...['infra', 'worker', 'golden'].map((role) => ['registry', 'discover', role]),
  ];
}

function compareEvents(registry: Registry, model: WireModel): void {
  const changes = registry.events.since(0)!.filter(({ type }) => (CHANGE_TYPES as readonly string[]).includes(type));
  assert.deepEqual(
    changes.map(({ revision, type, id }) => ({ revision, type, id })),
    model.journal.toReversed().map(({ id, item: { revision, type } }) => ({ revision, type, id })),
    'the events',
  );
}

/** Replaces the revisions in `If-Match`, which the model knows, by ETags. */
function withEtags(asked: Asked, { positions }: MemoryStore): Asked {
  const match = asked.headers['if-match']?.replace(/"(\d+)"/g, (_, digits) => {
    const revision = Number(digits);
    return `"${formatPosition(positions.find((each) => each.revision === revision) ?? { revision, tag: 'f'.repeat(16) })}"`;
  });
  return match === undefined ? asked : { ...asked, headers: { ...asked.headers, 'if-match': match } };
}

/** Probes, the page and plain heartbeats have no position. */
function mayLackPosition({ path }: Asked): boolean {
  return path[0] === 'health' || path[0] === 'ui' || path.at(-1) === 'heartbeat' || path.at(-1) === 'heartbeats';
}

const WEAK_TAG = /^W\/"[0-9a-f]{16}"$/;

function compare(
  asked: Asked,
  answer: Answered,
  expected: Expected,
  { revision, store }: { revision: number; store: MemoryStore },
): void {
  const what = `${asked.method} ${urlOf(asked)} ${asked.body}`.slice(0, 500);
  const { status, headers, body } = answer;
  assert.equal(status, expected.status, `${what} got ${status}: ${JSON.stringify(body)}`);
  const position = headers['x-vreg-position'];
  if (position !== undefined || !mayLackPosition(asked)) assert.equal(position, store.positionAt(revision), what);
  if (expected.etag === 'weak') assert.match(headers.etag ?? '', WEAK_TAG, what);
  else if (expected.etag !== 'any')
    assert.equal(headers.etag, expected.etag === undefined ? undefined : `"${store.positionAt(expected.etag)}"`, what);
  if (asked.method === 'HEAD') return;
  if (expected.code === undefined) {
    if (expected.body !== undefined)
      assert.deepEqual(withoutLag(plain(asked, body), expected.body), expected.body, what);
    return;
  }
  const { error, code, field } = body as { error: unknown; code: unknown; field?: string };
  assert.ok(typeof error === 'string' && error.length > 5, what);
  assert.equal(code, expected.code, what);
  if (status === 405) assert.match(headers.allow ?? '', /^[A-Z]+(, [A-Z]+)*$/, what);
  const named = expected.fields ?? [];
  if (named.length === 0) return;
  assert.ok(
    named.some((name) => field === name || field?.startsWith(`${name}[`)),
    `${what} was refused because of ${field}, not one of ${named}`,
  );
}

/** Removes the texts for people, and positions, from a response. */
function plain({ path }: Asked, body: unknown): unknown {
  if (path[1] === 'import') {
    const { entries, ...rest } = body as Imported;
    return { ...rest, entries: entries.map(({ error: _error, hint: _hint, field: _field, ...outcome }) => outcome) };
  }
  if (path[3] === 'history') {
    const { history, ...rest } = body as History;
    return { ...rest, history: history.map(({ position: _position, ...item }) => item) };
  }
  if (path[3] !== 'why') return body;
  const { id, offered, reasons } = body as Why;
  return { id, offered, codes: reasons.map(({ code }) => code) };
}

/**
 * In a response with several VMs, `lastSeen` may be that of an earlier heartbeat. The responses with one VM check it exactly.
 * @returns the body with the expected `lastSeen` where that is later
 */
function withoutLag(body: unknown, expected: unknown): unknown {
  const { vms } = body as { vms?: Fields[] };
  const expectedVms = (expected as { vms?: Fields[] }).vms;
  if (!Array.isArray(vms) || !Array.isArray(expectedVms) || vms.length < 2) return body;
  const current = expectedVms.map(({ lastSeen }) => String(lastSeen));
  return {
    ...(body as Fields),
    vms: vms.map((vm, index) => (String(vm.lastSeen) < current[index]! ? { ...vm, lastSeen: current[index] } : vm)),
  };
}

function urlOf({ path, query }: Asked): string {
  const encode = (text: string) => encodeURIComponent(text.toWellFormed());
  const pairs = query.map(([name, value]) => `${name}=${encode(value)}`);
  return `/${path.map(encode).join('/')}${pairs.length > 0 ? `?${pairs.join('&')}` : ''}`;
}

async function ask(agent: Agent, at: { host: string; port: number }, asked: Asked): Promise<Answered> {
  const { method, headers, body } = asked;
  const length = headers['transfer-encoding'] || body.length === 0 ? {} : { 'content-length': body.length };
  const answer = await new Promise<IncomingMessage>((resolve, reject) => {
    const sent = request(
      { agent, ...at, method, path: urlOf(asked), headers: { ...headers, ...length, 'x-vreg-client': '1' } },
      resolve,
    );
    sent.on('error', reject);
    sent.end(body);
  });
  const text = (await buffer(answer)).toString();
  const isJson = answer.headers['content-type']?.startsWith('application/json') === true && text !== '';
  return { status: answer.statusCode!, headers: answer.headers, body: isJson ? JSON.parse(text) : text };
}
