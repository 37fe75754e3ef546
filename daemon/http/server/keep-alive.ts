/**
 * Closes connections that are idle for too long. One timer checks all connections, whereas Node's `keepAliveTimeout` would set
 * and clear a timer per request, which takes a twentieth of a heartbeat.
 */
import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import { latestOf } from './request-queue.ts';

/**
 * Milliseconds for which a connection may be idle between two requests. Longer than the usual 60 s of load balancers, so that the
 * load balancer closes it first.
 */
export const KEEP_ALIVE = 72_000;
/** Number of checks per timeout: a connection is closed late by at most a tenth of the timeout. */
const CHECKS = 10;

/** @param timeout in milliseconds */
export function closeIdle(server: Server, sockets: ReadonlySet<Socket>, timeout: number): void {
  const idle = new WeakMap<Socket, { bytesRead: number; since: number }>();
  const look = () => {
    const now = performance.now();
    for (const socket of sockets) {
      const { bytesRead } = socket;
      const before = idle.get(socket);
      // Node's own time limits apply to the first request and to an incomplete one.
      if (!isBetweenRequests(socket)) idle.delete(socket);
      else if (before?.bytesRead !== bytesRead) idle.set(socket, { bytesRead, since: now });
      else if (now - before.since >= timeout) socket.destroy();
    }
  };
  const timer = setInterval(look, Math.ceil(timeout / CHECKS)).unref();
  server.once('close', () => clearInterval(timer));
}

function isBetweenRequests(socket: Socket): boolean {
  const latest = latestOf(socket);
  return latest?.response.writableFinished === true && latest.request.complete;
}
