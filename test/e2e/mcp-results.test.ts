/** Structured results of `vreg mcp`: each matches the output schema of its tool, in each state of the registry. */
import assert from 'node:assert/strict';
import test, { type TestContext } from 'node:test';
import Ajv2020 from 'ajv/dist/2020.js';
import { UndiciTransport } from '../../src/client/transport/undici.ts';
import { RegistryClient } from '../../src/client.ts';
import { startDaemon } from '../helpers/daemon.ts';
import { type McpOptions, startMcp } from '../helpers/mcp.ts';
import { aVm } from '../helpers/vm.ts';

const READS: readonly [name: string, args: object][] = [
  ['registry_list', {}],
  ['registry_list', { stale: true }],
  ['registry_discover', { role: 'worker' }],
  ['registry_status', {}],
  ['registry_why', { id: 'vm-1' }],
  ['registry_lineage', { id: 'vm-1', direction: 'subtree' }],
  ['registry_wait', { role: 'worker', timeoutSeconds: 1 }],
  ['registry_wait', { id: 'vm-1', for: 'stale', timeoutSeconds: 1 }],
];
const CHANGES: readonly [name: string, args: object][] = [
  ['registry_register', { id: 'vm-1', role: 'worker', address: 'one' }],
  ['registry_heartbeat', {}],
  ['registry_update', { metadata: { task: 'x' } }],
  ...READS,
  ['registry_deregister', { id: 'vm-1' }],
];

/** Calls the tools and validates each result that is no error. @returns the number of validated results */
async function validate(t: TestContext, options: McpOptions, calls: typeof READS): Promise<number> {
  const client = await startMcp(t, options);
  const { result } = await client.request('tools/list');
  const ajv = new Ajv2020.default({ strict: false });
  const schemas = new Map(
    (result!.tools as { name: string; outputSchema: object }[]).map(({ name, outputSchema }) => [
      name,
      ajv.compile(outputSchema),
    ]),
  );
  let validated = 0;
  for (const [name, args] of calls) {
    const { isError, structuredContent } = await client.call(name, args);
    if (isError) continue;
    const matches = schemas.get(name)!;
    assert.ok(matches(structuredContent), `${name}: ${JSON.stringify(matches.errors)}`);
    validated++;
  }
  return validated;
}

test('each result matches its schema in an empty registry, with one VM and with 200, and while it is warming', async (t) => {
  const daemon = await startDaemon(t);
  // In an empty registry, two of the calls name a VM that is not registered.
  assert.equal(await validate(t, { url: daemon.url }, READS), READS.length - 2);
  assert.equal(await validate(t, { url: daemon.url }, CHANGES), CHANGES.length);
  const client = new RegistryClient({ url: daemon.url, openTransport: (url, tls) => new UndiciTransport(url, tls) });
  t.after(() => client.close());
  await client.import(Array.from({ length: 200 }, (_, index) => aVm({ id: `vm-${index}` })));
  assert.equal(await validate(t, { url: daemon.url }, READS), READS.length);
  const { port } = new URL(daemon.url);
  await daemon.end();
  assert.equal(await validate(t, { url: daemon.url }, [['registry_status', {}]]), 1);
  await startDaemon(t, { home: daemon.home, args: ['--port', port] });
  assert.equal(await validate(t, { url: daemon.url }, READS), READS.length);
});

test('the resources of a large fleet have pages, each with names that people can read', async (t) => {
  const daemon = await startDaemon(t);
  const registry = new RegistryClient({ url: daemon.url, openTransport: (url, tls) => new UndiciTransport(url, tls) });
  t.after(() => registry.close());
  await registry.import(Array.from({ length: 120 }, (_, index) => aVm({ id: `vm-${index}`, name: 'billing' })));
  const client = await startMcp(t, { url: daemon.url });
  const names: string[] = [];
  let cursor: string | undefined;
  do {
    const { result } = await client.request('resources/list', cursor === undefined ? {} : { cursor });
    names.push(...(result!.resources as { name: string }[]).map(({ name }) => name));
    cursor = result!.nextCursor as string | undefined;
  } while (cursor !== undefined);
  assert.deepEqual([names.length, new Set(names).size, names[0]], [121, 121, 'fleet']);
  assert.ok(names.includes('billing (worker vm-77)'));
  assert.equal((await client.request('resources/list', { cursor: 'nonsense' })).error!.code, -32602);
  for (const uri of ['vreg://vms/nobody', 'vreg://vms/%', 'file:///etc/passwd']) {
    const { code, message } = (await client.request('resources/read', { uri })).error!;
    assert.equal(code, -32602);
    assert.match(message, /^no such resource: the resources are vreg:\/\/fleet and vreg:\/\/vms\/\{id\}/);
  }
});
