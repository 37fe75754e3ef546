/**
 * A floor for durable registrations: Node's HTTP server, and a worker thread that appends the body of each request to a file and
 * waits for the disk. It has no rules, no log and no database, so it shows what HTTP and a second thread cost. Started by
 * servers.ts, with the path of the file as its argument. Prints its port.
 */
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { Worker } from 'node:worker_threads';

/** JavaScript, because a worker thread would load TypeScript with a loader of its own. */
const APPEND = `
  const { fdatasyncSync, openSync, writeSync } = require('node:fs');
  const { parentPort, workerData } = require('node:worker_threads');
  const file = openSync(workerData, 'a');
  parentPort.on('message', (body) => {
    writeSync(file, body + '\\n');
    fdatasyncSync(file);
    parentPort.postMessage('durable');
  });
`;

const worker = new Worker(APPEND, { eval: true, workerData: process.argv[2] });
/** Responses to the bodies that the worker has not written yet, oldest first. */
const waiting: (() => void)[] = [];
worker.on('message', () => waiting.shift()!());

const server = createServer(async (request, response) => {
  const body = await text(request);
  waiting.push(() => {
    const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
    response.writeHead(201, headers).end(body);
  });
  worker.postMessage(body);
});
server.listen(0, '127.0.0.1', () => console.log((server.address() as AddressInfo).port));
