/** Pages of `GET /registry/vms`: cursors, the Link header, and walks during which the fleet changes. */
import assert from 'node:assert/strict';
import test from 'node:test';
import fc from 'fast-check';
import { type ServedApp, serveApp } from '../../../helpers/app.ts';
import { call, errorOf } from '../../../helpers/http.ts';
import { MemoryStore } from '../../../helpers/memory-store.ts';
import { aVm } from '../../../helpers/vm.ts';

interface Page {
  ids: string[];
  next: string | undefined;
}

async function pageOf(url: string, path: string, headers: Record<string, string> = {}): Promise<Page> {
  const answer = await call(url, 'GET', path, { headers });
  assert.equal(answer.status, 200, JSON.stringify(answer.body));
  const { vms, count } = answer.body as { vms: { id: string }[]; count: number };
  assert.equal(count, vms.length);
  const link = answer.headers.get('link');
  const [, next] = /^<(\/registry\/vms\?[^>]+)>; rel="next"$/.exec(link ?? '') ?? [];
  assert.equal(next === undefined, link === null);
  return { ids: vms.map(({ id }) => id), next };
}

/** Reads all pages. @param between called after each page */
async function walk(url: () => string, path: string, between: (page: Page) => unknown = () => {}): Promise<string[][]> {
  const pages: string[][] = [];
  for (let next: string | undefined = path; next !== undefined; ) {
    const page: Page = await pageOf(url(), next);
    pages.push(page.ids);
    await between(page);
    next = page.next;
  }
  return pages;
}

async function withFleet(t: Parameters<typeof serveApp>[0], count = 7): Promise<ServedApp> {
  const app = await serveApp(t);
  for (let n = 1; n <= count; n++) {
    const env = n % 2 === 0 ? 'prod' : 'dev';
    await app.registry.register(aVm({ id: `vm-${n}`, role: n === 4 ? 'infra' : 'worker', metadata: { env } }));
  }
  return app;
}

test('a list with a limit links to its next page, with the other parameters, until all VMs were answered', async (t) => {
  const { url, registry } = await withFleet(t);
  const read = (path: string) => walk(() => url, path);
  assert.deepEqual(await read('/registry/vms?limit=3'), [['vm-7', 'vm-6', 'vm-5'], ['vm-4', 'vm-3', 'vm-2'], ['vm-1']]);
  assert.deepEqual(await read('/registry/vms?limit=7'), [['vm-7', 'vm-6', 'vm-5', 'vm-4', 'vm-3', 'vm-2', 'vm-1']]);
  assert.deepEqual(await read('/registry/vms?sort=id&limit=4'), [
    ['vm-1', 'vm-2', 'vm-3', 'vm-4'],
    ['vm-5', 'vm-6', 'vm-7'],
  ]);
  assert.deepEqual(await read('/registry/vms?role=worker&limit=4'), [
    ['vm-7', 'vm-6', 'vm-5', 'vm-3'],
    ['vm-2', 'vm-1'],
  ]);
  assert.deepEqual(await read('/registry/vms?selector=env%3Dprod,env%21%3Ddev&limit=2'), [['vm-6', 'vm-4'], ['vm-2']]);
  await registry.update('vm-5', { status: 'paused' });
  assert.deepEqual(await read('/registry/vms?status=running&limit=3'), [
    ['vm-7', 'vm-6', 'vm-4'],
    ['vm-3', 'vm-2', 'vm-1'],
  ]);
  await registry.register(aVm({ id: 'child-1', parentId: 'vm-1' }));
  await registry.register(aVm({ id: 'child-2', parentId: 'vm-1' }));
  assert.deepEqual(await read('/registry/vms?parentId=vm-1&limit=1'), [['child-2'], ['child-1']]);
});

test('a page keeps include and unknown parameters, and a cursor without a limit returns the rest', async (t) => {
  const { url } = await withFleet(t);
  const { next } = await pageOf(url, '/registry/vms?include=liveness&limit=2&mine=%3E%22&mine=2');
  const query = new URL(next!, url).searchParams;
  assert.deepEqual([...query.entries()].filter(([name]) => name !== 'after').sort(), [
    ['include', 'liveness'],
    ['limit', '2'],
    ['mine', '2'],
    ['mine', '>"'],
  ]);
  const answer = await call(url, 'GET', next!);
  assert.equal((answer.body as { vms: { stale: boolean }[] }).vms[0]!.stale, false);
  query.delete('limit');
  assert.deepEqual((await pageOf(url, `/registry/vms?${query}`)).ids, ['vm-5', 'vm-4', 'vm-3', 'vm-2', 'vm-1']);
  const head = await call(url, 'HEAD', '/registry/vms?limit=2');
  assert.match(head.headers.get('link')!, /rel="next"/);
});

