/**
 * The floor: Node's HTTP server, which sends the same bytes in response to every request. Started by servers.ts, with a key and a
 * certificate as arguments for https. Prints its port. A message contains the path of the body to send from now on.
 */
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';

/** Milliseconds: longer than the turns of another server. */
const KEEP_ALIVE = 600_000;

let body = Buffer.alloc(0);
process.on('message', (message: { body?: string }) => {
  if (message.body !== undefined) body = readFileSync(message.body);
});

const [key, cert] = process.argv.slice(2);
const server =
  key && cert
    ? createTlsServer({ key: readFileSync(key), cert: readFileSync(cert), keepAliveTimeout: KEEP_ALIVE })
    : createServer({ keepAliveTimeout: KEEP_ALIVE });
server.on('request', (request, response) => {
  request.resume();
  response.writeHead(200, { 'content-type': 'application/json', 'content-length': body.length }).end(body);
});
server.listen(0, '127.0.0.1', () => console.log((server.address() as AddressInfo).port));
