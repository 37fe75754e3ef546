/**
 * A small copy of the registry of hdresearch/vers-agent-services: only the compatible routes, no vreg headers, unknown query
 * parameters are ignored, and VMs go stale by the wall clock. The CLI must work against it.
 */
import { createServer, type IncomingMessage } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import type { TestContext } from 'node:test';

const ROLES = ['infra', 'lieutenant', 'worker', 'golden', 'custom'];
const STATUSES = ['running', 'paused', 'stopped'];
/** Milliseconds. */
const STALE_AFTER = 300_000;

interface PlainVm {
  id: string;
  role: string;
  status: string;
  lastSeen: string;
  [field: string]: unknown;
}

export interface PlainServer {
  url: string;
  port: number;
  /** In the order of registration. */
  vms: Map<string, PlainVm>;
  /** Method and URL of each request, in order. */
  requests: string[];
  close(): Promise<void>;
}

export interface PlainServerOptions {
  port?: number;
  token?: string;
}

/** Listens on `port`, or on a free port, until the test ends. */
export async function startPlainServer(t: TestContext, options: PlainServerOptions = {}): Promise<PlainServer> {
  const { port = 0, token } = options;
  const vms = new Map<string, PlainVm>();
  const requests: string[] = [];
  const server = createServer(async (request, response) => {
    requests.push(`${request.method} ${request.url}`);
    const allowed = !token || request.url === '/health' || request.headers.authorization === `Bearer ${token}`;
    const [status, body] = allowed ? await answer(vms, request) : [401, { error: 'Unauthorized — invalid token' }];
    // The framework of the original server responds to an unknown route in plain text.
    if (typeof body === 'string') response.writeHead(status, { 'content-type': 'text/plain' }).end(body);
    else response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  });
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  const at = (server.address() as AddressInfo).port;
  const close = async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  };
  t.after(close);
  return { url: `http://127.0.0.1:${at}`, port: at, vms, requests, close };
}

type Reply = [status: number, body: object | string];

async function answer(vms: Map<string, PlainVm>, request: IncomingMessage): Promise<Reply> {
  const { pathname, searchParams } = new URL(request.url!, 'http://registry');
  const [, first, second, id, last, ...more] = pathname.split('/').map(decodeURIComponent);
  const at = `${request.method} ${[first, second].filter(Boolean).join('/')}`;
  const unknown: Reply = [404, '404 Not Found'];
  if (more.length > 0) return unknown;
  if (at === 'GET health' && id === undefined) return [200, { status: 'ok', uptime: 1 }];
  if (at === 'GET registry/discover' && id && last === undefined) {
    return list([...vms.values()].filter((vm) => vm.role === id && isLive(vm)));
  }
  if (first !== 'registry' || second !== 'vms') return unknown;
  if (id === undefined) {
    if (request.method === 'GET') return listed(vms, searchParams);
    return request.method === 'POST' ? register(vms, await readBody(request)) : unknown;
  }
  const known = vms.get(id);
  const beat = request.method === 'POST' && last === 'heartbeat';
  if (!beat && (last !== undefined || !['GET', 'PATCH', 'DELETE'].includes(request.method!))) return unknown;
  if (!known) return [404, { error: 'VM not found' }];
  if (beat) {
    known.lastSeen = new Date().toISOString();
    return [200, { id, lastSeen: known.lastSeen }];
  }
  if (request.method === 'GET') return [200, known];
  if (request.method === 'PATCH') return patch(known, await readBody(request));
  vms.delete(id);
  return [200, { deleted: true }];
}

function listed(vms: Map<string, PlainVm>, query: URLSearchParams): Reply {
  const role = query.get('role');
  const status = query.get('status');
  const found = [...vms.values()].filter(
    (vm) => (!role || vm.role === role) && (!status || vm.status === status) && (status !== 'running' || isLive(vm)),
  );
  return list(found.reverse());
}

function register(vms: Map<string, PlainVm>, body: Record<string, unknown>): Reply {
  for (const field of ['id', 'name', 'role', 'address', 'registeredBy']) {
    if (!body[field]) return [400, { error: `${field} is required` }];
  }
  const { id, name, role, status = 'running', address, services, metadata, registeredBy } = body as PlainVm;
  if (!ROLES.includes(role)) return [400, { error: `invalid role: ${role}` }];
  if (vms.has(id)) return [409, { error: `VM with id "${id}" already registered` }];
  const now = new Date().toISOString();
  const vm = { id, name, role, status, address, services, metadata, registeredBy, registeredAt: now, lastSeen: now };
  vms.set(id, vm);
  return [201, vm];
}

function patch(vm: PlainVm, body: Record<string, unknown>): Reply {
  if (body.status !== undefined && !STATUSES.includes(String(body.status))) {
    return [400, { error: `invalid status: ${body.status}` }];
  }
  for (const field of ['name', 'status', 'address', 'services', 'metadata']) {
    if (body[field] !== undefined) vm[field] = body[field];
  }
  if (body.status === 'running') vm.lastSeen = new Date().toISOString();
  return [200, vm];
}

function isLive({ status, lastSeen }: PlainVm): boolean {
  return status === 'running' && Date.now() - Date.parse(lastSeen) <= STALE_AFTER;
}

function list(vms: readonly PlainVm[]): Reply {
  return [200, { vms, count: vms.length }];
}

async function readBody(request: IncomingMessage): Promise<Record<string, unknown>> {
  return JSON.parse(await text(request)) as Record<string, unknown>;
}
