/** `vreg mcp` and a client that does not keep to the protocol, or leaves. */
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import test from 'node:test';
import { type Message, startMcp } from '../helpers/mcp.ts';
import { until } from '../helpers/until.ts';

/** Waits for the error of a line whose id cannot be known. */
async function refusalOf(client: Awaited<ReturnType<typeof startMcp>>, line: string) {
  const before = client.notifications.length;
  client.write(line);
  const { error } = await until('the refusal', () => client.notifications[before] as Message | undefined);
  return error!;
}

test('a line that is too long, or no message, is refused with its reason, and the server answers further calls', async (t) => {
  const client = await startMcp(t);
  assert.deepEqual(await refusalOf(client, 'x'.repeat(11_000_000)), {
    code: -32600,
    message: 'the message exceeds 10485760 bytes',
  });
  assert.deepEqual(await refusalOf(client, 'this is not JSON'), { code: -32700, message: 'the line is not JSON' });
  assert.equal((await refusalOf(client, '[]')).code, -32600);
  const { result } = await client.request('ping');
  assert.deepEqual(result, {});
});

test('each request of a batch is refused, so that its sender does not wait', async (t) => {
  const client = await startMcp(t);
  client.write('[{"jsonrpc":"2.0","id":"a","method":"ping"},{"jsonrpc":"2.0","id":"b","method":"ping"}]');
  await until('both refusals', () => /"id":"a".*\n.*"id":"b"/.test(client.stdout));
  assert.match(client.stdout, /"id":"a","error":\{"code":-32600,"message":"batches are not supported/);
});

test('null as the arguments of a call counts as none, and other types are refused by name', async (t) => {
  const client = await startMcp(t);
  const call = (params: object) => client.request('tools/call', params);
  assert.ok((await call({ name: 'registry_status', arguments: null })).result!.structuredContent);
  assert.equal(
    (await call({ name: 'registry_status', arguments: [] })).error!.message,
    '"arguments" must be an object',
  );
  assert.equal((await call({ name: 5 })).error!.message, '"name" must be a string');
  const { code, message } = (await call({ name: 'registry_lst' })).error!;
  assert.equal(code, -32602);
  assert.match(
    message,
    /^unknown tool "registry_lst"; did you mean "registry_list"\?; the tools are: registry_register, /,
  );
});

test('the server ends when nobody reads its stdout any more', async (t) => {
  const client = await startMcp(t);
  client.child.stdout!.destroy();
  for (let id = 100; id < 110; id++) client.write(`{"jsonrpc":"2.0","id":${id},"method":"tools/list"}`);
  const { code, signal } = await client.ended;
  assert.deepEqual([code, signal, client.stderr], [0, null, '']);
});

test('at most 8 calls run at a time, the others wait, and a cancelled one leaves the queue', async (t) => {
  const held: (() => void)[] = [];
  const server = createServer((_request, response) => {
    held.push(() => response.writeHead(401, { 'content-type': 'application/json' }).end('{"error":"no"}'));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const client = await startMcp(t, { url: `http://127.0.0.1:${(server.address() as { port: number }).port}` });
  const list = () => client.start('tools/call', { name: 'registry_list', arguments: {} });
  const calls = Array.from({ length: 10 }, list);
  await until('8 requests', () => held.length === 8);
  client.notify('notifications/cancelled', { requestId: calls[8]!.id });
  // The answer to a ping shows that the server has read all lines above.
  await client.request('ping');
  assert.equal(held.length, 8);
  held.shift()!();
  await until('the request of the call that waited', () => held.length === 8);
  for (const release of held.splice(0)) release();
  await Promise.all(calls.filter((_, index) => index !== 8).map(({ answer }) => answer));
  assert.doesNotMatch(client.stdout, new RegExp(`"id":${calls[8]!.id}[,}]`));
});