test('a restricted reader sees only its VMs on all pages', async (t) => {
  const app = await serveApp(t, { token: 's3cret' });
  for (let n = 1; n <= 6; n++)
    await app.registry.register(aVm({ id: `vm-${n}`, role: n % 2 === 0 ? 'infra' : 'worker' }));
  const headers = { authorization: 'Bearer s3cret' };
  const body = { name: 'reader', scope: 'read', role: 'infra' };
  const { token } = (await call(app.url, 'POST', '/registry/tokens', { headers, body })).body as { token: string };
  const reader = { authorization: `Bearer ${token}` };
  const first = await pageOf(app.url, '/registry/vms?limit=2', reader);
  const second = await pageOf(app.url, first.next!, reader);
  assert.deepEqual([first.ids, second.ids, second.next], [['vm-6', 'vm-4'], ['vm-2'], undefined]);
});

test('a cursor that is malformed, or belongs to another sort or filter, is 400 and named', async (t) => {
  const { url } = await withFleet(t);
  const cursorOf = async (path: string) => new URL((await pageOf(url, path)).next!, url).searchParams.get('after')!;
  const byRegistration = await cursorOf('/registry/vms?limit=1');
  const byId = await cursorOf('/registry/vms?limit=1&sort=id');
  const forged = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url');
  for (const [path, message] of [
    [`?after=${byId}`, /another sort or other filters/],
    [`?sort=id&after=${byRegistration}`, /another sort or other filters/],
    [`?role=worker&after=${byRegistration}`, /another sort or other filters/],
    [`?status=running&after=${byRegistration}`, /another sort or other filters/],
    [`?selector=env&after=${byRegistration}`, /another sort or other filters/],
    [`?parentId=vm-1&after=${byRegistration}`, /another sort or other filters/],
    [`?sort=name&after=${byId}`, /a list with sort=name has no pages \(only with sort=registered, id\)/],
    ['?limit=2&after=', /after is empty/],
    ['?after=7', /"7" is not a cursor/],
    [`?after=${forged({ place: 1 })}`, /is not a cursor/],
    [`?after=${forged([1])}`, /is not a cursor/],
    [`?after=${forged([1, 'hash'])}`, /another sort/],
    [`?after=${byRegistration.slice(0, -3)}`, /after/],
  ] as const) {
    const answer = await call(url, 'GET', `/registry/vms${path}`);
    assert.equal(answer.status, 400, path);
    assert.match(errorOf(answer), message);
    assert.equal((answer.body as { field: string }).field, 'after');
  }
});

test('VMs that were registered again or removed do not move the others to another page, and a restart does not either', async (t) => {
  const store = new MemoryStore();
  let app = await serveApp(t, { store });
  for (let n = 1; n <= 6; n++) await app.registry.register(aVm({ id: `vm-${n}` }));
  let pages = 0;
  const read = await walk(
    () => app.url,
    '/registry/vms?limit=2',
    async () => {
      if (++pages === 1) {
        // The last VM of the first page, to which the cursor refers.
        await app.registry.deregister('vm-5');
        await app.registry.register(aVm({ id: 'vm-5' }));
        await app.registry.register(aVm({ id: 'new' }));
        await app.registry.deregister('vm-3');
      } else app = await serveApp(t, { store });
    },
  );
  assert.deepEqual(read, [['vm-6', 'vm-5'], ['vm-4', 'vm-2'], ['vm-1']]);
});

type Change = { do: 'register' | 'remove' | 'update' | 'heartbeat' | 'move'; n: number };

const change: fc.Arbitrary<Change> = fc.record({
  do: fc.constantFrom('register', 'remove', 'update', 'heartbeat', 'move'),
  n: fc.integer({ min: 0, max: 19 }),
});

for (const sort of ['registered', 'id']) {
  test(`a VM that exists during a walk with sort=${sort} is answered exactly once, whatever happens to the others`, async (t) => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 6 }),
        fc.array(fc.array(change, { maxLength: 6 }), { maxLength: 12 }),
        async (limit, rounds) => {
          const { url, registry, close } = await serveApp(t);
          const permanent = new Set<string>();
          const answered: string[] = [];
          for (let n = 0; n < 12; n++) {
            await registry.register(aVm({ id: `vm-${n}` }));
            permanent.add(`vm-${n}`);
          }
          const left = [...rounds];
          await walk(
            () => url,
            `/registry/vms?sort=${sort}&limit=${limit}`,
            async ({ ids }) => {
              answered.push(...ids);
              for (const { do: what, n } of left.shift() ?? []) {
                const id = `vm-${n}`;
                if (what === 'register' && !registry.has(id)) await registry.register(aVm({ id }));
                else if (!registry.has(id)) continue;
                else if (what === 'update') await registry.update(id, { name: `new ${n}`, status: 'paused' });
                else if (what === 'move') await registry.replace(aVm({ id, role: 'infra' }));
                else if (what === 'heartbeat') registry.heartbeat(id);
                else if (what === 'remove') {
                  permanent.delete(id);
                  await registry.deregister(id);
                }
              }
            },
          );
          const counts = [...permanent].map((id) => answered.filter((each) => each === id).length);
          assert.deepEqual(
            counts,
            counts.map(() => 1),
          );
          await close();
        },
      ),
      { numRuns: 40 },
    );
  });
}
