/** The probes of supervisors and load balancers. Each state is caused by real requests, or by a store that fails or hangs. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import test from 'node:test';
import { parse } from 'yaml';
import type { Replication } from '../../../../daemon/store/store.ts';
import { VregError } from '../../../../src/protocol/errors.ts';
import { formatChecks, parseChecks } from '../../../../src/protocol/probe.ts';
import { type ServedApp, serveApp } from '../../../helpers/app.ts';
import { FakeClock } from '../../../helpers/clock.ts';
import { Connection } from '../../../helpers/connection.ts';
import { tempDir } from '../../../helpers/daemon.ts';
import { call } from '../../../helpers/http.ts';
import { MemoryStore } from '../../../helpers/memory-store.ts';
import { aVm } from '../../../helpers/vm.ts';

const TOKEN = 's3cret';

/** A store whose disk does not answer. */
class HungStore extends MemoryStore {
  #end: (() => void) | undefined;
  /** Reports that the backup has grown. */
  grow: (() => void) | undefined;

  override read(): Promise<void> {
    return new Promise((resolve) => (this.#end = resolve));
  }

  override backup(_path?: string, _signal?: AbortSignal, onProgress?: () => void): Promise<void> {
    if (this.grow) return Promise.reject(new VregError('BUSY', 'another backup is in progress'));
    this.grow = onProgress;
    return new Promise(() => {});
  }

  answer(): void {
    this.#end!();
  }
}

interface Probed {
  status: number;
  type: string | null;
  said: string;
}

async function probe({ url }: Pick<ServedApp, 'url'>, path: string, token?: string): Promise<Probed> {
  const answer = await fetch(url + path, token === undefined ? {} : { headers: { authorization: `Bearer ${token}` } });
  return { status: answer.status, type: answer.headers.get('content-type'), said: await answer.text() };
}

const words = async (app: ServedApp) => [(await probe(app, '/livez')).said, (await probe(app, '/readyz')).said];

/** A read counts for a second, so the next probe reads again. */
const passReadInterval = ({ clock }: ServedApp) => clock.pass(1000);

test('both probes answer one word without a token, also to HEAD and over the unix socket', async (t) => {
  const socket = join(tempDir(t), 'vreg.sock');
  const app = await serveApp(t, { token: TOKEN, socket });
  for (const path of ['/livez', '/readyz']) {
    assert.deepEqual(await probe(app, path), { status: 200, type: 'text/plain; charset=utf-8', said: 'ok' });
    const head = await fetch(app.url + path, { method: 'HEAD' });
    assert.deepEqual([head.status, head.headers.get('content-length'), await head.text()], [200, '2', '']);
    const said = await new Promise<string>((resolve, reject) => {
      request({ socketPath: socket, path }, (answer) => resolve(text(answer)))
        .on('error', reject)
        .end();
    });
    assert.equal(said, 'ok');
    assert.equal((await call(app.url, 'POST', path, { headers: { authorization: `Bearer ${TOKEN}` } })).status, 405);
  }
});

test('?verbose requires a token, and then lists the checks', async (t) => {
  const app = await serveApp(t, { token: TOKEN });
  for (const path of ['/livez', '/readyz'])
    for (const query of ['?verbose', '?verbose=', '?verbose=true', '?verbose=maybe', '?verbose&verbose']) {
      assert.equal((await probe(app, path + query)).status, 401, path + query);
      assert.equal((await probe(app, path + query, 'wrong')).status, 401, path + query);
    }
  assert.equal((await probe(app, '/readyz?verbose=false')).said, 'ok');
  assert.equal((await probe(app, '/livez?verbose', TOKEN)).said, '[+]event-loop ok\n[+]store ok\nlivez check passed\n');
  const { status, said } = await probe(app, '/readyz?verbose=true', TOKEN);
  assert.equal(status, 200);
  assert.equal(said, '[+]running ok\n[+]store ok\n[+]writes ok\n[+]history ok\n[+]fleet ok\nreadyz check passed\n');
  for (const query of ['?verbose=1', '?verbose=maybe'])
    assert.match((await probe(app, `/livez${query}`, TOKEN)).said, /livez check passed/, query);
  assert.equal((await probe(app, '/livez?verbose&verbose', TOKEN)).status, 400);
});

test('a registry without a token refuses probes from foreign pages and names, as it does for /health', async (t) => {
  const app = await serveApp(t);
  for (const path of ['/health', '/livez', '/readyz', '/readyz?verbose']) {
    const foreign = Connection.open(t, app.at).send(`GET ${path} HTTP/1.1\r\nHost: evil.example\r\n\r\n`);
    assert.equal((await foreign.response()).status, 403, path);
    assert.equal((await fetch(app.url + path, { headers: { origin: 'http://evil.example' } })).status, 403, path);
  }
  assert.equal((await probe(app, '/readyz?verbose')).status, 200);
});

test('a store that cannot be read fails readiness, but not liveness, until it can be read again', async (t) => {
  const store = new MemoryStore();
  const app = await serveApp(t, { token: TOKEN, store });
  assert.deepEqual(await words(app), ['ok', 'ok']);
  store.readFailure = new VregError('STORE_FAILED', 'the registry could not read from its disk: EIO');
  passReadInterval(app);
  const failed = await fetch(`${app.url}/readyz`);
  assert.deepEqual([failed.status, failed.headers.get('retry-after'), await failed.text()], [503, '1', 'unreadable']);
  assert.match(
    (await probe(app, '/readyz?verbose', TOKEN)).said,
    /^\[-\]store the registry could not read from its disk: EIO$/m,
  );
  assert.deepEqual(await probe(app, '/livez'), { status: 200, type: 'text/plain; charset=utf-8', said: 'ok' });
  store.readFailure = undefined;
  passReadInterval(app);
  assert.deepEqual(await words(app), ['ok', 'ok']);
});

test('a store that does not answer is busy at first, then unreadable, and dead after a minute', async (t) => {
  const store = new HungStore();
  const app = await serveApp(t, { token: TOKEN, store });
  assert.deepEqual(await words(app), ['ok', 'ok']);
  app.clock.pass(9999);
  assert.match((await probe(app, '/readyz?verbose', TOKEN)).said, /^\[\+\]store ok, busy for 9 s$/m);
  assert.deepEqual(await words(app), ['ok', 'ok']);
  app.clock.pass(1);
  assert.deepEqual(await words(app), ['ok', 'unreadable']);
  app.clock.pass(50_000);
  assert.deepEqual(await words(app), ['dead', 'unreadable']);
  assert.equal((await probe(app, '/livez')).status, 503);
  assert.match((await probe(app, '/livez?verbose', TOKEN)).said, /^\[-\]store has not answered for 60 s$/m);
  store.answer();
  assert.deepEqual(await words(app), ['ok', 'ok']);
});

test('a store is neither dead nor unreadable during a long backup that grows', async (t) => {
  const store = new HungStore();
  const app = await serveApp(t, { store });
  void app.registry.backup('unused');
  for (let n = 0; n < 20; n++) {
    assert.deepEqual(await words(app), ['ok', 'ok']);
    app.clock.pass(9000);
    store.grow!();
  }
  store.answer();
  assert.deepEqual(await words(app), ['ok', 'ok']);
});

test('a store that dies during a backup is unreadable, and dead after a minute, even if more backups are requested', async (t) => {
  const store = new HungStore();
  const app = await serveApp(t, { store });
  void app.registry.backup('unused');
  assert.deepEqual(await words(app), ['ok', 'ok']);
  app.clock.pass(5000);
  store.grow!();
  app.clock.pass(10_000);
  assert.deepEqual(await words(app), ['ok', 'unreadable']);
  await assert.rejects(app.registry.backup('unused'), { code: 'BUSY' });
  app.clock.pass(50_000);
  assert.deepEqual(await words(app), ['dead', 'unreadable']);
});

test('a failed write makes the registry degraded, but not unready, until a write succeeds', async (t) => {
  const store = new MemoryStore();
  const app = await serveApp(t, { token: TOKEN, store });
  const headers = { authorization: `Bearer ${TOKEN}` };
  store.failure = new VregError('STORE_FULL', 'the disk of the registry is full: nothing was changed');
  assert.equal((await call(app.url, 'POST', '/registry/vms', { body: aVm(), headers })).status, 507);
  assert.deepEqual(await probe(app, '/readyz'), { status: 200, type: 'text/plain; charset=utf-8', said: 'degraded' });
  assert.match(
    (await probe(app, '/readyz?verbose', TOKEN)).said,
    /^\[!\]writes the last write failed: the disk of the registry is full: nothing was changed$/m,
  );
  await app.registry.saveHeartbeats();
  assert.deepEqual(await words(app), ['ok', 'degraded'], 'saved heartbeats do not prove that a change can be written');
  app.clock.pass(5000);
  await app.registry.saveHeartbeats();
  assert.deepEqual(await words(app), ['ok', 'degraded'], 'the trial failed, too');
  store.failure = undefined;
  assert.equal((await call(app.url, 'POST', '/registry/vms', { body: aVm(), headers })).status, 201);
  assert.deepEqual(await words(app), ['ok', 'ok']);
});

test('a registry whose disk has recovered is no longer degraded, even if nobody sends a change', async (t) => {
  const store = new MemoryStore();
  const app = await serveApp(t, { store });
  store.failure = new VregError('STORE_FULL', 'the disk of the registry is full: nothing was changed');
  assert.equal((await call(app.url, 'POST', '/registry/vms', { body: aVm() })).status, 507);
  store.failure = undefined;
  app.clock.pass(4999);
  await app.registry.saveHeartbeats();
  assert.deepEqual(await words(app), ['ok', 'degraded']);
  app.clock.pass(1);
  await app.registry.saveHeartbeats();
  assert.deepEqual(await words(app), ['ok', 'ok']);
});

test('a queue that is full does not make the registry degraded', async (t) => {
  const store = new MemoryStore();
  const app = await serveApp(t, { store });
  store.failure = new VregError('BUSY', 'too many queued changes (limit 1)');
  assert.equal((await call(app.url, 'POST', '/registry/vms', { body: aVm() })).status, 503);
  assert.deepEqual(await words(app), ['ok', 'ok']);
});

test('a registry is warming after a gap while VMs may be dead, and copied if an agent has seen another history', async (t) => {
  const clock = new FakeClock();
  const app = await serveApp(t, { token: TOKEN, clock });
  const headers = { authorization: `Bearer ${TOKEN}` };
  await call(app.url, 'POST', '/registry/vms', { body: aVm({ id: 'w' }), headers });
  clock.miss(1000);
  assert.deepEqual(await words(app), ['ok', 'warming']);
  assert.match(
    (await probe(app, '/readyz?verbose', TOKEN)).said,
    /^\[!\]fleet answers may include dead VMs for another \d+ s$/m,
  );
  const body = { position: `1-${'f'.repeat(16)}` };
  assert.equal((await call(app.url, 'POST', '/registry/vms/w/heartbeat', { body, headers })).status, 200);
  assert.deepEqual(await words(app), ['ok', 'copied']);
  assert.match(
    (await probe(app, '/readyz?verbose', TOKEN)).said,
    /^\[!\]history the agent of 1 VM has seen another history: this registry was restored or copied$/m,
  );
});

const AUTHORIZED = { authorization: `Bearer ${TOKEN}` };
const NO_SPACE = new VregError('STORE_FULL', 'the disk of the registry is full: nothing was changed');

interface Case {
  /** Default: a store without faults. */
  store?: () => MemoryStore;
  /** Brings a registry that was ready into the state. */
  enter?(app: ServedApp, store: MemoryStore): unknown;
  livez: string;
  readyz: string;
  /** The lines of `/readyz?verbose` that are not ok. */
  reasons: readonly string[];
}

/** The states of a registry that has loaded its store. `loading.test.ts` has the state before. */
const STATES: Readonly<Record<string, Case>> = {
  ready: { livez: 'ok', readyz: 'ok', reasons: [] },
  warming: {
    enter: async ({ clock, url }) => {
      await call(url, 'POST', '/registry/vms', { body: aVm(), headers: AUTHORIZED });
      clock.miss(1000);
    },
    livez: 'ok',
    readyz: 'warming',
    reasons: ['[!]fleet'],
  },
  degraded: {
    enter: async ({ url }, store) => {
      store.failure = NO_SPACE;
      await call(url, 'POST', '/registry/vms', { body: aVm(), headers: AUTHORIZED });
    },
    livez: 'ok',
    readyz: 'degraded',
    reasons: ['[!]writes'],
  },
  copied: {
    enter: async ({ url }) => {
      await call(url, 'POST', '/registry/vms', { body: aVm({ id: 'w' }), headers: AUTHORIZED });
      const body = { position: `1-${'f'.repeat(16)}` };
      await call(url, 'POST', '/registry/vms/w/heartbeat', { body, headers: AUTHORIZED });
    },
    livez: 'ok',
    readyz: 'copied',
    reasons: ['[!]history'],
  },
  'a store that cannot be read': {
    enter: (_app, store) => {
      store.readFailure = new VregError('STORE_FAILED', 'the registry could not read from its disk: EIO');
    },
    livez: 'ok',
    readyz: 'unreadable',
    reasons: ['[-]store'],
  },
  'a store that cannot be read or written': {
    enter: async ({ url }, store) => {
      store.failure = NO_SPACE;
      await call(url, 'POST', '/registry/vms', { body: aVm(), headers: AUTHORIZED });
      store.readFailure = new VregError('STORE_FAILED', 'the registry could not read from its disk: EIO');
    },
    livez: 'ok',
    readyz: 'unreadable',
    reasons: ['[-]store', '[!]writes'],
  },
  'a dead store': {
    store: () => new HungStore(),
    enter: async (app) => {
      await words(app);
      app.clock.pass(60_000);
    },
    livez: 'dead',
    readyz: 'unreadable',
    reasons: ['[-]store'],
  },
  'an etcd that does not respond': {
    store: () => new AwayStore(),
    livez: 'ok',
    readyz: 'degraded',
    reasons: ['[!]writes'],
  },
  draining: {
    // It ends when all requests are answered.
    enter: (app) => void app.close(),
    livez: 'ok',
    readyz: 'draining',
    reasons: ['[-]running'],
  },
};

/** A store that other replicas share, and which has not responded for a minute. Reads are served from memory. */
class AwayStore extends MemoryStore {
  override readonly replication = { ...({} as Replication), age: () => 60_000, flushInterval: 1000, follow: () => {} };
}

test('a shared store that does not respond has failed no write', async (t) => {
  const app = await serveApp(t, { token: TOKEN, store: new AwayStore() });
  const { said } = await probe(app, '/readyz?verbose', TOKEN);
  const { result, reason } = parseChecks(said).find(({ name }) => name === 'writes')!;
  assert.deepEqual([result, reason], ['warn', 'the store has not responded for 60 s']);
});

/** Both probes as a client may send them. */
const PROBES = ['/livez', '/readyz'].flatMap((path) =>
  ['', '?verbose'].flatMap((query) =>
    ['GET', 'HEAD'].flatMap((method) =>
      ['', `Authorization: Bearer ${TOKEN}\r\n`].map((authorization) => ({ path, query, method, authorization })),
    ),
  ),
);

for (const [state, { store: open = () => new MemoryStore(), enter, livez, readyz, reasons }] of Object.entries(
  STATES,
)) {
  test(`${state}: /livez answers ${livez}, /readyz answers ${readyz}, and ?verbose tells why to those with a token`, async (t) => {
    const store = open();
    const app = await serveApp(t, { token: TOKEN, store });
    // A registry that drains answers only requests that have begun before, so all begin before the state.
    const begun = PROBES.map((each) => {
      const connection = Connection.open(t, app.at);
      return {
        ...each,
        connection: connection.send(`${each.method} ${each.path}${each.query} HTTP/1.1\r\nHost: a\r\n`),
      };
    });
    await call(app.url, 'GET', '/health');
    await enter?.(app, store);
    const check = async ({ path, query, method, authorization, connection }: (typeof begun)[number]) => {
      const word = path === '/livez' ? livez : readyz;
      const expected = ['dead', 'unreadable', 'draining'].includes(word) ? 503 : 200;
      const { status, headers, text: said } = await connection.send(`${authorization}\r\n`).response(method);
      const what = `${method} ${path}${query}`;
      if (query !== '') {
        assert.equal(status, authorization === '' ? 401 : expected, what);
        if (authorization === '' || path === '/livez' || method === 'HEAD') return;
        const found = said.split('\n').filter((line) => /^\[[-!]\]/.test(line));
        assert.deepEqual(
          found.map((line) => line.split(' ', 1)[0]),
          reasons,
          said,
        );
        return;
      }
      assert.deepEqual([status, said], [expected, method === 'HEAD' ? '' : word], what);
      assert.equal(headers['content-length'], String(word.length), what);
      assert.equal(headers['retry-after'], expected === 503 ? '1' : undefined, what);
    };
    await Promise.all(begun.map(check));
  });
}

test('the checks are parsed as they were formatted', () => {
  const checks = [
    { name: 'store', result: 'ok', reason: 'ok' },
    { name: 'writes', result: 'warn', reason: 'the last write failed: [-]store' },
    { name: 'running', result: 'fail', reason: 'the daemon is shutting down' },
  ] as const;
  const written = formatChecks('readyz', checks);
  assert.match(written, /\nreadyz check failed\n$/);
  assert.deepEqual(parseChecks(written), checks);
  assert.deepEqual(parseChecks('<html>[nothing]</html>'), []);
});

test('the probes in the README ask the routes that answer while the store is loaded', () => {
  const readme = readFileSync(new URL('../../../../daemon/README.md', import.meta.url), 'utf8');
  const example = /```yaml\n(livenessProbe:[^`]+)```/.exec(readme)?.[1];
  assert.ok(example);
  const { livenessProbe, readinessProbe } = parse(example);
  assert.deepEqual([livenessProbe.httpGet.path, readinessProbe.httpGet.path], ['/livez', '/readyz']);
});
