/** The app writes the heads of most responses itself, and lets Node write the others. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer, type IncomingMessage, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import test from 'node:test';
import {
  checkedLine,
  headerLine,
  respondOpen,
  storesHeadAsText,
} from '../../../../daemon/http/response/response-head.ts';
import { serveApp } from '../../../helpers/app.ts';
import { exchange } from '../../../helpers/raw.ts';
import { aVm } from '../../../helpers/vm.ts';

const LAST = 'GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n';

test('a response has the same status, headers and body whether or not its connection stays open', async (t) => {
  const { at, registry } = await serveApp(t);
  await registry.register(aVm({ id: 'vm-1', role: 'worker', name: 'naïve ☃' }));
  for (const line of [
    'GET /registry/vms/vm-1',
    'GET /registry/vms',
    'GET /registry/discover/worker',
    'GET /registry/vms/nobody',
    'POST /registry/vms/vm-1/heartbeat',
    'HEAD /registry/vms/vm-1',
  ]) {
    const head = `${line} HTTP/1.1\r\nHost: a\r\nX-Request-Id: r-1\r\n`;
    const [open] = await exchange(at, `${head}\r\n${LAST}`);
    const [closed] = await exchange(at, `${head}Connection: close\r\n\r\n`);
    const { headers: openHeaders } = open!;
    const { headers: closedHeaders } = closed!;
    const common = ({ date, connection, 'keep-alive': _hint, ...others }: Record<string, unknown>) => others;
    assert.deepEqual(common(openHeaders), common(closedHeaders), line);
    assert.equal(open!.status, closed!.status, line);
    // After a response to HEAD, the text is that of the next response.
    if (!line.startsWith('HEAD')) assert.equal(open!.text, closed!.text, line);
    assert.ok(Math.abs(Date.parse(String(openHeaders.date)) - Date.now()) < 60_000, String(openHeaders.date));
  }
});

test('a value that would end its line is an error', () => {
  for (const value of ['a\r\nx-injected: 1', 'a\nb', 'a\u0000', '☃'])
    assert.throws(() => checkedLine('link', value), /Invalid character/);
  assert.equal(checkedLine('link', '</a>; rel=next'), headerLine('link', '</a>; rel=next'));
});

test('the app notices if Node stores heads in another field or format, and then lets Node write them', async (t) => {
  assert.equal(storesHeadAsText(), true);
  type Head = { _header?: unknown };
  /** Stores each head in another format. */
  const storing = (change: (head: string) => unknown) =>
    class extends ServerResponse {
      override writeHead(...args: [status: number]): this {
        super.writeHead(...args);
        (this as Head)._header = change((this as { _header?: string })._header!);
        return this;
      }
    };
  const formats: ((head: string) => unknown)[] = [
    () => undefined,
    (head) => Buffer.from(head),
    (head) => head.slice(0, -2),
    (head) => head.replaceAll('\r\n', '\n'),
  ];
  for (const format of formats) assert.equal(storesHeadAsText(storing(format)), false, String(format));
  /** A response that does not know from the field that it has begun. */
  class WithOtherField extends ServerResponse {
    constructor(request: IncomingMessage) {
      super(request);
      Object.defineProperty(this, 'headersSent', { value: false });
    }
  }
  assert.equal(storesHeadAsText(WithOtherField), false);
  /** A response that sends its head in another way. */
  class SendingBytes extends ServerResponse {
    _send(data: string, encoding: BufferEncoding, callback: () => void): boolean {
      Object.assign(this, { outputData: [{ data: Buffer.from(data, encoding), encoding, callback }] });
      return true;
    }
  }
  assert.equal(storesHeadAsText(SendingBytes), false);

  const lines = headerLine('x-a', 'one') + headerLine('x-a', 'two') + headerLine('content-length', 2);
  const server = createServer((request, response) => {
    respondOpen(response, 201, lines, '{}', true, request.url === '/own');
  });
  t.after(() => server.close());
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const at = { host: '127.0.0.1', port: (server.address() as AddressInfo).port };
  const ask = async (path: string) => {
    const answers = await exchange(at, `GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`, { end: true });
    const { status, text, headers } = answers[0]!;
    const { date, connection: _, 'keep-alive': _hint, ...others } = headers as Record<string, unknown>;
    assert.ok(Math.abs(Date.parse(String(date)) - Date.now()) < 60_000, String(date));
    return { status, text, others };
  };
  assert.deepEqual(await ask('/node'), await ask('/own'));
});
