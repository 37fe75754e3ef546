/** An agent extension written for the original registry, call for call, against the real daemon. */
import assert from 'node:assert/strict';
import test from 'node:test';
import type { VmList } from '../../src/protocol/api.ts';
import type { Vm } from '../../src/protocol/vm.ts';
import { startDaemon } from '../helpers/daemon.ts';

/** The platform's host name of a VM. The ids of some VMs in this test cannot be part of one. */
function addressOf(id: string): string {
  return `${id.replace(/[^\w.-]/g, '-')}.vm.vers.sh`;
}

/** Sends application/json with every request, even without a body, and treats every status but 2xx as a failure. */
class Extension {
  readonly #base: string;
  readonly #vmId: string;
  readonly #name: string;
  readonly #token: string | undefined;

  constructor({ base, vmId, name, token }: { base: string; vmId: string; name: string; token?: string }) {
    this.#base = base;
    this.#vmId = vmId;
    this.#name = name;
    this.#token = token;
  }

  async #api<T>(method: string, path: string, payload?: unknown): Promise<T> {
    const headers = new Headers({ 'Content-Type': 'application/json' });
    if (this.#token) headers.set('Authorization', `Bearer ${this.#token}`);
    const body = payload === undefined ? null : JSON.stringify(payload);
    const answer = await fetch(`${this.#base}${path}`, { method, headers, body });
    const text = await answer.text();
    if (!answer.ok) throw new Error(`${answer.status}: ${(JSON.parse(text) as { error: string }).error}`);
    return JSON.parse(text) as T;
  }

  async sessionStarts(): Promise<'registered' | 'updated'> {
    try {
      await this.#api('POST', '/registry/vms', {
        id: this.#vmId,
        name: this.#name,
        role: 'worker',
        address: addressOf(this.#vmId),
        registeredBy: this.#name,
        metadata: { pid: 4711, startedAt: '2026-01-01T00:00:00.000Z' },
      });
      return 'registered';
    } catch {
      await this.#api('PATCH', `/registry/vms/${this.#vmId}`, { name: this.#name, status: 'running' });
      return 'updated';
    }
  }

  beats(): Promise<{ id: string; lastSeen: string }> {
    return this.#api('POST', `/registry/vms/${this.#vmId}/heartbeat`);
  }

  sessionEnds(): Promise<Vm> {
    return this.#api('PATCH', `/registry/vms/${this.#vmId}`, { status: 'stopped' });
  }

  /** Registers another VM that the agent created; undefined values are not in the JSON. */
  spawned(vmId: string, label: string): Promise<Vm> {
    const metadata = { agentId: label, commitId: undefined, registeredVia: 'spawn' };
    const registeredBy = 'agent-services';
    const vm = { id: vmId, name: label, role: 'lieutenant', address: addressOf(vmId), registeredBy, metadata };
    return this.#api('POST', '/registry/vms', vm);
  }

  destroyed(vmId: string): Promise<{ deleted: boolean }> {
    return this.#api('DELETE', `/registry/vms/${encodeURIComponent(vmId)}`);
  }

  async widget(): Promise<string> {
    const { vms, count } = await this.#api<VmList>('GET', '/registry/vms');
    return `${count} VMs (${vms.filter(({ status }) => status === 'running').length} running)`;
  }

  discover(role: string): Promise<VmList> {
    return this.#api('GET', `/registry/discover/${encodeURIComponent(role)}`);
  }
}

for (const token of [undefined, 'fleet-token']) {
  test(`an agent extension works in all its sessions ${token ? 'with a token' : 'without a token'}`, async (t) => {
    const { url: base } = await startDaemon(t, { env: token ? { VERS_AUTH_TOKEN: token } : {} });
    const vmId = '0b5a1f5e-7a1c-4a7e-9d53-9a3f6c1d2e11';
    const agent = new Extension({ base, vmId, name: 'agent-1', ...(token ? { token } : {}) });

    assert.equal(await agent.sessionStarts(), 'registered');
    assert.equal((await agent.beats()).id, vmId);
    await agent.spawned('lt/1', 'billing');
    assert.equal(await agent.widget(), '2 VMs (2 running)');
    assert.deepEqual(
      (await agent.discover('lieutenant')).vms.map(({ metadata }) => metadata),
      [{ agentId: 'billing', registeredVia: 'spawn' }],
    );

    assert.equal((await agent.sessionEnds()).status, 'stopped');
    assert.equal(await agent.widget(), '2 VMs (1 running)');
    assert.equal((await agent.discover('worker')).count, 0);

    assert.equal(await agent.sessionStarts(), 'updated');
    const [worker] = (await agent.discover('worker')).vms;
    assert.deepEqual([worker?.id, worker?.status, worker?.name], [vmId, 'running', 'agent-1']);

    assert.deepEqual(await agent.destroyed('lt/1'), { deleted: true });
    await assert.rejects(agent.destroyed('lt/1'), /^Error: 404: VM not found$/);
    assert.equal(await agent.widget(), '1 VMs (1 running)');
  });
}
