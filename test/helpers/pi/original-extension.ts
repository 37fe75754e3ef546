/**
 * The part of the extension of the original registry that concerns the registry, written from its behaviour: the same events, requests
 * and tools (hdresearch/vers-agent-services, extensions/agent-services.ts). Each failure is ignored.
 */
import type { Schema } from '../../../src/mcp/tool.ts';
import type { PiApi } from '../../../src/plugin/pi/pi-api.ts';

const { VERS_INFRA_URL: base, VERS_AUTH_TOKEN: token, VERS_VM_ID: vmId, VERS_AGENT_NAME: agent } = process.env;
/** Milliseconds between heartbeats: 60,000 in the original. */
const INTERVAL = Number(process.env.VREG_INTERVAL?.replace('ms', '') ?? 60_000);

async function api(method: string, path: string, body?: object): Promise<object> {
  const headers = new Headers({ 'Content-Type': 'application/json' });
  if (token) headers.set('Authorization', `Bearer ${token}`);
  const response = await fetch(`${base}${path}`, { method, headers, body: body ? JSON.stringify(body) : null });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${path} (${response.status}): ${text}`);
  return JSON.parse(text) as object;
}

const ignore = () => {};

async function register(): Promise<void> {
  const metadata = { pid: process.pid, startedAt: new Date().toISOString() };
  const entry = { id: vmId, name: agent, role: 'worker', address: `${vmId}.vm.vers.sh`, registeredBy: agent, metadata };
  await api('POST', '/registry/vms', entry).catch(() =>
    api('PATCH', `/registry/vms/${vmId}`, { name: agent, status: 'running' }),
  );
}

type Data = Record<string, string | undefined>;

const add = (channel: string, { id, name, role, address }: Data, metadata: object) =>
  api('POST', '/registry/vms', {
    ...{ id, name, role, address },
    registeredBy: 'agent-services',
    metadata: { ...metadata, registeredVia: channel },
  }).catch(ignore);
const remove = (id: string | undefined) =>
  api('DELETE', `/registry/vms/${encodeURIComponent(String(id))}`).catch(ignore);

const string: Schema = { type: 'string' };

export default function originalExtension(pi: Omit<PiApi, 'on'> & { on(event: string, handler: () => unknown): void }) {
  let timer: NodeJS.Timeout | undefined;
  pi.on('session_start', () => {
    timer = setInterval(() => api('POST', `/registry/vms/${vmId}/heartbeat`).catch(ignore), INTERVAL);
  });
  pi.on('session_shutdown', () => clearInterval(timer));
  pi.on('agent_start', () => register().catch(ignore));
  pi.on('agent_end', () => api('PATCH', `/registry/vms/${vmId}`, { status: 'stopped' }).catch(ignore));

  pi.events.on('vers:agent_spawned', (data) => {
    const { vmId: id, label: name, role = 'worker', address, commitId } = data as Data;
    const createdAt = new Date().toISOString();
    return add('vers:agent_spawned', { id, name, role, address }, { agentId: name, commitId, createdAt });
  });
  pi.events.on('vers:lt_created', (data) => {
    const { vmId: id, name, role = 'lieutenant', address, ltRole, commitId, createdAt } = data as Data;
    return add('vers:lt_created', { id, name, role, address }, { agentId: name, role: ltRole, commitId, createdAt });
  });
  for (const channel of ['vers:agent_destroyed', 'vers:lt_destroyed'])
    pi.events.on(channel, (data) => remove((data as Data).vmId));

  const tool = (name: string, properties: Record<string, Schema>, request: (params: Data) => Promise<object>) =>
    pi.registerTool({
      name,
      label: name,
      description: name,
      parameters: { type: 'object', properties },
      async execute(_callId, params) {
        const answer = await request(params as Data);
        return { content: [{ type: 'text', text: JSON.stringify(answer) }], details: answer };
      },
    });
  tool('registry_list', { role: string, status: string }, (params) =>
    api('GET', `/registry/vms?${new URLSearchParams(params as Record<string, string>)}`),
  );
  const entry = { id: string, name: string, role: string, address: string, services: string, registeredBy: string };
  tool('registry_register', entry, (params) => api('POST', '/registry/vms', params));
  tool('registry_discover', { role: string }, ({ role }) => api('GET', `/registry/discover/${role}`));
  tool('registry_heartbeat', { id: string }, ({ id }) => api('POST', `/registry/vms/${id}/heartbeat`));
}
