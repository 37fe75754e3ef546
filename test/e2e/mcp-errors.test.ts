/** Errors of the tools of `vreg mcp`: each has one cause and one next call, which the client can make. */
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import test, { type TestContext } from 'node:test';
import { checkArguments } from '../../src/mcp/tool.ts';
import { TOOLS } from '../../src/mcp/tools.ts';
import { VERSION_HEADER } from '../../src/protocol/api.ts';
import { cleanEnv, ENTRY, PROGRAM, run, tempDir } from '../helpers/daemon.ts';
import { serveLive } from '../helpers/live-registry.ts';
import { type HandWrittenClient, startMcp, type ToolResult } from '../helpers/mcp.ts';
import { json, stub } from '../helpers/stub.ts';

interface Fault {
  status: number;
  headers?: Record<string, string>;
  body?: object;
}

/** A registry whose answers to all requests that the call is about are a fault. Without a fault, it does not answer. */
async function startFaulty(t: TestContext) {
  const registry = { url: '', fault: undefined as Fault | undefined };
  const server = createServer(({ url = '', method }, response) => {
    const send = ({ status, headers, body }: Fault) =>
      response
        .writeHead(status, { 'content-type': 'application/json', [VERSION_HEADER]: '0.1.0', ...headers })
        .end(body && JSON.stringify(body));
    if (url === '/health') send({ status: 200, body: { status: 'ok', uptime: 1 } });
    else if (url === '/registry/conflicts' && method === 'GET') send({ status: 200, body: { conflicts: [] } });
    else if (registry.fault) send(registry.fault);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  registry.url = `http://127.0.0.1:${(server.address() as { port: number }).port}`;
  return registry;
}

/** A call of each tool, about this VM or a role. */
const CALLS: Readonly<Record<string, object>> = {
  registry_register: {},
  registry_list: {},
  registry_discover: { role: 'worker' },
  registry_heartbeat: {},
  registry_update: { name: 'x' },
  registry_deregister: { id: 'vm-7' },
  registry_status: {},
  registry_why: { id: 'vm-7' },
  registry_lineage: { direction: 'children' },
  registry_wait: { role: 'worker', timeoutSeconds: 1 },
};

const TOKEN = 'ask the operator for a valid token of the registry (VERS_AUTH_TOKEN, or vreg mcp --token-file FILE)';
const SCOPE = 'ask the operator for a token with the required scope (VERS_AUTH_TOKEN, or vreg mcp --token-file FILE)';
const URL_FAULT = 'ask the operator to check the URL of the registry (VERS_INFRA_URL)';

/** The next call after a fault: the same for all tools, or one of each, `other` for the others. */
type Expected = string | Readonly<Record<string, string>>;

const FAULTS: readonly [name: string, fault: Fault, expected: Expected][] = [
  [
    'an invalid field',
    { status: 400, body: { error: 'invalid address', code: 'INVALID', field: 'address' } },
    { other: 'TOOL again with a valid "address"' },
  ],
  ['401', { status: 401, body: { error: 'unknown token' } }, TOKEN],
  ['403', { status: 403, body: { error: 'the scope read is not enough' } }, SCOPE],
  [
    '404',
    { status: 404, body: { error: 'VM not found' } },
    {
      registry_register: 'registry_register {}, which registers this VM',
      registry_heartbeat: 'registry_register {}, which registers this VM',
      registry_update: 'registry_register {}, which registers this VM',
      registry_lineage: 'registry_register {}, which registers this VM',
      registry_deregister: 'nothing to do: the VM is not registered',
      registry_why: 'registry_list {}',
      other: URL_FAULT,
    },
  ],
  [
    '409',
    { status: 409, body: { error: 'VM already registered' } },
    {
      registry_register: 'registry_update {"status":"running"}, which renews the entry of this VM',
      registry_status: 'ask the operator to run: vreg doctor',
      other: 'registry_status {}',
    },
  ],
  [
    '410',
    { status: 410, body: { error: 'gone' } },
    { registry_status: 'ask the operator to run: vreg doctor', other: 'registry_status {}' },
  ],
  ['412', { status: 412, body: { error: 'changed' } }, 'the same call in a few seconds'],
  [
    '413',
    { status: 413, body: { error: 'too large' } },
    {
      registry_register: 'registry_register with fewer services and less metadata',
      registry_update: 'registry_update with fewer services and less metadata',
      other: URL_FAULT,
    },
  ],
  ['429', { status: 429, headers: { 'retry-after': '7' }, body: { error: 'slow down' } }, 'the same call after 7 s'],
  ['500', { status: 500, body: { error: 'oops' } }, 'ask the operator to look at the log of the registry'],
  ['503', { status: 503, headers: { 'retry-after': '3' }, body: { error: 'starting' } }, 'the same call after 3 s'],
  [
    '507',
    { status: 507, body: { error: 'the disk is full' } },
    'ask the operator to free disk space of the registry; tools that only read still work',
  ],
  ['an answer of another server', { status: 200 }, URL_FAULT],
];

/** The next call of an error, or of the status. */
async function nextOf(client: HandWrittenClient, tool: string): Promise<string> {
  const { isError, content }: ToolResult = await client.call(tool, CALLS[tool]);
  assert.equal(isError ?? false, tool !== 'registry_status', content[0]!.text);
  const lines = content[0]!.text.split('\n');
  if (isError) assert.equal(lines.length, 2, content[0]!.text);
  assert.match(lines.at(-1)!, /^Next: /);
  return lines.at(-1)!.replace('Next: ', '');
}

/** The next calls of all these tools, which are called at the same time. */
function nextOfEach(client: HandWrittenClient, tools: readonly string[]): Promise<[tool: string, next: string][]> {
  return Promise.all(tools.map(async (tool) => [tool, await nextOf(client, tool)]));
}

/** Fails unless the client can make the calls that the text names: the tool exists, and its arguments are valid. */
function assertPossible(next: string, tools: readonly string[]): void {
  for (const [, name, json] of next.matchAll(/(registry_\w+)(?: (\{.*?\}))?/g)) {
    assert.ok(tools.includes(name!), `${name} is not offered: ${next}`);
    const tool = TOOLS.find((each) => each.name === name)!;
    if (json !== undefined) checkArguments(tool, JSON.parse(json));
  }
}

const SERVERS: readonly [args: readonly string[], tools: readonly string[]][] = [
  [[], TOOLS.map(({ name }) => name)],
  [['--read-only'], TOOLS.filter(({ change }) => !change).map(({ name }) => name)],
  [
    ['--tools', 'registry_heartbeat,registry_register'],
    ['registry_register', 'registry_heartbeat'],
  ],
  [['--tools', 'registry_update'], ['registry_update']],
];

for (const [args, tools] of SERVERS)
  test(`each next call is possible and fits the error with ${args.join(' ') || 'all tools'}`, async (t) => {
    const registry = await startFaulty(t);
    const client = await startMcp(t, { url: registry.url, args });
    for (const [name, fault, expected] of FAULTS) {
      registry.fault = fault;
      for (const [tool, next] of await nextOfEach(client, tools)) {
        assertPossible(next, tools);
        const wanted = typeof expected === 'string' ? expected : (expected[tool] ?? expected.other)!;
        if (args.length === 0) assert.equal(next, wanted.replace('TOOL', tool), `${tool} after ${name}`);
      }
    }
  });

test('the next call after a timeout or while the registry is away can succeed', async (t) => {
  const silent = await startFaulty(t);
  const away = 'http://127.0.0.1:1';
  const tools = TOOLS.map(({ name }) => name);
  for (const [url, isSent] of [
    [silent.url, true],
    [away, false],
  ] as const) {
    const client = await startMcp(t, { url, args: ['--timeout', '3s'] });
    const nexts = new Map(await nextOfEach(client, tools));
    for (const { name, change } of TOOLS) {
      const next = nexts.get(name)!;
      assertPossible(next, tools);
      if (name === 'registry_status') assert.equal(next, 'the same call in a few seconds');
      // The registry may have made the change. A heartbeat changes nothing.
      else if (change && isSent && name !== 'registry_heartbeat')
        assert.match(next, /^the same call in a few seconds[;,] /, name);
      else assert.equal(next, 'registry_status {}', name);
    }
  }
});

test('a setting that is wrong is a matter of the operator, not of another call', async (t) => {
  const client = await startMcp(t, { url: 'http://no-such-host.invalid:3000', args: ['--timeout', '5s'] });
  assert.match(
    await client.failure('registry_list'),
    /\nNext: ask the operator to correct the settings: check the host name/,
  );
});

test('an invalid id of this VM does not replace the error of a call about another one', async (t) => {
  const { url } = await serveLive(t);
  const client = await startMcp(t, { url, env: { VREG_ID_FILE: '/dev/null/id.json' } });
  assert.equal(await client.failure('registry_why', { id: 'x' }), 'VM not found\nNext: registry_list {}');
  assert.match(
    await client.failure('registry_deregister', { id: 'x' }),
    /^the id file \S+ does not exist .*\nNext: ask the operator to correct the settings: /,
  );
});

for (const [status, headers, reachable] of [
  [429, { [VERSION_HEADER]: '1.0.0', 'retry-after': '1' }, true],
  [500, { [VERSION_HEADER]: '1.0.0' }, true],
  [503, { [VERSION_HEADER]: '1.0.0' }, true],
  [502, {}, false],
  [200, { 'content-type': 'text/html' }, false],
] as const)
  test(`status, whoami and the hook say that a registry which answers with ${status} is ${reachable ? '' : 'not '}reachable`, async (t) => {
    const url = await stub(t, (_request, response) => json(response, status, { error: 'not now' }, headers));
    const home = tempDir(t);
    const client = await startMcp(t, { url, home });
    const { structuredContent } = await client.call('registry_status');
    assert.equal((structuredContent!.registry as { reachable: boolean }).reachable, reachable);
    for (const command of [['whoami'], ['hook', 'start', '--while-pid', String(process.pid)]]) {
      const env = { ...cleanEnv(home), VERS_INFRA_URL: url, VERS_VM_ID: 'vm-1', VREG_DATA_DIR: '/proc/none' };
      const { stdout } = await run(PROGRAM, [...ENTRY, ...command, '-o', 'json'], { env });
      const { registry } = JSON.parse(stdout) as { registry: { reachable: boolean } };
      assert.equal(registry.reachable, reachable, command[0]);
    }
  });
