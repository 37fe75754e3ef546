/** `registry_wait` with a clock of the test. */
import assert from 'node:assert/strict';
import test from 'node:test';
import type { Call } from '../../src/mcp/tool.ts';
import { wait } from '../../src/mcp/wait-tool.ts';
import { VregError } from '../../src/protocol/errors.ts';

/** Waits for a VM with the role golden. @param respond to each long poll @returns `[second, seconds done, message]` of each progress */
async function progressOf(respond: () => never[], version: string | undefined) {
  const reports: [at: number, done: number, message: string][] = [];
  let now = 0;
  const pass = (ms: number) => {
    now += ms;
  };
  const call = {
    context: { now: () => now, sleep: async (ms: number) => pass(ms), config: { duration: () => 10_000 } },
    client: {
      server: { version, now, lease: 300_000 },
      async discover(_role: string, _options: object, poll?: { wait: number }) {
        pass((poll?.wait ?? 0) * 1000);
        return respond();
      },
    },
    tools: [],
    signal: new AbortController().signal,
    async progress(done: number, _total: number, message: string) {
      reports.push([now / 1000, done, message]);
    },
  };
  await wait.run(call as unknown as Call, { role: 'golden', timeoutSeconds: 12 }).catch((error: unknown) => {
    if (!(error instanceof VregError)) throw error;
  });
  return reports;
}

test('the progress of a wait is that of the moment at which it is sent', async () => {
  assert.deepEqual(await progressOf(() => [], '1.0.0'), [
    [5, 5, '0 VMs so far'],
    [10, 10, '0 VMs so far'],
  ]);
});

for (const [what, code, version, message] of [
  ['a registry that is away', 'UNREACHABLE', undefined, 'the registry is not reachable'],
  ['a proxy in front of one that is away', 'BUSY', undefined, 'the registry is not reachable'],
  ['a busy registry', 'BUSY', '1.0.0', 'the registry responded with an error'],
] as const)
  test(`the progress of a wait names ${what}`, async () => {
    const refuse = () => {
      throw new VregError(code, 'no');
    };
    const [first] = await progressOf(refuse, version);
    assert.equal(first![2], message);
  });
