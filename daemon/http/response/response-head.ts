/**
 * The head of a response, as lines of text. Node's `writeHead` checks and compares each header of each response, which takes as
 * long as a tenth of a request; most headers of this app are constants.
 */
import { IncomingMessage, ServerResponse, STATUS_CODES, validateHeaderValue } from 'node:http';
import { Socket } from 'node:net';

/** A header as a line. The value must be a constant, or text that contains no control characters: see {@link checkedLine}. */
export function headerLine(name: string, value: string | number): string {
  return `${name}: ${value}\r\n`;
}

/** A header as a line. @throws TypeError if the value contains a character that could end the line */
export function checkedLine(name: string, value: string): string {
  validateHeaderValue(name, value);
  return headerLine(name, value);
}

/** @param headers names and values, alternating @throws TypeError as {@link checkedLine} */
export function headerLines(headers: readonly string[]): string {
  let lines = '';
  for (let at = 0; at < headers.length; at += 2) lines += checkedLine(headers[at]!, headers[at + 1]!);
  return lines;
}

/** Lets Node check and write a head. It adds Date, and decides about Connection and Transfer-Encoding. */
export function writeHead(response: ServerResponse, status: number, lines: string): ServerResponse {
  const headers = lines.split('\r\n').slice(0, -1).map(splitLine);
  return response.writeHead(status, headers.flat());
}

function splitLine(line: string): [name: string, value: string] {
  const colon = line.indexOf(': ');
  return [line.slice(0, colon), line.slice(colon + 2)];
}

/** The private fields in which Node stores the head until it sends it, and what it would send if it had a socket. */
type WithHead = ServerResponse & { _header?: unknown; outputData?: readonly { data: unknown }[] };

/**
 * Checks that Node stores the head as {@link respondOpen} does: as text in a private field, with the lines in their order, that a
 * response with this field counts as begun, and that its end sends the text. Otherwise, Node must write all heads.
 */
export function storesHeadAsText(Response: new (request: IncomingMessage) => WithHead = ServerResponse): boolean {
  const request = Object.assign(new IncomingMessage(new Socket()), { httpVersionMajor: 1, httpVersionMinor: 1 });
  const [written, assigned] = [new Response(request), new Response(request)];
  written.sendDate = false;
  writeHead(written, 200, headerLine('connection', 'keep-alive') + headerLine('content-length', 0));
  const head = 'HTTP/1.1 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n';
  if (written._header !== head || assigned.headersSent) return false;
  assigned._header = head;
  if (!assigned.headersSent) return false;
  assigned.end();
  return assigned.outputData?.[0]?.data === head;
}

const CAN_STORE_HEAD = storesHeadAsText();

/**
 * Sends a response whose `lines` contain its length, and after which the connection stays open. If the body is ASCII, head and body
 * are one text: Node writes it to the socket at once, whereas it collects separate chunks first. A heartbeat is 5 % faster.
 * @param isAscii true if each character of the body is one byte
 * @param canStoreHead false to let Node write the head
 */
export function respondOpen(
  response: WithHead,
  status: number,
  lines: string,
  body: string | Buffer,
  isAscii: boolean,
  canStoreHead: boolean = CAN_STORE_HEAD,
): void {
  if (!canStoreHead) {
    writeHead(response, status, lines).end(body);
    return;
  }
  response.statusCode = status;
  const head = `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines}${dateLine()}\r\n`;
  if (isAscii && typeof body === 'string' && response.req.method !== 'HEAD') {
    response._header = head + body;
    response.end();
  } else {
    response._header = head;
    response.end(body);
  }
}

let second = Number.NaN;
let line = '';

/** The header Date (RFC 9110, 6.6.1). Cached, because formatting it takes a microsecond. */
function dateLine(): string {
  const now = Math.floor(Date.now() / 1000);
  if (now !== second) {
    line = headerLine('date', new Date(1000 * now).toUTCString());
    second = now;
  }
  return line;
}
