import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import test, { type TestContext } from 'node:test';
import { findListener } from '../../../daemon/process/listener.ts';
import { unlessMissing } from '../../helpers/tools.ts';

/** Listens in this process. @returns the port */
async function listenOn(t: TestContext, host: string): Promise<number> {
  const server = createServer().listen({ host, port: 0 });
  t.after(() => server.close());
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
}

const SAME: readonly [listening: string, wanted: string][] = [
  ['127.0.0.1', '127.0.0.1'],
  ['127.0.0.1', '0.0.0.0'],
  ['127.0.0.1', '::'],
  ['0.0.0.0', '127.0.0.1'],
  ['::', '127.0.0.1'],
  ['::', '::1'],
  ['::1', '::1'],
  ['::1', '0:0:0:0:0:0:0:1'],
  ['::1', '::'],
  ['::ffff:127.0.0.1', '127.0.0.1'],
];
for (const [listening, wanted] of SAME) {
  test(`the process that listens on ${listening} uses a port of ${wanted}`, unlessMissing(listening), async (t) => {
    const port = await listenOn(t, listening);
    assert.equal(findListener({ address: wanted, port })?.pid, process.pid);
  });
}

for (const [listening, wanted] of [
  ['127.0.0.2', '127.0.0.1'],
  ['127.0.0.1', '::1'],
  ['::1', '127.0.0.1'],
  ['::1', '0.0.0.0'],
] as const) {
  test(
    `the process that listens on ${listening} does not use a port of ${wanted}`,
    unlessMissing(listening),
    async (t) => {
      const port = await listenOn(t, listening);
      assert.equal(findListener({ address: wanted, port }), undefined);
    },
  );
}

test('no process is named if two of them listen on the port', async (t) => {
  const port = await listenOn(t, '127.0.0.1');
  const script =
    "require('net').createServer().listen({ host: '127.0.0.2', port: +process.argv[1] }, () => console.log('up'))";
  const other = spawn(process.execPath, ['-e', script, String(port)], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => other.kill('SIGKILL'));
  await once(other.stdout, 'data');
  assert.equal(findListener({ address: '0.0.0.0', port }), undefined);
  assert.equal(findListener({ address: '127.0.0.1', port })?.pid, process.pid);
  assert.equal(findListener({ address: '127.0.0.2', port })?.pid, other.pid);
});
