/**
 * The answers of a daemon that is loading its store. It does not know the VMs and the tokens yet, so `/livez` answers `ok`,
 * `/readyz` answers `loading`, the fleet page says that it waits, and every other request is refused with 503.
 */
import { CLIENT_HEADER, PATHS, REQUEST_ID_HEADER, VERSION_HEADER } from '../../src/protocol/api.ts';
import { toErrorBody, VregError } from '../../src/protocol/errors.ts';
import { auditRefused, type RefusalServices, requestIdOf } from './audit.ts';
import { type StaticResult, sendPageWhileLoading } from './handlers/page.ts';
import { BROWSER_LINES, JSON_TYPE } from './response/response.ts';
import { headerLine, headerLines, writeHead } from './response/response-head.ts';
import type { Refused } from './server/raw-answer.ts';
import type { RequestHandler } from './server/servers.ts';

/** Seconds after which a refused client should ask again. A registry of 100,000 VMs loads in about a second. */
const RETRY_AFTER = 1;

export interface LoadingOptions extends RefusalServices {
  version: string;
  /** Maximum size of a request body in bytes. The connection of a larger one is closed, so that it need not be read. */
  maxBody: number;
  /** Aborted when the daemon stops. */
  stopping: AbortSignal;
}

export function whileLoading(options: LoadingOptions): RequestHandler {
  const { version, maxBody, stopping } = options;
  return {
    onRequest(request, response) {
      const { method = '', url = '', headers } = request;
      const [path = ''] = url.split(/[?#]/, 1);
      const isRead = method === 'GET' || method === 'HEAD';
      const send = (result: StaticResult, requestId: string) => {
        const { status, type, body, browserHeaders, headers: others = {} } = result;
        let lines = isRead ? BROWSER_LINES : '';
        if (browserHeaders) lines = headerLines(browserHeaders);
        lines += headerLines(Object.entries(others).flat());
        lines += headerLine(REQUEST_ID_HEADER, requestId) + headerLine('content-type', type);
        if (headers[CLIENT_HEADER] === '1') lines += headerLine(VERSION_HEADER, version);
        if (status === 503) lines += headerLine('retry-after', RETRY_AFTER);
        lines += headerLine('content-length', Buffer.byteLength(body));
        const isTooLarge = Number(headers['content-length'] ?? 0) > maxBody;
        if (stopping.aborted || isTooLarge || headers['transfer-encoding'] !== undefined)
          lines += headerLine('connection', 'close');
        writeHead(response, status, lines).end(body);
      };
      if (isRead && (path === PATHS.livez || path === PATHS.readyz)) {
        const word = path === PATHS.livez ? 'ok' : stopping.aborted ? 'draining' : 'loading';
        const type = 'text/plain; charset=utf-8';
        send({ status: word === 'ok' ? 200 : 503, type, body: word }, requestIdOf(headers, options.newRequestId));
        return;
      }
      const page = isRead && !stopping.aborted ? sendPageWhileLoading(path, headers) : undefined;
      if (page) {
        send(page, requestIdOf(headers, options.newRequestId));
        return;
      }
      const error = stopping.aborted ? isStopping() : isLoading();
      const refused: Refused = { error, asked: { method, url }, headers, from: request.socket.remoteAddress };
      auditRefused(refused, options);
      const body = JSON.stringify(toErrorBody(error));
      send({ status: error.status, type: JSON_TYPE, body }, refused.requestId!);
    },
    onRefused: (refused) => auditRefused(refused, options),
  };
}

function isLoading(): VregError {
  return new VregError('BUSY', 'the registry is loading its store', {
    hint: 'retry; /readyz answers ok when it is loaded',
    retryAfter: RETRY_AFTER,
  });
}

function isStopping(): VregError {
  return new VregError('BUSY', 'the registry is shutting down', { retryAfter: RETRY_AFTER });
}
