/** Heartbeats of several incarnations of one VM, and the answers to them. */
import type { RegistryObserver } from '../../daemon/registry/options.ts';
import { Registry } from '../../daemon/registry/registry.ts';
import type { VregError } from '../../src/protocol/errors.ts';
import { FakeClock } from './clock.ts';
import { MemoryStore } from './memory-store.ts';
import { aVm } from './vm.ts';

export const LEASE = 300_000;
export const token = (number: number, name = 'a') => `${number}.${name.repeat(32)}`;
export const CLONE = { code: 'IDENTITY_CONFLICT', exit: 9, status: 409 };
/** The answer while it is undecided which incarnation is the VM. */
export const UNDECIDED = (error: VregError) => error.code === 'IDENTITY_CONFLICT' && error.retryAfter !== undefined;
/** The answer to an incarnation of a VM that is alive as another one. */
export const DECIDED = (error: VregError) => error.code === 'IDENTITY_CONFLICT' && error.retryAfter === undefined;

/** A registry with the VM `vm-1`. */
export async function registryWithVm(observer: RegistryObserver = {}) {
  const [clock, store] = [new FakeClock(), new MemoryStore()];
  const options = { store, clock, staleAfter: LEASE, observer };
  const registry = new Registry(options, store.contents());
  await registry.register(aVm({ id: 'vm-1' }));
  return { clock, store, registry, options };
}

export const ONE = { incarnation: 'one', address: '10.0.0.1', from: '192.0.2.1' };
export const TWO = { incarnation: 'two', address: '10.0.0.2', from: '192.0.2.2' };

/** The VM's agent, with an access token that may change the VM. */
export const OWN = { ...ONE, mayWrite: true };

export const heartbeat = (registry: Registry, proof: Parameters<Registry['heartbeat']>[1]) =>
  registry.heartbeat('vm-1', proof);
