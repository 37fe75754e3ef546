/** The floor: Node's HTTP server with fixed bytes. Started by run.ts, which hands it the bodies by path. */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';

process.once('message', (bodies: Record<string, string>) => {
  const server = createServer((request, response) => {
    const body = bodies[request.url!]!;
    request.resume();
    response
      .writeHead(200, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) })
      .end(body);
  }).listen(0, '127.0.0.1', () => process.send!((server.address() as AddressInfo).port));
});
