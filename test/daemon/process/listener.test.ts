import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import test, { type TestContext } from 'node:test';
import { findListener } from '../../../daemon/process/listener.ts';

/** Listens in this process. @returns the port, or undefined if this machine does not have the address */
async function listenOn(t: TestContext, host: string, port = 0): Promise<number | undefined> {
  const server = createServer();
  const isListening = await new Promise<boolean>((resolve) => {
    server.once('error', () => resolve(false)).listen({ host, port }, () => resolve(true));
  });
  if (!isListening) return undefined;
  t.after(() => server.close());
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
  test(`the process that listens on ${listening} uses a port of ${wanted}`, async (t) => {
    const port = await listenOn(t, listening);
    if (port === undefined) return t.skip('this machine does not have the address');
    assert.equal(findListener({ address: wanted, port })?.pid, process.pid);
  });
}

for (const [listening, wanted] of [
  ['127.0.0.2', '127.0.0.1'],
  ['127.0.0.1', '::1'],
  ['::1', '127.0.0.1'],
  ['::1', '0.0.0.0'],
] as const) {
  test(`the process that listens on ${listening} does not use a port of ${wanted}`, async (t) => {
    const port = await listenOn(t, listening);
    if (port === undefined) return t.skip('this machine does not have the address');
    assert.equal(findListener({ address: wanted, port }), undefined);
  });
}

test('no process is named if two of them listen on the port', async (t) => {
  const port = await listenOn(t, '127.0.0.1');
  const script =
    "require('net').createServer().listen({ host: '127.0.0.2', port: +process.argv[1] }, () => console.log('up'))";
  const other = spawn(process.execPath, ['-e', script, String(port)], { stdio: ['ignore', 'pipe', 'inherit'] });
  t.after(() => other.kill('SIGKILL'));
  await once(other.stdout, 'data');
  assert.equal(findListener({ address: '0.0.0.0', port: port! }), undefined);
  assert.equal(findListener({ address: '127.0.0.1', port: port! })?.pid, process.pid);
  assert.equal(findListener({ address: '127.0.0.2', port: port! })?.pid, other.pid);
});
